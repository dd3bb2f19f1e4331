"""The series of a DICOM study: which can be completed, why not, and which is chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.io.dicom_files import DicomFiles, dicom_files
from SkullVAELib.io.dicom_headers import Series, Slice, quiet_pydicom, read_header
from SkullVAELib.io.dicom_stack import Stack

# A head, or the part of it that a defect needs, is at least this large in every direction.
_LEAST_MM = 60.0
_FEWEST_SLICES = 10

# The completion refuses coarser voxels; a reformat of thicker slabs blurs the bone.
_COARSEST_MM = 6.5
_THICKEST_REFORMAT_MM = 5.0

# A gantry tilts by at most 30 degrees: slices are not displaced by more than this, relative to the height of the stack.
_MOST_SHIFTED = 0.7

# Positions nearer than this are the same.
_SAME_MM = 0.01

# Two slices at one position in up to this fraction of a stack are copies, more are another acquisition or time point.
_FEW_COPIES = 0.1

_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"}
_PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "AVERAGE_IP", "VRT", "3D", "VOLUME_RENDER", "SSD", "RENDERED"}
_NOT_ANATOMY = {"IODINE", "SUBTRACTION", "SUBTRACTED", "VNC", "VIRTUAL_UNENHANCED", "SCREEN SAVE", "DOSE", "MAP"}
_REFORMATS = {"DERIVED", "MPR", "REFORMATTED", "CPR"}
_ELSEWHERE = {
    *(
        "CHEST",
        "THORAX",
        "LUNG",
        "ABDOMEN",
        "PELVIS",
        "HEART",
        "KNEE",
        "HIP",
        "SPINE",
        "LSPINE",
        "TSPINE",
        "ARM",
        "LEG",
    ),
    *("SHOULDER", "FOOT", "HAND", "ANKLE", "WRIST", "ELBOW", "EXTREMITY", "LIVER", "COLON", "AORTA"),
}

# A series covers the head where it is this long along its normal, or this fraction of the longest of its orientation.
_FULL_MM, _ALIKE = 120.0, 0.8

# Words of descriptions and kernels of a bone reconstruction, and kernels' numbers from which on a vendor's is sharp.
_BONE_DESCRIPTIONS = ("bone", "knochen", "osseux", "osseous", "hueso")
_BONE_KERNELS = ("bone", "sharp", "lung", "edge", "detail", "ear")
_SIEMENS_SHARP, _CANON_BONE, _PHILIPS_BONE = 60, ("FC30", "FC31", "FC35", "FC80", "FC81"), ("YC", "YD", "E")


@dataclass(frozen=True)
class Candidate:
    """A stack of slices that could be completed.

    Attributes
    ----------
    key : str
        Number for --series: that of the series, followed by .1, .2 where several stacks have the same.
    series : Series
        What the headers state.
    slices : tuple of Slice
        All slices, also those that are not used.
    stack : Stack or None
        The slices that would be used; None where there is no geometry.
    reason : str
        Why it is not usable, or empty.
    may_be_forced : bool
        Whether it can be completed nevertheless where it is chosen explicitly.
    notes : tuple of str
        Warnings about the slices.
    """

    key: str
    series: Series
    slices: tuple[Slice, ...]
    stack: Stack | None
    reason: str
    may_be_forced: bool = False
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it may be chosen automatically."""
        return not self.reason

    @property
    def is_reformat(self) -> bool:
        """Whether the slices were computed from others."""
        return bool(_REFORMATS & set(self.slices[0].image_type))

    @property
    def kernel(self) -> str:
        """ "bone", "soft" or, where the header states no kernel, "unknown"."""
        return _kernel_kind(self.series)

    @property
    def figure_mm(self) -> float:
        """Figure that the choice is made by, lower is better: the distance between slices in mm, or the pixel size
        where that is larger; doubled for a reformat, times 1.25 for a soft-tissue and 1.1 for an unknown kernel."""
        if self.stack is None:
            return float("inf")
        kernel = {"bone": 1.0, "soft": 1.25, "unknown": 1.1}[self.kernel]
        return max(self.stack.step_mm, *self.stack.pixel_mm) * kernel * (2.0 if self.is_reformat else 1.0)


