"""What thick slices cost: errors of the printable implant's surfaces in mm by slice thickness.

    python Testing/benchmark/slice_errors.py OUT.json --skulls FOLDER [--names NAME,...] [--slices 1,2.5,5]

Two holes of 60 and 70 mm are cut into complete skulls; each becomes a synthetic CT in axial slices of every thickness,
is completed by the library as it ships, and the outer and the inner surface of the implant, made without clearance, are
compared with those of the removed bone in the skull's own voxels. Distances count in both directions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmark.hard.holes import Hole
from benchmark.hard.images import in_slices, padded
from benchmark.hard.judge import surface_errors
from benchmark.hard.kinds import Skulls
from SkullVAELib.api import complete
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.memory import keep_freed_memory
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path

NAMES = ("visible_human", "visible_human_female", "cisc881", "elgabrielc")
HOLES = {"right parietal": Hole((0.75, -0.25, 0.65), 70), "vertex": Hole((0.1, 0.0, 1.0), 60)}
MARGIN_MM = 20.0
FIGURES = ("outer_mean_mm", "outer_p95_mm", "inner_mean_mm", "inner_p95_mm")


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 done, 2 for a skull that is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUT.json", type=Path)
    parser.add_argument("--skulls", type=Path, required=True, help="folder of complete skulls")
    parser.add_argument("--names", default=",".join(NAMES), help="skulls from CT")
    parser.add_argument("--slices", default="1,2.5,3.75,5,6", help="thicknesses in mm")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    model = load_model(default_model_path())
    options = ImplantOptions(clearance_mm=0.0)
    rows: list[dict] = []
    for name in arguments.names.split(","):
        try:
            head = Skulls(arguments.skulls).head(name)
        except FileNotFoundError as error:
            print(f"slice_errors.py: {error}", file=sys.stderr)
            return 2
        for place, hole in HOLES.items():
            left, truth = head.cut(hole)
            ct = padded(head.as_ct(left), MARGIN_MM)
            for mm in map(float, arguments.slices.split(",")):
                row: dict = {"skull": name, "place": place, "slices_mm": mm}
                try:
                    result = complete(in_slices(ct, "axial", mm), model, implant_options=options)
                except SkullVAEError as error:
                    row["refused"] = str(error)
                else:
                    row["found"] = result.found
                    if result.found:
                        row |= surface_errors(truth, result.printable.mesh, head.vault.centre)
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
                arguments.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(summary(rows))
    return 0


def summary(rows: Sequence[dict]) -> str:
    """Means over the holes by slice thickness."""
    lines = ["slices mm   n  " + "  ".join(f"{name:>13}" for name in FIGURES)]
    for mm in sorted({row["slices_mm"] for row in rows}):
        mine = [row for row in rows if row["slices_mm"] == mm and row.get(FIGURES[0]) is not None]
        means = [np.mean([row[name] for row in mine]) if mine else np.nan for name in FIGURES]
        lines.append(f"{mm:>9g} {len(mine):>3}  " + "  ".join(f"{mean:>13.2f}" for mean in means))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
