"""Train SkullVAE: the three stages of arXiv 2209.14783, or all of them.

    python Training/train.py all --data FOLDER --output RUN
    torchrun --nproc-per-node 2 Training/train.py all --data FOLDER --output RUN
    Slicer --no-main-window --python-script Training/train.py -- all --data FOLDER --output RUN

Research software, not a medical device, not for clinical use.
"""

import os
import sys
import time


def main(argv):
    """Parse the command line and run; returns the exit code: 0 done, 2 invalid input, 130 interrupted."""
    try:
        return train(argv)
    except KeyboardInterrupt:
        print_line("interrupted; --resume continues from the last checkpoint")
        return 130
    except Exception as error:
        if os.environ.get("SKULLVAE_DEBUG", "") not in ("", "0"):
            import traceback

            traceback.print_exc()
        elif os.environ.get("RANK", "0") != "0":
            # When all processes fail alike, rank 0 alone reports it: torchrun ends the others once it has ended.
            time.sleep(5)
        print_line(f"train.py: {explained(error)}")
        return 2


def train(argv):
    """As main, but raises exceptions."""
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.error = lambda message: parser.exit(2, f"train.py: {message}; see train.py --help\n")
    parser.add_argument("stage", choices=("vae", "decoder", "aggregate", "all"))
    parser.add_argument(
        "--data", required=True, type=Path, help="folder of skulls (plain or of an AutoImplant challenge), or JSON list"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the run")
    parser.add_argument("--holdout", default="", help="individuals to hold out from training, comma-separated")
    parser.add_argument(
        "--config", default="canonical", help="canonical (our method), paper, or a JSON file of options"
    )
    parser.add_argument("--beta", type=float, help="weight of the KL divergence")
    parser.add_argument(
        "--betas", default="", help="several betas, comma-separated; each gets all stages and a folder beta_*"
    )
    parser.add_argument(
        "--decoders",
        default="",
        help="additional decoders to train: raw,standardised,mean,sampled,fast; fast:60 trains for 60 epochs",
    )
    parser.add_argument("--grid", help="grid of the networks, for example 64,64,32")
    parser.add_argument("--seed", type=int, help="seed of weights, data order, defects and noise")
    parser.add_argument("--steps", type=int, help="steps of each stage (our method)")
    parser.add_argument(
        "--epochs", help="epochs of the VAE and of the decoder, for example 200,1200 (the paper's method)"
    )
    parser.add_argument("--threads", type=int, help="processor threads of torch")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device of torch (default: %(default)s)"
    )
    parser.add_argument("--start-from", type=Path, metavar="RUN", help="folder of a run whose weights to start from")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    arguments = parser.parse_args(argv)
    from SkullVAELib.core.parsing import numbers, words
    from SkullVAELib.training.config import parse_decoders
    from SkullVAELib.training.distributed import process_group
    from SkullVAELib.training.run import STAGES, TrainingPlan, run_training

    architecture, options = settings(arguments)
    plan = TrainingPlan(
        arguments.data,
        architecture,
        options,
        words(arguments.holdout),
        parse_decoders(arguments.decoders),
        arguments.start_from,
    )
    stages = STAGES if arguments.stage == "all" else (arguments.stage,)
    betas = numbers(arguments.betas, float, "--betas")
    with process_group(arguments.device) as group:
        log, report = (print_line, show) if group.leads else (lambda line: None, lambda row: None)
        written = run_training(plan, arguments.output, stages, betas, arguments.resume, group, report=report, log=log)
        log(f"written: {written}")
    return 0


def explained(error):
    """An exception as one line, what is wrong and what to do, even if the library cannot be imported."""
    try:
        from SkullVAELib.core.errors import explain
    except Exception:
        return error
    return explain(error)


def settings(arguments):
    """Architecture and options of the preset or file, changed by those of the command line."""
    from SkullVAELib.core.errors import SkullVAEError
    from SkullVAELib.core.parsing import numbers
    from SkullVAELib.training.config import read_configuration

    changes = {name: getattr(arguments, name) for name in ("beta", "seed", "threads")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if arguments.steps is not None:
        changes.update(vae_steps=arguments.steps, decoder_steps=arguments.steps)
    if arguments.grid:
        changes["grid_shape"] = numbers(arguments.grid, int, "--grid")
    if arguments.epochs:
        epochs = numbers(arguments.epochs, int, "--epochs")
        if len(epochs) != 2:
            raise SkullVAEError(
                f"--epochs '{arguments.epochs}' is not two numbers", "Give one for each stage, for example 200,1200"
            )
        changes.update(vae_epochs=epochs[0], decoder_epochs=epochs[1])
    return read_configuration(arguments.config, changes)


def print_line(line):
    """Print a line for the user."""
    print(line, file=sys.stderr, flush=True)


def show(row):
    """Show progress of a stage: a bar if on a terminal, and a line at each evaluation."""
    from SkullVAELib.core.progress import duration

    rate = row["samples_per_second"]
    left = duration(row["seconds"] / row["step"] * (row["steps"] - row["step"]))
    text = f"{row['stage']} {row['step']}/{row['steps']}  loss {row['loss']:.1f}  {rate:.1f} skulls/s, {left} left"
    if sys.stderr.isatty():
        bar = "#" * round(24 * row["step"] / row["steps"])
        print(f"\r{bar:<24} {text}   ", end="", file=sys.stderr, flush=True)
    if "skull_dice" in row:
        scores = [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in row if name.endswith("_dice")]
        print_line(("\n" if sys.stderr.isatty() else "") + text + "  " + ", ".join(scores))


def arguments_after_dashes(argv):
    """The arguments of this script: those after "--" where Slicer runs it, else all."""
    return argv[argv.index("--") + 1 :] if "--" in argv else argv[1:]


if __name__ == "__main__":
    # Slicer runs this file by exec: __file__ may then be another file, and without sys.exit Slicer would stay open.
    here = os.path.dirname(os.path.abspath(globals().get("__file__", sys.argv[0])))
    sys.path.insert(0, os.path.dirname(here))
    sys.exit(main(arguments_after_dashes(sys.argv)))
