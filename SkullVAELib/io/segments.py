"""The segments of a segmentation file, listed by its header or found by their label values, and the choice of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from SkullVAELib.core.errors import SkullVAEError

# An image with more distinct values than this is not a segmentation.
_MOST_LABELS = 256

_MOST_LISTED = 12
_LONGEST_NAME = 60

_FIELD = re.compile(r"Segment(\d{1,5})_(Name|LabelValue|Layer)")


@dataclass(frozen=True)
class Segment:
    """A segment: the voxels of a layer that have a label value.

    Attributes
    ----------
    name : str
        Empty if the file gives no name.
    label : int
        Label value.
    layer : int
        Index of the layer, 0 for files with one value per voxel.
    """

    name: str
    label: int
    layer: int = 0

    def mask(self, layers: np.ndarray) -> np.ndarray:
        """Its voxels (I, J, K), bool, in the layers (C, I, J, K)."""
        return layers[self.layer] == self.label


def listed_segments(keys: Mapping[str, str]) -> list[Segment]:
    """The segments that the key-value pairs of an NRRD header list, in the order of their numbers.

    Files of old versions of Slicer state neither label nor layer: each segment is a layer of its own, with label 1.
    """
    found: dict[int, dict[str, str]] = {}
    for key, value in keys.items():
        if match := _FIELD.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = value
    segments = []
    for number, fields in sorted(found.items()):
        label, layer = (
            fields.get("LabelValue", "1"),
            fields.get("Layer", "0" if "LabelValue" in fields else str(number)),
        )
        if re.fullmatch(r"\d{1,9}", label) and re.fullmatch(r"\d{1,5}", layer):
            name = fields.get("Name", "").replace("\\n", " ").replace("\\\\", "\\")
            segments.append(Segment(" ".join(name.split()), int(label), int(layer)))
    return segments


def choose_segment(
    file: str, layers: np.ndarray, listed: Sequence[Segment], wanted: str | int | None
) -> np.ndarray | None:
    """The voxels of one segment of a file.

    Parameters
    ----------
    file : str
        Name of the file, for messages.
    layers : numpy.ndarray, shape (C, I, J, K)
        Voxels; one layer for most files.
    listed : sequence of Segment
        The segments that the header lists; may be empty.
    wanted : str or int, optional
        Name of a segment, or its number, see `numbers_of`.

    Returns
    -------
    numpy.ndarray or None
        uint8 (I, J, K), 1 in the segment; None if the only layer can be used as it is.

    Raises
    ------
    SkullVAEError
        There are several segments and `wanted` is None, or there is none that is called `wanted`.
    """
    listed = [segment for segment in listed if segment.layer < len(layers)]
    if wanted is None:
        if len(layers) == 1 and len(listed) < 2:
            return None
        every = _numbered(listed or _by_label(file, layers))
        present = [(number, segment) for number, segment in every if segment.mask(layers).any()]
        if len(present) > 1:
            raise SkullVAEError(
                f"'{file}' has several segments: {_names(present)}",
                "Choose one with --segment, by its name or its number",
            )
        return present[0][1].mask(layers).view(np.uint8) if present else np.zeros(layers.shape[1:], np.uint8)
    text = str(wanted).strip()
    found = [segment for segment in listed if segment.name == text]
    found = found or [segment for segment in listed if segment.name.casefold() == text.casefold()]
    if not found and re.fullmatch(r"-?\d{1,9}", text):
        found = [segment for number, segment in _numbered(listed or _by_label(file, layers)) if number == int(text)]
    if len(found) == 1:
        return found[0].mask(layers).view(np.uint8)
    choice = f"Choose one of {_names(_numbered(listed or _by_label(file, layers)))}"
    if found:
        raise SkullVAEError(f"'{file}' has {len(found)} segments that '{text}' may mean", choice)
    raise SkullVAEError(f"'{file}' has no segment '{text}'", choice)


def _by_label(file: str, layers: np.ndarray) -> list[Segment]:
    """The segments of a file without names: every label value of every layer."""
    segments: list[Segment] = []
    for number, layer in enumerate(layers):
        # Every fifth voxel shows whether it is an image, before all are sorted.
        labels = np.unique(layer[::5, ::5, ::5])
        if len(labels) <= _MOST_LABELS:
            labels = np.unique(layer)
        if len(labels) > _MOST_LABELS or not (labels == np.round(labels)).all():
            raise SkullVAEError(f"'{file}' is an image, not a segmentation: it has no segments", "Omit --segment")
        segments += [Segment("", int(label), number) for label in labels[labels != 0]]
    return segments


def numbers_of(segments: Sequence[Segment]) -> list[int]:
    """The numbers by which segments can be chosen.

    The label values. Segments of different layers may share one: then their order counts, from 1.

    >>> numbers_of([Segment("Brain", 3), Segment("Skull", 5)])
    [3, 5]
    >>> numbers_of([Segment("Brain", 1, layer=0), Segment("Skull", 1, layer=1)])
    [1, 2]
    """
    labels = [segment.label for segment in segments]
    return labels if len(set(labels)) == len(labels) else [*range(1, len(labels) + 1)]


def _numbered(segments: Sequence[Segment]) -> list[tuple[int, Segment]]:
    return [*zip(numbers_of(segments), segments, strict=True)]


def _names(numbered: Sequence[tuple[int, Segment]]) -> str:
    """Segments in one line, with their numbers."""
    if not numbered:
        return "its labels: every voxel is 0"
    named = [
        f"'{segment.name[:_LONGEST_NAME]}' ({number})" if segment.name else str(number) for number, segment in numbered
    ]
    return ", ".join(named[:_MOST_LISTED]) + (", ..." if len(named) > _MOST_LISTED else "")
