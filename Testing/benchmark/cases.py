"""The benchmark's cases: the fixed defects that are cut out of skulls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch

from SkullVAELib.data.synthetic_defects import Defect, Ellipsoid, random_defect, skullfix_defect
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask, surface_points
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.io.images import to_image
from SkullVAELib.registration.affine import initial_alignment

WITH_FACE = ("visible_human", "mgh_angel001", "usc19_average")
"""Skulls whose face is whole enough that half of it can be cut away and asked for."""

SIZES = ("small", "medium", "large", "very large")
"""Classes of defects by size: burr holes and holes below 3 cm, to 5 cm, to 8 cm, and larger."""

SITES = ("frontal", "temporal", "parietal", "occipital", "vertex")
"""Classes of defects by place."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One defect of the fixed set.

    Attributes
    ----------
    name : str
    kind : str
        One of synthetic_defects.KINDS, or of SPECIAL.
    direction : tuple of float
        From the vault's centre (R, A, S).
    size : float
        0 to 1, see `random_defect`.
    size_class, site : str
        Of SIZES and SITES; empty for half of the face.
    oblique : bool
        Whether the skull is stored on an oblique grid first.
    """

    name: str
    kind: str
    direction: tuple[float, float, float]
    size: float
    size_class: str = ""
    site: str = ""
    oblique: bool = False

    @property
    def facial(self) -> bool:
        return self.kind == "facial"


PLACES = (
    Place("left temple", "temporal", (-1.0, 0.25, -0.05), 0.5, "medium", "temporal"),
    Place("right parietal box", "box", (0.8, -0.35, 0.6), 0.5, "medium", "parietal"),
    Place("frontal blob", "blob", (0.2, 0.9, 0.45), 0.7, "large", "frontal"),
    Place("occipital box", "box", (-0.15, -0.95, 0.25), 0.4, "medium", "occipital"),
    Place("vertex blob", "blob", (0.1, 0.1, 1.0), 0.9, "large", "vertex"),
    Place("left hemicraniectomy", "hemicraniectomy", (-0.95, 0.1, 0.4), 0.6, "very large", "temporal"),
    Place("right fronto-orbital", "fronto_orbital", (0.45, 0.9, 0.1), 0.5, "large", "frontal"),
    Place("bifrontal", "bifrontal", (0.0, 0.9, 0.45), 0.4, "very large", "frontal"),
    Place("small left parietal blob, oblique grid", "blob", (-0.7, -0.4, 0.7), 0.0, "small", "parietal", True),
    Place("right temple box, oblique grid", "box", (0.95, 0.3, 0.1), 0.2, "medium", "temporal", True),
    Place("burr hole", "burr", (0.6, 0.5, 0.6), 0.5, "small", "frontal"),
    Place("right hemicraniectomy 12 x 9 cm", "hemicraniectomy 12 x 9 cm", (0.95, 0.1, 0.4), 0.0, "very large",
          "temporal"),
    Place("SkullFix box", "SkullFix box", (0.0, -0.7, 0.72), 0.0, "very large", "occipital"),
    Place("SkullBreak union, parieto-temporal", "SkullBreak union", (-0.85, -0.1, 0.4), 0.0, "large", "parietal"),
    Place("half of the face", "facial", (0.5, 0.8, -0.4), 0.0),
    Place("temporal burr hole", "burr", (-0.9, 0.3, 0.25), 1.0, "small", "temporal"),
    Place("occipital burr hole", "burr", (0.2, -0.85, 0.45), 1.0, "small", "occipital"),
    Place("high left temporal blob", "blob", (-0.85, 0.35, 0.5), 0.3, "medium", "temporal"),
    Place("high occipital box", "box", (0.1, -0.8, 0.6), 0.35, "medium", "occipital"),
    Place("high right hemicraniectomy", "hemicraniectomy", (0.75, 0.1, 0.75), 0.2, "very large", "temporal"),
    Place("high left parietal blob", "blob", (-0.65, -0.3, 0.75), 0.8, "large", "parietal"),
    Place("vertex box, oblique grid", "box", (-0.25, -0.2, 1.0), 0.4, "medium", "vertex", True),
)  # fmt: skip
"""The order is kept, since a defect's number also seeds what is drawn for it."""

STANDARD = (10, 8, 15, 0, 1, 3, 21, 2, 4, 6, 13, 7, 11, 12)
"""Numbers of the fourteen cranial defects of a skull, the smallest first."""

VAULT_ONLY = (10, 8, 15, 16, 17, 1, 18, 21, 2, 4, 20, 7, 19, 12)
"""The same for a skull that ends 80 mm below its vertex."""


