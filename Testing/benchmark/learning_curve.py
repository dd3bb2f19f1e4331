"""Learning curve: what the mean skull, PCA and the VAE gain from more training skulls, with the same warp and GP.

    python Testing/benchmark/learning_curve.py OUT --skulls FOLDER --train                  half an hour on a free core
    python Testing/benchmark/learning_curve.py OUT --skulls FOLDER --evaluation FOLDER2     a quarter of an hour
    python Testing/benchmark/learning_curve.py OUT --plot curve.png

Nested subsets of 4, 8, 16 and all individuals of FOLDER, in an order that a seed gives, one in five of them from CT
(`order_of`). Averages of many heads are left out: they are made of many individuals. OUT/SIZE holds the mean skull of
each size, OUT/SIZE/networks the run of Training/train.py, all of its stages, with the same options for every size
(OPTIONS). The networks work at 4 mm, where a step costs a tenth of one at 2 mm and many more can be afforded; the
correction to the mean skull that they give is smooth, and is added to the mean skull at 2 mm. A run that was
interrupted is continued.

Two or three defects, medium, large and very large (--defects), are cut into each individual of FOLDER2. For each size
the skull is registered, warped and its defect found once, with that size's mean skull; the hole is pointed at, so that
none is missed. Then each row puts its shape in the place of the mean skull, and the same GP correction follows:

    mean            the mean skull
    pca             principal components of 64 skulls drawn as for the VAE, as many as it has latents, fitted to the
                    bone that is left
    vae             the VAE with its own decoder
    decoupled       the VAE's encoder and the decoder trained on its latents

Errors are distances in mm, along lines through the vault's centre, of the points of the true outer and inner table in
the hole from the surface of the corrected shape before it becomes voxels; DSC is the implant's. Each case of a size is
a line of OUT/cases.jsonl, and is not run again. Exit code: 0, or 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmark import contest, pca, plan
from benchmark.cases import PLACES, STANDARD, VAULT_ONLY
from benchmark.folds import untrained
from benchmark.found_holes import read_records
from benchmark.swapped_prior import Case
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.augmentation import draw_skull
from SkullVAELib.data.datasets import find_cases
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.free_form import inverse_warp
from SkullVAELib.registration.skull import canonical_field
from SkullVAELib.shape.two_table import TwoTableShape
from SkullVAELib.training.canonical import load_population
from SkullVAELib.vae.checkpoint import load_model, read_tensors, save_model, write_tensors
from SkullVAELib.vae.networks import Architecture, BetaVAE, SkullModel

SIZES = (4, 8, 16, 25)
"""Individuals of the nested subsets; a folder with fewer ends the curve."""

SEED = 7
CT_EVERY = 5
"""One in so many individuals of a subset is from CT."""

DEFECT_SIZES = ("medium", "large", "very large")

ROWS = {
    "mean": "mean skull",
    "pca": "PCA",
    "vae": "VAE, own decoder",
    "decoupled": "VAE, decoupled decoder",
}
COLOURS = ("black", "#8a6d3b", "#c8553d", "#1c5d7a")

MEAN = "mean.safetensors"
"""The file of a size's mean skull, a model without trained networks."""

NETWORKS = "networks"

DRAWN = 64
"""Skulls drawn for the principal components."""

COARSE = Architecture(grid_shape=(48, 56, 48), spacing_mm=4.0, channels=(16, 32, 64))
"""The networks, with as many latents as those that ship."""

OPTIONS = {"beta": 0.01, "vae_steps": 800, "decoder_steps": 500, "pool": 200, "threads": 1, "save_every": 200}
"""Options of train.py. With the default beta of 0.3 the posterior collapses (KL
below 0.1 nats), and the VAE's own decoder gives one shape for every skull."""


def order_of(individuals: Sequence[str], ct: Sequence[str] = plan.CT_SKULLS, seed: int = SEED) -> list[str]:
    """The individuals in the order of the nested subsets: shuffled, every fifth from CT while there are any.

    >>> order_of(["cisc881", "a", "b", "c", "d", "e"], seed=0)[2]
    'cisc881'
    """
    rng = np.random.default_rng(seed)
    names = sorted(name for name in individuals if not plan.is_average(name))
    groups = [[name for name in names if (name in ct) == is_ct] for is_ct in (True, False)]
    scans, others = ([group[n] for n in rng.permutation(len(group))] for group in groups)
    ordered: list[str] = []
    while scans or others:
        from_ct = scans and (len(ordered) % CT_EVERY == 2 or not others)
        ordered.append((scans if from_ct else others).pop(0))
    return ordered