@dataclass(frozen=True)
class Study:
    """The series of a source.

    Attributes
    ----------
    candidates : list of Candidate
        In the order of studies, series numbers and stacks.
    chosen : Candidate or None
        The one that is taken without --series.
    why : str
        Reason of that choice, or why there is none.
    notes : tuple of str
        Warnings about the source.
    name : str
        Name of the folder or file, for messages.
    """

    candidates: list[Candidate]
    chosen: Candidate | None
    why: str
    notes: tuple[str, ...] = ()
    name: str = ""

    def choose(self, series: str | None, force: bool = False) -> Candidate:
        """The candidate that a user chose, or the best one.

        Parameters
        ----------
        series : str, optional
            Key or number of a series, or series UID.
        force : bool
            Whether a series with missing slices may be chosen.

        Raises
        ------
        SkullVAEError
            There is none, or it is not usable.
        """
        if series is None:
            if self.chosen is not None:
                return self.chosen
            forced = [each for each in self.candidates if each.may_be_forced]
            one_patient = len({each.series.patient for each in self.candidates}) == 1
            if force and forced and one_patient:
                return min(forced, key=lambda each: each.figure_mm)
            raise SkullVAEError(f"'{self.name}': {self.why}", self._remedy(forced if one_patient else []))
        text = series.strip()
        found = [each for each in self.candidates if text in (each.key, each.series.uid)]
        found = found or [each for each in self.candidates if text == str(each.series.number)]
        if not found:
            keys = ", ".join(each.key for each in self.candidates[:20]) or "none"
            raise SkullVAEError(f"There is no series '{text[:64]}'", f"Choose one of {keys}; see skullvae series")
        best = min(found, key=lambda each: (not each.usable, not each.may_be_forced, each.figure_mm))
        gap = best.stack is not None and (best.stack.missing > 1).any()
        if not best.usable and (not best.may_be_forced or (gap and not force)):
            remedy = "Choose another series, or complete it with --force" if gap else "Choose another series"
            raise SkullVAEError(f"Series {best.key} is not usable: {best.reason}", f"{remedy}; see skullvae series")
        return best

    def _remedy(self, forced: list[Candidate]) -> str:
        """What to do where no series is chosen; forced: those that can be completed nevertheless."""
        if any(each.usable for each in self.candidates):
            return "Choose a series with --series; skullvae series lists them"
        if forced:
            return "Export a better series from its archive, or complete it nevertheless with --force"
        return "Export a CT series of the whole head from its archive; skullvae series lists what is there"


@contextmanager
def open_study(source: str | os.PathLike) -> Iterator[Study]:
    """List the series of a source; the files of an archive exist until the context ends.

    Parameters
    ----------
    source : str or path
        See `dicom_files`.

    Yields
    ------
    Study
        At least one candidate.

    Raises
    ------
    SkullVAEError
        The source cannot be read or holds no DICOM images.
    """
    with dicom_files(source) as files:
        yield _study(files, Path(source))


def _study(files: DicomFiles, source: Path) -> Study:
    """Read all headers and list the series."""
    by_series: dict[str, tuple[Series, list[Slice]]] = {}
    unreadable, wanted, others = files.unreadable, None, 0
    for path in files.paths:
        try:
            # pydicom converts values, and warns about them, only when they are read.
            with quiet_pydicom():
                found = read_header(path)
        except OSError:
            unreadable += 1
            continue
        except Exception:  # pydicom raises whatever a damaged header leads to
            unreadable += 1
            continue
        if found is None:
            others += 1
            continue
        series, slices = found
        by_series.setdefault(series.uid, (series, []))[1].extend(slices)
        if path == files.only:
            wanted = series.uid
    if files.only is not None:
        by_series = {uid: found for uid, found in by_series.items() if uid == wanted}
    if not by_series:
        raise _no_images(source, files, unreadable, others)
    candidates: list[Candidate] = []
    order = sorted(by_series.values(), key=lambda each: (each[0].study_time, each[0].study, each[0].number or 0))
    for series, slices in order:
        candidates += _candidates(series, slices)
    candidates = _with_keys(candidates)
    notes: tuple[str, ...] = ()
    if unreadable:
        notes = (
            f"{unreadable} {'file' if unreadable == 1 else 'files'} could not be read and"
            f" {'was' if unreadable == 1 else 'were'} ignored: check the result for missing slices.",
        )
    chosen, why, more = _choice(candidates)
    return Study(candidates, chosen, why, notes + more, source.name or str(source))


def _no_images(source: Path, files: DicomFiles, unreadable: int, others: int) -> SkullVAEError:
    """The error for a source without a DICOM image."""
    name = source.name or str(source)
    if files.only is not None:
        return SkullVAEError(
            f"'{name}' is not a DICOM image, or is damaged", "Give the folder of a CT series, or another file"
        )
    if unreadable:
        return SkullVAEError(
            f"'{name}' holds no DICOM image that can be read ({unreadable} unreadable files)",
            "Check permissions, or copy the files again",
        )
    if files.archives:
        return SkullVAEError(
            f"'{name}' holds no DICOM images, but an archive", "Give the archive itself, or extract it"
        )
    if others:
        return SkullVAEError(f"'{name}' holds DICOM files, but no images", "Choose the folder of a CT series")
    return SkullVAEError(f"'{name}' holds no DICOM files", "Choose the folder of a CT series, or name one image file")


