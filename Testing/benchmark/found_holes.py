"""Which holes are found in complete skulls, and what is proposed where nothing is missing.

    python Testing/benchmark/found_holes.py OUT.jsonl --skulls FOLDER [FOLDER ...] [--model FILE]
        [--skulls-only NAME,...] [--sizes SIZE,...] [--every N] [--jobs 1]

On every complete skull, one completion with nothing cut, and holes at twelve places in four sizes: burr holes of 11 to
14 mm, and holes of 4, 7 and 10 cm along the surface. Four burr holes, or three holes of 4 cm, share a completion; they
are at least 70 mm apart from middle to middle. A hole counts as found if the filled voxels cover at least half of the
removed bone.

Skulls that end at the vault or were cut low (CUT_LOW) get only those holes that have bone all around: of 72 sectors
around the hole, at least 85 % have bone within 5 mm of its edge. On all other skulls every hole counts.

Each completion is a line of OUT.jsonl; those that are there are not run again. --every 4 runs every fourth completion
with holes, and all without. --sizes nothing,"burr hole" takes only completions without holes and with burr holes.
Prints the shares by size, CT and MRI-based skulls apart. Exit code: 0, or 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmark import contest
from benchmark.hard.holes import Hole, Patch, cut
from benchmark.hard.judge import COVERED, covered, volume_ml
from benchmark.hard.kinds import CT_SKULLS, Head, Skulls
from SkullVAELib.completion.options import CompletionOptions
from SkullVAELib.completion.pipeline import complete
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.progress import Stages
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path
from SkullVAELib.vae.networks import SkullModel

PLACES: dict[str, tuple[float, float, float]] = {
    "lambda": (0.05, -0.65, 0.75),
    "left frontal": (-0.55, 0.7, 0.5),
    "left occipital": (-0.45, -0.88, 0.2),
    "left pterional": (-0.85, 0.5, 0.12),
    "right temporal": (0.98, 0.1, 0.12),
    "right parietal": (0.75, -0.25, 0.65),
    "forehead": (0.05, 0.95, 0.3),
    "right occipital": (0.35, -0.93, 0.25),
    "left temporal": (-0.97, -0.1, 0.2),
    "left parietal": (-0.75, -0.35, 0.6),
    "vertex": (0.1, 0.0, 1.0),
    "right frontal": (0.5, 0.65, 0.6),
}
"""Directions (R, A, S) from the vault's centre, ordered so that every third and every fourth are far apart."""

BURR_MM = (11.0, 12.0, 13.0, 14.0)
"""Diameters of the burr holes, in turn."""

SIZES = {"burr hole": (BURR_MM, 4), "4 cm": ((40.0,), 3), "7 cm": ((70.0,), 1), "10 cm": ((100.0,), 1)}
"""Size -> widths in mm along the surface, in turn, and how many holes share a completion."""

CUT_LOW = ("scatterbrains", "scct_average", "colin27")
"""Beginnings of the names of skulls that have no bone below the vault."""

RIM_SHARE = 0.85
"""Least share of a hole's rim that has to be bone in a skull of CUT_LOW."""

FINEST_MM = 0.8
"""Skulls in smaller voxels are reduced to this: defects are found in voxels of about 1.2 mm."""

NOTHING = "nothing"