def train(output: Path, skulls: Path, sizes: Sequence[int], networks: bool = True) -> None:
    """Make the mean skulls that are missing, and train the networks that are not complete."""
    files = {case.individual: case.complete for case in find_cases(skulls) if case.defective is None}
    ordered = order_of(list(files))
    if most := [size for size in sizes if size > len(ordered)]:
        raise SkullVAEError(f"There are {len(ordered)} individuals, not {most[0]}", "Give a folder of more skulls")
    output.mkdir(parents=True, exist_ok=True)
    config = output / "config.json"
    options = dataclasses.asdict(COARSE) | OPTIONS
    config.write_text(json.dumps(options) + "\n", encoding="utf-8")
    program = Path(__file__).resolve().parents[2] / "Training" / "train.py"
    for size in sizes:
        folder, data = output / f"{size}", output / f"{size}.json"
        listed = [{"complete": str(files[name].resolve()), "individual": name} for name in sorted(ordered[:size])]
        data.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
        if not (folder / MEAN).is_file():
            folder.mkdir(exist_ok=True)
            cases = [case for case in find_cases(data) if case.defective is None]
            fine = load_population(folder, cases, Architecture(), lambda line: print(line, file=sys.stderr))
            save_model(untrained(Architecture(), fine.mean, fine.spread()), folder / MEAN, {})
        run = folder / NETWORKS
        if not networks or (run / "model.safetensors").is_file():
            continue
        if not (run / "population.safetensors").is_file():
            run.mkdir(exist_ok=True)
            reduce_population(folder, run)
        command = [sys.executable, str(program), "all", "--data", str(data), "--output", str(run)]
        subprocess.run([*command, "--config", str(config), "--resume"], check=True)


def reduce_population(folder: Path, run: Path) -> None:
    """Write a population on the grid of the networks, as train.py keeps it."""
    fine = load_population(folder, [], Architecture(), lambda line: None)
    at = COARSE.grid.coordinates().reshape(-1, 3)
    tensors = {"mean": resampled(fine.mean, fine.grid, at)}
    for name in ("detail", "known"):
        tensors[name] = torch.stack([resampled(each, fine.grid, at) for each in getattr(fine, name)])
    tensors = {name: value.half() for name, value in tensors.items()}
    tensors["alignments"] = torch.tensor(fine.alignments)
    write_tensors(run / "population.safetensors", tensors, {"names": fine.names})


def resampled(field: torch.Tensor, grid: Grid, at: torch.Tensor) -> torch.Tensor:
    """A field (X, Y, Z) of a grid at the nodes (N, 3) of the other of both grids."""
    other = COARSE.grid if grid.shape != COARSE.grid.shape else Architecture().grid
    return grid.sample(field[None], at)[:, 0].reshape(other.shape)


def chosen_cases(
    individuals: Sequence[str], flat: set[str], sizes: Sequence[str] = DEFECT_SIZES
) -> list[tuple[str, int]]:
    """Individual and number of a defect: one of each class of size for each, other ones for each individual.

    flat: individuals whose skull is a vault only.
    """
    found = []
    for turn, name in enumerate(sorted(individuals)):
        numbers = VAULT_ONLY if name in flat else STANDARD
        for size in sizes:
            possible = [number for number in numbers if PLACES[number].size_class == size]
            found.append((name, possible[turn % len(possible)]))
    return found