def _large_hemicraniectomy(rng: np.random.Generator, bone: torch.Tensor, place: Place) -> Defect:
    """Decompressive: 12 cm along the head and 9 cm up, as guidelines ask for."""
    drawn = random_defect("hemicraniectomy", rng, bone, np.array(place.direction), 0.8)
    plate = dataclasses.replace(drawn.solids[0], half_axes=np.array([60.0, 45.0, 42.0]))
    return dataclasses.replace(drawn, solids=(plate,))


def _skullbreak_union(rng: np.random.Generator, bone: torch.Tensor, place: Place) -> Defect:
    """A sphere of 28 mm radius and four of 16 mm whose centres lie near its border, with a wavy border."""
    drawn = random_defect("blob", rng, bone, np.array(place.direction), 0.9)
    middle = drawn.solids[0]
    parts = [dataclasses.replace(middle, half_axes=np.full(3, 28.0))]
    for angle in rng.uniform(0, 2 * np.pi, 4):
        offset = rng.uniform(18, 28) * np.array([np.cos(angle), np.sin(angle)])
        parts.append(Ellipsoid(middle.centre + offset @ middle.frame[:2], middle.frame, np.full(3, 16.0)))
    return dataclasses.replace(drawn, solids=tuple(parts))


SPECIAL: dict[str, Callable[[np.random.Generator, torch.Tensor, Place], Defect]] = {
    "hemicraniectomy 12 x 9 cm": _large_hemicraniectomy,
    "SkullBreak union": _skullbreak_union,
    "SkullFix box": lambda rng, bone, place: skullfix_defect("cranial"),
}
"""Kinds that are the benchmark's own: how each is made of a random generator, canonical surface points and a place."""


def places_of(individual: str) -> list[int]:
    """Numbers of the defects that a skull can be given: all, but half a face only where there is a face."""
    return [n for n, place in enumerate(PLACES) if not place.facial or individual in WITH_FACE]


def cut_place(whole: Volume, number: int) -> tuple[Volume, np.ndarray, np.ndarray]:
    """Cut the defect of a number out of a complete skull.

    whole: bool bone. Returns the complete bone on the case's own grid, the defective bone and the true implant, bool
    masks on that grid: their union is the complete bone, and they share no voxel.
    """
    return cut_with_centre(whole, number)[:3]


def cut_with_centre(whole: Volume, number: int) -> tuple[Volume, np.ndarray, np.ndarray, np.ndarray]:
    """As `cut_place`, and the centre of the vault (3,) in RAS mm."""
    place = PLACES[number]
    if place.oblique:
        whole = stored_obliquely(whole)
    points, _ = surface_points(downsample_mask(whole))
    alignment = initial_alignment(points)
    surface = torch.tensor(apply_affine(alignment, points)).float()
    rng = np.random.default_rng(number)
    if place.kind in SPECIAL:
        defect = SPECIAL[place.kind](rng, surface, place)
    elif place.facial:
        defect = random_defect(place.kind, rng, surface)
    else:
        defect = random_defect(place.kind, rng, surface, np.array(place.direction), place.size)
    removed = np.zeros(whole.array.shape, bool)
    index = np.argwhere(whole.array)
    for chunk in np.array_split(index, max(1, len(index) // 1_000_000)):
        at = torch.tensor(apply_affine(alignment @ whole.affine, chunk)).float()
        removed[tuple(chunk[(defect.signed_distance(at) < 0).numpy()].T)] = True
    centre = apply_affine(np.linalg.inv(alignment), np.zeros(3))
    return whole, whole.array & ~removed, removed, centre


def stored_obliquely(bone: Volume, angles_deg: tuple[float, float, float] = (14, -9, 20)) -> Volume:
    """The same bone at the same place in the world, on a grid turned about its centre and of unequal spacing."""
    image = to_image(bone.with_array(bone.array.astype(np.uint8)))
    turn = sitk.Euler3DTransform((0, 0, 0), *np.radians(angles_deg))
    direction = np.array(turn.GetMatrix()).reshape(3, 3)
    spacing = np.array([0.9, 1.0, 1.1])
    extent = np.array(image.GetSize()) * image.GetSpacing()
    length = float(np.linalg.norm(extent[:2]))
    size = np.ceil(np.array([length, length, np.linalg.norm(extent[1:])]) / spacing).astype(int)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    origin = centre - direction @ ((size - 1) / 2 * spacing)
    resampled = sitk.Resample(
        sitk.Cast(image, sitk.sitkFloat32), size.tolist(), sitk.Transform(), sitk.sitkLinear,
        origin.tolist(), spacing.tolist(), direction.ravel().tolist(), 0.0,
    )  # fmt: skip
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = direction * spacing, origin
    array = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0) >= 0.5
    return Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
