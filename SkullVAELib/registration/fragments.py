"""Loose bone, bone flaps and metal: what is in the shell of the vault, what is kept as bone, and what is reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.components import Components
from SkullVAELib.geometry.distance_field import signed_distance
from SkullVAELib.geometry.masks import block_sums, bounding_box, neighbours
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.registration.bone import BoneSegmentation, LoosePiece
from SkullVAELib.registration.options import fragment_limit_mm
from SkullVAELib.registration.skull import Skull
from SkullVAELib.registration.vault_shell import VaultShell

LISTED_ML = 0.3
"""Smaller pieces are not listed in report.json."""

_MOST_LISTED = 50

# A piece belongs to the vault if its median voxel is at most this far outside or inside of the mean skull's shell.
_OUTSIDE_MM = 10.0
_INSIDE_MM = 12.0

# Metal this far outside of the shell, such as a clip, an electrode or a valve on the scalp, is not in the vault.
_METAL_OUTSIDE_MM = 4.0

# Compact bone of the vault has at most about 2000 HU, titanium more than 3000, less where it is thin.
METAL_HU = 2500.0
_METAL_ML = 0.03

# Partial volume around metal that is left out with it.
_METAL_MARGIN_MM = 1.5

# Pieces that are left out are listed within this distance of the main one.
_LISTED_DISTANCE_MM = 30.0

# Loose pieces from this volume on do not take part in the registration, since they may be displaced, unless they are a
# large part of the skull, or are lower than this below the vertex.
_DISPLACED_ML = 1.0
_LARGE_SHARE = 0.35
_VAULT_HEIGHT_MM = 95.0

# Around added bone, distances are computed again within this distance.
_UPDATED_MM = 15.0

# A bone flap that touches the skull: its volume, the voxel size at which it is searched, and how much of its rim may
# touch. Measured: 6 % of the rim of a real flap of 33 ml, segmented at 0.7 mm (n = 1).
_FLAP_ML = 5.0
_FLAP_CORE_ML = 2.0
_FLAP_GRID_MM = 1.05
_FLAP_CONTACT = 0.2
_FLAP_THICKNESS_MM = 6.0
_FLAP_GROWTH_MM = 6.0
_DENSER_HU = 400.0

# Material at bone's density this far from the shell that is connected to the skull, such as a tube.
_FOREIGN_ELEVATION = 0.15
_FOREIGN_ML = 0.5


@dataclass(frozen=True)
class Fragment:
    """A piece of bone, a bone flap or metal that the report lists.

    Attributes
    ----------
    kind : str
        "loose" (a piece without connection), "flap" (touches the skull at few points) or "metal".
    where : str
        "vault" (in its shell), "outside" (of the head) or "inside" (of the cranial cavity).
    volume_ml : float
        Volume.
    centre_mm : numpy.ndarray, shape (3,)
        Centre of mass, patient RAS mm.
    kept : bool
        Whether it counts as bone.
    max_hu : float or None
        Largest value in a CT.
    """

    kind: str
    where: str
    volume_ml: float
    centre_mm: np.ndarray
    kept: bool
    max_hu: float | None

    def as_json(self, number: int) -> dict:
        """Entry of report.json."""
        return {
            "number": number,
            "kind": self.kind,
            "where": self.where,
            "volume_ml": round(self.volume_ml, 2),
            "centre_mm": [round(float(x), 1) for x in self.centre_mm],
            "kept": self.kept,
            "max_hu": None if self.max_hu is None else round(self.max_hu),
        }


@dataclass(frozen=True)
class FragmentChoice:
    """Which pieces of bone are kept.

    Attributes
    ----------
    mask : numpy.ndarray
        Bool, bone on the grid of the image.
    added : numpy.ndarray, shape (M, 3)
        Index of the voxels of pieces in or below the vault that the registered bone did not contain.
    removed : bool
        Whether something that the registered bone contained was left out, so that the registration must be repeated.
    fragments : tuple of Fragment
        The pieces to report, largest first.
    warnings : tuple of str
        Warnings for the report.
    """

    mask: np.ndarray
    added: np.ndarray
    removed: bool
    fragments: tuple[Fragment, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> list[dict]:
        """The fragments for report.json, numbered from 1; the 50 largest."""
        return [found.as_json(number) for number, found in enumerate(self.fragments[:_MOST_LISTED], 1)]


def registration_bone(segmentation: BoneSegmentation, grid: Volume) -> tuple[np.ndarray, frozenset[int]]:
    """The bone that is registered to the mean skull, before it is known which pieces belong to the vault.

    Loose pieces of at least 1 ml are left out, since they may be displaced or may be a headrest; except for those of
    more than a third of the main piece, and those below the vault and within its outline, such as the mandible.

    Parameters
    ----------
    segmentation : BoneSegmentation
        The bone and its pieces.
    grid : Volume
        The volume that was segmented.

    Returns
    -------
    mask : numpy.ndarray
        Bool.
    left_out : frozenset of int
        Components of `segmentation.mask` that are not in `mask`.
    """
    components, ct = segmentation.components, segmentation.info["kind"] == "ct"
    large = _LARGE_SHARE * components.voxels[segmentation.main] * grid.voxel_ml
    doubtful = [p for p in segmentation.pieces if _DISPLACED_ML <= p.volume_ml < large and (p.sizeable or not ct)]
    if not doubtful:
        return segmentation.mask, frozenset()
    run = components.component == segmentation.main
    at = apply_affine(grid.affine, components.first[run].astype(float))
    below = np.percentile(at[:, 2], 99.9) - _VAULT_HEIGHT_MM
    vault = at[at[:, 2] > below]
    low, high = np.percentile(vault[:, :2], 1, axis=0), np.percentile(vault[:, :2], 99, axis=0)
    left_out = frozenset(
        p.component
        for p in doubtful
        if p.centre_mm[2] > below or (p.centre_mm[:2] < low).any() or (p.centre_mm[:2] > high).any()
    )
    if not left_out:
        return segmentation.mask, left_out
    return _without(segmentation.mask, components.indices(left_out)), left_out


def choose_fragments(
    volume: Volume,
    segmentation: BoneSegmentation,
    left_out: frozenset[int],
    skull: Skull,
    alignment: np.ndarray,
    shell: VaultShell,
    fragments: str = "keep",
) -> FragmentChoice:
    """Decide which loose pieces of bone, bone flaps and metal count as bone.

    A loose piece of at least 0.05 ml (a smaller one is noise) belongs to the vault if its median voxel is between 10 mm
    outside and 12 mm inside of the vault's shell. It is kept unless `fragments` says otherwise. Other pieces of a CT
    are kept if they are sizeable, see `LoosePiece`, and not outside of the head; those of a segmentation always are.

    Parameters
    ----------
    volume : Volume
        The image.
    segmentation : BoneSegmentation
        Its bone.
    left_out : frozenset of int
        Components that `registration_bone` left out.
    skull : Skull
        The bone that was registered.
    alignment : numpy.ndarray, shape (4, 4)
        Patient RAS mm -> canonical mm.
    shell : VaultShell
        Shell of the mean skull.
    fragments : str
        "keep", "ignore" or "near:MM", see `fragment_limit_mm`.

    Returns
    -------
    FragmentChoice
    """
    limit = fragment_limit_mm(fragments)
    ct = segmentation.info["kind"] == "ct"
    to_canonical = alignment @ volume.affine
    listed: list[Fragment] = []
    removed = False
    if ct and (metal := _metal(volume, segmentation, to_canonical, shell)) is not None:
        at, peak = metal
        listed.append(_fragment("metal", "vault", at, limit >= 0, volume, peak))
        if limit < 0:
            # Plates connect a flap to the skull: pieces are found again without them.
            halo = _with_margin(at, segmentation.inside, volume.spacing)
            segmentation, left_out, removed = segmentation.without(halo, volume), frozenset(), True
    components = segmentation.components
    chosen: set[int] = {segmentation.main}
    added: set[int] = set()
    for piece in segmentation.pieces:
        where, highest = _where(piece, volume, components, to_canonical, shell, ct)
        if where == "vault":
            kept = piece.distance_mm <= limit
        else:
            kept = not ct or (piece.sizeable and where != "outside")
        registered = (piece.sizeable or not ct) and piece.component not in left_out
        if kept:
            chosen.add(piece.component)
            if not registered and where != "outside":
                added.add(piece.component)
        elif registered:
            removed = True
        reported = where in ("vault", "outside") if kept else piece.distance_mm <= _LISTED_DISTANCE_MM
        if reported and where != "below" and piece.volume_ml >= LISTED_ML:
            listed.append(Fragment("loose", where, piece.volume_ml, piece.centre_mm, kept, highest))
    if not ct and limit == np.inf:
        mask = segmentation.inside
    else:
        rest = set(range(len(components))) - chosen
        mask = _without(segmentation.inside, components.indices(rest)) if rest else segmentation.inside
    loose = [p.component for p in segmentation.pieces if p.component in chosen and p.volume_ml >= _FLAP_CORE_ML]
    connected = _without(mask, components.indices(loose)) if loose else mask
    flaps = attached_flaps(volume.with_array(connected), to_canonical, shell)
    if ct and not flaps:
        # Partial volume closes a saw line at the threshold, but hardly at a higher one.
        dense = connected & (volume.array >= segmentation.info["threshold_hu"] + _DENSER_HU)
        flaps = attached_flaps(volume.with_array(connected), to_canonical, shell, dense)
    for at in flaps:
        most = float(volume.array[tuple(at.T)].max()) if ct else None
        listed.append(_fragment("flap", "vault", at, limit >= 0, volume, most))
    if flaps and limit < 0:
        mask, removed = _without(mask, np.concatenate(flaps)), True
    listed.sort(key=lambda found: -found.volume_ml)
    index = components.indices(added) if added else np.zeros((0, 3), int)
    warnings = [*_warnings(listed), *_foreign_warnings(skull, alignment, shell)]
    return FragmentChoice(mask, index, removed, tuple(listed), tuple(warnings))


def with_added_bone(skull: Skull, index: np.ndarray, grid: Volume) -> Skull:
    """A skull with further bone in its bone fractions and distances, but not in the surface that is registered.

    Parameters
    ----------
    skull : Skull
        The registered skull.
    index : numpy.ndarray, shape (M, 3)
        Voxels of the further bone.
    grid : Volume
        The volume that the index is of.

    Returns
    -------
    Skull
    """
    fraction = skull.fraction
    # Voxels of thick slices are divided, so that they fill the finer cells.
    parts = np.maximum(1, np.ceil(grid.spacing / fraction.spacing)).astype(int)
    offsets = (np.array(list(np.ndindex(*parts))) + 0.5) / parts - 0.5
    points = (index[:, None] + offsets).reshape(-1, 3)
    cell = np.rint(apply_affine(np.linalg.inv(fraction.affine) @ grid.affine, points)).astype(int)
    cell = cell[((cell >= 0) & (cell < fraction.array.shape)).all(1)]
    if not len(cell):
        return skull
    more = np.zeros(fraction.array.shape, np.float32)
    np.add.at(more, tuple(cell.T), np.float32(grid.voxel_ml / len(offsets) / fraction.voxel_ml))
    array = np.minimum(fraction.array + more, 1)
    distance = skull.distance.copy()
    # Farther from the pieces than this the main bone is nearer, or the distance is not used.
    box = bounding_box(more > 0, np.ceil(_UPDATED_MM / fraction.spacing).astype(int))
    if (more[box] >= 0.5).any():
        # Of the pieces alone: the main bone's surface may be known better than by its fractions.
        before = distance[box]
        nearer = np.minimum(before, signed_distance(crop(fraction.with_array(np.minimum(more, 1)), box)))
        # Depths in bone are not known at the faces of the box; those of the main bone hardly change.
        distance[box] = np.where(before > 0, nearer, before)
    return replace(skull, fraction=fraction.with_array(array), distance=distance)


def _without(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """A copy of a mask without some voxels."""
    mask = mask.copy()
    mask[tuple(index.T)] = False
    return mask


def _fragment(kind: str, where: str, index: np.ndarray, kept: bool, grid: Volume, peak: float | None) -> Fragment:
    """The fragment that consists of some voxels, index (N, 3)."""
    return Fragment(kind, where, len(index) * grid.voxel_ml, apply_affine(grid.affine, index.mean(0)), kept, peak)


def _where(
    piece: LoosePiece, volume: Volume, components: Components, to_canonical: np.ndarray, shell: VaultShell, ct: bool
) -> tuple[str, float | None]:
    """Where a piece is, see `Fragment`, or "below" the vault, and its largest value in a CT."""
    index = components.indices(piece.component)
    peak = float(volume.array[tuple(index.T)].max()) if ct else None
    offset, vault = shell.offset(apply_affine(to_canonical, index[:: max(1, len(index) // 4000)]))
    middle = float(np.median(offset))
    metal = peak is not None and peak >= METAL_HU
    if middle > (_METAL_OUTSIDE_MM if metal else _OUTSIDE_MM):
        return "outside", peak
    if vault.mean() < 0.5:
        return "below", peak
    return ("vault" if middle >= -_INSIDE_MM else "inside"), peak


def _metal(
    volume: Volume, segmentation: BoneSegmentation, to_canonical: np.ndarray, shell: VaultShell
) -> tuple[np.ndarray, float] | None:
    """Index (N, 3) of the metal in the vault's shell and its largest value; None if there is none."""
    peak = float(volume.array.max())
    if peak < METAL_HU:
        return None
    metal = (volume.array >= METAL_HU) & segmentation.inside
    index = np.argwhere(metal)
    if len(index) * volume.voxel_ml < _METAL_ML:
        return None
    offset, vault = shell.offset(apply_affine(to_canonical, index))
    # Fillings of teeth and the petrous bone are below the vault.
    index = index[vault & (offset <= _OUTSIDE_MM) & (offset >= -_INSIDE_MM)]
    return (index, peak) if len(index) * volume.voxel_ml >= _METAL_ML else None


