"""The hard inputs: kinds, and for each its variants on other skulls, at other places and of other sizes.

A kind is a function that makes the input of one variant. Directions of holes are (R, A, S) from the vault's centre,
widths are mm along the surface.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import read_volume

from . import files, images
from .holes import Hole, Vault, centre_of, cut, flap_with_gap, fragment, in_sectors, sunken
from .images import in_slices, in_voxels, padded, synthetic_ct, with_value
from .judge import Expected, volume_ml

CT_SKULLS = (
    "visible_human",
    "visible_human_female",
    "cisc881",
    "elgabrielc",
    "ge_thick_slices",
    "scct_average",
    "cerebrix",
)
"""Skulls that were segmented from CT; all others are MRI-based."""

FINEST_MM = 0.7
"""Skulls in smaller voxels are reduced to this, but where fine voxels are what is tested."""

BACK, TOP = (0.1, -0.95, 0.3), (0.08, -0.1, 1.0)
LEFT, RIGHT_SIDE = (-0.8, -0.3, 0.55), (0.85, 0.1, 0.5)

# What a warning or refusal has to name, by cause.
SLICES = r"slice|voxel"
IMAGE_END = r"beyond|(end|edge|border) of the (image|field)|field of view"
LOOSE = r"loose|fragment|bone flap|pieces? of bone"
OPEN_HOLE = r"\d ml"
FORMS = r"sform|qform"
TILT = r"tilt|shear|perpendicular"
ORIENTATION = r"orientation"
SLICE_DISTANCE = r"slice|voxel size|spacing|squeezed|stretched|height"
SCALE = r"\bHU\b|Hounsfield|rescale|8.bit"
METAL = r"metal|titanium|hardware"
OBJECTS = r"headrest|table|\barms?\b|shunt|tube|loose|not connected|left out|--roi|\bROI\b"
LABELS = r"label|segments?\b"


@dataclass(frozen=True)
class Head:
    """A complete skull, bool, with its vault."""

    name: str
    bone: Volume
    vault: Vault

    def cut(self, hole: Hole) -> tuple[Volume, Volume]:
        """The skull without the bone of a hole, and that bone."""
        return cut(self.bone, self.vault, hole)

    def expected(self, truth: Volume | None = None, **more) -> Expected:
        """A right answer, with the DSC that this skull's kind of segmentation allows unless another is given.

        Bone of MRI-based skulls is thin, and a table error of half a millimetre weighs more.
        """
        return Expected(
            truth, **{"least_dsc": 0.8 if self.name in CT_SKULLS else 0.7, "centre": self.vault.centre} | more
        )

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """Which voxels are inside the head; bool array."""
        return images.head_of(self.bone)

    def as_ct(self, bone: Volume) -> Volume:
        """A synthetic CT of this head with other bone."""
        return synthetic_ct(bone, self.inside)


@dataclass(frozen=True)
class Skulls:
    """Where the skulls are: a folder of complete ones, a patient's CT, and defective ones in the folder beside."""

    folder: Path
    patient: Path | None = None

    def head(self, name: str, finest_mm: float = FINEST_MM) -> Head:
        """A complete skull. Raises FileNotFoundError where there is none of this name."""
        return _head(_found(self.folder, name), name, finest_mm)

    def patient_ct(self) -> Volume:
        """The patient's CT. Raises FileNotFoundError without one."""
        if self.patient is None:
            raise FileNotFoundError("no --patient")
        return read_volume(self.patient)

    def craniotomy(self) -> Head:
        """The skull of the real craniotomy with its own bone flap in place, as separate bone."""
        folder = self.folder.parent / "defective"
        rest, flap = (read_volume(_found(folder, name)) for name in ("real_craniotomy", "real_craniotomy_bone_flap"))
        whole = rest.with_array((rest.array != 0) | (flap.array != 0))
        return Head("real_craniotomy", whole, Vault.of(whole))

    def craniotomy_flap(self) -> Volume:
        """The bone flap of the real craniotomy, bool."""
        flap = read_volume(_found(self.folder.parent / "defective", "real_craniotomy_bone_flap"))
        return flap.with_array(flap.array != 0)


