"""Report on a training run: the paper's figures for your own run, and further diagnostics.

    python Training/report.py RUN

writes RUN/report/report.html (one self-contained file), its figures as PNG and its numbers as report.json.

Research software, not a medical device, not for clinical use.
"""

import os
import sys


def main(argv):
    """Parse the command line and write the report; returns the exit code: 0 done, 2 invalid input, 130 interrupted."""
    import argparse
    from pathlib import Path

    from SkullVAELib.core.errors import explain

    parser = argparse.ArgumentParser(
        prog="report.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder that train.py was given as --output")
    parser.add_argument("-o", "--output", type=Path, help="folder for the report (default: RUN/report)")
    arguments = parser.parse_args(argv)
    try:
        from SkullVAELib.analysis.html_report import write_training_report

        written = write_training_report(
            arguments.run, arguments.output, lambda line: print(line, file=sys.stderr, flush=True)
        )
        print(f"written: {written}", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("SKULLVAE_DEBUG", "") not in ("", "0"):
            raise
        print(f"report.py: {explain(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    # Slicer runs this file by exec: __file__ may then be another file, and without sys.exit Slicer would stay open.
    here = os.path.dirname(os.path.abspath(globals().get("__file__", sys.argv[0])))
    sys.path.insert(0, os.path.dirname(here))
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]))
