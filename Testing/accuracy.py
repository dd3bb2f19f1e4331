"""Accuracy of implants on real skulls that were held out: ours and every cheaper way, on the same cases in one run.

    make bench-accuracy DATA=FOLDER [ARGS="--evaluation FOLDER2 --craniotomy DEFECTIVE FLAP"]
    python Testing/accuracy.py --data FOLDER --models FOLDER      with the rows of trained networks, see below
    python Testing/accuracy.py --data FOLDER --thin 3             a third of the cases
    python Testing/accuracy.py --data FOLDER --against accuracy.json

Five folds by individual: a fold's mean skull is that of all other skulls of DATA, averages included. Individuals of
--evaluation are measured with the mean skull of all of DATA. Every row gets the same defective skulls; cheaper rows get
every fourth case. Rows with a network need models of Training/train.py with --holdout. Mean skulls and finished cases
are kept in --output, so that an interrupted run goes on. Docs/explanation/accuracy.md has the rows and measures.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import against, contest, craniotomy, folds, layers, pictures, plan, rows, second_opinion, tables
from benchmark.cases import PLACES, places_of, stored_obliquely
from benchmark.contest import Job
from benchmark.rows import ABLATION, DEFAULT, OURS, TITLES, TRAINED, Fold

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.memory import keep_freed_memory
from SkullVAELib.core.version import __version__
from SkullVAELib.data.datasets import SkullCase, find_cases
from SkullVAELib.vae.checkpoint import load_model
from SkullVAELib.vae.default_model import default_model_path

__all__ = ["PLACES", "stored_obliquely"]

GROUPS = {
    "CT, cross-validated": (True, False),
    "MRI-based, cross-validated": (False, False),
    "CT, evaluation set": (True, True),
    "MRI-based, evaluation set": (False, True),
}
"""Groups of skulls that are reported apart: from CT or not, of the evaluation set or not."""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of complete skulls")
    parser.add_argument("--evaluation", type=Path, help="folder of complete skulls that are only measured")
    parser.add_argument("--models", type=Path, help="trained models that held skulls out: a file, or a folder of them")
    parser.add_argument("--folds", type=Path, help="folder of the mean skulls of folds; default OUTPUT/folds")
    parser.add_argument("--output", type=Path, default=Path("bench/accuracy"))
    parser.add_argument(
        "--rows",
        default="",
        help=f"rows, comma-separated: {', '.join(TITLES)}; priors with -rim and -warp for doing without; or 'ablation'."
        f" Default: {','.join(DEFAULT)}, and {','.join(TRAINED)} with --models",
    )
    parser.add_argument("--individuals", default="", help="skulls to measure on; default all")
    parser.add_argument("--places", default="", help="numbers of defects, comma-separated, of all skulls alike")
    parser.add_argument("--ct", default=",".join(plan.CT_SKULLS), help="individuals segmented on CT, comma-separated")
    parser.add_argument("--thin", type=int, default=1, metavar="N", help="every N-th case of a skull")
    parser.add_argument(
        "--baselines-every", type=int, default=4, metavar="N", help="other rows on every N-th case only (default 4)"
    )
    parser.add_argument("--slices", default="1,2.5,5", help="thicknesses in mm, comma-separated; empty for none")
    parser.add_argument(
        "--craniotomy", nargs=2, type=Path, metavar=("DEFECTIVE", "FLAP"), help="a real patient's skull and bone flap"
    )
    parser.add_argument("--craniotomy-model", type=Path, help="default: the model that ships")
    parser.add_argument("--against", type=Path, metavar="accuracy.json", help="result of a former run to compare with")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--unet-minutes", type=float, default=30.0, help="training time of the U-Net row, each fold")
    parser.add_argument("--check", action="store_true", help="compute the measures of ours with SimpleITK, too")
    parser.add_argument("--layers", action="store_true", help="report the errors of ours by outer and inner table")
    parser.add_argument("--no-pictures", action="store_true", help="leave the page of pictures out")
    arguments = parser.parse_args(argv)
    if min(arguments.thin, arguments.baselines_every, arguments.jobs) < 1:
        parser.error("--thin, --baselines-every and --jobs must be 1 or more")
    return arguments


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


@dataclass(frozen=True)
class Individuals:
    """The skulls of both folders.

    Attributes
    ----------
    training : list of SkullCase
        All of --data, averages included.
    evaluation : list of SkullCase
        All individuals of --evaluation.
    asked : set of str
        Individuals to measure on.
    """

    training: list[SkullCase]
    evaluation: list[SkullCase]
    asked: set[str]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Individuals:
        """Raises SkullVAEError for an unknown individual, or one that is in both folders."""
        both = []
        for folder in (arguments.data, arguments.evaluation):
            cases = [] if folder is None else find_cases(folder)
            both.append([case for case in cases if case.defective is None])
        training, evaluation = both
        evaluation = [case for case in evaluation if not plan.is_average(case.individual)]
        names = {case.individual for case in training if not plan.is_average(case.individual)}
        if twice := sorted(names & {case.individual for case in evaluation}):
            raise SkullVAEError(f"'{twice[0]}' is in both folders", "Give --evaluation skulls that are not in --data")
        names |= {case.individual for case in evaluation}
        asked = set(_words(arguments.individuals)) or names
        if unknown := sorted(asked - names):
            raise SkullVAEError(f"There is no individual '{unknown[0]}'", f"Choose from {', '.join(sorted(names))}")
        return cls(training, evaluation, asked)

    @property
    def files(self) -> dict[str, Path]:
        return {case.individual: case.complete for case in (*self.training, *self.evaluation)}


def populations_of(arguments: argparse.Namespace, individuals: Individuals) -> dict[str, folds.Population]:
    """Individual -> the population that it is measured with; those of the evaluation set share one of all of --data."""
    folder = arguments.folds or arguments.output / "folds"
    found: dict[str, folds.Population] = {}
    ct = _words(arguments.ct)
    for number, names in enumerate(plan.folds_of((c.individual for c in individuals.training), ct), start=1):
        if individuals.asked & set(names):
            path = folder / f"fold{number}" / "model.safetensors"
            population = folds.population_of(individuals.training, names, path)
            found |= dict.fromkeys(names, population)
    names = tuple(case.individual for case in individuals.evaluation)
    if individuals.asked & set(names):
        population = folds.population_of(individuals.training, names, folder / "all" / "model.safetensors")
        found |= dict.fromkeys(names, population)
    return {name: population for name, population in found.items() if name in individuals.asked}


def trained_models(arguments: argparse.Namespace, individuals: Individuals, chosen: Sequence[str]) -> dict[str, Path]:
    """Individual -> a trained model that never saw it.

    Raises SkullVAEError when a row needs a network and there is none, or none for a skull that was asked for by name.
    """
    needing = [row for row in chosen if rows.needs_network(row)]
    if not needing:
        return {}
    files: list[Path] = []
    if arguments.models is not None:
        folder = arguments.models
        files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else [folder]
        files = [file for file in files if file.name == "model.safetensors" or file.parent == folder or file == folder]
    models = {}
    for model in files:
        if contest.provenance_of(model).get("networks") == "untrained":
            raise SkullVAEError(
                f"The row '{needing[0]}' needs trained networks, which '{model}' does not have",
                "Give models of Training/train.py with --holdout: --models FOLDER",
            )
    cases = [*individuals.training, *individuals.evaluation]
    models = contest.match_models(files, [case for case in cases if case.individual in individuals.asked])
    missing = sorted(individuals.asked - set(models))
    if not models or (missing and arguments.individuals):
        raise SkullVAEError(
            f"The row '{needing[0]}' needs a trained model that held out '{missing[0]}'",
            f"Train one with Training/train.py all --holdout {missing[0]}, and give it by --models",
        )
    return models


def jobs_of(
    arguments: argparse.Namespace, chosen: tuple[str, ...], slices: Sequence[float] = (), every: int = 1
) -> list[Job]:
    """The cases to run, skull by skull; builds the mean skulls that are missing.

    slices: thicknesses in mm at which one case of each skull is run, too; every: rows but ours are run on every n-th
    case alone.
    """
    individuals = Individuals.of(arguments)
    trained = trained_models(arguments, individuals, chosen)
    populations = populations_of(arguments, individuals)
    missing = list(dict.fromkeys(populations.values()))
    folds.build_all(missing, any(map(rows.is_fitted, chosen)), arguments.jobs, say)
    ct, files, jobs = _words(arguments.ct), individuals.files, []
    for group, evaluation in ((individuals.training, False), (individuals.evaluation, True)):
        names = sorted({case.individual for case in group if not plan.is_average(case.individual)})
        flat = {name for name in names if plan.is_vault_only(files[name])}
        planned = plan.plan_of(names, flat, ct)
        for turn, name in enumerate(names):
            if name not in populations:
                continue
            population = populations[name]
            fold = Fold(population.path, population.files, population.path.parent, trained.get(name))
            possible = tuple(row for row in chosen if not rows.needs_network(row) or fold.trained is not None)
            job = functools.partial(Job, files[name], name, fold=fold, output=arguments.output)
            job = functools.partial(job, ct=name in ct, evaluation=evaluation)
            numbers = planned[name]
            if arguments.places:
                asked = [int(number) for number in _words(arguments.places)]
                numbers = tuple(number for number in asked if number in places_of(name))
            for position, number in enumerate(plan.thinned(numbers, arguments.thin, turn)):
                full = (position + turn) % every == 0
                jobs.append(job(number, possible if full else tuple(row for row in possible if row == OURS)))
            in_slices = turn % arguments.thin == 0 and (name in ct or turn % plan.SLICES_EVERY == 0)
            if slices and OURS in chosen and (in_slices or arguments.individuals):
                jobs += [job(numbers[0], (OURS,), slices_mm=thickness) for thickness in slices]
    return [job for job in jobs if job.rows]


def measure_ours(argv: list[str], program: str, work: Callable[[Job], dict]) -> tuple[argparse.Namespace, list[dict]]:
    """What work(job) gives for every case of ours under the command line of this benchmark, for another program.

    The list is empty where the command line names nothing that can be measured, which is said.
    """
    arguments = parse(argv)
    try:
        jobs = jobs_of(arguments, (OURS,))
    except SkullVAEError as error:
        say(f"{program}: {error}")
        return arguments, []
    return arguments, contest.each(
        work, jobs, arguments.jobs, lambda record, fraction: say(f"{fraction:4.0%} {record['individual']}")
    )


def progress_line(record: dict, fraction: float) -> str:
    """A case in one line: DSC and the outer table's error of every row."""
    scores = []
    for row, figures in record["rows"].items():
        distance = figures["outer_mm"]
        dsc = f"{figures['dsc']:.3f}/" if "dsc" in figures else ""
        scores.append(f"{row} {dsc}{'-' if distance is None else f'{distance:.2f}'}")
    thick = "" if record["slices_mm"] is None else f", slices {record['slices_mm']:g} mm"
    defect = record["defect"] + thick
    return f"{fraction:4.0%} {record['individual']:16}{defect:44}{record['truth_ml']:6.1f} ml  " + "  ".join(scores)