def _found(folder: Path, name: str) -> Path:
    for suffix in (".nrrd", ".nii.gz"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    raise FileNotFoundError(f"no {name} in '{folder}'")


@functools.lru_cache(maxsize=1)
def _head(path: Path, name: str, finest_mm: float) -> Head:
    volume = read_volume(path)
    bone = Volume(volume.array != 0, volume.affine)
    if bone.spacing.max() < finest_mm - 0.05:
        bone = in_voxels(bone, finest_mm)
    return Head(name, bone, Vault.of(bone))


@dataclass(frozen=True)
class HardInput:
    """An input, and what a right answer to it is.

    Parameters
    ----------
    write : callable
        Writes the input into a folder and returns its path.
    expected : Expected
    arguments : tuple of str
        Of the command line, after the input.
    """

    write: Callable[[Path], Path]
    expected: Expected
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of hard input: what makes one, and its variants with the arguments for each."""

    name: str
    make: Callable[..., HardInput]
    variants: dict[str, tuple]

    def input(self, skulls: Skulls, variant: str) -> HardInput:
        """The input of a variant. Raises FileNotFoundError where a skull for it is not there."""
        return self.make(skulls, *self.variants[variant])


KINDS: dict[str, Kind] = {}


def kind(variants: dict[str, tuple]) -> Callable[[Callable[..., HardInput]], Callable[..., HardInput]]:
    """Register a function as a kind of its name."""

    def register(make: Callable[..., HardInput]) -> Callable[..., HardInput]:
        KINDS[make.__name__] = Kind(make.__name__, make, variants)
        return make

    return register


def stored(volume: Volume, expected: Expected, *arguments: str, name: str = "input.nrrd") -> HardInput:
    """The input that is a volume in a file as the library writes it."""
    return HardInput(lambda folder: files.store(volume, folder / name), expected, arguments)


def point(at: np.ndarray) -> str:
    """A point (3,) in RAS mm as the command line takes it."""
    return ",".join(f"{x:.1f}" for x in at)


# Slices and voxels ---------------------------------------------------------------------------------------------------


def _sliced(head: Head, truth: Volume, plane: str, mm: float) -> Expected:
    """In slices up to 5 mm a completion is expected, above it may be refused; from 3 mm on a warning is."""
    lowered = head.expected().least_dsc - (0.0 if mm < 3 else 0.05 if mm < 4.5 else 0.1)
    return head.expected(
        in_slices(truth, plane, mm), surface=truth, least_dsc=lowered, explained=SLICES, must_tell=mm >= 3,
        must_complete=mm <= 5,
    )  # fmt: skip


@kind(
    {
        "female axial 2.5 mm": ("visible_human_female", "axial", 2.5, Hole(TOP, 55)),
        "cisc881 coronal 4 mm": ("cisc881", "coronal", 4.0, Hole((-0.75, 0.1, 0.7), 60)),
        "elgabrielc axial 5 mm": ("elgabrielc", "axial", 5.0, Hole((0.6, -0.6, 0.6), 70, 50, "box")),
        "visible_human sagittal 5 mm": ("visible_human", "sagittal", 5.0, Hole((0.3, 0.6, 0.8), 60)),
        "female sagittal 6 mm": ("visible_human_female", "sagittal", 6.0, Hole(LEFT, 75)),
        "elgabrielc axial 8 mm": ("elgabrielc", "axial", 8.0, Hole(RIGHT_SIDE, 80)),
        "mgh_dca axial 4 mm": ("mgh_dca", "axial", 4.0, Hole((-0.6, -0.5, 0.7), 60)),
    }
)
def thick_slices_ct(skulls: Skulls, name: str, plane: str, mm: float, hole: Hole) -> HardInput:
    """A CT in thick slices along any plane."""
    head = skulls.head(name)
    left, truth = head.cut(hole)
    return stored(in_slices(head.as_ct(left), plane, mm), _sliced(head, truth, plane, mm))


@kind({"axial 2.5 mm": ("axial", 2.5), "axial 3.7 mm": ("axial", 3.7), "coronal 5 mm": ("coronal", 5.0)})
def thick_slices_patient(skulls: Skulls, plane: str, mm: float) -> HardInput:
    """A real patient's CT in thick slices; the implant is of about 10 ml."""
    expected = Expected(volume_ml=(5.0, 16.0), explained=SLICES, must_tell=mm >= 3, must_complete=True)
    return stored(in_slices(skulls.patient_ct(), plane, mm), expected)


@kind(
    {
        "elgabrielc axial 2.5 mm": ("elgabrielc", "axial", 2.5, Hole((-0.1, 0.3, 1), 45)),
        "visible_human coronal 4 mm": ("visible_human", "coronal", 4.0, Hole((0.75, -0.4, 0.5), 60, 45, "box")),
        "cisc881 axial 5 mm": ("cisc881", "axial", 5.0, Hole((-0.9, 0.0, 0.4), 60)),
        "female sagittal 5 mm": ("visible_human_female", "sagittal", 5.0, Hole((0.2, -0.5, 0.85), 55)),
        "usc19 axial 4 mm": ("usc19_average", "axial", 4.0, Hole(TOP, 50)),
        "female axial 6 mm": ("visible_human_female", "axial", 6.0, Hole(RIGHT_SIDE, 70)),
        "cisc881 coronal 8 mm": ("cisc881", "coronal", 8.0, Hole(LEFT, 80)),
    }
)
def thick_slices_mask(skulls: Skulls, name: str, plane: str, mm: float, hole: Hole) -> HardInput:
    """A segmentation in thick slices, with air around it."""
    head = skulls.head(name)
    left, truth = (padded(mask, 20) for mask in head.cut(hole))
    return stored(in_slices(left, plane, mm), _sliced(head, truth, plane, mm))


@kind(
    {
        "cisc881 1.5 mm": ("cisc881", 1.5, Hole((0.9, -0.1, 0.5), 100, 85)),
        "elgabrielc 2 mm": ("elgabrielc", 2.0, Hole(LEFT, 80)),
        "female 2.5 mm": ("visible_human_female", 2.5, Hole((0.5, 0.5, 0.75), 70)),
        "visible_human 3 mm": ("visible_human", 3.0, Hole((-0.8, 0.1, 0.6), 90)),
        "mgh_angel001 2.5 mm": ("mgh_angel001", 2.5, Hole((0.7, -0.5, 0.6), 70)),
    }
)
def coarse_masks(skulls: Skulls, name: str, mm: float, hole: Hole) -> HardInput:
    """A segmentation in coarse voxels: filled, or a warning that they are coarse."""
    head = skulls.head(name)
    left, truth = head.cut(hole)
    lowered = head.expected().least_dsc - (0.05 if mm > 1.8 else 0.0)
    expected = head.expected(in_voxels(truth, mm), surface=truth, least_dsc=lowered, explained=SLICES)
    return stored(in_voxels(left, mm), expected)


@kind(
    {
        "visible_human at 0.49 mm": ("visible_human", 0.0, Hole((-0.4, 0.75, 0.65), 55)),
        "cisc881 at 0.45 mm": ("cisc881", 0.45, Hole((0.7, -0.5, 0.6), 60)),
        "female burr hole": ("visible_human_female", None, Hole((0.5, 0.5, 0.75), 14)),
    }
)
def reported_thickness(skulls: Skulls, name: str, mm: float | None, hole: Hole) -> HardInput:
    """The thickness that the report gives is the implant's, in fine voxels and for small implants."""
    head = skulls.head(name) if mm is None else skulls.head(name, FINEST_MM if mm else 0.0)
    left, truth = head.cut(hole)
    if mm:
        left, truth = images.refined(left, mm), images.refined(truth, mm)
    least = 0.6 if hole.width_mm < 20 else 0.8
    return stored(left, head.expected(truth, least_dsc=least, thickness=True))


# Where the image ends ------------------------------------------------------------------------------------------------


@kind(
    {
        "female 5 mm above the vertex, slices of 4 mm": ("visible_human_female", Hole(TOP, 45), "S", 5.0, 4.0),
        "elgabrielc 4 mm above the vertex": ("elgabrielc", Hole((0.0, 0.2, 1), 60), "S", 4.0, None),
        "cisc881 3 mm beside the head": ("cisc881", Hole((0.95, -0.1, 0.3), 60), "R", 3.0, None),
        "visible_human 5 mm behind the head, slices of 3 mm": ("visible_human", Hole(BACK, 60), "P", 5.0, 3.0),
        "mgh_angel001 5 mm above the vertex, slices of 4 mm": ("mgh_angel001", Hole(TOP, 50), "S", 5.0, 4.0),
        "cisc881 through a hole at the vertex": ("cisc881", Hole(TOP, 70), "S", -6.0, None),
        "elgabrielc through a hole at the side": ("elgabrielc", Hole((-0.97, -0.1, 0.4), 75), "L", -8.0, None),
        "female through a frontal hole": ("visible_human_female", Hole((0.3, 0.85, 0.5), 70), "A", -5.0, None),
        "visible_human inside the head, hole beside": ("visible_human", Hole((0.9, -0.2, 0.35), 65), "S", -18.0, None),
        "cisc881 inside the head at the side": ("cisc881", Hole((0.3, 0.5, 0.8), 65), "L", -15.0, None),
        "ge_thick_slices inside the head at the back": ("ge_thick_slices", Hole((0.4, 0.6, 0.7), 60), "P", -15.0, None),
    }
)
def image_ends(
    skulls: Skulls, name: str, hole: Hole, side: str, beyond_mm: float, slices_mm: float | None
) -> HardInput:
    """The image ends near the vertex or beside the head, through the hole, or inside the head.

    beyond_mm: from the outermost bone towards the side to the end of the image; negative: bone lies outside.
    """
    head = skulls.head(name)
    end = images.extreme(head.bone, side) + (beyond_mm if side in "RAS" else -beyond_mm)
    left, truth = (padded(mask, 10) for mask in head.cut(hole))
    inside = images.ending_at(left, side, end), images.ending_at(truth, side, end)
    through = volume_ml(inside[1]) < 0.98 * volume_ml(truth)
    if slices_mm is not None:
        plane = {"S": "axial", "P": "coronal"}[side]
        inside = in_slices(inside[0], plane, slices_mm), in_slices(inside[1], plane, slices_mm)
    expected = head.expected(inside[1], surface=truth, explained=IMAGE_END if beyond_mm < 0 else "")
    return stored(
        inside[0], dataclasses.replace(expected, must_tell=through, must_complete=through, whole_mesh=through)
    )


@kind(
    {
        "female vertex": ("visible_human_female", Hole((0.0, -0.1, 1), 75)),
        "elgabrielc occiput": ("elgabrielc", Hole((0.0, -1, 0.3), 75)),
        "cisc881 right side": ("cisc881", Hole((0.97, -0.05, 0.4), 80, 65, "box")),
        "mgh_hs1 vertex": ("mgh_hs1", Hole((0.1, 0.1, 1), 70)),
    }
)
def cropped_segmentation(skulls: Skulls, name: str, hole: Hole) -> HardInput:
    """The segmentation was saved at the bone's own bounding box: the printable implant is whole, and it is said that
    the image ends."""
    head = skulls.head(name)
    left, truth = head.cut(hole)
    inside = images.at_own_box(truth, left)
    expected = head.expected(
        inside, surface=truth, explained=IMAGE_END, must_tell=True, must_complete=True, whole_mesh=True
    )  # fmt: skip
    return stored(images.at_own_box(left, left), expected)


# Loose bone ----------------------------------------------------------------------------------------------------------


def _loose_piece(head: Head, left: Volume, removed: Volume, hole: Hole, what: str, size: float) -> Volume:
    """The loose bone of a case; size: of the gap in mm, the depth in mm, or the volume in ml."""
    if what == "flap":
        return flap_with_gap(left, removed, size)
    if what == "sunken":
        return sunken(flap_with_gap(left, removed, 2.0), head.vault, size)
    if what == "resorbed":
        return in_sectors(flap_with_gap(left, removed, 4.0), head.vault, hole, 8, size)
    return fragment(removed, size)


@kind(
    {
        "female flap, gap 1 mm": ("visible_human_female", True, Hole((-0.85, 0.2, 0.45), 85, 70), "flap", 1.0),
        "cisc881 flap, gap 2 mm": ("cisc881", True, Hole((0.85, 0.0, 0.5), 80), "flap", 2.0),
        "elgabrielc flap, gap 4 mm": ("elgabrielc", True, Hole((-0.7, -0.5, 0.6), 75, 65, "box"), "flap", 4.0),
        "visible_human flap, gap 2 mm, mask": ("visible_human", False, Hole((0.5, 0.6, 0.7), 75), "flap", 2.0),
        "cisc881 sunken by 8 mm": ("cisc881", True, Hole((-0.85, 0.1, 0.5), 80), "sunken", 8.0),
        "female sunken by 8 mm, mask": ("visible_human_female", False, Hole((0.6, -0.5, 0.65), 70), "sunken", 8.0),
        "elgabrielc eight pieces": ("elgabrielc", True, Hole((0.8, 0.2, 0.6), 85), "resorbed", 5.0),
        "visible_human eight pieces": ("visible_human", True, Hole((-0.6, -0.6, 0.6), 80), "resorbed", 6.0),
        "cisc881 fragment of 3 ml": ("cisc881", True, Hole((0.4, 0.6, 0.75), 75), "fragment", 3.0),
        "female fragment of 6 ml": ("visible_human_female", True, Hole((0.85, -0.1, 0.5), 85), "fragment", 6.0),
        "mgh_angel001 fragment of 2 ml, mask": ("mgh_angel001", False, Hole((-0.8, 0.0, 0.6), 75), "fragment", 2.0),
    }
)
def loose_bone(skulls: Skulls, name: str, ct: bool, hole: Hole, what: str, size: float) -> HardInput:
    """A flap put back, a sunken or resorbed one, or a fragment: the implant keeps clear of it, or it is named."""
    head = skulls.head(name)
    left, removed = head.cut(hole)
    piece = _loose_piece(head, left, removed, hole, what, size)
    bone = left.with_array(left.array | piece.array)
    # Beside a flap nothing has to be filled; a hole with a fragment, a sunken or a resorbed flap is still one.
    missing = None if what == "flap" else removed.with_array(removed.array & ~piece.array)
    expected = head.expected(missing, least_dsc=0.6, clear_of=piece, explained=LOOSE)
    return stored(head.as_ct(bone) if ct else bone, expected)


@kind(
    {
        "elgabrielc gap 1.5 mm": ("elgabrielc", True, Hole((0.8, -0.2, 0.6), 80, 70), 1.5),
        "cisc881 gap 2 mm": ("cisc881", True, Hole((-0.7, 0.4, 0.6), 85), 2.0),
        "visible_human gap 3 mm": ("visible_human", True, Hole((-0.85, -0.2, 0.45), 90, 75, "box"), 3.0),
        "female gap 2 mm, mask": ("visible_human_female", False, Hole((0.1, -0.7, 0.7), 70), 2.0),
    }
)
def ignored_flap(skulls: Skulls, name: str, ct: bool, hole: Hole, gap_mm: float) -> HardInput:
    """The user asks to ignore a flap that is to be replaced: the hole behind it is filled."""
    head = skulls.head(name)
    left, removed = head.cut(hole)
    bone = left.with_array(left.array | flap_with_gap(left, removed, gap_mm).array)
    expected = head.expected(removed, least_dsc=head.expected().least_dsc - 0.05, must_complete=True)
    return stored(head.as_ct(bone) if ct else bone, expected, "--fragments", "ignore")


@kind(
    {
        "flap in place, mask": (False, True, ()),
        "flap in place, CT": (True, True, ()),
        "flap in place, ignored, mask": (False, True, ("--fragments", "ignore")),
        "flap in place, ignored, CT": (True, True, ("--fragments", "ignore")),
        "flap removed, mask": (False, False, ()),
        "flap removed, CT": (True, False, ()),
    }
)
def real_craniotomy(skulls: Skulls, ct: bool, in_place: bool, arguments: tuple[str, ...]) -> HardInput:
    """A real patient's craniotomy. The flap sits turned by 6 degrees, so it is no exact truth."""
    head, flap = skulls.craniotomy(), skulls.craniotomy_flap()
    bone = head.bone if in_place else head.bone.with_array(head.bone.array & ~flap.array)
    # To be replaced, the hole is the flap and the saw gap around it.
    asked_for = not in_place or bool(arguments)
    expected = (
        head.expected(flap, least_dsc=0.5, must_complete=True)
        if asked_for
        else head.expected(clear_of=flap, explained=LOOSE)
    )
    return stored(head.as_ct(bone) if ct else bone, expected, *arguments)


# Holes that have to be found -----------------------------------------------------------------------------------------


def _holes(skulls: Skulls, name: str, *holes: Hole) -> tuple[Head, Volume, list[Volume]]:
    """A skull with several holes: the head, what is left, and the bone of each hole."""
    head = skulls.head(name)
    parts = [head.cut(hole)[1] for hole in holes]
    left = head.bone.with_array(head.bone.array & ~np.logical_or.reduce([part.array for part in parts]))
    return head, left, parts


def _union(parts: list[Volume]) -> Volume:
    return parts[0].with_array(np.logical_or.reduce([part.array for part in parts]))


@kind(
    {
        "cisc881 craniotomy": ("cisc881", Hole((-0.9, 0.1, 0.45), 95, 80), Hole((0.6, 0.5, 0.65), 45)),
        "female burr hole": ("visible_human_female", Hole((0.9, 0.0, 0.5), 90), Hole((-0.5, 0.4, 0.8), 14)),
        "elgabrielc burr hole": ("elgabrielc", Hole((-0.8, -0.3, 0.55), 80), Hole((0.5, 0.6, 0.65), 12)),
        "visible_human small hole": ("visible_human", Hole((0.85, 0.1, 0.5), 100), Hole((-0.3, -0.8, 0.55), 25)),
        "mgh_hs4a craniotomy": ("mgh_hs4a", Hole((0.7, 0.4, 0.6), 75), Hole((-0.7, -0.4, 0.6), 40)),
        "female three burr holes": (
            "visible_human_female",
            Hole((-0.55, 0.45, 0.75), 14),
            Hole((-0.85, 0.2, 0.55), 14),
            Hole((-0.7, -0.2, 0.75), 14),
        ),
        "cisc881 three burr holes": (
            "cisc881",
            Hole((0.5, 0.5, 0.75), 13),
            Hole((0.8, 0.3, 0.55), 13),
            Hole((0.75, -0.1, 0.7), 13),
        ),
        "elgabrielc three burr holes": (
            "elgabrielc",
            Hole((-0.3, 0.8, 0.55), 14),
            Hole((0.0, 0.8, 0.6), 14),
            Hole((0.3, 0.8, 0.55), 14),
        ),
    }
)
def second_holes(skulls: Skulls, name: str, *holes: Hole) -> HardInput:
    """A small hole beside a large one, or several burr holes: all filled, or the open ones named with their volume."""
    head, left, parts = _holes(skulls, name, *holes)
    least = 0.6 if max(hole.width_mm for hole in holes) < 20 else 0.7
    return stored(left, head.expected(_union(parts), least_dsc=least, holes=parts, explained=OPEN_HOLE))


def found_hole(skulls: Skulls, name: str, hole: Hole) -> HardInput:
    """A hole that nobody would overlook: it has to be filled, and a solid part over a sinus has to be named."""
    head = skulls.head(name)
    left, truth = head.cut(hole)
    least = head.expected().least_dsc - 0.05
    return stored(left, head.expected(truth, must_complete=True, least_dsc=least, explained="frontal sinus"))


for _name, _variants in {
    "frontal_to_orbit": {
        "female right": ("visible_human_female", Hole((0.45, 0.9, 0.15), 65)),
        "elgabrielc left": ("elgabrielc", Hole((-0.4, 0.9, 0.1), 75, 60)),
        "cisc881 left": ("cisc881", Hole((-0.35, 0.95, 0.1), 70)),
        "ge_thick_slices right": ("ge_thick_slices", Hole((0.4, 0.9, 0.15), 70)),
        "mgh_dca left": ("mgh_dca", Hole((-0.4, 0.9, 0.15), 65)),
    },
    "forehead_over_both_orbits": {
        "visible_human": ("visible_human", Hole((0, 1, 0.15), 85, 75)),
        "female": ("visible_human_female", Hole((0.05, 1, 0.1), 90)),
        "cisc881": ("cisc881", Hole((0, 1, 0.12), 80)),
        "elgabrielc": ("elgabrielc", Hole((-0.05, 1, 0.2), 95, 80, "box")),
        "mgh_hs1": ("mgh_hs1", Hole((0, 1, 0.2), 80)),
    },
    "midline_vertex": {
        "cisc881": ("cisc881", Hole((0, 0.15, 1), 90)),
        "visible_human": ("visible_human", Hole((0.05, -0.25, 1), 75, 100)),
        "female": ("visible_human_female", Hole((-0.05, 0, 1), 110, 70)),
        "usc19_average": ("usc19_average", Hole((0, 0, 1), 85)),
    },
    "temporal": {
        "female left pterional": ("visible_human_female", Hole((-0.9, 0.4, 0.1), 60, 50)),
        "elgabrielc right pterional": ("elgabrielc", Hole((0.9, 0.45, 0.05), 65, 50)),
        "visible_human left": ("visible_human", Hole((-1, 0.1, 0.0), 60)),
        "cisc881 right": ("cisc881", Hole((1, 0.2, 0.05), 55)),
        "mgh_angel001 right": ("mgh_angel001", Hole((0.95, 0.3, 0.05), 60)),
    },
    "occipital": {
        "cisc881 midline": ("cisc881", Hole((0, -1, 0.15), 60)),
        "visible_human right": ("visible_human", Hole((0.45, -0.9, 0.0), 55)),
        "elgabrielc left": ("elgabrielc", Hole((-0.4, -0.9, 0.2), 70, 55, "box")),
        "mgh_hs4a midline": ("mgh_hs4a", Hole((0.05, -1, 0.3), 60)),
    },
    "hemicraniectomy": {
        "female left": ("visible_human_female", Hole((-0.93, 0.05, 0.4), 125, 95)),
        "cisc881 right": ("cisc881", Hole((0.93, 0.1, 0.4), 130, 100)),
        "visible_human left": ("visible_human", Hole((-0.9, 0.15, 0.45), 120, 90)),
        "mgh_dca right": ("mgh_dca", Hole((0.93, 0.05, 0.4), 120, 90)),
    },
}.items():
    KINDS[_name] = Kind(_name, found_hole, _variants)


# Headers -------------------------------------------------------------------------------------------------------------


def _moved(affine: np.ndarray, mm: tuple[float, float, float]) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] += mm
    return moved


