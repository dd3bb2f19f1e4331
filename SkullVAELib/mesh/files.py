"""Mesh files: STL, OBJ and PLY, each with its unit, its coordinate system and the notice in the header."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.mesh.colours import (
    DIFFERENCE_SCALE_MM,
    THICKNESS_SCALE_MM,
    UNCERTAINTY_SCALE_MM,
    difference_colours,
    length_colours,
)
from SkullVAELib.mesh.mesh import Mesh
from SkullVAELib.mesh.three_mf import object_name, write_3mf

# Slicer reads the coordinate system from "SPACE=LPS". A header that began with "solid" would read as an ASCII STL.
_STL_HEADER = b"SPACE=LPS UNIT=mm SkullVAE research software, not for clinical use"
_STL_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_REMARKS = (
    "SkullVAE: research software, not a medical device, not for clinical use",
    "UNIT=mm",
    "SPACE=LPS (x to the patient's left, y to the back, z up)",
)


def write_stl(mesh: Mesh, path: str | os.PathLike) -> None:
    """Write a binary STL in LPS mm, triangles facing outwards; the file is complete or absent."""
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
    """A length at each vertex of a mesh, which a PLY stores as a property and as colours.

    Parameters
    ----------
    name : str
        Of the PLY property.
    millimetres : (N,) array
    most_mm : float
        Upper end of the colour scale.
    meaning : str
        Comment in the file.
    signed : bool
        Whether the colours are those of a signed length, blue below 0 and orange above.
    """

    name: str
    millimetres: np.ndarray
    most_mm: float
    meaning: str
    signed: bool = False

    def of(self, points: slice) -> VertexScalar:
        """The same for some of the vertices."""
        return replace(self, millimetres=self.millimetres[points])

    @classmethod
    def thickness(cls, millimetres: np.ndarray) -> VertexScalar:
        """Thickness of an implant, (N,) mm."""
        return cls("thickness", millimetres, THICKNESS_SCALE_MM, "mm straight through the plate")

    @classmethod
    def uncertainty(cls, millimetres: np.ndarray) -> VertexScalar:
        """Half-width of the 90 % uncertainty band of a surface, (N,) mm."""
        return cls(
            "uncertainty", millimetres, UNCERTAINTY_SCALE_MM, "mm, nine times of ten the true surface lies this near"
        )

    @classmethod
    def difference(cls, millimetres: np.ndarray) -> VertexScalar:
        """Signed distance of an implant to the mirrored skull, (N,) mm."""
        meaning = "mm, signed distance to the mirrored skull, positive outside, nan where it has no bone"
        return cls("difference", millimetres, DIFFERENCE_SCALE_MM, meaning)


def vertex_scalars(
    thickness_mm: np.ndarray | None, uncertainty_mm: np.ndarray | None, difference_mm: np.ndarray | None = None
) -> list[VertexScalar]:
    """The scalars of an implant that are given, each (N,) mm or None."""
    made = [] if thickness_mm is None else [VertexScalar.thickness(thickness_mm)]
    made += [] if uncertainty_mm is None else [VertexScalar.uncertainty(uncertainty_mm)]
    return made if difference_mm is None else [*made, VertexScalar.difference(difference_mm)]


def write_ply(mesh: Mesh, path: str | os.PathLike, *scalars: VertexScalar) -> None:
    """Write a binary PLY in LPS mm, with unit and coordinate system as comments.

    The first of the vertex scalars, if any are given, also determines the vertex colours.
    """
    columns = [(axis, "<f4") for axis in "xyz"] + [(scalar.name, "<f4") for scalar in scalars]
    if scalars:
        columns += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    points = np.zeros(len(mesh.points), columns)
    for axis, values in zip("xyz", _lps(mesh).T, strict=True):
        points[axis] = values
    remarks = list(_REMARKS)
    for scalar in scalars:
        points[scalar.name] = scalar.millimetres
        remarks.append(f"{scalar.name}: {scalar.meaning}")
    if scalars:
        first = scalars[0]
        colours = (difference_colours if first.signed else length_colours)(first.millimetres, first.most_mm)
        for name, values in zip(("red", "green", "blue"), colours.T, strict=True):
            points[name] = values
        ends = (
            f"blue, -{first.most_mm:g}, over white, 0, to orange, {first.most_mm:g}"
            if first.signed
            else f"violet, 0, to yellow, {first.most_mm:g}"
        )
        remarks.append(f"colours: {first.name} from {ends}")
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


def write_mesh(mesh: Mesh, path: str | os.PathLike, *scalars: VertexScalar) -> None:
    """Write a mesh in the format of the path's suffix, one of MESH_FORMATS; only PLY stores vertex scalars."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".ply":
        write_ply(mesh, path, *scalars)
    elif suffix == ".3mf":
        write_3mf([(object_name(path), mesh)], path)
    else:
        {".stl": write_stl, ".obj": write_obj}[suffix](mesh, path)


def _lps(mesh: Mesh) -> np.ndarray:
    """Points (N, 3) in LPS mm. RAS to LPS is a rotation, so the order of a triangle's corners stays valid."""
    return mesh.points * [-1.0, -1.0, 1.0]