@dataclass(frozen=True)
class Run:
    """One completion: a skull, and the places of its holes; size NOTHING has none."""

    folder: Path
    skull: str
    size: str
    places: tuple[str, ...] = ()
    model: Path | None = None

    @property
    def key(self) -> str:
        return f"{self.skull}, {self.size}: {', '.join(self.places)}"

    def holes(self) -> dict[str, Hole]:
        """The holes by place."""
        names = list(PLACES)
        widths = SIZES[self.size][0] if self.places else ()
        # By how often a place has come up, so that each completion has burr holes of all diameters.
        return {p: Hole(PLACES[p], widths[names.index(p) // 3 % len(widths)]) for p in self.places}


def runs_of(
    folders: Iterable[Path], only: Sequence[str], every: int, model: Path | None, sizes: Sequence[str] = ()
) -> list[Run]:
    """The completions to run, skull by skull. Raises SkullVAEError for a skull or a size that is not there."""
    if unknown_sizes := sorted(set(sizes) - {NOTHING, *SIZES}):
        raise SkullVAEError(f"There is no size '{unknown_sizes[0]}'", f"Choose from {', '.join((NOTHING, *SIZES))}")
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.name.endswith((".nrrd", ".nii.gz")):
                found[path.name.removesuffix(".nrrd").removesuffix(".nii.gz")] = folder
    if unknown := sorted(set(only) - set(found)):
        raise SkullVAEError(f"There is no skull '{unknown[0]}'", f"Choose from {', '.join(found)}")
    intact = [Run(found[skull], skull, NOTHING, (), model) for skull in only or found]
    runs = []
    for skull in only or found:
        for size, (_, together) in SIZES.items():
            if sizes and size not in sizes:
                continue
            step = len(PLACES) // together
            groups = (tuple(PLACES)[start::step] for start in range(step))
            runs += [Run(found[skull], skull, size, group, model) for group in groups]
    return (intact if not sizes or NOTHING in sizes else []) + runs[::every]


@functools.lru_cache(maxsize=1)
def _model(path: Path | None) -> SkullModel:
    return load_model(path or default_model_path())


def completed(run: Run) -> dict:
    """Cut the holes of a run, complete the skull without meshes and pictures, and compare: the record."""
    torch.set_num_threads(1)
    head = Skulls(run.folder).head(run.skull, FINEST_MM)
    left, removed, excluded = with_holes(head, run.holes())
    record: dict = {"key": run.key, "skull": run.skull, "size": run.size, "excluded": excluded}
    if run.places and not removed:
        return record | {"holes": {}}
    start = time.perf_counter()
    try:
        completion = complete(
            left.with_array(left.array.astype(np.uint8)), _model(run.model), CompletionOptions(), Stages({"all": 1.0})
        )
    except SkullVAEError as error:
        # A refused skull has no hole filled: it counts as not found.
        record["refused"] = str(error)
        filled, candidates, warnings = left.with_array(np.zeros_like(left.array)), [], []
    else:
        filled = completion.implant
        candidates = completion.report.get("candidates", completion.report.get("rejected", []))
        warnings = completion.report["warnings"]
    return record | {
        "seconds": round(time.perf_counter() - start, 1),
        "holes": {
            place: {
                "ml": round(volume_ml(bone), 2),
                "covered": round(covered(bone, filled), 3),
                "candidate": candidate_at(bone, candidates),
            }
            for place, bone in removed.items()
        },
        "filled_ml": round(volume_ml(filled), 2),
        "candidates": candidates,
        "warnings": warnings,
    }


def with_holes(head: Head, holes: dict[str, Hole]) -> tuple[Volume, dict[str, Volume], dict[str, str]]:
    """A skull without the bone of holes, that bone by place, and places that were left out with the reason."""
    left, removed, excluded = head.bone.array.copy(), {}, {}
    for place, hole in holes.items():
        if head.name.startswith(CUT_LOW):
            share = rim_share(head, hole)
            if share < RIM_SHARE:
                excluded[place] = f"bone on {share:.0%} of the rim"
                continue
        _, bone = cut(head.bone, head.vault, hole)
        removed[place] = bone
        left &= ~bone.array
    return head.bone.with_array(left), removed, excluded


def rim_share(head: Head, hole: Hole) -> float:
    """Share of a hole's rim that is bone, 0 where the skull has none at its place."""
    try:
        return Patch.of(head.bone, head.vault, hole).rim_share
    except ValueError:
        return 0.0


def candidate_at(bone: Volume, candidates: Sequence[dict]) -> dict | None:
    """The candidate of the report whose centre is nearest to a hole's bone, within 15 mm of one of its voxels."""
    points = apply_affine(bone.affine, np.argwhere(bone.array))
    best, least = None, 15.0
    for candidate in candidates:
        distance = float(np.linalg.norm(points - candidate["centre_mm"], axis=1).min())
        if distance < least:
            best, least = candidate, distance
    return best


def summary(records: Sequence[dict]) -> str:
    """The shares by size, CT and MRI-based skulls apart, what was not found, and what was proposed without a hole."""
    lines = []
    for title, ct in (("CT", True), ("MRI-based", False)):
        mine = [record for record in records if (record["skull"] in CT_SKULLS) == ct]
        skulls = len({record["skull"] for record in mine})
        lines.append(f"{title}, {skulls} skulls")
        for size in SIZES:
            holes = [hole for record in mine if record["size"] == size for hole in record["holes"].values()]
            excluded = sum(len(record["excluded"]) for record in mine if record["size"] == size)
            found = sum(hole["covered"] >= COVERED for hole in holes)
            share = f"{found / len(holes):.1%}" if holes else "-"
            lines.append(f"  {size:<10} {found:>4} of {len(holes):>4} found, {share:>6}; {excluded} left out")
        intact = [record for record in mine if record["size"] == NOTHING]
        clean = sum(not record["filled_ml"] for record in intact)
        lines.append(f"  nothing cut: nothing proposed on {clean} of {len(intact)} skulls")
    lines.append("\nnot found:")
    for record in records:
        for place, hole in record["holes"].items():
            if hole["covered"] < COVERED:
                lines.append(f"  {record['skull']}, {place}, {record['size']}: {_described(record, hole)}")
    lines.append("\nproposed where nothing is missing:")
    for record in records:
        if record["size"] == NOTHING and record["filled_ml"]:
            filled = [c for c in record["candidates"] if c.get("filled")]
            said = "; ".join(_probability(candidate) for candidate in filled) or "no probability reported"
            lines.append(f"  {record['skull']}: {record['filled_ml']:.1f} ml; {said}")
    return "\n".join(lines)


def _described(record: dict, hole: dict) -> str:
    text = f"{hole['ml']:.1f} ml, {hole['covered']:.0%} covered"
    if "refused" in record:
        return f"{text}; refused: {record['refused']}"
    return f"{text}; {_probability(hole['candidate']) if hole['candidate'] else 'no candidate'}"


def _probability(candidate: dict) -> str:
    volume = candidate.get("volume_ml", candidate.get("ml", float("nan")))
    probability = candidate.get("probability")
    said = "no probability" if probability is None else f"probability {probability:.2f}"
    return f"candidate of {volume:.1f} ml, {said}, {candidate.get('reason', '')}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT.jsonl", type=Path, help="records, one completion a line")
    parser.add_argument("--skulls", type=Path, nargs="+", required=True, help="folders of complete skulls")
    parser.add_argument("--model", type=Path, help="model file; default: the included one")
    parser.add_argument("--skulls-only", default="", metavar="NAME,...", help="skulls to run on; default all")
    known = ", ".join((NOTHING, *SIZES))
    parser.add_argument("--sizes", default="", metavar="SIZE,...", help=f"of {known}; default all")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="run every Nth completion with holes (default 1)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="completions at a time (default 1)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 2 bad arguments."""
    arguments = parse(argv)
    try:
        only = [name for name in arguments.skulls_only.split(",") if name]
        sizes = [size for size in arguments.sizes.split(",") if size]
        runs = runs_of(arguments.skulls, only, arguments.every, arguments.model, sizes)
    except SkullVAEError as error:
        print(f"found_holes.py: {error}", file=sys.stderr)
        return 2
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    kept = read_records(arguments.output)

    def keep(record: dict, fraction: float) -> None:
        kept[record["key"]] = record
        with open(arguments.output, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        shares = ", ".join(f"{hole['covered']:.0%}" for hole in record["holes"].values())
        print(f"{fraction:4.0%} {record['key']}: {shares}", file=sys.stderr, flush=True)

    contest.each(completed, [run for run in runs if run.key not in kept], arguments.jobs, keep)
    print(summary([kept[run.key] for run in runs]))
    return 0


def read_records(path: Path) -> dict[str, dict]:
    """The records of a file by their keys; a last line that was cut off by a kill is not one."""
    records = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
        if line.endswith("\n"):
            record = json.loads(line)
            records[record["key"]] = record
    return records


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