@dataclass(frozen=True)
class Priors:
    """The shapes of one size on its mean skull.

    Attributes
    ----------
    model : SkullModel
        With the mean skull, at 2 mm.
    components : pca.Components
    networks : SkullModel or None
        With the trained encoder and decoupled decoder, at 4 mm; None where nothing was trained.
    vae : BetaVAE or None
        With its own decoder.
    """

    model: SkullModel
    components: pca.Components
    networks: SkullModel | None
    vae: BetaVAE | None

    @classmethod
    def of(cls, folder: Path) -> Priors:
        """Read what `train` left in the folder of a size."""
        model, run = load_model(folder / MEAN), folder / NETWORKS
        found = components_of(folder, model)
        if not (run / "model.safetensors").is_file():
            return cls(model, found, None, None)
        networks = load_model(run / "model.safetensors")
        vae = BetaVAE(networks.architecture)
        tensors, _ = read_tensors(run / "vae.last.safetensors", math.inf)
        vae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
        return cls(model, found, networks, vae.eval())

    @torch.no_grad()
    def shapes(self, case: Case) -> Iterator[tuple[str, torch.Tensor]]:
        """Row and signed distance (X, Y, Z) in mm on the mean skull."""
        mean, registered = self.model.mean.float(), case.patient.registered
        yield "mean", mean
        field, seen = canonical_field(
            registered.skull.imaged,
            registered.skull.imaged_distance,
            registered.alignment,
            case.grid,
            inverse_warp(registered.warp, case.grid),
        )
        yield "pca", pca.fit(self.components, field, seen, COARSE.latent_size)
        if self.networks is None or self.vae is None:
            return
        clamp, coarse = COARSE.clamp_mm, COARSE.grid
        small = resampled(registered.field, case.grid, coarse.coordinates().reshape(-1, 3)).clamp(-clamp, clamp)
        own = clamp * self.vae((small / clamp)[None, None])[0][0, 0].float()
        decoupled = self.networks.decode(self.networks.encode(small[None])[0])[0] - self.networks.mean
        for row, correction in (("vae", own), ("decoupled", decoupled.float())):
            yield row, mean + resampled(correction, coarse, case.grid.coordinates().reshape(-1, 3))


def components_of(folder: Path, model: SkullModel) -> pca.Components:
    """Principal components of skulls drawn from the population of a size, as those that the VAE sees are drawn."""
    path = folder / "pca.safetensors"
    if path.is_file():
        tensors, _ = read_tensors(path, math.inf)
        return pca.Components(*(tensors[name].float() for name in ("mean", "modes", "variances")))
    population = load_population(folder, [], model.architecture, lambda line: None)
    fields = np.empty((DRAWN, *model.architecture.grid_shape), np.float32)
    for number in range(DRAWN):
        field, known = draw_skull(population, np.random.default_rng([0, 0, number]))
        fields[number] = torch.where(known > 0.5, field, population.mean).numpy()
    found = pca.components(fields, COARSE.latent_size)
    write_tensors(path, {"mean": found.mean, "modes": found.modes.half(), "variances": found.variances}, {})
    return found


def measured(case: Case, priors: Priors) -> dict[str, dict[str, float]]:
    """Errors of every row on a case."""
    rows = {}
    for row, field in priors.shapes(case):
        warped = case.warped(TwoTableShape.of(field, case.grid))
        rows[row] = case.errors(case.corrected(warped)) | {"dsc": case.implant_dice(warped)}
    return rows


