"""The command `skullvae latent`: encodes, completes, interpolates and samples in the latent space."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from SkullVAELib.cli.arguments import add_device_option, add_model_option
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.parsing import count, number
from SkullVAELib.core.version import NOTICE
from SkullVAELib.data.defect_kinds import CLASSES


def add_parser(commands) -> None:
    """Add `latent` and its own commands to the command line."""
    latent = commands.add_parser(
        "latent",
        help="encode, complete, interpolate and sample skulls in the latent space",
        description="Works in the latent space of a model of this method or of the paper's (arXiv 2209.14783)."
        f" {NOTICE}",
    )
    actions = latent.add_subparsers(dest="action", required=True, metavar="ACTION")

    encode = actions.add_parser("encode", help="write a table of the latents of a folder of skulls")
    encode.add_argument("input", metavar="DIR", type=Path, help="skulls in any layout that training supports")
    encode.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="CSV file to write")
    encode.set_defaults(run=run_encode)

    complete = actions.add_parser("complete", help="decode z + gamma * DEV on the grid of the input")
    complete.add_argument("input", metavar="INPUT", type=Path, help="a skull segmentation or a CT in HU")
    complete.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="image file to write")
    complete.add_argument(
        "--gamma",
        metavar="G",
        type=number,
        default=1.0,
        help="factor of DEV: 0 reconstructs, 1 completes (default), values between interpolate",
    )
    complete.add_argument(
        "--kind", metavar="KIND", default=CLASSES[0], help=f"class of the defect: {' or '.join(CLASSES)}"
    )
    complete.add_argument(
        "--deviation",
        choices=("class", "neighbours"),
        default="class",
        help="DEV of the whole class (default), or of the five training skulls nearest in the latent space",
    )
    complete.set_defaults(run=run_complete)

    between = actions.add_parser("interpolate", help="decode latents between two skulls on the grid of the first")
    between.add_argument("first", metavar="A", type=Path, help="image of the first skull")
    between.add_argument("second", metavar="B", type=Path, help="image of the second skull")
    between.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the images")
    between.add_argument(
        "--steps", metavar="N", type=count, default=5, help="number of images from A to B, both included (default 5)"
    )
    between.set_defaults(run=run_interpolate)

    draw = actions.add_parser("sample", help="decode random latents")
    draw.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the images")
    draw.add_argument("--count", metavar="N", type=count, default=5, help="number of skulls (default 5)")
    draw.add_argument("--seed", metavar="N", type=count, default=0, help="seed of the random numbers (default 0)")
    draw.add_argument(
        "--prior",
        choices=("aggregated", "standard"),
        default="aggregated",
        help="distribution of the latents: that of the training skulls (default), or N(0, I)",
    )
    draw.set_defaults(run=run_sample)
    for action in (encode, complete, between, draw):
        add_model_option(action)
        add_device_option(action)


def _space(options: argparse.Namespace):
    from SkullVAELib.completion.latent_space import LatentSpace
    from SkullVAELib.vae.checkpoint import load_any_model
    from SkullVAELib.vae.default_model import default_model_path
    from SkullVAELib.vae.device import resolve_device

    return LatentSpace(load_any_model(options.model or default_model_path(), resolve_device(options.device)))


def run_encode(options: argparse.Namespace) -> int:
    """Run `latent encode`: one row per file with individual, class, split, KL in nats, posterior means and sigmas."""
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
    """Run `latent complete`: write the decoded skull (0 and 1) on the grid of the input."""
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
    """Run `latent interpolate`: write N images 00.nrrd, 01.nrrd ... at equal steps between two latents."""
    from SkullVAELib.core.atomic_output import publish_files
    from SkullVAELib.io.images import read_volume, write_volume

    if options.steps < 2:
        raise SkullVAEError(f"--steps {options.steps} is too small", "Use 2 or more, A and B included")
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
    """Run `latent sample`: write N images 00.nrrd, 01.nrrd ... of random latents."""
    from SkullVAELib.core.atomic_output import publish_files
    from SkullVAELib.io.images import write_volume

    if options.count < 1:
        raise SkullVAEError(f"--count {options.count} is too small", "Use 1 or more")
    space = _space(options)
    names = [f"{number:02d}.nrrd" for number in range(options.count)]
    with publish_files(options.output, names) as staging:
        for number, name in enumerate(names):
            write_volume(space.sample(options.seed + number, options.prior), staging / name)
    return 0
