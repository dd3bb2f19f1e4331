"""Files that are not images of a known format but often given as one: what they are, and how to convert them."""

from __future__ import annotations

from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError

_MESHES = (".stl", ".obj", ".ply", ".vtp", ".3mf", ".off", ".gltf", ".glb")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".iso")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pdf")
_PROJECTS = (".mrb", ".mrml", ".inv3", ".mcs", ".nsf", ".bvol")

_OWN_NAME = "Rename it without the suffix of an image file, or give the folder of its series"
_SERIES = "Give the folder of the DICOM series, or an image file"


def error_for_other_format(path: Path) -> SkullVAEError | None:
    """The error for a file of another kind, by its name or its first bytes; None if the kind is not known."""
    name = path.name.lower()
    begin = _first_bytes(path)
    if begin[128:132] == b"DICM":
        return SkullVAEError(f"'{path.name}' is a DICOM file with the suffix of another format", _OWN_NAME)
    if begin.startswith((b"PK\3\4", b"Rar!", b"7z\xbc\xaf")) and not name.endswith((".mrb", ".3mf")):
        return _archive(path)
    if name.endswith(_ARCHIVES):
        return _archive(path)
    if name.endswith(_MESHES) or begin.startswith((b"solid ", b"ply\n", b"ply\r\n")):
        return SkullVAEError(
            f"'{path.name}' is a surface model (mesh), not an image",
            "In 3D Slicer, convert the model to a segmentation, export that as a labelmap and save it as .nrrd",
        )
    if name.endswith(_PICTURES):
        return SkullVAEError(f"'{path.name}' is a picture, without Hounsfield units and voxel size", _SERIES)
    if name.endswith(_PROJECTS):
        return SkullVAEError(
            f"'{path.name}' is a project of another program, not one image",
            "Open it there and save the volume or the segmentation as .nrrd or .nii.gz",
        )
    return None


def _archive(path: Path) -> SkullVAEError:
    return SkullVAEError(
        f"'{path.name}' is an archive of files, not an image",
        "Extract it and give the folder of the DICOM series, or an image file",
    )


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(132)
    except OSError:
        return b""
