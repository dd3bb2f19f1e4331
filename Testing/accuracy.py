"""Accuracy of implants on real skulls that no model saw: ours and every cheaper way, on the same cases in one run.

    make bench-accuracy DATA=FOLDER
    python Testing/accuracy.py --data FOLDER                     cross-validation by individual, in three folds
    python Testing/accuracy.py --data FOLDER --model MODEL       those skulls alone that this model held out
    python Testing/accuracy.py --data FOLDER --rows ablation     ours taken apart

Cuts the same defects out of every skull, completes them with every row's method, and scores the implants on each case's
own grid. Models of folds are looked for in --folds and trained there where they are missing, which takes an hour each.
Finished cases are kept in --output, so that an interrupted run goes on. Docs/explanation/accuracy.md has the rows.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import contest, layers, pictures, rows, second_opinion, tables
from benchmark.cases import PLACES, folds_of, places_of, stored_obliquely
from benchmark.contest import Job
from benchmark.rows import ABLATION, OURS, TITLES, Fold

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.datasets import SkullCase, find_cases

__all__ = ["PLACES", "stored_obliquely"]

RELEASED = Path(__file__).parent / "data" / "heldout.safetensors"
"""The model of the first fold, which comes with the repository."""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of complete skulls")
    parser.add_argument("--model", type=Path, help="measure this model, on the skulls that it held out")
    parser.add_argument("--folds", type=Path, help="the folds' models and what else is fitted; default OUTPUT/folds")
    parser.add_argument("--output", type=Path, default=Path("bench/accuracy"))
    parser.add_argument(
        "--rows",
        default=",".join(TITLES),
        help="rows, comma-separated: those above, priors of ours with -rim and -warp for doing without, or 'ablation'",
    )
    parser.add_argument("--individuals", default="", help="skulls to measure on; default all")
    parser.add_argument("--places", default="", help="numbers of the defects to run, comma-separated; default all")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--unet-minutes", type=float, default=30.0, help="training time of the U-Net row, each fold")
    parser.add_argument("--check", action="store_true", help="compute the measures of ours with SimpleITK, too")
    parser.add_argument("--layers", action="store_true", help="tell the errors of ours by outer and inner table")
    parser.add_argument("--no-pictures", action="store_true", help="leave the page of pictures out")
    return parser.parse_args(argv)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def find_models(arguments: argparse.Namespace, cases: list[SkullCase], wanted: set[str]) -> dict[str, Path]:
    """Individual -> a model that never saw it; trains what is missing.

    Raises SkullVAEError when --model saw one of the skulls asked for.
    """
    if arguments.model:
        models = contest.match_models([arguments.model], cases)
        if refused := sorted(wanted - set(models)) if arguments.individuals else []:
            raise SkullVAEError(
                f"'{arguments.model.name}' was trained on {', '.join(refused)}, or does not say that it was not",
                "Measure it on skulls that it held out",
            )
        return {name: model for name, model in models.items() if name in wanted}
    folder = arguments.folds or arguments.output / "folds"
    found = [RELEASED, *sorted(folder.glob("*/model.safetensors")), *sorted(folder.glob("*.safetensors"))]
    models = contest.match_models([model for model in found if model.is_file()], cases)
    if missing := wanted - set(models):
        names = sorted({case.individual for case in cases})
        threads = max(1, min(arguments.jobs, os.cpu_count() or 1))
        trained = contest.train_missing(missing, names, arguments.data, folder, threads, say)
        models = contest.match_models(trained, cases) | models
    return {name: model for name, model in models.items() if name in wanted}


def jobs_of(arguments: argparse.Namespace, chosen: tuple[str, ...]) -> list[Job]:
    """The cases to run: fold by fold, skull by skull."""
    cases = [case for case in find_cases(arguments.data) if case.defective is None]
    known = {case.individual for case in cases}
    asked = {name for name in arguments.individuals.split(",") if name}
    if unknown := sorted(asked - known):
        raise SkullVAEError(f"There is no individual '{unknown[0]}'", f"Choose from {', '.join(sorted(known))}")
    models = find_models(arguments, cases, asked or known)
    folder = arguments.folds or arguments.output / "folds"
    folds = {}
    for model in dict.fromkeys(models.values()):
        held_out = "+".join(sorted(contest.provenance_of(model)["holdout"]))
        folds[model] = Fold(model, contest.training_files(model, cases), folder / held_out)
    numbers = {int(n) for n in arguments.places.split(",") if n} or set(range(len(PLACES)))
    files = {case.individual: case.complete for case in cases}
    jobs = []
    for name in (name for group in folds_of(known) for name in group if name in models):
        for number in (n for n in places_of(name) if n in numbers):
            jobs.append(Job(files[name], name, number, chosen, folds[models[name]], arguments.output))
    return jobs


def progress_line(record: dict, fraction: float, chosen: tuple[str, ...]) -> str:
    """A case in one line: DSC and HD95 of every row."""
    scores = []
    for row in chosen:
        figures = record["rows"][row]
        distance = figures["hd95_mm"]
        scores.append(f"{row} {figures['dsc']:.3f}/{'-' if distance is None else f'{distance:.2f}'}")
    return f"{fraction:4.0%} {record['individual']:16}{record['defect']:40}{record['truth_ml']:6.1f} ml  " + "  ".join(
        scores
    )


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 done, 2 bad input."""
    arguments = parse(argv)
    try:
        return run(arguments)
    except SkullVAEError as error:
        say(f"accuracy.py: {error}")
        return 2


