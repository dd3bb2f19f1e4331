"""3MF files: meshes with their unit, names and colours, which slicing programs for 3D printers read.

lib3mf, the reference implementation of the 3MF Consortium, writes them. It is an optional dependency: there is no wheel
of it for every platform, and the printable implant is also written as STL.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.version import NOTICE, __version__
from SkullVAELib.mesh.mesh import Mesh

# sRGB of pieces, one after the other; bone for a skull.
_COLOURS = ((22, 160, 180), (224, 122, 62), (120, 94, 180), (96, 160, 80), (200, 170, 60))
_BONE = (230, 218, 190)


def check_3mf() -> None:
    """Raise SkullVAEError unless lib3mf is installed."""
    if importlib.util.find_spec("lib3mf") is None:
        raise SkullVAEError(
            "The mesh format 3mf needs the Python package lib3mf, which is not installed",
            'Run pip install "skullvae[3mf]", or choose another format',
        )


def object_name(path: Path) -> str:
    """The name of the object in a file, by the name of the file.

    >>> object_name(Path("implant_2.3mf"))
    'Implant piece 2'
    """
    words, _, number = path.stem.partition("_")
    what = words.capitalize()
    if not number.isdigit():
        return " ".join([what, *number.split("_")]).strip()
    return f"{what} piece {number}" if words == "implant" else f"{what} {number}"


def write_3mf(objects: Sequence[tuple[str, Mesh]], path: Path) -> None:
    """Write meshes as a 3MF file in LPS mm; the file is complete or absent, and the same for the same meshes.

    Parameters
    ----------
    objects : sequence of (str, Mesh)
        Name and mesh (RAS mm) of each object, at least one.
    path : Path
        File to write.

    Raises
    ------
    SkullVAEError
        lib3mf is not installed.
    """
    check_3mf()
    import lib3mf

    library = lib3mf.get_wrapper()
    model = library.CreateModel()
    model.SetUnit(lib3mf.ModelUnit.MilliMeter)
    group = model.GetMetaDataGroup()
    for name, text in (
        ("Title", object_name(path)),
        ("Application", f"SkullVAE {__version__}"),
        ("Description", f"{NOTICE} Coordinates: LPS (x to the patient's left, y to the back, z up)."),
    ):
        group.AddMetaData("", name, text, "xs:string", True)
    model.SetBuildUUID(_uuid("build", path.name))
    materials = model.AddBaseMaterialGroup()
    for number, (name, mesh) in enumerate(objects):
        red, green, blue = _BONE if name.startswith("Skull") else _COLOURS[number % len(_COLOURS)]
        colour = lib3mf.Color()
        colour.Red, colour.Green, colour.Blue, colour.Alpha = red, green, blue, 255
        material = materials.AddMaterial(name, colour)
        made = model.AddMeshObject()
        made.SetName(name)
        # lib3mf draws random identifiers otherwise.
        made.SetUUID(_uuid("object", path.name, number))
        _set_geometry(lib3mf, made, mesh)
        made.SetObjectLevelProperty(materials.GetResourceID(), material)
        item = model.AddBuildItem(made, library.GetIdentityTransform())
        item.SetUUID(_uuid("item", path.name, number))
    with atomic_file(path) as temporary:
        # Not by WriteToBuffer, which writes twice and returns a list with an object for each byte.
        model.QueryWriter("3mf").WriteToFile(str(temporary))


def _set_geometry(lib3mf: Any, made: Any, mesh: Mesh) -> None:
    """Give an object the points (LPS) and triangles of a mesh."""
    points = np.ascontiguousarray(mesh.points * [-1.0, -1.0, 1.0], np.float32)
    faces = np.ascontiguousarray(mesh.faces, np.uint32)
    made.SetGeometry(
        (lib3mf.Position * len(points)).from_buffer_copy(points.tobytes()),
        (lib3mf.Triangle * len(faces)).from_buffer_copy(faces.tobytes()),
    )


def _uuid(*words: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, words))))