@kind(
    {
        "elgabrielc qform 20 mm off": ("elgabrielc", (0.0, 20.0, 0.0), False),
        "cisc881 qform 3 mm off": ("cisc881", (2.0, -2.0, 1.0), False),
        "female qform mirrored": ("visible_human_female", (0.0, 0.0, 0.0), True),
        "colin27 qform 45 mm off": ("colin27", (-30.0, 30.0, 15.0), False),
    }
)
def sform_and_qform_differ(skulls: Skulls, name: str, shift: tuple[float, float, float], mirrored: bool) -> HardInput:
    """Which of two contradictory positions was followed has to be said, whatever the implant."""
    head = skulls.head(name)
    left, _ = head.cut(Hole((0.7, -0.3, 0.65), 55))
    qform = _moved(left.affine, shift)
    if mirrored:
        qform = np.diag([-1.0, 1.0, 1.0, 1.0]) @ qform
    expected = Expected(explained=FORMS, must_tell=True)
    return HardInput(
        lambda folder: files.store_nifti(left, folder / "input.nii.gz", left.affine, qform), expected
    )  # fmt: skip


@kind(
    {
        "elgabrielc 4 digits": ("elgabrielc", (8.0, 5.0, -11.0), 4),
        "visible_human 4 digits": ("visible_human", (-14.0, 3.0, 6.0), 4),
        "cisc881 5 digits": ("cisc881", (4.0, -9.0, 17.0), 5),
    }
)
def rounded_sform(skulls: Skulls, name: str, turned: tuple[float, float, float], digits: int) -> HardInput:
    """A turned grid whose matrix was rounded: it moves no voxel by a tenth of a millimetre, so it is read."""
    head = skulls.head(name)
    left, truth = head.cut(Hole((-0.6, -0.4, 0.75), 60))
    turn = np.eye(4)
    for axis, degrees in enumerate(np.radians(turned)):
        step = np.eye(4)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step[[i, i, j, j], [i, j, i, j]] = np.cos(degrees), -np.sin(degrees), np.sin(degrees), np.cos(degrees)
        turn = step @ turn
    affine = np.round(turn @ left.affine, digits)
    centre = turn[:3, :3] @ head.vault.centre
    expected = head.expected(Volume(truth.array, affine), centre=centre, must_complete=True)
    left = Volume(left.array, affine)
    return HardInput(lambda folder: files.store_nifti(left, folder / "input.nii.gz", affine), expected)


