"""The licences of what `pip install skullvae` brings, as Docs/licences.md: `make licences`, after `make lock`.

pip-licenses reads them from what is installed. Of the packages in requirements.lock, CUDA's are installed with a plain
torch on Linux alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "Docs" / "licences.md"

# Installed with a plain torch on Linux, and without it nowhere: NVIDIA's own terms, triton's MIT.
OF_CUDA = ("nvidia-", "cuda-", "triton")

TEXT = """# Licences of the dependencies

SkullVAE's code and weights are under the Apache License 2.0. What `pip install` brings, at the versions of
`requirements.lock`, as each package's own metadata say; made by `make licences`.

| package | version | licence |
|---|---|---|
{rows}

A plain `pip install torch` on Linux also brings NVIDIA's CUDA libraries (`nvidia-*`, `cuda-*`: NVIDIA's own terms, free
to use, not open source) and triton (MIT). A CPU build of torch needs none of them. SkullVAE distributes none of these
packages: pip fetches them from their makers. The wheels of numpy and scipy carry OpenBLAS (BSD) and GCC's runtime (GPL
with the exception that lets any program use it).

For tests alone, and in no release: PySide6-Essentials and shiboken6 (LGPL-3.0), slicer-core (Slicer's BSD-style
licence), and the tools named in `pyproject.toml`'s extras.
"""


def locked() -> dict[str, str]:
    """Names, normalised, and versions of the packages in requirements.lock."""
    return dict(
        re.findall(r"^([a-z0-9-]+)==([^ \\\n]+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    )


def main() -> int:
    """Write the list; 1 when a package is not installed."""
    names = [name for name in locked() if not name.startswith(OF_CUDA)]
    tool = Path(sys.executable).with_name("pip-licenses")
    command = [tool, "--from=mixed", "--with-system", "--format=json", "--packages", *names]
    content = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout)
    found = {re.sub(r"[-_.]+", "-", entry["Name"]).lower(): entry for entry in content}
    missing = sorted(set(names) - set(found))
    if missing:
        print(f"Not installed: {', '.join(missing)}. Run make venv first.", file=sys.stderr)
        return 1
    rows = []
    for name in sorted(found):
        # Some give the whole text as their licence's name: its first line names it.
        licence = found[name]["License"].strip().splitlines()[0]
        rows.append(f"| {name} | {found[name]['Version'].partition('+')[0]} | {licence} |")
    TARGET.write_text(TEXT.format(rows="\n".join(rows)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