def main(argv: list[str]) -> int:
    """Run the benchmark; 0 done, 2 bad input."""
    arguments = parse(argv)
    try:
        return run(arguments)
    except SkullVAEError as error:
        say(f"accuracy.py: {error}")
        return 2


def rows_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The rows to run. Raises SkullVAEError for an unknown one."""
    asked = _words(arguments.rows) or [*DEFAULT, *(TRAINED if arguments.models else ())]
    chosen = tuple(dict.fromkeys(ABLATION if asked == ["ablation"] else asked))
    for row in chosen:
        rows.method(row)
    return chosen


def run(arguments: argparse.Namespace) -> int:
    """As main, but raises what goes wrong."""
    chosen = rows_of(arguments)
    former = against.read_former(arguments.against) if arguments.against else None
    jobs = jobs_of(arguments, chosen, [float(mm) for mm in _words(arguments.slices)], arguments.baselines_every)
    prepare = functools.partial(rows.prepare_all, chosen=chosen, minutes=arguments.unet_minutes)
    contest.each(
        prepare,
        list(dict.fromkeys(replace(job.fold, trained=None) for job in jobs)),
        arguments.jobs,
        lambda fold, fraction: None,
    )
    records = contest.each(
        contest.run_job, jobs, arguments.jobs, lambda record, fraction: say(progress_line(record, fraction))
    )
    result: dict = {"version": __version__, "ours": OURS, "rows": list(chosen), "models": {}}
    for path in dict.fromkeys(path for job in jobs for path in (job.fold.model, job.fold.trained) if path):
        provenance = contest.provenance_of(path)
        result["models"][f"{path.parent.name}/{path.name}"] = {
            "sha256": contest.file_sha256(path),
            **{key: provenance.get(key) for key in ("networks", "holdout", "options")},
        }
    text = report(result, records, chosen)
    if former is not None:
        result["against"] = against.compare(records, OURS, *former)
        text.append(against.as_text(result["against"]))
    if arguments.craniotomy:
        keep_freed_memory()
        model = load_model(arguments.craniotomy_model or default_model_path())
        result["craniotomy"] = craniotomy.run(*arguments.craniotomy, model, OURS)
        text.append(craniotomy.as_text(result["craniotomy"]) + "\n")
    result["cases"] = records
    for name, content in (("accuracy.json", json.dumps(result, indent=1)), ("accuracy.md", "\n".join(text))):
        with atomic_file(arguments.output / name) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
        say(f"written: {arguments.output / name}")
    print("\n".join(text))
    masks = [(job, record) for job, record in zip(jobs, records, strict=True) if OURS in job.rows]
    masks = [(job, record) for job, record in masks if job.slices_mm is None]
    if masks:
        inspect(arguments, chosen, *(list(part) for part in zip(*masks, strict=True)))
    return 0


def report(result: dict, records: list[dict], chosen: tuple[str, ...]) -> list[str]:
    """Statistics of all groups of skulls, put into a result; returns them as Markdown."""
    text = []
    for title, (ct, evaluation) in GROUPS.items():
        group = [r for r in records if (r["ct"], r["evaluation"], r["facial"]) == (ct, evaluation, False)]
        whole = [record for record in group if record["slices_mm"] is None]
        thick = [record for record in group if record["slices_mm"] is not None]
        if whole:
            result[title] = tables.report(whole, chosen, OURS, TITLES)
            count = len({record["individual"] for record in whole})
            text += [f"## {title}: {len(whole)} defects, n = {count} skulls\n", tables.as_text(result[title], OURS)]
        if thick:
            result[f"slices, {title}"] = tables.slices_report(thick, OURS)
            text.append(tables.slices_as_text(result[f"slices, {title}"], title))
    if facial := [record for record in records if record["facial"]]:
        result["facial"] = tables.report(facial, chosen, OURS, TITLES)
        text += ["## Half of the face\n", tables.as_text(result["facial"], OURS)]
    return text


def inspect(arguments: argparse.Namespace, chosen: tuple[str, ...], jobs: list[Job], records: list[dict]) -> None:
    """The figures, and what is asked for of ours: a second computation, errors by table, pictures."""
    if any(not record["facial"] for record in records):
        from benchmark import plots  # matplotlib comes with the extra "training"

        cranial = [record for record in records if not record["facial"]]
        plots.write_figure(arguments.output / "accuracy.png", cranial, chosen, OURS, TITLES)
        plots.write_errors(arguments.output / "errors.png", cranial, OURS)
    if arguments.check:
        check = functools.partial(second_opinion.disagreement, row=OURS)
        apart = [found for found in contest.each(check, jobs, arguments.jobs, lambda found, fraction: None) if found]
        largest = {name: max(found[name] for found in apart) for name in apart[0]} if apart else {}
        print(f"SimpleITK's measures differ on {len(apart)} implants by at most {largest}")
    if arguments.layers:
        find = functools.partial(layers.of_job, row=OURS)
        errors = contest.each(find, jobs, arguments.jobs, lambda found, fraction: None)
        print(f"Errors of {OURS} in mm, outwards positive\n\n{layers.as_text(records, errors)}\n")
    if not arguments.no_pictures:
        draw(arguments, jobs, records)


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