@kind({"elgabrielc": ("elgabrielc",), "colin27": ("colin27",), "female": ("visible_human_female",)})
def no_orientation(skulls: Skulls, name: str) -> HardInput:
    """A NIfTI file that states no orientation: that is said, whatever follows."""
    left, _ = skulls.head(name).cut(Hole((0.5, 0.4, 0.8), 55))
    return HardInput(
        lambda folder: files.store_nifti(left, folder / "input.nii.gz"), Expected(explained=ORIENTATION, must_tell=True)
    )


@kind(
    {
        "elgabrielc 12 degrees, NIfTI": ("elgabrielc", 12.0, ".nii.gz"),
        "cisc881 -18 degrees, NRRD": ("cisc881", -18.0, ".nrrd"),
        "female 7 degrees, NRRD": ("visible_human_female", 7.0, ".nrrd"),
    }
)
def gantry_tilt(skulls: Skulls, name: str, degrees: float, suffix: str) -> HardInput:
    """A sheared grid, as a tilted gantry gives it: completed where it is, or the tilt is named."""
    head = skulls.head(name)
    left, truth = head.cut(Hole((-0.7, 0.2, 0.7), 65))
    sheared = images.tilted(left, degrees)

    def write(folder: Path) -> Path:
        path = folder / f"input{suffix}"
        return (
            files.store_nrrd(sheared, path) if suffix == ".nrrd" else files.store_nifti(sheared, path, sheared.affine)
        )

    return HardInput(write, head.expected(truth, explained=TILT))


