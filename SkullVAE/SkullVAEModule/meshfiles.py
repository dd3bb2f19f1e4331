"""Reads the mesh files of the library with their values in mm, and writes meshes to files; plain numpy."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SkullVAELib.core.errors import SkullVAEError

_TYPES = {"float": "<f4", "double": "<f8", "uchar": "u1", "int": "<i4", "uint": "<u4"}
# Names of the values in files of the library.
_STORED = {
    "thickness": "thickness", "uncertainty": "uncertainty", "difference": "difference", "deviation": "difference_mm"
}  # fmt: skip
_LPS_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class MeshData:
    """A triangle mesh.

    points: (N, 3) float32 RAS mm; faces: (M, 3) int32; thickness, uncertainty, difference: (N,) float32 mm at each
    point, or None; difference: signed distance to the mirrored skull; deviation: that
    from a plan to its outcome; both nan where they are unknown.
    """

    points: np.ndarray
    faces: np.ndarray
    thickness: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    difference: np.ndarray | None = None
    deviation: np.ndarray | None = None


def readPly(path: str | os.PathLike) -> MeshData:
    """Read a binary PLY of the library: LPS mm, triangles. Raises SkullVAEError for any other file.

    VTK's own reader does not read thickness and uncertainty.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        head, end, body = content.partition(b"end_header\n")
        lines = head.decode("ascii").splitlines()
        if not end or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
            raise ValueError("not a binary PLY")
        elements, properties = {}, {}
        for line in lines:
            words = line.split()
            if words[0] == "element":
                name = words[1]
                elements[name], properties[name] = int(words[2]), []
            elif words[0] == "property":
                properties[name].append(words[1:])
        vertex = np.dtype([(words[1], _TYPES[words[0]]) for words in properties["vertex"]])
        ((_, counter, index, _),) = properties["face"]
        face = np.dtype([("count", _TYPES[counter]), ("corners", _TYPES[index], 3)])
        points = np.frombuffer(body, vertex, elements["vertex"])
        faces = np.frombuffer(body, face, elements["face"], offset=points.nbytes)
        if np.any(faces["count"] != 3):
            raise ValueError("not triangles")
        lps = np.stack([points[axis] for axis in "xyz"], axis=1)
    except OSError as error:
        raise SkullVAEError(f"'{path.name}' cannot be read: {error.strerror}", "Run again") from error
    except (ValueError, KeyError, IndexError, NameError) as error:
        raise SkullVAEError(
            f"'{path.name}' is not a mesh file of this library: {error}", "Reinstall the extension"
        ) from error
    values = {name: points[stored].astype(np.float32) for name, stored in _STORED.items() if stored in vertex.names}
    return MeshData((lps * _LPS_RAS).astype(np.float32), faces["corners"].astype(np.int32), **values)


def readStl(path: str | os.PathLike) -> MeshData:
    """Read a binary STL in LPS mm and merge equal corners. Raises SkullVAEError for any other file."""
    path = Path(path)
    facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    try:
        content = path.read_bytes()
        count = int(np.frombuffer(content, "<u4", 1, 80)[0])
        facets = np.frombuffer(content, facet, count, 84)
    except OSError as error:
        raise SkullVAEError(f"'{path.name}' cannot be read: {error.strerror}", "Run again") from error
    except (ValueError, IndexError) as error:
        raise SkullVAEError(f"'{path.name}' is not a binary STL", "Reinstall the extension") from error
    corners = np.ascontiguousarray(facets["corners"].reshape(-1, 3))
    order = np.lexsort(corners.T)
    ordered = corners[order]
    first = np.ones(len(order), bool)
    first[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    faces = np.empty(len(order), np.int32)
    faces[order] = np.cumsum(first) - 1
    return MeshData((ordered[first] * _LPS_RAS).astype(np.float32), faces.reshape(-1, 3))


def writeMesh(mesh: MeshData, path: str | os.PathLike) -> None:
    """Write a mesh in RAS mm as .stl, .obj or .ply in LPS mm with outward-facing triangles, as the library does.

    An existing file is replaced after the new one is complete. Raises SkullVAEError if the file cannot be written.
    """
    from SkullVAELib.mesh.files import vertex_scalars, write_mesh
    from SkullVAELib.mesh.mesh import Mesh

    path = Path(path)
    # A transform that mirrors has reversed the orientation of the faces.
    whole = Mesh.outward(np.asarray(mesh.points, np.float64), np.asarray(mesh.faces, np.int64))
    try:
        write_mesh(whole, path, *vertex_scalars(mesh.thickness, mesh.uncertainty))
    except OSError as error:
        raise SkullVAEError(
            f"'{path.name}' cannot be written: {error.strerror}", "Check free space and permissions"
        ) from error


def components(mesh: MeshData) -> list[MeshData]:
    """The connected components of a mesh, that with the most faces first."""
    # Each point has the smallest number among those that it is connected with.
    label = np.arange(len(mesh.points))
    while True:
        lowest = label.copy()
        for corner in range(3):
            np.minimum.at(lowest, mesh.faces[:, corner], label[mesh.faces].min(axis=1))
        lowest = lowest[lowest]
        if np.array_equal(lowest, label):
            break
        label = lowest
    found, counts = np.unique(label[mesh.faces[:, 0]], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    return [selectFaces(mesh, np.flatnonzero(label[mesh.faces[:, 0]] == number)) for number in order]


def selectFaces(mesh: MeshData, chosen: np.ndarray) -> MeshData:
    """The triangles with these indices as a mesh of their own, with their points and values."""
    faces = mesh.faces[chosen]
    kept = np.unique(faces)
    new = np.zeros(len(mesh.points), faces.dtype)
    new[kept] = np.arange(len(kept))
    return replace(mesh, points=mesh.points[kept], faces=new[faces], **_scalars(mesh, lambda values: values[kept]))


def joined(meshes: list[MeshData]) -> MeshData:
    """Several meshes with the same values as one; without any, a mesh without points."""
    if not meshes:
        return MeshData(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    starts = np.cumsum([0] + [len(mesh.points) for mesh in meshes[:-1]])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)])
    scalars = {name: np.concatenate([vars(mesh)[name] for mesh in meshes]) for name in _scalars(meshes[0])}
    return replace(meshes[0], points=np.concatenate([mesh.points for mesh in meshes]), faces=faces, **scalars)


def _scalars(mesh: MeshData, change=lambda values: values) -> dict[str, np.ndarray]:
    """The values at the points of a mesh that it has, by name, each changed."""
    names = [name for name, values in vars(mesh).items() if name not in ("points", "faces") and values is not None]
    return {name: change(vars(mesh)[name]) for name in names}
