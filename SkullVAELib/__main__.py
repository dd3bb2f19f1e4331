"""Entry point of `python -m SkullVAELib`."""

import sys

from SkullVAELib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