@kind(
    {
        "female slices of 2.5 mm stated as 1 mm": ("visible_human_female", 2.5, 1.0),
        "cisc881 slices of 1.5 mm stated as 1 mm": ("cisc881", 1.5, 1.0),
        "elgabrielc slices of 2 mm stated as 5 mm": ("elgabrielc", 2.0, 5.0),
    }
)
def wrong_slice_distance(skulls: Skulls, name: str, mm: float, stated_mm: float) -> HardInput:
    """The distance between slices was lost, so that the head is too flat or too high: it is named."""
    left, _ = skulls.head(name).cut(Hole((0.7, 0.1, 0.7), 60))
    sliced = in_slices(left, "axial", mm)
    affine = sliced.affine.copy()
    affine[:3, images.array_axis(sliced, 2)] *= stated_mm / mm
    return stored(Volume(sliced.array, affine), Expected(explained=SLICE_DISTANCE, must_tell=True))


@kind(
    {
        "cisc881 raised by 1024": ("cisc881", "raised"),
        "elgabrielc raised by 1024": ("elgabrielc", "raised"),
        "female halved": ("visible_human_female", "halved"),
        "cisc881 halved": ("cisc881", "halved"),
        "visible_human 8 bit": ("visible_human", "8 bit"),
        "elgabrielc 8 bit": ("elgabrielc", "8 bit"),
        "patient raised by 1024": (None, "raised"),
        "patient halved": (None, "halved"),
    }
)
def wrong_hu(skulls: Skulls, name: str | None, scale: str) -> HardInput:
    """A CT whose values are not HU: completed as if they were, or the scale is named."""
    if name is None:
        ct, expected = skulls.patient_ct(), Expected(volume_ml=(5.0, 16.0), explained=SCALE)
    else:
        head = skulls.head(name)
        left, truth = head.cut(Hole((-0.5, 0.5, 0.75), 65))
        ct, expected = head.as_ct(left), head.expected(truth, explained=SCALE)
    values = ct.array.astype(np.float32)
    if scale == "raised":
        array = np.rint(values + 1024).astype(np.int16)
    elif scale == "halved":
        array = np.rint(values / 2).astype(np.int16)
    else:
        array = np.clip(np.rint((values + 1000) / 10), 0, 255).astype(np.uint8)
    return stored(ct.with_array(array), expected)


