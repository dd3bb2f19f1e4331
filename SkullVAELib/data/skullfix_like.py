"""A SkullFix-like set made from a few complete skulls: complete, with the cranial defect, with the facial defect.

Skulls are drawn from the training individuals and, apart, from the held-out ones, so that no sibling of a held-out
skull is trained on. A drawn skull carries a blend of its individuals' details, of their shapes (the warps that lay them
on the mean) and of their sizes; the field of view ends below the base, as SkullFix's images do.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from SkullVAELib.core.atomic_output import publish_folder
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import file_sha256
from SkullVAELib.core.progress import Report, silent
from SkullVAELib.core.version import NOTICE, __version__
from SkullVAELib.data.augmentation import vary_skull
from SkullVAELib.data.datasets import HELD_OUT, LIST, TRAINING, SkullCase, check_cases, find_cases, read_bone
from SkullVAELib.data.kinds import CLASSES
from SkullVAELib.data.synthetic_defects import skullfix_defect
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box, largest_component
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.io.images import write_volume
from SkullVAELib.registration.affine import register_affine
from SkullVAELib.registration.mean_skull import build_population_with_warps, warp_to_mean_with_field
from SkullVAELib.registration.skull import CLAMP_MM, Skull, prepare_skull
from SkullVAELib.shape.two_table import gradient, outer_side_weight

PROVENANCE = "population.json"

FOLDERS = {TRAINING: "training_set", HELD_OUT: "test_set"}

# Finer than the networks' frame: thin bone of the base and the orbits is lost at 2 mm.
_GRID = Grid((128, 150, 128), 1.5)

# Just below the floor of the orbits, on the mean of the development skulls.
_FLOOR_MM = -66.0

# A vault is whole: where segmentations have pinholes, the mean's plate, so much thinner on either table, fills them.
_PLATE_MM = 1.0

# A plate thinner than twice this would break into holes at the usual spacing.
_LEAST_DEPTH_MM = 1.2
_MARGIN_MM = 8.0


@dataclass(frozen=True)
class SetOptions:
    """What to draw.

    count, held_out_count: complete skulls of training and of held-out individuals; holdout: names of the individuals
    held out; spacing_mm: edge of a voxel, from which each skull's departs a little.
    """

    count: int = 100
    held_out_count: int | None = None
    holdout: tuple[str, ...] = ()
    seed: int = 0
    spacing_mm: float = 1.5

    def __post_init__(self):
        for name, value in (("--count", self.count), ("--held-out-count", self.held_out_count)):
            if value is not None and value < 1:
                raise SkullVAEError(f"{name} {value} is no number of skulls", "Give at least 1")
        if not 0.3 <= self.spacing_mm <= 4:
            raise SkullVAEError(f"A spacing of {self.spacing_mm:g} mm shows no skull", "Give 0.3 to 4 mm")

    def counts(self) -> dict[str, int]:
        """How many skulls to draw for either side."""
        held_out = max(1, self.count // 5) if self.held_out_count is None else self.held_out_count
        return {TRAINING: self.count, HELD_OUT: held_out}


@dataclass(frozen=True)
class RegisteredHead:
    """One individual laid on the mean.

    detail: (X, Y, Z) mm; known: 0..1, smooth; warp: (3, X', Y', Z') mm onto the mean; scales: (3,) canonical mm per mm.
    """

    name: str
    detail: torch.Tensor
    known: torch.Tensor
    warp: torch.Tensor
    scales: np.ndarray


@dataclass(frozen=True)
class DrawnHead:
    """A head drawn from individuals: field (X, Y, Z) in mm on the mean, warp onto it, scales and turn to patient mm."""

    names: tuple[str, ...]
    field: torch.Tensor
    warp: torch.Tensor
    scales: np.ndarray
    turn: np.ndarray
    mirrored: bool

    def to_canonical(self) -> np.ndarray:
        """(4, 4) patient RAS mm -> canonical mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.turn @ np.diag(self.scales)
        return matrix

    def signed_distance(self, points: torch.Tensor, grid: Grid) -> torch.Tensor:
        """(N,) mm at canonical points (N, 3) of the head in its own shape, negative in bone."""
        if self.mirrored:
            points = points * torch.tensor([-1.0, 1, 1])
        return grid.sample(self.field[None], points + grid.sample(self.warp, points))[:, 0]


def choose_holdout(names: list[str], holdout: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The individuals held out: those named, or a fifth of all, at least one, drawn by the seed.

    Raises SkullVAEError when a name is unknown, all are held out, or there are not two individuals.
    """
    names = sorted(set(names))
    if len(names) < 2:
        raise SkullVAEError(
            f"There is one individual, '{names[0]}', and one cannot be split", "Give skulls of two or more"
        )
    if unknown := set(holdout) - set(names):
        raise SkullVAEError(f"There is no individual '{sorted(unknown)[0]}'", f"Choose from {', '.join(names)}")
    if not holdout:
        holdout = tuple(np.random.default_rng([seed, 0]).permutation(names)[: max(1, len(names) // 5)].tolist())
    if set(holdout) == set(names):
        raise SkullVAEError("Every individual is held out", "Hold out fewer")
    return tuple(sorted(set(holdout)))


@dataclass(frozen=True)
class Base:
    """What heads lie on: the training individuals' mean (X, Y, Z) in mm, and what is known of heads in general.

    alike: 0..1 (X, Y, Z) where heads are built alike, so that details blend; plate: (X, Y, Z) mm, bone that no head
    lacks.
    """

    grid: Grid
    mean: torch.Tensor
    alike: torch.Tensor
    plate: torch.Tensor

    @classmethod
    def of(cls, mean: torch.Tensor, spread: torch.Tensor, grid: Grid) -> Base:
        """mean, spread: (X, Y, Z) mm, the spread as from Population.spread."""
        alike = _smooth(((2.5 - spread) / 1.5).clamp(0, 1), grid, 12.0)
        same = _smooth(spread, grid, 10.0) < 2.5
        y, z = grid.coordinates()[..., 1:].unbind(-1)
        plate = torch.where(same & (z > 0), mean + _PLATE_MM, torch.tensor(CLAMP_MM))
        # Between the brows is the frontal sinus: there the outer table alone is whole.
        outer = outer_side_weight(gradient(mean, grid.spacing_mm), grid) > 0.5
        table = torch.where(outer & same & (y > 50) & (z > -25), (mean + 1.5).abs() - 1.0, torch.tensor(CLAMP_MM))
        return cls(grid, mean, alike, torch.minimum(plate, table))


def register_heads(
    training: list[Skull], held_out: list[Skull], grid: Grid, report: Report = silent
) -> tuple[Base, list[RegisteredHead], list[RegisteredHead]]:
    """The mean of the training skulls, and the heads of both sides laid on it."""
    report("build the mean skull", 0.0)
    population, warps = build_population_with_warps(training, grid)
    laid = zip(population.detail, population.known, warps, strict=True)
    heads = [
        _head(skull, *parts, alignment, grid)
        for skull, parts, alignment in zip(training, laid, population.alignments, strict=True)
    ]
    others, target = [], redistance(population.mean, grid)
    for number, skull in enumerate(held_out):
        report("lay held-out skulls on it", 0.8 + 0.2 * number / len(held_out))
        alignment = register_affine(skull.points, target, grid)
        others.append(_head(skull, *warp_to_mean_with_field(population.mean, skull, alignment, grid), alignment, grid))
    return Base.of(population.mean, population.spread(), grid), heads, others


def _head(
    skull: Skull, detail: torch.Tensor, known: torch.Tensor, warp: torch.Tensor, alignment: np.ndarray, grid: Grid
) -> RegisteredHead:
    # Smooth, so that where a segmentation ends there is no step.
    return RegisteredHead(
        skull.name, detail, _smooth(known, grid, 10.0), warp, np.linalg.norm(alignment[:3, :3], axis=0)
    )


def draw_head(heads: list[RegisteredHead], base: Base, rng: np.random.Generator) -> DrawnHead:
    """A new head: details, shape and size of one individual or a blend of two, varied.

    Where no detail is known the mean's stands in. Where heads are built differently (base, face) a blend of two is
    neither, so there the first one's detail is taken whole.
    """
    order = rng.permutation(len(heads))
    first, second = heads[order[0]], heads[order[1 % len(heads)]]
    two = len(heads) > 1
    less = rng.uniform(0, 0.5) if two and rng.uniform() < 0.7 else 0.0
    total, field = torch.zeros(base.grid.shape), torch.zeros(base.grid.shape)
    for head, weight in ((first, 1 - less * base.alike), (second, less * base.alike)):
        total += weight * head.known
        field += weight * head.known * head.detail
    field += (1 - total) * base.mean
    field = torch.minimum(field, base.plate)
    field, _ = vary_skull(torch.stack([field, torch.ones_like(field)]), base.grid, rng, _LEAST_DEPTH_MM)
    # Shapes and sizes blend more freely than details, and go a little beyond the individuals': the warps are smooth.
    shape, size = rng.uniform(-0.15, 1.15, 2) if two else (1.0, 1.0)
    warp = rng.uniform(0.85, 1.1) * (shape * first.warp + (1 - shape) * second.warp)
    noise = torch.tensor(rng.normal(0, 1.5, (1, 3, 4, 4, 4)), dtype=torch.float32)
    warp = warp + F.interpolate(noise, size=warp.shape[1:], mode="trilinear", align_corners=True)[0]
    scales = np.exp(size * np.log(first.scales) + (1 - size) * np.log(second.scales) + rng.normal(0, 0.01, 3))
    names = (first.name, second.name) if two else (first.name,)
    turn = _rotation(np.clip(rng.normal(0, 0.03, 3), -0.08, 0.08))
    return DrawnHead(names, field.clamp(-CLAMP_MM, CLAMP_MM), warp, scales, turn, bool(rng.uniform() < 0.5))


def _smooth(values: torch.Tensor, grid: Grid, width_mm: float) -> torch.Tensor:
    """A box mean over about width_mm; beyond the frame nothing counts."""
    radius = max(1, round(width_mm / grid.spacing_mm / 2))
    for axis in range(3):  # a box is separable
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * radius + 1, radius
        values = F.avg_pool3d(values[None, None], kernel, 1, padding, count_include_pad=False)[0, 0]
    return values


def _rotation(angles: np.ndarray) -> np.ndarray:
    """(3, 3) rotation by a vector in radians."""
    a, b, c = torch.tensor(angles)
    zero = torch.zeros_like(a)
    return torch.linalg.matrix_exp(torch.stack([zero, -c, b, c, zero, -a, -b, a, zero]).reshape(3, 3)).numpy()


def field_of_view(head: DrawnHead, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """The plane at which the head's image ends, (4,): canonical points with [x, y, z, 1] @ plane > 0 are imaged.

    It lies where the mean's level just below the orbits comes to lie in this head, off by some mm and degrees.
    """
    nodes = Grid(tuple(head.warp.shape[1:]), 1.0)
    at = (nodes.coordinates() / torch.tensor(nodes.half_mm).float() * torch.tensor(grid.half_mm).float()).numpy()
    on_mean = at[..., 2] + head.warp[2].numpy()
    near = at[(np.abs(on_mean - _FLOOR_MM) < 5) & (np.abs(at[..., 0]) < 75) & (np.abs(at[..., 1]) < 95)]
    level = np.linalg.lstsq(np.column_stack([near[:, :2], np.ones(len(near))]), near[:, 2], rcond=None)[0]
    level += np.clip(rng.normal(0, [0.03, 0.03, 3.0]), [-0.08, -0.08, -7], [0.08, 0.08, 7])
    plane = np.array([-level[0], -level[1], 1.0, -level[2]])
    return plane * [-1, 1, 1, 1] if head.mirrored else plane


def image_head(
    head: DrawnHead, grid: Grid, rng: np.random.Generator, spacing_mm: float
) -> tuple[Volume, dict[str, np.ndarray]]:
    """A drawn head as an image of its own, and the fixed defects' pieces.

    The image's axes run R, A, S, its spacing varies a little in the plane and across, the bone ends at one plane below
    the orbits, and only the largest piece is kept. Returns the bone (bool) and for each of CLASSES what to remove
    (bool, part of the bone).
    Raises SkullVAEError when a defect meets no bone.
    """
    spacing = spacing_mm * rng.uniform(0.95, 1.05, 2)[[0, 0, 1]]
    to_canonical = head.to_canonical()
    shape = np.ceil(2 * np.abs(np.linalg.inv(to_canonical)[:3, :3]) @ grid.half_mm / spacing).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(shape - 1) / 2 * spacing
    plane = torch.tensor(field_of_view(head, grid, rng)).float()
    half = torch.tensor(grid.half_mm).float()
    bone = np.zeros(shape, bool)
    for layer in range(shape[2]):  # a whole image of coordinates would take gigabytes at a fine spacing
        index = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), [layer], indexing="ij"), -1)
        at = torch.tensor(apply_affine(to_canonical @ affine, index.reshape(-1, 3))).float()
        imaged = (at @ plane[:3] + plane[3] > 0) & (at.abs() < half).all(1)
        values = torch.zeros(len(at), dtype=torch.bool)
        values[imaged] = head.signed_distance(at[imaged], grid) < 0
        bone[:, :, layer] = values.reshape(*shape[:2]).numpy()
    bone = largest_component(bone)
    volume = crop(Volume(bone, affine), bounding_box(bone, margin=int(np.ceil(_MARGIN_MM / spacing.min()))))
    index = np.argwhere(volume.array)
    at = torch.tensor(apply_affine(to_canonical @ volume.affine, index)).float()
    pieces = {}
    for kind in CLASSES:
        piece = np.zeros(volume.array.shape, bool)
        piece[tuple(index[(skullfix_defect(kind).signed_distance(at) < 0).numpy()].T)] = True
        if not 0 < piece.sum() < len(index):
            raise SkullVAEError(
                f"A skull drawn from '{'+'.join(head.names)}' has no bone where the {kind} defect belongs",
                "Leave skulls without a vault out",
            )
        pieces[kind] = piece
    # Where in the scanner a head lies says nothing about it.
    placed = volume.affine.copy()
    placed[:3, 3] += rng.normal(0, 5, 3)
    return Volume(volume.array, placed), pieces


def write_set(source: Path, output: Path, options: SetOptions, report: Report = silent, grid: Grid = _GRID) -> dict:
    """Draw a set from the complete skulls found in `source` and write it as the folder `output`, whole or not at all.

    Writes {training_set,test_set}/{complete_skull,defective_skull/KIND,implant/KIND}/NNN.nrrd, datalist.json and
    population.json, which is returned. grid: what heads are laid on. The same arguments give the same bytes.
    Raises SkullVAEError when a skull is not one or goes by two names, when the skulls cannot be split by individual,
    and when the output is another's.
    """
    cases = [case for case in find_cases(source) if case.defective is None]
    for case in cases:
        if "+" in case.individual:
            raise SkullVAEError(
                f"'{case.complete}' has a plus sign in its individual '{case.individual}', as drawn skulls have",
                "Draw from real skulls; rename the file where it is one",
            )
    if not cases:
        raise SkullVAEError(f"No complete skulls were found in '{source}'", "Give a folder of complete skulls")
    own = {case.individual for case in cases if case.split == HELD_OUT}
    holdout = choose_holdout([case.individual for case in cases], (*options.holdout, *own), options.seed)
    with publish_folder(output, is_set, [case.complete for case in cases]) as folder:
        check_cases(cases, lambda stage, fraction: report("check the skulls", 0.05 * fraction))
        skulls = {TRAINING: [], HELD_OUT: []}
        for number, case in enumerate(cases):
            report("read skulls", 0.05 + 0.05 * number / len(cases))
            skull = prepare_skull(case.individual, read_bone(case.complete))
            skulls[HELD_OUT if case.individual in holdout else TRAINING].append(skull)
        base, *heads = register_heads(*skulls.values(), grid, lambda stage, f: report(stage, 0.1 + 0.3 * f))
        entries, counts, done = [], options.counts(), 0
        for side, (split, laid) in enumerate(zip(skulls, heads, strict=True)):
            for number in range(counts[split]):
                report(f"draw {split} skulls", 0.4 + 0.6 * done / sum(counts.values()))
                rng = np.random.default_rng([options.seed, 1 + side, number])
                drawn = draw_head(laid, base, rng)
                bone, pieces = image_head(drawn, grid, rng, options.spacing_mm)
                entries += _write_head(folder, split, number, drawn, bone, pieces)
                done += 1
        order = {kind: k for k, kind in enumerate(("complete", *CLASSES))}
        entries.sort(key=lambda entry: (entry["split"] != TRAINING, order[entry["kind"]], entry["complete"]))
        provenance = _provenance(cases, holdout, options)
        _write_json(folder / LIST, entries)
        _write_json(folder / PROVENANCE, provenance)
    return provenance


def _write_head(
    folder: Path, split: str, number: int, drawn: DrawnHead, bone: Volume, pieces: dict[str, np.ndarray]
) -> list[dict]:
    """Write one head's files and return its entries of the data list."""
    individual = "+".join(sorted(set(drawn.names)))  # two scans of one person are one individual

    def write(what: str, array: np.ndarray) -> str:
        name = f"{FOLDERS[split]}/{what}/{number:03d}.nrrd"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(bone.with_array(array), folder / name)
        return name

    complete = write("complete_skull", bone.array)
    entries = [{"complete": complete, "defective": None, "individual": individual, "kind": "complete", "split": split}]
    for kind, piece in pieces.items():
        implant = write(f"implant/{kind}", piece)
        defective = write(f"defective_skull/{kind}", bone.array & ~piece)
        entries.append(entries[0] | {"defective": defective, "implant": implant, "kind": kind})
    return entries


def _provenance(cases: list[SkullCase], holdout: tuple[str, ...], options: SetOptions) -> dict:
    names = sorted({case.individual for case in cases})
    return {
        "software": f"SkullVAE {__version__}",
        "what": "skulls drawn from the sources below, with SkullFix's two defects; no patient's",
        "options": asdict(options) | {"holdout": list(holdout)},
        "skulls": options.counts(),
        "sources": [
            {
                "file": case.complete.name,
                "individual": case.individual,
                "sha256": file_sha256(case.complete),
            }
            for case in cases
        ],
        "split": {TRAINING: [n for n in names if n not in holdout], HELD_OUT: list(holdout)},
        "notice": NOTICE,
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_OURS = re.compile(
    r"datalist\.json|population\.json|(training_set|test_set)/"
    r"(complete_skull|(defective_skull|implant)/(cranial|facial))/\d{3,}\.nrrd"
)


def is_set(folder: Path) -> bool:
    """Whether a folder is a set that was written here, with nothing of anybody else's in it."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return PROVENANCE in files and all(_OURS.fullmatch(name) for name in files)