def measure(output: Path, sizes: Sequence[int], evaluation: Path, defects: Sequence[str]) -> None:
    """Measure every case of every size that has no line in cases.jsonl yet, or no networks in it that are there now."""
    torch.set_num_threads(1)
    lines = output / "cases.jsonl"
    kept = read_records(lines)
    files = {case.individual: case.complete for case in find_cases(evaluation) if case.defective is None}
    flat = {name for name, file in files.items() if plan.is_vault_only(file)}
    for size in sizes:
        trained = (output / f"{size}" / NETWORKS / "model.safetensors").is_file()
        cases = [
            (name, number, f"{size}: {name}_{number:02d}") for name, number in chosen_cases(list(files), flat, defects)
        ]
        left = [case for case in cases if case[2] not in kept or (trained and "vae" not in kept[case[2]]["rows"])]
        if not left:
            continue
        priors = Priors.of(output / f"{size}")
        for name, number, key in left:
            case = Case.of(contest.load_whole(files[name]), number, priors.model)
            record = {"key": key, "size": size, "individual": name, "place": number, "rows": measured(case, priors)}
            with open(lines, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            said = ", ".join(f"{row} {found['mm']:.3f}/{found['dsc']:.3f}" for row, found in record["rows"].items())
            print(f"{key}: {said}", file=sys.stderr, flush=True)


def by_individual(records: Sequence[dict], row: str, measure: str) -> np.ndarray:
    """Means of a measure of each individual's cases, in the order of their names."""
    names = sorted({record["individual"] for record in records})
    return np.array([np.mean([r["rows"][row][measure] for r in records if r["individual"] == n]) for n in names])


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over individuals and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def as_text(records: Sequence[dict]) -> str:
    """Markdown: errors of each size and row, and their change against the mean skull of the same size."""
    lines = [
        "| individuals | row | n | outer, mm | inner, mm | both minus mean skull, mm | DSC | DSC minus mean skull |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in sorted({record["size"] for record in records}):
        for row, title in ROWS.items():
            mine = [record for record in records if record["size"] == size and row in record["rows"]]
            if not mine:
                continue
            cells = [f"{by_individual(mine, row, side).mean():.3f}" for side in ("outer_mm", "inner_mm")]
            for measure, digits in (("mm", 3), ("dsc", 4)):
                if measure == "dsc":
                    cells.append(f"{by_individual(mine, row, 'dsc').mean():.4f}")
                change = by_individual(mine, row, measure) - by_individual(mine, "mean", measure)
                mean, error = mean_and_error(change)
                cells.append("" if row == "mean" else f"{mean:+.{digits}f} ± {error:.{digits}f}")
            lines.append(f"| {size} | {title} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(path: Path, records: Sequence[dict]) -> None:
    """Error of both tables against the number of individuals, a line a row, and its change against the mean skull."""
    from matplotlib.figure import Figure

    sizes = sorted({record["size"] for record in records})
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (row, colour) in enumerate(zip(ROWS, COLOURS, strict=True)):
        there = [size for size in sizes if all(row in r["rows"] for r in records if r["size"] == size)]
        at = np.array(there) * 1.02 ** (number - 1.5)
        for axes, against in ((left, False), (right, True)):
            if not there or (against and row == "mean"):
                continue
            found = []
            for size in there:
                mine = [record for record in records if record["size"] == size]
                value = by_individual(mine, row, "mm")
                found.append(mean_and_error(value - by_individual(mine, "mean", "mm") if against else value))
            mean, error = np.array(found).T
            axes.errorbar(at, mean, error, marker="o", ms=4, lw=1.5, capsize=2, color=colour, label=ROWS[row])
    right.axhline(0, color=COLOURS[0], lw=1.5)
    left.set_ylabel("error of both tables in the hole, mm")
    right.set_ylabel("the same minus the mean skull's, mm")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("individuals trained on")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=90)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of the runs and of cases.jsonl")
    parser.add_argument("--skulls", type=Path, help="folder of complete skulls to train on")
    parser.add_argument("--train", action="store_true", help="train what is missing")
    parser.add_argument("--mean-only", action="store_true", help="with --train: make the mean skulls and no networks")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="of the subsets, in this order")
    parser.add_argument("--evaluation", type=Path, help="folder of complete skulls to measure on")
    parser.add_argument("--defects", default=",".join(DEFECT_SIZES), help="classes of size of the defects")
    parser.add_argument("--plot", type=Path, help="PNG file to draw the curve to")
    arguments = parser.parse_args(argv)
    if arguments.train and arguments.skulls is None:
        parser.error("--train needs --skulls")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 2 bad arguments."""
    arguments = parse(argv)
    sizes = [int(size) for size in arguments.sizes.split(",")]
    output: Path = arguments.output
    try:
        if arguments.train:
            train(output, arguments.skulls, sizes, not arguments.mean_only)
        if arguments.evaluation is not None:
            sizes = [size for size in sizes if (output / f"{size}" / MEAN).is_file()]
            measure(output, sizes, arguments.evaluation, arguments.defects.split(","))
    except SkullVAEError as error:
        print(f"learning_curve.py: {error}", file=sys.stderr)
        return 2
    records = list(read_records(output / "cases.jsonl").values())
    if records:
        print(as_text(records))
        if arguments.plot is not None:
            draw(arguments.plot, records)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