# Hardware ------------------------------------------------------------------------------------------------------------


@kind(
    {
        "cisc881 titanium mesh": ("cisc881", Hole((0.8, 0.2, 0.6), 65), "mesh"),
        "elgabrielc titanium mesh": ("elgabrielc", Hole((-0.6, 0.5, 0.65), 55), "mesh"),
        "female flap with plates": ("visible_human_female", Hole((-0.8, 0.0, 0.6), 75), "plates"),
        "female shunt": ("visible_human_female", Hole((0.75, 0.2, 0.6), 70), "shunt"),
        "visible_human shunt": ("visible_human", Hole((0.4, 0.7, 0.6), 60), "shunt"),
        "cisc881 headrest": ("cisc881", Hole((-0.7, -0.4, 0.6), 70), "headrest"),
        "elgabrielc headrest": ("elgabrielc", Hole(TOP, 65), "headrest"),
        "female arms": ("visible_human_female", Hole((-0.6, 0.4, 0.7), 65), "arms"),
        "elgabrielc arms": ("elgabrielc", Hole((0.8, -0.2, 0.6), 75), "arms"),
    }
)
def hardware(skulls: Skulls, name: str, hole: Hole, what: str) -> HardInput:
    """Metal, a shunt, a headrest or arms in the CT: a right implant, or what disturbs is named."""
    head = skulls.head(name)
    left, truth = head.cut(hole)
    vault = head.vault
    if what in ("mesh", "plates"):
        expected = head.expected(truth, explained=METAL)
        struts = images.titanium_mesh(head.bone, vault, hole, *((5.0, 10.0) if what == "mesh" else (24.0, 8.0)))
        if what == "plates":
            flap = flap_with_gap(left, truth, 2.0)
            left = left.with_array(left.array | flap.array)
            expected = head.expected(clear_of=flap, explained=f"{METAL}|{LOOSE}")
        ct = with_value(head.as_ct(left), struts, images.METAL_HU)
    elif what == "shunt":
        expected = head.expected(truth, explained=OBJECTS)
        ct = with_value(head.as_ct(left), images.shunt(head.bone, vault, (-0.5, 0.4, 0.8), (-0.9, -0.4, 0.1)), 700)
    elif what == "headrest":
        expected = head.expected(truth, explained=OBJECTS)
        ct = padded(head.as_ct(left), (0, 25, 0))
        ct = with_value(ct, images.headrest(padded(head.bone, (0, 25, 0)), vault), 500)
    else:
        expected = head.expected(truth, explained=OBJECTS)
        ct = padded(head.as_ct(left), (100, 0, 0))
        shafts, flesh = images.arms(padded(head.bone, (100, 0, 0)), vault)
        ct = with_value(with_value(ct, flesh, images.SOFT_HU), shafts, images.BONE_HU)
    return stored(ct, expected)


