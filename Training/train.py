"""Train SkullVAE: the three stages of arXiv 2209.14783, or all of them.

    python Training/train.py all --data FOLDER --output RUN
    Slicer --no-main-window --python-script Training/train.py -- all --data FOLDER --output RUN

Research software, not a medical device, not for clinical use.
"""

import os
import sys


def main(argv):
    """Parse the command line and run; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    import argparse
    import dataclasses
    import json
    from pathlib import Path

    from SkullVAELib.errors import SkullVAEError

    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=("vae", "decoder", "aggregate", "all"))
    parser.add_argument("--data", required=True, type=Path, help="complete skulls, a challenge's folder or a JSON list")
    parser.add_argument("--output", required=True, type=Path, help="the run's folder")
    parser.add_argument("--holdout", default="", help="individuals to measure on and never train on, comma-separated")
    parser.add_argument("--config", type=Path, help="JSON file of options; see TrainingOptions and Architecture")
    parser.add_argument("--beta", type=float, help="weight of the KL term")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, help="steps of each trained stage")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--start-from", type=Path, metavar="RUN", help="begin with the weights of another run's folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    arguments = parser.parse_args(argv)
    try:
        from SkullVAELib.experiment import STAGES, run
        from SkullVAELib.networks import Architecture
        from SkullVAELib.training import TrainingOptions

        try:
            config = json.loads(arguments.config.read_text()) if arguments.config else {}
            names = {field.name for field in dataclasses.fields(Architecture)}
            shape = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in names}
            options = {k: v for k, v in config.items() if k not in names}
            options.update(
                {k: getattr(arguments, k) for k in ("beta", "seed", "threads") if getattr(arguments, k) is not None}
            )
            if arguments.steps is not None:
                options.update(vae_steps=arguments.steps, decoder_steps=arguments.steps)
            architecture, options = Architecture(**shape), TrainingOptions(**options)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SkullVAEError(f"The options cannot be used: {error}", "Correct --config") from error
        stages = STAGES if arguments.stage == "all" else (arguments.stage,)
        holdout = tuple(name for name in arguments.holdout.split(",") if name)
        written = run(
            arguments.data,
            arguments.output,
            stages,
            architecture,
            options,
            holdout,
            arguments.resume,
            arguments.start_from,
            show,
            say,
        )
        say(f"written: {written}")
        return 0
    except SkullVAEError as error:
        say(f"train.py: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; --resume continues from the last checkpoint")
        return 130


def say(line):
    """A line for the user, clear of the progress bar."""
    print(line, file=sys.stderr, flush=True)


def show(row):
    """Progress of a stage: a bar on a terminal, a line at each evaluation everywhere."""
    share = row["step"] / row["steps"]
    left = row["seconds"] / max(row["step"], 1) * (row["steps"] - row["step"])
    rate = row["step"] / max(row["seconds"], 1e-6)
    text = f"{row['stage']} {row['step']}/{row['steps']}  loss {row['loss']:.1f}  {rate:.2f} steps/s, "
    text += f"{left / 60:.0f} min left"
    if sys.stderr.isatty():
        bar = "#" * round(24 * share)
        print(f"\r{bar:<24} {text}   ", end="", file=sys.stderr, flush=True)
    if "skull_dice" in row:
        figures = [f"{k.replace('_', ' ')} {row[k]:.3f}" for k in row if k.endswith("_dice")]
        say(("\n" if sys.stderr.isatty() else "") + text + "  " + ", ".join(figures))


def arguments_after_dashes(argv):
    """Slicer keeps its own options before "--"; plain Python has no "--"."""
    return argv[argv.index("--") + 1 :] if "--" in argv else argv[1:]


if __name__ == "__main__":
    # Slicer runs this file by exec: __file__ is then not always this one, and without sys.exit it would stay open.
    here = os.path.dirname(os.path.abspath(globals().get("__file__", sys.argv[0])))
    sys.path.insert(0, os.path.dirname(here))
    sys.exit(main(arguments_after_dashes(sys.argv)))