def _candidates(series: Series, slices: Sequence[Slice]) -> list[Candidate]:
    """The stacks of a series."""
    unique = list({(each.instance or each.path, each.frame): each for each in slices}.values())
    scouts = [each for each in unique if _LOCALIZERS & set(each.image_type)]
    found = []
    if scouts:
        found.append(Candidate("", series, tuple(scouts), None, "localizer (scout)"))
    rest = [each for each in unique if not _LOCALIZERS & set(each.image_type)]
    lacking: dict[str, list[Slice]] = {}
    groups: list[list[Slice]] = []
    for each in rest:
        if each.kind or each.position is None or each.orientation is None or each.spacing is None:
            lacking.setdefault(each.kind or "no position, orientation or pixel spacing", []).append(each)
            continue
        group = next((group for group in groups if _fits(group[0], each)), None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    found += [Candidate("", series, tuple(each), None, reason) for reason, each in lacking.items()]
    stacks = [part for group in groups for part in _split(group)]
    stacks.sort(key=lambda part: -len(part[0]))
    for number, (part, notes) in enumerate(stacks):
        if number == 0 and len(stacks) > 1:
            left_out = sum(len(other) for other, _ in stacks[1:])
            notes = (
                *notes,
                f"The series holds {len(stacks)} stacks of slices, of another orientation, size, acquisition or time"
                f" point: {left_out} of its slices were left out.",
            )
        found.append(_judged(series, part, notes))
    return found


def _fits(one: Slice, other: Slice) -> bool:
    """Whether two slices are parallel and of one size."""
    return (
        (one.rows, one.columns) == (other.rows, other.columns)
        and np.allclose(one.spacing or (), other.spacing or (), rtol=1e-3)
        and np.allclose(one.orientation or (), other.orientation or (), atol=2e-3)
    )


def _split(group: list[Slice]) -> list[tuple[list[Slice], tuple[str, ...]]]:
    """Parallel slices as stacks with one slice at each position, each with notes."""
    normal = np.cross(*np.array(group[0].orientation).reshape(2, 3))
    place = {id(each): float(np.array(each.position) @ normal) for each in group}
    ordered = sorted(group, key=lambda each: (round(place[id(each)] / _SAME_MM), each.number, each.frame))
    same = np.diff([place[id(each)] for each in ordered]) < _SAME_MM
    copies = int(same.sum())
    if copies == 0:
        return [(ordered, ())]
    if copies > _FEW_COPIES * len(ordered):
        for name in ("acquisition", "phase"):
            values: dict[str, list[Slice]] = {}
            for each in ordered:
                values.setdefault(getattr(each, name), []).append(each)
            if len(values) > 1:
                return [part for part_of in values.values() for part in _split(part_of)]
    # The first at each position, the second and so on.
    stacks: list[list[Slice]] = []
    count = 0
    for index, each in enumerate(ordered):
        count = count + 1 if index and same[index - 1] else 0
        if count == len(stacks):
            stacks.append([])
        stacks[count].append(each)
    if copies > _FEW_COPIES * len(ordered):
        return [(part, ()) for part in stacks]
    note = f"{copies} {'slice has' if copies == 1 else 'slices have'} the position of another one and"
    return [(stacks[0], (f"{note} {'was' if copies == 1 else 'were'} left out.",))]


def _judged(series: Series, slices: list[Slice], notes: tuple[str, ...]) -> Candidate:
    """The candidate of a stack: whether it is usable, and what the user should know."""
    made = Candidate("", series, tuple(slices), None, "", False, notes)
    words = set(slices[0].image_type)
    if len(slices) < _FEWEST_SLICES:
        return replace(made, reason=f"only {len(slices)} {'slice' if len(slices) == 1 else 'slices'}")
    stack = Stack(tuple(slices))
    inner = stack.without_outer()
    if len(inner.slices) < len(stack.slices):
        left_out, gap = len(stack.slices) - len(inner.slices), float(stack.steps_mm.max())
        notes = (
            *notes,
            f"{left_out} outermost {'slice' if left_out == 1 else 'slices'} behind a gap of up to {gap:.0f} mm"
            f" {'was' if left_out == 1 else 'were'} left out: check that the skull is complete in the image.",
        )
    stack = inner
    made = replace(made, stack=stack, notes=notes)
    extent = stack.extent_mm
    if extent.min() < _LEAST_MM:
        return replace(made, reason=f"covers only {extent.min():.0f} mm")
    if words & _PROJECTIONS:
        return replace(made, reason="projection or rendering, not slices")
    if words & _NOT_ANATOMY:
        return replace(made, reason="map, subtraction or screen capture, not Hounsfield units of the head")
    shift = float(np.linalg.norm(stack.offsets_mm[:, :2], axis=1).max())
    if shift > _MOST_SHIFTED * extent[2]:
        return replace(made, reason=f"slices are displaced by {shift:.0f} mm within their plane")
    missing = int(stack.missing.max())
    if missing > 1:
        gap = float(stack.steps_mm[stack.missing > 1].max())
        places = int((stack.missing > 1).sum())
        where = "in one place" if places == 1 else f"in {places} places"
        reason = f"{missing} neighbouring slices are missing {where} (gap of {gap:.1f} mm)"
        return replace(made, reason=reason, may_be_forced=True)
    thickness = max(each.thickness_mm or 0.0 for each in stack.slices)
    if stack.step_mm > _COARSEST_MM:
        return replace(made, reason=f"slices are {stack.step_mm:.1f} mm apart", may_be_forced=True)
    if made.is_reformat and thickness > _THICKEST_REFORMAT_MM:
        return replace(made, reason=f"reformat of thick slabs ({thickness:.1f} mm)", may_be_forced=True)
    if series.body_part in _ELSEWHERE:
        return replace(made, reason="not of the head, as its header states", may_be_forced=True)
    return made


def _with_keys(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with keys for --series, unique in the list."""
    numbers = ["?" if each.series.number is None else str(each.series.number) for each in candidates]
    seen: dict[str, int] = {}
    keyed = []
    for number, each in zip(numbers, candidates, strict=True):
        seen[number] = seen.get(number, 0) + 1
        keyed.append(replace(each, key=f"{number}.{seen[number]}" if numbers.count(number) > 1 else number))
    return keyed


def _choice(candidates: list[Candidate]) -> tuple[Candidate | None, str, tuple[str, ...]]:
    """The candidate to take, why, and warnings."""
    usable = [each for each in candidates if each.usable]
    if not usable:
        if len(candidates) == 1:
            return None, f"its only series is not usable: {candidates[0].reason}", ()
        listed = "; ".join(f"{each.key}: {each.reason}" for each in candidates[:8])
        return None, f"none of its {len(candidates)} series is usable ({listed})", ()
    if len({each.series.patient for each in usable}) > 1:
        return None, "it holds series of several patients", ()
    notes: tuple[str, ...] = ()
    studies = {each.series.study: each.series.study_time for each in usable}
    if len(studies) > 1:
        latest = max(studies, key=lambda study: studies[study])
        usable = [each for each in usable if each.series.study == latest]
        notes = (
            f"The input holds {len(studies)} studies: a series of the latest was completed. Choose another with"
            " --series.",
        )
    covering = [each for each in usable if _covers(each, usable)] or usable
    best = min(covering, key=lambda each: each.figure_mm)
    return best, _why(best, usable), notes


def _covers(one: Candidate, usable: Sequence[Candidate]) -> bool:
    """Whether a series covers the head as the others do, along its normal: 80 % of the longest of its orientation, and
    120 mm if any series has that."""
    extents = {id(each): float(each.stack.extent_mm[2]) for each in usable if each.stack is not None}
    alike = [
        extents[id(each)]
        for each in usable
        if each.stack and one.stack and each.stack.orientation == one.stack.orientation
    ]
    least = min(_FULL_MM, max(extents.values()))
    return extents[id(one)] >= max(_ALIKE * max(alike), least)


def _why(best: Candidate, usable: Sequence[Candidate]) -> str:
    """The reason of a choice."""
    if len(usable) == 1 or best.stack is None:
        return "the only usable series"
    kind = "reformat" if best.is_reformat else "original slices"
    return f"{kind}, {best.kernel} kernel, {best.stack.step_mm:.1f} mm between slices"


def _kernel_kind(series: Series) -> str:
    """Whether a series is a reconstruction of bone, by its kernel and, where that is not known, by its description."""
    kernel, described = series.kernel.upper(), series.description.lower()
    if any(word in described for word in _BONE_DESCRIPTIONS):
        return "bone"
    if not kernel:
        return "unknown"
    if any(word in kernel.lower() for word in _BONE_KERNELS):
        return "bone"
    if kernel.startswith(_CANON_BONE) or kernel in _PHILIPS_BONE:
        return "bone"
    digits = "".join(letter for letter in kernel[1:4] if letter.isdigit())
    # Siemens: a letter for the body part (H, B, U, ...), in newer systems a second one, and the sharpness.
    if kernel[0] in "HBUTJ" and digits and int(digits) >= _SIEMENS_SHARP:
        return "bone"
    return "soft"