# Files and labels ----------------------------------------------------------------------------------------------------


@kind(
    {
        "cisc881 chosen by number": ("cisc881", "labels", ("--segment", "2")),
        "elgabrielc not chosen": ("elgabrielc", "labels", ()),
        "female layered, chosen by name": ("visible_human_female", "layers", ("--segment", "Skull")),
        "elgabrielc layered, chosen by number": ("elgabrielc", "layers", ("--segment", "2")),
        "cisc881 layered, not chosen": ("cisc881", "layers", ()),
        "visible_human segments, chosen by name": ("visible_human", "segments", ("--segment", "Skull")),
    }
)
def several_labels(skulls: Skulls, name: str, how: str, arguments: tuple[str, ...]) -> HardInput:
    """Several labels or segments in one file: the chosen one is completed; where none is, they are listed."""
    head = skulls.head(name)
    left, truth = head.cut(Hole((0.6, 0.3, 0.75), 65))
    expected = head.expected(truth, explained="" if arguments else LABELS, must_complete=bool(arguments))
    brain = left.with_array(head.inside & ~head.bone.array)
    if how == "layers":
        return HardInput(
            lambda folder: files.store_segmentation([brain, left], [["Brain"], ["Skull"]], folder / "input.seg.nrrd"),
            expected, arguments,
        )  # fmt: skip
    labels = left.with_array(np.where(left.array, 2, brain.array.astype(np.uint8)).astype(np.uint8))
    if how == "segments":
        return HardInput(
            lambda folder: files.store_segmentation([labels], [["Brain", "Skull"]], folder / "input.seg.nrrd"),
            expected, arguments,
        )  # fmt: skip
    return stored(labels, expected, *arguments)


