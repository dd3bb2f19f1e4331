"""Reads the CT inside an InVesalius project (.inv3), the format of a freely available patient scan."""

from __future__ import annotations

import os
import plistlib
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from xml.parsers.expat import ExpatError

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume

# An .inv3 file is untrusted: no more than this is unpacked.
_MAX_PLIST_BYTES = 1 << 20


_MAX_MATRIX_BYTES = 1 << 31


_MAX_MEMBERS = 1000


_MAX_ARCHIVE_BYTES = 1 << 33


_WHOLE = "Check that the file is a complete InVesalius 3 project"


def read_inv3(path: str | os.PathLike) -> Volume:
    """Read the image of an InVesalius 3 project.

    The project is a gzipped tar; only `main.plist` (shape and spacing) and `matrix.dat` (voxels) are read, in memory.
    InVesalius stores axial rows bottom-up; they are flipped so that the axes run right to left, front to back and
    upwards. The position of the scan is not stored: the centre of the image becomes the origin.

    Returns
    -------
    Volume
        int16 (I, J, K); HU if the project holds a CT.

    Raises
    ------
    SkullVAEError
        The file is missing, not such a project, or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        raise SkullVAEError(f"The file '{path}' does not exist", "Check the path")
    try:
        found = _members(path, {"main.plist": _MAX_PLIST_BYTES, "matrix.dat": _MAX_MATRIX_BYTES})
        project = plistlib.loads(found["main.plist"])
        shape = tuple(int(n) for n in project["matrix"]["shape"])
        dtype = str(project["matrix"]["dtype"])
        spacing = np.array([float(s) for s in project["spacing"]])
    except (tarfile.TarError, zlib.error, OSError, EOFError, plistlib.InvalidFileException, ExpatError) as error:
        raise SkullVAEError(f"'{path.name}' cannot be read as an InVesalius project", _WHOLE) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SkullVAEError(f"'{path.name}' has no image, or its shape or spacing is missing", _WHOLE) from error
    if len(shape) != 3 or min(shape) < 1 or dtype != "int16":
        raise SkullVAEError(f"'{path.name}' holds {dtype} voxels of shape {shape}, not a 3D int16 image", _WHOLE)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise SkullVAEError(f"'{path.name}' has the impossible spacing {spacing.tolist()} mm", _WHOLE)
    if len(found["matrix.dat"]) != 2 * shape[0] * shape[1] * shape[2]:
        raise SkullVAEError(f"The image in '{path.name}' does not have the size given in its header", _WHOLE)

    stored = np.frombuffer(found["matrix.dat"], dtype="<i2").reshape(shape)
    array = stored[:, ::-1, :].transpose(2, 1, 0).astype(np.int16)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    return Volume(array, affine)


def _members(path: Path, limits: dict[str, int]) -> dict[str, bytes]:
    """The contents of the named members, in any folder of the tar, none larger than its limit in bytes."""
    found: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as archive:
        for number, member in enumerate(archive):
            # Skipping a member decompresses it, so the claimed sizes also limit the work.
            if number >= _MAX_MEMBERS or member.offset_data + member.size > _MAX_ARCHIVE_BYTES:
                break
            name = PurePosixPath(member.name).name
            if name in limits and name not in found and member.isfile():
                if member.size > limits[name]:
                    raise SkullVAEError(f"'{name}' in '{path.name}' is larger than any CT", _WHOLE)
                content = archive.extractfile(member)
                found[name] = b"" if content is None else content.read()
            if len(found) == len(limits):
                break
    return found
