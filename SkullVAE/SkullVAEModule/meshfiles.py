"""The library's meshes: read with their thickness, and written again elsewhere. Plain numpy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SkullVAELib.errors import SkullVAEError

_TYPES = {"float": "<f4", "double": "<f8", "uchar": "u1", "int": "<i4", "uint": "<u4"}
_LPS_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class MeshData:
    """points: (N, 3) float32 RAS mm; faces: (M, 3) int32; thickness: (N,) float32 mm at each point, or None."""

    points: np.ndarray
    faces: np.ndarray
    thickness: np.ndarray | None = None


def readPly(path: str | os.PathLike) -> MeshData:
    """A binary PLY as the library writes it: LPS mm, triangles. Raises SkullVAEError for any other file.

    VTK's own reader leaves out the thickness.
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
            f"'{path.name}' is not a mesh of this library: {error}", "Reinstall the extension"
        ) from error
    thickness = points["thickness"].astype(np.float32) if "thickness" in vertex.names else None
    return MeshData((lps * _LPS_RAS).astype(np.float32), faces["corners"].astype(np.int32), thickness)
