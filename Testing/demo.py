"""Complete a real patient's skull, from download to picture: `make demo`.

The patient is the CT in Debian's package invesalius-examples (GPL-2): a head with a piece of the right frontal bone and
orbital rim missing. Where the package cannot be fetched, a generated skull stands in. Files land in demo/.
Further arguments go to the command line's `complete`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from SkullVAELib.core.errors import SkullVAEError  # noqa: E402
from SkullVAELib.core.files import CRANIUM_SHA256, file_sha256  # noqa: E402
from SkullVAELib.io.images import write_volume  # noqa: E402
from SkullVAELib.io.invesalius import read_inv3  # noqa: E402

PACKAGE = "invesalius-examples"
PROJECT = f"usr/share/doc/{PACKAGE}/examples/Cranium.inv3"


def run(command: list[str], folder: Path, timeout_s: int) -> bool:
    """Run a command quietly; whether it succeeded in time."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=timeout_s).returncode == 0
    except (subprocess.TimeoutExpired, OSError):
        return False


def fetch_package(folder: Path) -> bool:
    """Download and unpack the Debian package into `folder`, without root and without touching the system."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    download = ["apt-get", "-q", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User="]
    if not run([*download, "download", PACKAGE], folder, 180):
        # A fresh machine or container has no package lists yet: fetch them into the folder, not into the system.
        (folder / "state/lists/partial").mkdir(parents=True)
        (folder / "cache/archives/partial").mkdir(parents=True)
        download += ["-o", f"Dir::State::lists={folder}/state/lists", "-o", f"Dir::Cache={folder}/cache"]
        if not (run([*download, "update"], folder, 180) and run([*download, "download", PACKAGE], folder, 180)):
            return False
    packages = list(folder.glob(f"{PACKAGE}_*.deb"))
    return len(packages) == 1 and run(["dpkg", "-x", packages[0].name, "."], folder, 60)


def fetch_patient(destination: Path) -> bool:
    """Write the patient's CT (int16 HU) to `destination`; False, and one line that says so, where it cannot be had."""
    print(f"Fetching a patient's CT from the Debian package {PACKAGE} ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="skullvae-demo-") as folder:
        try:
            if fetch_package(Path(folder)):
                project = Path(folder) / PROJECT
                if not project.is_file() or file_sha256(project) != CRANIUM_SHA256:
                    raise SkullVAEError(f"{PACKAGE} holds another CT than the known one", "It is not used")
                write_volume(read_inv3(project), destination)
                return True
            print(f"The package {PACKAGE} cannot be fetched here; a generated skull is used instead.")
        except SkullVAEError as error:
            print(f"{error} A generated skull is used instead.")
    return False


def skullvae(*arguments: str | Path) -> int:
    """Run the library's command line as a user would, with its progress bar; its exit code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    return subprocess.run([sys.executable, "-m", "SkullVAELib", *map(str, arguments)], env=environment).returncode


def figures(report: dict) -> list[str]:
    """The report's numbers a reader looks for first, one a line; nested ones as 'thickness mean_mm'."""

    def flat(entries: dict, prefix: str = ""):
        for key, value in entries.items():
            if isinstance(value, dict) and key not in ("parameters", "additions"):
                yield from flat(value, f"{prefix}{key} ")
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                yield f"{prefix}{key}".replace("_", " "), value

    wanted = ("volume", "area", "thickness", "rim", "gap", "pieces", "total")
    return [f"  {name:<32}{value:10.4g}" for name, value in flat(report) if any(word in name for word in wanted)]


def main() -> int:
    """Fetch or generate a skull, complete it, and say where the results lie."""
    folder = ROOT / "demo"
    folder.mkdir(exist_ok=True)
    patient, sample = folder / "patient_ct.nrrd", folder / "generated_skull.nrrd"
    if patient.is_file():
        print("Using the patient's CT fetched earlier.", flush=True)
        source = patient
    elif fetch_patient(patient):
        source = patient
    else:
        source = sample
        if not sample.is_file() and (code := skullvae("sample", "-o", sample)):
            return code

    code = skullvae("complete", source, "-o", folder, *sys.argv[1:])
    if code not in (0, 3):
        return code
    print(f"\nInput    {source}")
    for label, name in (("Picture", "preview.png"), ("Mesh", "implant.stl"), ("Report", "report.json")):
        if (folder / name).is_file():
            print(f"{label:<9}{folder / name}")
    report = folder / "report.json"
    if report.is_file():
        print("\n".join(figures(json.loads(report.read_text(encoding="utf-8")))))
    return code


if __name__ == "__main__":
    sys.exit(main())
