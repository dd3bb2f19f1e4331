"""The SHA-256 of a file, and that of the one file there is to download."""

from __future__ import annotations

import hashlib
from pathlib import Path

CRANIUM_SHA256 = "3b34f11f7c4f557f4c65cd6543c412a2f6ceb0cfecfd9c41184420e02d9b7e2a"
"""Of Cranium.inv3, the patient's CT of the InVesalius project, wherever it is fetched from."""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
