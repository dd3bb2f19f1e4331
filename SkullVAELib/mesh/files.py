"""Mesh files: STL, OBJ and PLY, each saying its unit, its coordinate system and what it is not for."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.mesh.colours import THICKNESS_SCALE_MM, UNCERTAINTY_SCALE_MM, length_colours
from SkullVAELib.mesh.mesh import Mesh

# Slicer reads the coordinate system from "SPACE=LPS". A header that began with "solid" would read as an ASCII STL.
_STL_HEADER = b"SPACE=LPS UNIT=mm SkullVAE research software, not for clinical use"
_STL_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_REMARKS = (
    "SkullVAE: research software, not a medical device, not for clinical use",
    "UNIT=mm",
    "SPACE=LPS (x to the patient's left, y to the back, z up)",
)


def write_stl(mesh: Mesh, path: str | os.PathLike) -> None:
    """Write a binary STL in LPS mm, triangles facing outwards; the file appears whole or not at all."""
    facets = np.zeros(len(mesh.faces), _STL_FACET)
    lps = Mesh(_lps(mesh), mesh.faces)
    facets["corners"] = lps.points[lps.faces]
    facets["normal"] = lps.face_normals()
    with atomic_file(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(_STL_HEADER.ljust(80))
        file.write(np.uint32(len(facets)).tobytes())
        file.write(facets.tobytes())


def write_obj(mesh: Mesh, path: str | os.PathLike) -> None:
    """Write a Wavefront OBJ in LPS mm, with the unit and the coordinate system as comments."""
    lines = [f"# {remark}" for remark in _REMARKS] + ["o implant"]
    lines += ["v %.4f %.4f %.4f" % tuple(point) for point in _lps(mesh)]  # noqa: UP031  three times as fast
    lines += ["f %d %d %d" % tuple(face) for face in mesh.faces + 1]  # noqa: UP031
    with atomic_file(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


@dataclass(frozen=True)
class VertexScalar:
    """Millimetres at each point of a mesh, which a PLY holds as a property and as colours.

    name: of the property; millimetres: (N,); most_mm: from here on it is yellow; meaning: what the file says of it.
    """

    name: str
    millimetres: np.ndarray
    most_mm: float
    meaning: str

    def of(self, points: slice) -> VertexScalar:
        """That of some of the points."""
        return replace(self, millimetres=self.millimetres[points])

    @classmethod
    def thickness(cls, millimetres: np.ndarray) -> VertexScalar:
        """Of a plate."""
        return cls("thickness", millimetres, THICKNESS_SCALE_MM, "mm straight through the plate")

    @classmethod
    def uncertainty(cls, millimetres: np.ndarray) -> VertexScalar:
        """Of a surface, see uncertainty.py."""
        return cls(
            "uncertainty", millimetres, UNCERTAINTY_SCALE_MM, "mm, nine times of ten the true surface lies this near"
        )


def vertex_scalars(thickness_mm: np.ndarray | None, uncertainty_mm: np.ndarray | None) -> list[VertexScalar]:
    """The shades of a part of which one or both are known."""
    made = [] if thickness_mm is None else [VertexScalar.thickness(thickness_mm)]
    return made if uncertainty_mm is None else [*made, VertexScalar.uncertainty(uncertainty_mm)]


def write_ply(mesh: Mesh, path: str | os.PathLike, *shades: VertexScalar) -> None:
    """Write a binary PLY in LPS mm, with the unit and the coordinate system as comments, and shades if given, of which
    the first gives the colours."""
    columns = [(axis, "<f4") for axis in "xyz"] + [(shade.name, "<f4") for shade in shades]
    if shades:
        columns += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    points = np.zeros(len(mesh.points), columns)
    for axis, values in zip("xyz", _lps(mesh).T, strict=True):
        points[axis] = values
    remarks = list(_REMARKS)
    for shade in shades:
        points[shade.name] = shade.millimetres
        remarks.append(f"{shade.name}: {shade.meaning}")
    if shades:
        first = shades[0]
        colours = length_colours(first.millimetres, first.most_mm)
        for name, values in zip(("red", "green", "blue"), colours.T, strict=True):
            points[name] = values
        remarks.append(f"colours: {first.name} from violet, 0, to yellow, {first.most_mm:g}")
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {remark}" for remark in remarks)]
    header += [f"element vertex {len(points)}", *(f"property {kinds[kind]} {name}" for name, kind in columns)]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    with atomic_file(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(points.tobytes())
        file.write(faces.tobytes())


def write_mesh(mesh: Mesh, path: str | os.PathLike, *shades: VertexScalar) -> None:
    """Write a mesh as its suffix says, one of MESH_FORMATS; only a PLY holds shades."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".ply":
        write_ply(mesh, path, *shades)
    else:
        {".stl": write_stl, ".obj": write_obj}[suffix](mesh, path)


def _lps(mesh: Mesh) -> np.ndarray:
    """(N, 3) points in LPS mm. Turning RAS to LPS does not mirror, so the order of the corners stays right."""
    return mesh.points * [-1.0, -1.0, 1.0]
