"""Generation of a SkullFix-like set from a few complete skulls: complete, with the cranial defect, with the facial
defect.

Skulls are generated from the training individuals and, separately, from the held-out ones, so that no relative of a
held-out skull is used in training. A generated skull blends its individuals' details, their shapes (the warps to the
mean) and their sizes; its field of view ends below the base, as that of SkullFix's images.
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
from SkullVAELib.data.defect_kinds import CLASSES
from SkullVAELib.data.synthetic_defects import skullfix_defect
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import redistance
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.geometry.masks import bounding_box, largest_component
from SkullVAELib.geometry.volume import Volume, crop
from SkullVAELib.io.images import write_volume
from SkullVAELib.registration.affine import AffineTarget, register_affine, rotation_matrix
from SkullVAELib.registration.mean_skull import (
    Population,
    build_population_with_warps,
    warp_to_mean_with_field,
)
from SkullVAELib.registration.skull import CLAMP_MM, Skull, prepare_skull
from SkullVAELib.shape.two_table import gradient, outer_side_weight

PROVENANCE = "population.json"
"""Name of the file that describes how a set was generated."""

FOLDERS = {TRAINING: "training_set", HELD_OUT: "test_set"}
"""Folder of each side of the split."""

# Finer than the networks' grid: thin bone of the base and the orbits is lost at 2 mm.
_GRID = Grid((128, 150, 128), 1.5)

# Level just below the floor of the orbits, on the mean of the development skulls.
_FLOOR_MM = -66.0

# Pinholes of segmentations in the vault are filled with the mean's plate, made thinner by this on each table.
_PLATE_MM = 1.0

# A plate thinner than twice this would have holes at the usual spacing.
_LEAST_DEPTH_MM = 1.2
_MARGIN_MM = 8.0


@dataclass(frozen=True)
class SetOptions:
    """What to generate.

    Parameters
    ----------
    count : int
        Number of complete skulls generated from training individuals.
    held_out_count : int, optional
        Number generated from held-out individuals; by default a fifth of `count`, at least 1.
    holdout : tuple of str
        Individuals to hold out.
    seed : int
        Seed.
    spacing_mm : float
        Voxel spacing, 0.3 to 4 mm; each skull's spacing differs from it a little.

    Raises
    ------
    SkullVAEError
        If a number is out of range.
    """

    count: int = 100
    held_out_count: int | None = None
    holdout: tuple[str, ...] = ()
    seed: int = 0
    spacing_mm: float = 1.5

    def __post_init__(self):
        for name, value in (("--count", self.count), ("--held-out-count", self.held_out_count)):
            if value is not None and value < 1:
                raise SkullVAEError(f"{name} {value} is not a valid number of skulls", "Give at least 1")
        if not 0.3 <= self.spacing_mm <= 4:
            raise SkullVAEError(f"A spacing of {self.spacing_mm:g} mm is out of range", "Give 0.3 to 4 mm")

    def counts(self) -> dict[str, int]:
        """Number of skulls to generate for each side of the split."""
        held_out = max(1, self.count // 5) if self.held_out_count is None else self.held_out_count
        return {TRAINING: self.count, HELD_OUT: held_out}


@dataclass(frozen=True)
class RegisteredHead:
    """One individual warped to the mean.

    Attributes
    ----------
    name : str
        The individual.
    detail : torch.Tensor, shape (X, Y, Z)
        Signed distance in mm on the mean.
    known : torch.Tensor, shape (X, Y, Z)
        0..1, where it has data, smooth.
    warp : torch.Tensor, shape (3, X', Y', Z')
        Warp to the mean, mm.
    scales : numpy.ndarray, shape (3,)
        Canonical mm per patient mm.
    """

    name: str
    detail: torch.Tensor
    known: torch.Tensor
    warp: torch.Tensor
    scales: np.ndarray


@dataclass(frozen=True)
class DrawnHead:
    """A head generated from individuals.

    Attributes
    ----------
    names : tuple of str
        The individuals.
    field : torch.Tensor, shape (X, Y, Z)
        Signed distance in mm on the mean.
    warp : torch.Tensor, shape (3, X', Y', Z')
        Warp to the mean, mm.
    scales : numpy.ndarray, shape (3,)
        Canonical mm per patient mm.
    rotation : numpy.ndarray, shape (3, 3)
        Rotation from the patient to the canonical frame.
    mirrored : bool
        Whether left and right are exchanged.
    """

    names: tuple[str, ...]
    field: torch.Tensor
    warp: torch.Tensor
    scales: np.ndarray
    rotation: np.ndarray
    mirrored: bool

    def to_canonical(self) -> np.ndarray:
        """(4, 4) patient RAS mm -> canonical mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation @ np.diag(self.scales)
        return matrix

    def signed_distance(self, points: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Signed distance (N,) in mm at canonical points (N, 3) of the head in its own shape, negative in bone."""
        if self.mirrored:
            points = points * torch.tensor([-1.0, 1, 1])
        return grid.sample(self.field[None], points + grid.sample(self.warp, points))[:, 0]


def choose_holdout(names: list[str], holdout: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """Choose the individuals to hold out.

    Parameters
    ----------
    names : list of str
        All individuals.
    holdout : tuple of str
        Individuals to hold out; if empty, a fifth of all, at least one, is chosen at random.
    seed : int
        Seed of that choice.

    Returns
    -------
    tuple of str
        Sorted.

    Raises
    ------
    SkullVAEError
        If a name is unknown, all individuals are held out, or there are fewer than two.
    """
    names = sorted(set(names))
    if len(names) < 2:
        raise SkullVAEError(
            f"There is only one individual, '{names[0]}', so the skulls cannot be split",
            "Provide skulls of two or more individuals",
        )
    if unknown := set(holdout) - set(names):
        raise SkullVAEError(f"There is no individual '{sorted(unknown)[0]}'", f"Choose from {', '.join(names)}")
    if not holdout:
        holdout = tuple(np.random.default_rng([seed, 0]).permutation(names)[: max(1, len(names) // 5)].tolist())
    if set(holdout) == set(names):
        raise SkullVAEError("Every individual is held out", "Hold out fewer individuals")
    return tuple(sorted(set(holdout)))


@dataclass(frozen=True)
class Template:
    """The mean of the training individuals, with which generated heads are completed.

    Attributes
    ----------
    grid : Grid
        The canonical grid.
    mean : torch.Tensor, shape (X, Y, Z)
        Signed distance of the mean, mm.
    similar : torch.Tensor, shape (X, Y, Z)
        0..1, where heads are similar enough for their details to be blended.
    plate : torch.Tensor, shape (X, Y, Z)
        Signed distance of bone that every head has, mm.
    """

    grid: Grid
    mean: torch.Tensor
    similar: torch.Tensor
    plate: torch.Tensor

    @classmethod
    def of(cls, mean: torch.Tensor, spread: torch.Tensor, grid: Grid) -> Template:
        """Template of a mean and a standard deviation across skulls, both (X, Y, Z) in mm, see `Population.spread`."""
        similar = _smooth(((2.5 - spread) / 1.5).clamp(0, 1), grid, 12.0)
        same = _smooth(spread, grid, 10.0) < 2.5
        y, z = grid.coordinates()[..., 1:].unbind(-1)
        plate = torch.where(same & (z > 0), mean + _PLATE_MM, torch.tensor(CLAMP_MM))
        # The frontal sinus is between the brows: only the outer table is complete there.
        outer = outer_side_weight(gradient(mean, grid.spacing_mm), grid) > 0.5
        table = torch.where(outer & same & (y > 50) & (z > -25), (mean + 1.5).abs() - 1.0, torch.tensor(CLAMP_MM))
        return cls(grid, mean, similar, torch.minimum(plate, table))


def register_heads(
    training: list[Skull], held_out: list[Skull], grid: Grid, report: Report = silent
) -> tuple[Template, list[RegisteredHead], list[RegisteredHead]]:
    """Compute the mean of the training skulls and warp the heads of both sides to it.

    Parameters
    ----------
    training, held_out : list of Skull
        The skulls.
    grid : Grid
        The canonical grid.
    report : callable
        Receives the progress.

    Returns
    -------
    template : Template
    training, held_out : list of RegisteredHead
    """
    report("build the mean skull", 0.0)
    population, warps = build_population_with_warps(training, grid)
    heads = heads_of(population, training, warps)
    others, target = [], AffineTarget(redistance(population.mean, grid), grid)
    for number, skull in enumerate(held_out):
        report("warp held-out skulls to it", 0.8 + 0.2 * number / len(held_out))
        alignment = register_affine(skull.points, target)
        others.append(_head(skull, *warp_to_mean_with_field(population.mean, skull, alignment, grid), alignment, grid))
    return Template.of(population.mean, population.spread(), grid), heads, others


def heads_of(population: Population, skulls: list[Skull], warps: torch.Tensor) -> list[RegisteredHead]:
    """The skulls of a population as heads; warps: see `build_population_with_warps`."""
    parts = zip(skulls, population.detail, population.known, warps, population.alignments, strict=True)
    return [_head(*part, population.grid) for part in parts]


def _head(
    skull: Skull, detail: torch.Tensor, known: torch.Tensor, warp: torch.Tensor, alignment: np.ndarray, grid: Grid
) -> RegisteredHead:
    """A registered head; `known` is smoothed, so that there is no step where a segmentation ends."""
    return RegisteredHead(
        skull.name, detail, _smooth(known, grid, 10.0), warp, np.linalg.norm(alignment[:3, :3], axis=0)
    )


def draw_head(heads: list[RegisteredHead], template: Template, rng: np.random.Generator) -> DrawnHead:
    """Generate a head: details, shape and size of one individual or a blend of two, varied.

    Where no detail is known, that of the mean is used. Where heads are built differently (base, face) a blend would be
    neither of the two, so that the first one's detail is used alone.

    Parameters
    ----------
    heads : list of RegisteredHead
        The individuals.
    template : Template
        The mean.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    DrawnHead
    """
    order = rng.permutation(len(heads))
    first, second = heads[order[0]], heads[order[1 % len(heads)]]
    has_second = len(heads) > 1
    second_weight = rng.uniform(0, 0.5) if has_second and rng.uniform() < 0.7 else 0.0
    total, field = torch.zeros(template.grid.shape), torch.zeros(template.grid.shape)
    for head, weight in (
        (first, 1 - second_weight * template.similar),
        (second, second_weight * template.similar),
    ):
        total += weight * head.known
        field += weight * head.known * head.detail
    field += (1 - total) * template.mean
    field = torch.minimum(field, template.plate)
    field, _ = vary_skull(torch.stack([field, torch.ones_like(field)]), template.grid, rng, _LEAST_DEPTH_MM)
    # Shapes and sizes are blended over a wider range than details, a little beyond the individuals: warps are smooth.
    shape, size = rng.uniform(-0.15, 1.15, 2) if has_second else (1.0, 1.0)
    warp = rng.uniform(0.85, 1.1) * (shape * first.warp + (1 - shape) * second.warp)
    noise = torch.tensor(rng.normal(0, 1.5, (1, 3, 4, 4, 4)), dtype=torch.float32)
    warp = warp + F.interpolate(noise, size=warp.shape[1:], mode="trilinear", align_corners=True)[0]
    scales = np.exp(size * np.log(first.scales) + (1 - size) * np.log(second.scales) + rng.normal(0, 0.01, 3))
    names = (first.name, second.name) if has_second else (first.name,)
    rotation = rotation_matrix(torch.tensor(np.clip(rng.normal(0, 0.03, 3), -0.08, 0.08))).numpy()
    return DrawnHead(names, field.clamp(-CLAMP_MM, CLAMP_MM), warp, scales, rotation, bool(rng.uniform() < 0.5))


def _smooth(values: torch.Tensor, grid: Grid, width_mm: float) -> torch.Tensor:
    """Box mean over about width_mm; nodes outside the frame have weight 0."""
    radius = max(1, round(width_mm / grid.spacing_mm / 2))
    for axis in range(3):  # a box is separable
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * radius + 1, radius
        values = F.avg_pool3d(values[None, None], kernel, 1, padding, count_include_pad=False)[0, 0]
    return values


def field_of_view(head: DrawnHead, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """The plane at which the head's image ends.

    It is the level of the mean just below the orbits, in this head's own shape, varied by some mm and degrees.

    Parameters
    ----------
    head : DrawnHead
        The head.
    grid : Grid
        The canonical grid.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray, shape (4,)
        Canonical points with [x, y, z, 1] @ plane > 0 are imaged.
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
    """Image a generated head and cut its two defects.

    The image's axes run R, A, S; its spacing varies a little, in the plane and across. The bone ends at a plane below
    the orbits, and only the largest component is kept.

    Parameters
    ----------
    head : DrawnHead
        The head.
    grid : Grid
        The canonical grid.
    rng : numpy.random.Generator
        Source of randomness.
    spacing_mm : float
        Mean spacing, mm.

    Returns
    -------
    bone : Volume
        Bool.
    defects : dict of str to numpy.ndarray
        For each of `CLASSES` the bone to remove, bool.

    Raises
    ------
    SkullVAEError
        If a defect contains no bone.
    """
    spacing = spacing_mm * rng.uniform(0.95, 1.05, 2)[[0, 0, 1]]
    to_canonical = head.to_canonical()
    shape = np.ceil(2 * np.abs(np.linalg.inv(to_canonical)[:3, :3]) @ grid.half_mm / spacing).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(shape - 1) / 2 * spacing
    plane = torch.tensor(field_of_view(head, grid, rng)).float()
    half = torch.tensor(grid.half_mm).float()
    bone = np.zeros(shape, bool)
    for layer in range(shape[2]):  # coordinates of the whole image would take gigabytes at a fine spacing
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
    defects = {}
    for kind in CLASSES:
        defect = np.zeros(volume.array.shape, bool)
        defect[tuple(index[(skullfix_defect(kind).signed_distance(at) < 0).numpy()].T)] = True
        if not 0 < defect.sum() < len(index):
            raise SkullVAEError(
                f"A skull generated from '{'+'.join(head.names)}' has no bone at the position of the {kind} defect",
                "Leave out skulls without a vault",
            )
        defects[kind] = defect
    # The position in the scanner is random.
    placed = volume.affine.copy()
    placed[:3, 3] += rng.normal(0, 5, 3)
    return Volume(volume.array, placed), defects


def write_set(source: Path, output: Path, options: SetOptions, report: Report = silent, grid: Grid = _GRID) -> dict:
    """Generate a set from the complete skulls of a source and write it as a folder, completely or not at all.

    Writes {training_set,test_set}/{complete_skull,defective_skull/KIND,implant/KIND}/NNN.nrrd, datalist.json and
    population.json. The same arguments give the same bytes.

    Parameters
    ----------
    source : pathlib.Path
        See `find_cases`.
    output : pathlib.Path
        The folder; one that was written here is replaced.
    options : SetOptions
        What to generate.
    report : callable
        Receives the progress.
    grid : Grid
        Canonical grid on which heads are blended.

    Returns
    -------
    dict
        Content of population.json.

    Raises
    ------
    SkullVAEError
        If a file is not a skull or belongs to two individuals, the skulls cannot be split by individual, or the output
        folder contains other files.
    """
    cases = [case for case in find_cases(source) if case.defective is None]
    for case in cases:
        if "+" in case.individual:
            raise SkullVAEError(
                f"'{case.complete}' has a plus sign in its individual '{case.individual}', as generated skulls have",
                "Use real skulls only; if it is one, rename the file",
            )
    if not cases:
        raise SkullVAEError(f"No complete skulls were found in '{source}'", "Choose a folder of complete skulls")
    own = {case.individual for case in cases if case.split == HELD_OUT}
    holdout = choose_holdout([case.individual for case in cases], (*options.holdout, *own), options.seed)
    with publish_folder(output, is_set, [case.complete for case in cases]) as folder:
        check_cases(cases, lambda stage, fraction: report("check the skulls", 0.05 * fraction))
        skulls: dict[str, list[Skull]] = {TRAINING: [], HELD_OUT: []}
        for number, case in enumerate(cases):
            report("read skulls", 0.05 + 0.05 * number / len(cases))
            skull = prepare_skull(case.individual, read_bone(case.complete))
            skulls[HELD_OUT if case.individual in holdout else TRAINING].append(skull)
        template, *heads = register_heads(
            skulls[TRAINING], skulls[HELD_OUT], grid, lambda stage, f: report(stage, 0.1 + 0.3 * f)
        )
        entries, counts, done = [], options.counts(), 0
        for side, (split, registered) in enumerate(zip(skulls, heads, strict=True)):
            for number in range(counts[split]):
                report(f"generate {split} skulls", 0.4 + 0.6 * done / sum(counts.values()))
                rng = np.random.default_rng([options.seed, 1 + side, number])
                drawn = draw_head(registered, template, rng)
                bone, defects = image_head(drawn, grid, rng, options.spacing_mm)
                entries += _write_head(folder, split, number, drawn, bone, defects)
                done += 1
        order = {kind: k for k, kind in enumerate(("complete", *CLASSES))}
        entries.sort(key=lambda entry: (entry["split"] != TRAINING, order[entry["kind"]], entry["complete"]))
        provenance = _provenance(cases, holdout, options)
        _write_json(folder / LIST, entries)
        _write_json(folder / PROVENANCE, provenance)
    return provenance


def _write_head(
    folder: Path, split: str, number: int, drawn: DrawnHead, bone: Volume, defects: dict[str, np.ndarray]
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
    for kind, defect in defects.items():
        implant = write(f"implant/{kind}", defect)
        defective = write(f"defective_skull/{kind}", bone.array & ~defect)
        entries.append(entries[0] | {"defective": defective, "implant": implant, "kind": kind})
    return entries


def _provenance(cases: list[SkullCase], holdout: tuple[str, ...], options: SetOptions) -> dict:
    """Content of population.json."""
    names = sorted({case.individual for case in cases})
    return {
        "software": f"SkullVAE {__version__}",
        "what": "skulls generated from the sources below, with SkullFix's two defects; not the skull of any patient",
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
    """Write JSON, UTF-8."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_OURS = re.compile(
    r"datalist\.json|population\.json|(training_set|test_set)/"
    r"(complete_skull|(defective_skull|implant)/(cranial|facial))/\d{3,}\.nrrd"
)


def is_set(folder: Path) -> bool:
    """Whether a folder is a set that was written here and contains nothing else."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return PROVENANCE in files and all(_OURS.fullmatch(name) for name in files)
