"""The command `skullvae latent`: encode skulls to a table, complete, interpolate, draw."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from SkullVAELib import NOTICE
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import count, number


def add_parser(commands) -> None:
    """Add `latent` and its own commands to the command line."""
    latent = commands.add_parser(
        "latent",
        help="encode skulls, move in the latent space, decode",
        description=f"Works with a model's latents, our own model's or one of the paper's method. {NOTICE}",
    )
    actions = latent.add_subparsers(dest="action", required=True, metavar="ACTION")

    encode = actions.add_parser("encode", help="a table of the latents of a folder's skulls")
    encode.add_argument("input", metavar="DIR", type=Path, help="skulls in any layout that training reads")
    encode.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="CSV file to write")
    encode.set_defaults(run=run_encode)

    complete = actions.add_parser("complete", help="decode z + gamma * DEV onto the skull's own grid")
    complete.add_argument("input", metavar="INPUT", type=Path, help="a skull segmentation or a CT in HU")
    complete.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="image file to write")
    complete.add_argument(
        "--gamma", metavar="G", type=number, default=1.0, help="0 reconstructs, 1 completes (default), between: between"
    )
    complete.add_argument("--kind", metavar="KIND", default="cranial", help="class of the defect: cranial or facial")
    complete.add_argument(
        "--deviation",
        choices=("class", "neighbours"),
        default="class",
        help="DEV of the whole class (default), or of the five training skulls nearest in the latent space",
    )
    complete.set_defaults(run=run_complete)

    between = actions.add_parser("interpolate", help="decode latents between two skulls onto the first one's grid")
    between.add_argument("first", metavar="A", type=Path)
    between.add_argument("second", metavar="B", type=Path)
    between.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the images")
    between.add_argument("--steps", metavar="N", type=count, default=5, help="images from A to B (default 5)")
    between.set_defaults(run=run_interpolate)

    draw = actions.add_parser("sample", help="decode latents drawn at random")
    draw.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the images")
    draw.add_argument("--count", metavar="N", type=count, default=5, help="skulls (default 5)")
    draw.add_argument("--seed", metavar="N", type=count, default=0, help="another number, other skulls")
    draw.add_argument(
        "--prior",
        choices=("aggregated", "standard"),
        default="aggregated",
        help="draw from where the training skulls lie (default), or from N(0, I)",
    )
    draw.set_defaults(run=run_sample)
    for action in (encode, complete, between, draw):
        action.add_argument("--model", metavar="FILE", type=Path, help="model file instead of the shipped one")
        action.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where torch computes")


def _space(options: argparse.Namespace):
    from SkullVAELib.completion.latent_space import LatentSpace
    from SkullVAELib.vae.checkpoint import load_any_model
    from SkullVAELib.vae.default_model import default_model_path
    from SkullVAELib.vae.device import resolve_device

    return LatentSpace(load_any_model(options.model or default_model_path(), resolve_device(options.device)))


def run_encode(options: argparse.Namespace) -> int:
    """One row a file: whose skull, its class and split, the KL, the posterior's means and sigmas."""
    from SkullVAELib.core.atomic_output import atomic_file, check_not_input
    from SkullVAELib.core.console import progress_bar
    from SkullVAELib.data.datasets import find_cases
    from SkullVAELib.io.images import read_volume
    from SkullVAELib.training.losses import kl_divergence

    cases = find_cases(options.input)
    paths = [case.defective or case.complete for case in cases]
    check_not_input(options.output, paths)
    space = _space(options)
    size = space.model.architecture.latent_size
    head = ["file", "individual", "kind", "split", "kl_nats"]
    head += [f"mu_{n}" for n in range(size)] + [f"sigma_{n}" for n in range(size)]
    root = options.input if options.input.is_dir() else options.input.parent
    with progress_bar() as report, atomic_file(options.output) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(head)
            for number, (case, path) in enumerate(zip(cases, paths, strict=True)):
                report(f"encode {path.name}", number / len(cases))
                found = space.encode(read_volume(path))
                mu, sigma = found.mu, (0.5 * found.logvar).exp()
                kl = float(kl_divergence(mu, found.logvar).sum())
                name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
                numbers = [f"{value:.6g}" for value in (kl, *mu.tolist(), *sigma.tolist())]
                table.writerow([name, case.individual, case.kind, case.split or "", *numbers])
        report("done", 1.0)
    return 0


def run_complete(options: argparse.Namespace) -> int:
    """The decoded skull, 0 and 1, on the input's own grid."""
    from SkullVAELib.core.atomic_output import check_not_input
    from SkullVAELib.io.images import read_volume, volume_suffix, write_volume

    volume_suffix(options.output)
    volume = read_volume(options.input)
    check_not_input(options.output, [options.input])
    space = _space(options)
    found = space.encode(volume)
    z = space.complete(space.code(found), options.gamma, options.kind, options.deviation)
    write_volume(space.decode(z, found.place), options.output)
    return 0


def run_interpolate(options: argparse.Namespace) -> int:
    """N images 00.nrrd, 01.nrrd ... whose latents go from A's to B's in equal steps."""
    from SkullVAELib.core.atomic_output import publish_files
    from SkullVAELib.io.images import read_volume, write_volume

    if options.steps < 2:
        raise SkullVAEError(f"--steps is {options.steps}", "Take 2 or more, A and B included")
    volumes = [read_volume(path) for path in (options.first, options.second)]
    space = _space(options)
    first, second = (space.encode(volume) for volume in volumes)
    names = [f"{number:02d}.nrrd" for number in range(options.steps)]
    with publish_files(options.output, names, [options.first, options.second]) as staging:
        for number, name in enumerate(names):
            share = number / (options.steps - 1)
            z = (1 - share) * space.code(first) + share * space.code(second)
            write_volume(space.decode(z, first.place), staging / name)
    return 0


def run_sample(options: argparse.Namespace) -> int:
    """N images 00.nrrd, 01.nrrd ... of latents drawn at random."""
    from SkullVAELib.core.atomic_output import publish_files
    from SkullVAELib.io.images import write_volume

    if options.count < 1:
        raise SkullVAEError(f"--count is {options.count}", "Take 1 or more")
    space = _space(options)
    names = [f"{number:02d}.nrrd" for number in range(options.count)]
    with publish_files(options.output, names) as staging:
        for number, name in enumerate(names):
            write_volume(space.sample(options.seed + number, options.prior), staging / name)
    return 0