def run(arguments: argparse.Namespace) -> int:
    """As main, but raises what goes wrong."""
    chosen = tuple(dict.fromkeys(ABLATION if arguments.rows == "ablation" else arguments.rows.split(",")))
    for row in chosen:
        rows.method(row)
    jobs = jobs_of(arguments, chosen)
    for fold in dict.fromkeys(job.fold for job in jobs):
        for row in chosen:
            rows.prepare(row, fold, say, arguments.unet_minutes)
    records = contest.each(
        contest.run_job, jobs, arguments.jobs, lambda record, fraction: say(progress_line(record, fraction, chosen))
    )
    result = {"models": {}, "rows": list(chosen)}
    for fold in dict.fromkeys(job.fold for job in jobs):
        provenance = contest.provenance_of(fold.model)
        result["models"][fold.model.name + " without " + ", ".join(provenance["holdout"])] = {
            "sha256": contest.file_sha256(fold.model),
            "options": provenance["options"],
        }
    for name, facial in (("cranial", False), ("facial", True)):
        sort = [record for record in records if record["facial"] == facial]
        if sort:
            result[name] = tables.report(sort, chosen, OURS, TITLES)
            print(f"{name} defects, {tables.as_text(result[name], OURS)}")
    result["cases"] = records
    (arguments.output / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n")
    say(f"written: {arguments.output / 'accuracy.json'}")
    cranial = [record for record in records if not record["facial"]]
    if cranial and OURS in chosen:
        from benchmark.plots import write_figure  # matplotlib comes with the extra "training"

        write_figure(arguments.output / "accuracy.png", cranial, chosen, OURS, TITLES)
    if OURS in chosen and arguments.check:
        check = functools.partial(second_opinion.disagreement, row=OURS)
        apart = [found for found in contest.each(check, jobs, arguments.jobs, lambda found, fraction: None) if found]
        largest = {name: max(found[name] for found in apart) for name in apart[0]} if apart else {}
        print(f"SimpleITK's measures differ on {len(apart)} implants by at most {largest}")
    if OURS in chosen and arguments.layers:
        find = functools.partial(layers.of_job, row=OURS)
        errors = contest.each(find, jobs, arguments.jobs, lambda found, fraction: None)
        print(f"Errors of {OURS} in mm, outwards positive\n\n{layers.as_text(records, errors)}\n")
    if OURS in chosen and not arguments.no_pictures:
        draw(arguments, jobs, records)
    return 0


def draw(arguments: argparse.Namespace, jobs: list[Job], records: list[dict]) -> None:
    """Write the strips of ours, the page of all and the sheet of the worst."""
    draw_one = functools.partial(pictures.draw_job, row=OURS)
    files = contest.each(draw_one, jobs, arguments.jobs, lambda file, fraction: say(f"{fraction:4.0%} {file.name}"))
    strips = list(zip(records, files, strict=True))
    page, sheet = arguments.output / "pictures.html", arguments.output / "worst.png"
    pictures.write_page(page, strips, OURS)
    cranial = [pair for pair in strips if not pair[0]["facial"]]
    if cranial:
        pictures.write_contact_sheet(sheet, cranial, OURS)
    say(f"written: {page} and {sheet}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