def _with_margin(index: np.ndarray, mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Index of the voxels of a mask within 1.5 mm of some voxels: partial volume around metal."""
    reach = np.ceil(_METAL_MARGIN_MM / spacing).astype(int)
    low = np.maximum(index.min(0) - reach, 0)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, index.max(0) + reach + 1, strict=True))
    far = np.ones(mask[box].shape, bool)
    far[tuple((index - low).T)] = False
    near = ndimage.distance_transform_edt(far, sampling=spacing) <= _METAL_MARGIN_MM
    return np.argwhere(near & mask[box]) + low


def attached_flaps(
    bone: Volume, to_canonical: np.ndarray, shell: VaultShell, dense: np.ndarray | None = None
) -> list[np.ndarray]:
    """Bone flaps in the vault that touch the skull at few points: by a wire, a plate or partial volume.

    One layer of voxels (of 0.5 to 1 mm) is eroded from the bone above the base. A further component of it is a flap if,
    grown again, it has at least 5 ml and at most a fifth of its rim touches other bone. Of 32 complete
    skulls, one has a further component of 2 ml after the erosion.

    Parameters
    ----------
    bone : Volume
        Bool.
    to_canonical : numpy.ndarray, shape (4, 4)
        Voxel index -> canonical mm.
    shell : VaultShell
        Shell of the mean skull.
    dense : numpy.ndarray, optional
        Bool, the denser part of the bone, in which flaps are searched instead; they are grown in `bone`.

    Returns
    -------
    list of numpy.ndarray
        Index (N, 3) of the voxels of each flap, largest first.
    """
    if bone.array.flags.f_contiguous and not bone.array.flags.c_contiguous:  # as read from a file; faster in this order
        order = [2, 1, 0, 3]
        swapped = Volume(bone.array.T, bone.affine[:, order])
        dense = None if dense is None else dense.T
        return [index[:, ::-1] for index in attached_flaps(swapped, to_canonical[:, order], shell, dense)]
    box = _vault_box(bone.array, to_canonical, shell)
    mask = bone.array[box]
    factor = np.maximum(1, np.floor(_FLAP_GRID_MM / bone.spacing)).astype(int)
    coarse, core = _eroded(mask if dense is None else dense[box], factor)
    labels, count = ndimage.label(core)
    spacing = bone.spacing * factor
    cell_ml = float(np.prod(spacing)) / 1000
    sizes = np.bincount(labels[core], minlength=count + 1)
    cores = [int(c) for c in np.argsort(-sizes)[:_MOST_LISTED] if sizes[c] * cell_ml >= _FLAP_CORE_ML]
    if len(cores) < 2:
        return []
    found = []
    boxes = ndimage.find_objects(labels)
    margin = np.ceil(2 * _FLAP_GROWTH_MM / spacing).astype(int)
    solid = np.isin(labels, cores)
    for label in cores[1:]:
        near = tuple(
            slice(max(0, s.start - int(m)), min(n, s.stop + int(m)))
            for s, m, n in zip(boxes[label - 1], margin, core.shape, strict=True)
        )
        own, other = labels[near] == label, solid[near] & (labels[near] != label)
        away = ndimage.distance_transform_edt(~own, sampling=spacing)
        closer = away < ndimage.distance_transform_edt(~other, sampling=spacing) if other.any() else away < np.inf
        region = coarse[near] & closer & (away <= _FLAP_GROWTH_MM)
        volume_ml = np.count_nonzero(region) * cell_ml
        if volume_ml < _FLAP_ML:
            continue
        # The lateral surface of a disc of this volume and of the thickness of a vault.
        rim = 2 * np.sqrt(np.pi * volume_ml * 1000 * _FLAP_THICKNESS_MM)
        if _contact_mm2(region, coarse[near] & ~region, spacing) > _FLAP_CONTACT * rim:
            continue
        low = np.array([s.start for s in near])
        cells = np.argwhere(region) + low
        offset, vault = shell.offset(
            apply_affine(to_canonical, cells * factor + (factor - 1) / 2 + [s.start for s in box])
        )
        if (vault & (np.abs(offset) <= _INSIDE_MM)).mean() < 0.8:
            continue
        fine = np.zeros(mask.shape, bool)
        part = tuple(slice(s.start * int(f), s.stop * int(f)) for s, f in zip(near, factor, strict=True))
        block = closer & (away <= _FLAP_GROWTH_MM)
        for axis in range(3):
            block = np.repeat(block, factor[axis], axis=axis)
        whole = fine[part]
        whole[:] = block[tuple(slice(0, n) for n in whole.shape)] & mask[part]
        found.append(np.argwhere(fine) + [s.start for s in box])
    return sorted(found, key=len, reverse=True)


def _vault_box(mask: np.ndarray, to_canonical: np.ndarray, shell: VaultShell) -> tuple[slice, ...]:
    """The part of an array that contains the vault, by the corners of its box in canonical mm."""
    reach = float(shell.outer.max()) + _OUTSIDE_MM
    corners = np.array([[x, y, z] for x in (-reach, reach) for y in (-reach, reach) for z in (-0.5 * reach, reach)])
    index = apply_affine(np.linalg.inv(to_canonical), corners)
    low = np.clip(np.floor(index.min(0)), 0, mask.shape).astype(int)
    high = np.clip(np.ceil(index.max(0)) + 1, 0, mask.shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _eroded(mask: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bone in cells of some voxels, and its core: cells full of bone, or, of single voxels, those with six neighbours
    in bone.
    """
    if (factor == 1).all():
        mask = np.ascontiguousarray(mask)
        core = mask.copy()
        for axis in range(3):
            low, high = neighbours(axis)
            core[high] &= mask[low]
            core[low] &= mask[high]
        return mask, core
    voxels = block_sums(mask[tuple(slice(0, n // f * f) for n, f in zip(mask.shape, factor, strict=True))], factor)
    return voxels > 0, voxels == factor.prod()


def _contact_mm2(one: np.ndarray, other: np.ndarray, spacing: np.ndarray) -> float:
    """Area of the faces between two masks."""
    area = 0.0
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        faces = np.count_nonzero(one[tuple(low)] & other[tuple(high)])
        faces += np.count_nonzero(other[tuple(low)] & one[tuple(high)])
        area += faces * float(np.prod(spacing) / spacing[axis])
    return area


def _place(at: np.ndarray) -> str:
    """A point in RAS mm, as text."""
    return "(R {:.0f}, A {:.0f}, S {:.0f})".format(*(np.round(at) + 0.0))


def _warnings(listed: list[Fragment]) -> list[str]:
    """One warning about loose bone and flaps that are kept, one about those that are left out, one about metal."""
    warnings = []
    bone = [found for found in listed if found.kind != "metal" and found.where == "vault"]
    for kept in (True, False):
        if group := [found for found in bone if found.kept == kept]:
            warnings.append(_bone_warning(group, kept))
    if outside := [found for found in listed if found.where == "outside" and found.kept and found.volume_ml >= 1]:
        warnings.append(
            f"{sum(found.volume_ml for found in outside):.0f} ml of the segmentation is outside of the head, around"
            f" {_place(outside[0].centre_mm)} (a headrest, a table or arms?). It was not used for the registration."
            " Use --roi to leave it out."
        )
    for found in listed:
        if found.kind == "metal":
            volume = f"{found.volume_ml:.1f} ml" if found.volume_ml >= 0.05 else "less than 0.1 ml"
            what = f"Metal of {volume} around {_place(found.centre_mm)} (a titanium mesh, plates or wires)"
            warnings.append(
                f"{what} was treated as bone: the implant avoids it. Use --fragments ignore to leave it out, or"
                " segment the bone without it."
                if found.kept
                else f"{what} was left out: the implant may overlap it. Use --fragments keep if it stays in place."
            )
    return warnings


def _bone_warning(group: list[Fragment], kept: bool) -> str:
    """The warning about loose bone in the vault; group: largest first."""
    largest = group[0]
    if len(group) == 1 and largest.kind == "flap":
        what = f"A bone flap of {largest.volume_ml:.1f} ml at {_place(largest.centre_mm)} that touches the skull at few"
        what, was, it = f"{what} points", "was", "it"
    elif len(group) == 1:
        what = f"A loose piece of bone of {largest.volume_ml:.1f} ml at {_place(largest.centre_mm)}"
        what, was, it = f"{what} (a bone flap or fragment)", "was", "it"
    else:
        total = sum(found.volume_ml for found in group)
        what = (
            f"{len(group)} loose pieces of bone of {total:.1f} ml (bone flaps or fragments; the largest of"
            f" {largest.volume_ml:.1f} ml at {_place(largest.centre_mm)})"
        )
        was, it = "were", "them"
    be = "is" if len(group) == 1 else "are"
    subject = "it" if len(group) == 1 else "they"
    if kept:
        return (
            f"{what} {was} kept as bone; the implant avoids {it}. Use --fragments ignore if {subject} {be} to be"
            " replaced."
        )
    stay = "stays" if len(group) == 1 else "stay"
    return f"{what} {was} left out; the implant may overlap {it}. Use --fragments keep if {subject} {stay} in place."


def _foreign_warnings(skull: Skull, alignment: np.ndarray, shell: VaultShell) -> Iterable[str]:
    """Warnings about material at bone's density far from the vault's shell that is connected to the skull."""
    fraction = skull.fraction
    index = np.argwhere(fraction.array >= 0.5)
    at = apply_affine(alignment @ fraction.affine, index)
    high = at[:, 2] > _FOREIGN_ELEVATION * np.linalg.norm(at, axis=1)
    index, at = index[high], at[high]
    offset, _ = shell.offset(at)
    for found, where in ((offset > _OUTSIDE_MM, "outside the vault"), (offset < -_INSIDE_MM, "in the cranial cavity")):
        if np.count_nonzero(found) * fraction.voxel_ml >= _FOREIGN_ML:
            place = _place(apply_affine(fraction.affine, np.median(index[found], axis=0)))
            yield (
                f"{np.count_nonzero(found) * fraction.voxel_ml:.1f} ml of what counts as bone is {where}, around"
                f" {place} (a tube, a wire or a calcification?). If it runs through the hole, segment the bone without"
                " it, or restrict the input with --roi."
            )
