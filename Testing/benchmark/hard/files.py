"""Files that say where a skull is in other ways, or say it wrongly; and rarer containers of the same voxels."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import to_image, write_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def voxels_of(volume: Volume) -> np.ndarray:
    """A volume's array as it is stored: bool as uint8."""
    return volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array


def store(volume: Volume, path: Path) -> Path:
    """Write a volume as the library does; a suffix in upper case is written as it is given."""
    lower = path.with_name(path.name.lower())
    write_volume(volume.with_array(voxels_of(volume)), lower)
    return lower.rename(path) if lower != path else path


def store_nifti(volume: Volume, path: Path, sform: np.ndarray | None = None, qform: np.ndarray | None = None) -> Path:
    """Write a NIfTI file with the given sform and qform, (4, 4) each; None: the file says that it has none."""
    header = nib.Nifti1Header()
    array = voxels_of(volume)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_xyzt_units("mm")
    for name, affine in (("qform", qform), ("sform", sform)):
        getattr(header, f"set_{name}")(volume.affine if affine is None else affine, code=1)
        if affine is None:
            header[f"{name}_code"] = 0
    image = nib.Nifti1Image(array, None, header)
    nib.save(image, path)
    return path


def store_nrrd(volume: Volume, path: Path, encoding: str = "gzip", segments: Sequence[Volume] = ()) -> Path:
    """Write an NRRD file whose header is exactly the volume's affine, sheared or not.

    encoding: "raw", "gzip" or "bzip2". segments: further layers on the same grid, as Slicer stores overlapping
    segments: the array's first axis is then the layer.
    """
    array = voxels_of(volume)
    affine = LPS @ volume.affine
    directions = " ".join("({})".format(",".join(repr(float(x)) for x in affine[:3, axis])) for axis in range(3))
    kinds, sizes = "domain domain domain", list(array.shape)
    if segments:
        array = np.stack([array, *(voxels_of(layer) for layer in segments)])
        directions, kinds, sizes = f"none {directions}", f"list {kinds}", list(array.shape)
    origin = ",".join(repr(float(x)) for x in affine[:3, 3])
    kind = {"u1": "unsigned char", "i2": "short"}[array.dtype.str[1:]]
    lines = [
        "NRRD0004",
        f"type: {kind}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {directions}",
        f"kinds: {kinds}",
        "endian: little",
        f"encoding: {encoding}",
        f"space origin: ({origin})",
    ]
    pack = {"raw": bytes, "gzip": lambda b: gzip.compress(b, 1), "bzip2": lambda b: bz2.compress(b, 1)}[encoding]
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + pack(array.tobytes(order="F")))
    return path


def store_segmentation(layers: Sequence[Volume], names: Sequence[Sequence[str]], path: Path) -> Path:
    """Write a Slicer segmentation, .seg.nrrd: layers of labels 1, 2, ... with the segments' names, layer by layer."""
    first, *others = layers
    store_nrrd(first, path, "gzip", others)
    head, _, data = path.read_bytes().partition(b"\n\n")
    fields = ["Segmentation_MasterRepresentation:=Binary labelmap", "Segmentation_ContainedRepresentationNames:="]
    extent = " ".join(f"0 {n - 1}" for n in first.array.shape)
    number = 0
    for layer, segments in enumerate(names):
        for label, name in enumerate(segments, start=1):
            prefix = f"Segment{number}_"
            fields += [
                f"{prefix}ID:=Segment_{number + 1}",
                f"{prefix}Name:={name}",
                f"{prefix}LabelValue:={label}",
                f"{prefix}Layer:={layer}",
                f"{prefix}Extent:={extent}",
                f"{prefix}Color:=0.9 0.8 0.6",
            ]
            number += 1
    path.write_bytes(head + b"\n" + "\n".join(fields).encode() + b"\n\n" + data)
    return path


def store_mhd(volume: Volume, path: Path, compressed: bool = False) -> Path:
    """Write a MetaImage header with its data beside it, as ITK does."""
    image = to_image(volume)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path