@kind(
    {
        "elgabrielc .mhd": ("elgabrielc", "input.mhd"),
        "female .mhd, compressed": ("visible_human_female", "compressed.mhd"),
        "cisc881 bzip2 NRRD": ("cisc881", "bzip2.nrrd"),
        "elgabrielc Head.Nii.Gz": ("elgabrielc", "Head.Nii.Gz"),
        "cisc881 SKULL.NRRD": ("cisc881", "SKULL.NRRD"),
        "female Skull.MHA": ("visible_human_female", "Skull.MHA"),
    }
)
def rarer_files(skulls: Skulls, name: str, file: str) -> HardInput:
    """Files of other containers, and suffixes in upper case: read as any other."""
    head = skulls.head(name)
    left, truth = head.cut(Hole((-0.3, -0.6, 0.75), 60))

    def write(folder: Path) -> Path:
        path = folder / file
        if path.suffix == ".mhd":
            return files.store_mhd(left, path, file.startswith("compressed"))
        return files.store_nrrd(left, path, "bzip2") if file.startswith("bzip2") else files.store(left, path)

    return HardInput(write, head.expected(truth, must_complete=True))


# The user's word -----------------------------------------------------------------------------------------------------


@kind(
    {
        "female burr hole low on the temple": ("visible_human_female", Hole((-1, 0.15, -0.1), 13)),
        "cisc881 burr hole low on the temple": ("cisc881", Hole((0.98, 0.25, -0.05), 14)),
        "elgabrielc burr hole low on the temple": ("elgabrielc", Hole((-0.97, 0.3, -0.05), 12)),
        "visible_human low occipital hole": ("visible_human", Hole((0.4, -0.9, -0.15), 30)),
    }
)
def pointed_at(skulls: Skulls, name: str, hole: Hole) -> HardInput:
    """The user points at a doubtful hole: it is filled, whatever the rules say."""
    head = skulls.head(name)
    left, truth = head.cut(hole)
    expected = head.expected(truth, least_dsc=0.5, must_complete=True)
    return stored(left, expected, f"--at={point(centre_of(truth))}")


@kind(
    {
        "cisc881 the smaller": ("cisc881", Hole((-0.85, 0.1, 0.5), 80), Hole((0.6, 0.4, 0.7), 45)),
        "female the larger": ("visible_human_female", Hole((0.5, 0.6, 0.65), 45), Hole((-0.6, -0.5, 0.65), 70)),
        "elgabrielc the burr hole": ("elgabrielc", Hole((0.8, 0.2, 0.6), 75), Hole((-0.5, 0.4, 0.8), 14)),
    }
)
def pointed_away_from(skulls: Skulls, name: str, wanted: Hole, unwanted: Hole) -> HardInput:
    """The user excludes one of two holes: the other is filled, this one stays open."""
    head, left, (truth, open_hole) = _holes(skulls, name, wanted, unwanted)
    expected = head.expected(truth, left_open=open_hole, must_complete=True)
    return stored(left, expected, f"--not-at={point(centre_of(open_hole))}")


@kind(
    {
        "female two holes": ("visible_human_female", Hole((-0.8, 0.2, 0.6), 75), Hole((0.6, -0.5, 0.65), 40)),
        "cisc881 with a burr hole": ("cisc881", Hole((0.85, -0.1, 0.5), 80), Hole((-0.5, 0.5, 0.75), 12)),
        "elgabrielc with two burr holes": (
            "elgabrielc",
            Hole((-0.7, -0.4, 0.6), 70),
            Hole((0.5, 0.5, 0.75), 13),
            Hole((0.75, -0.2, 0.7), 13),
        ),
    }
)
def all_defects(skulls: Skulls, name: str, *holes: Hole) -> HardInput:
    """The user asks for all candidate defects: every hole is among them. Natural openings may be, too."""
    head, left, parts = _holes(skulls, name, *holes)
    expected = head.expected(_union(parts), least_dsc=0.5, holes=parts, must_complete=True)
    return stored(left, expected, "--defects", "all")
