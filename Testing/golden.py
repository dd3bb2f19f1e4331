"""The golden case: a small skull and the implant that the released model gave it, to notice a change nobody meant.

    make golden     # or: python Testing/golden.py

writes both anew into Testing/data/golden. Do so only after a change that is meant to alter implants, or after a new
model; look at what it prints of the old and the new implant, and name the change in the commit's message.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from SkullVAELib import __version__
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.progress import Stages
from SkullVAELib.data.generated_skull import generated_skull
from SkullVAELib.evaluation.metrics import dice
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path

FOLDER = Path(__file__).resolve().parent / "data" / "golden"
SKULL, IMPLANT, RECORD = FOLDER / "skull.nrrd", FOLDER / "implant.nrrd", FOLDER / "golden.json"
SEED, SPACING_MM = 5, 2.0


def digest(array: np.ndarray) -> str:
    """The SHA-256 of voxels as bytes 0 and 1, in the array's own order."""
    return hashlib.sha256(np.ascontiguousarray(array, np.uint8).tobytes()).hexdigest()


def record_of(model_sha256: str, implant: Volume) -> dict:
    """What is recorded of a run beside its voxels."""
    return {
        "model_sha256": model_sha256,
        "version": __version__,
        "implant_sha256": digest(implant.array),
        "volume_ml": round(float(implant.array.sum() * implant.voxel_ml), 3),
    }


def main() -> int:
    """Write the golden case anew and say what has changed."""
    model = load_model(default_model_path())
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not SKULL.is_file():
        bone, _ = generated_skull(model, SEED, spacing_mm=SPACING_MM)
        write_volume(bone, SKULL)
    before = read_volume(IMPLANT) if IMPLANT.is_file() else None
    implant = complete(read_volume(SKULL), model, CompletionOptions(device="cpu"), Stages({})).implant
    record = record_of(model.sha256, implant)
    write_volume(implant, IMPLANT)
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))
    if before is not None:
        print(f"Dice of the implant before and now: {dice(before.array != 0, implant.array):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
