"""Record cases of a checkout of SkullVAE into a folder.

A recording holds recording.json, inputs/ (what the cases were given), a folder for each case, log/ (what the commands
printed) and kept/ (interrupted trainings for the case `earlier` of this and later versions).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .cases import CASES, SKULLBREAK_FILE
from .comparison import RECORD
from .inputs import RecordingError, copy, fetch_patient, make_inputs
from .process import PIN, CaseRun, Recording

PACKAGES = ("numpy", "scipy", "torch", "monai", "SimpleITK", "vtk", "nibabel", "pillow", "safetensors", "matplotlib")
"""What decides on the last bits beside the library itself; compare warns where two recordings differ in them."""


def record(
    checkout: Path,
    folder: Path,
    skulls: Path | None,
    cases: Sequence[str] = (),
    patient: Path | None = None,
    earlier: Path | None = None,
    jobs: int = 1,
    log: Callable[[str], None] = lambda line: None,
) -> bool:
    """Record cases of a checkout into a folder; whether every command ended as it should.

    A case that was recorded before is recorded anew; the others in the folder stay.

    Parameters
    ----------
    checkout
        The version to record.
    folder
        New folder, or a recording.
    skulls
        Folder of real skulls with complete/ and defective/.
    cases
        Names out of CASES; all, where none are named.
    patient
        The patient's CT of `make demo`; fetched, where it is not named.
    earlier
        Recording of an earlier version, whose models the case `earlier` loads; this recording, where it is not named.
    jobs
        Cases at once.
    log
        Takes a line for each case.

    Raises
    ------
    RecordingError
        When inputs are missing, or the checkout's library cannot be imported.
    """
    folder, checkout = folder.absolute(), checkout.absolute()
    names = [name for name in CASES if not cases or name in cases]
    if unknown := sorted({*cases} - {*CASES}):
        raise RecordingError(f"There is no case '{unknown[0]}'. Choose from {', '.join(CASES)}")
    if skulls is None and (blocked := [name for name in names if CASES[name].skulls]):
        raise RecordingError(
            f"{', '.join(blocked)} need real skulls. Name their folder with --skulls, or choose --cases"
        )
    for name in ("SkullVAELib/__init__.py", "Training/train.py"):
        if not (checkout / name).is_file():
            raise RecordingError(f"'{checkout}' is no checkout of SkullVAE: it has no {name}")
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise RecordingError(f"'{folder}' holds something else than a recording. Choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="skullvae-versions-") as place:
        pin, empty = Path(place) / "pin", Path(place) / "empty"
        pin.mkdir()
        empty.mkdir()
        (pin / "sitecustomize.py").write_text(PIN, encoding="utf-8")
        skulls = None if skulls is None else skulls.absolute()
        earlier = folder if earlier is None else earlier.absolute()
        recording = Recording(folder, checkout, skulls, earlier, pin=pin, empty=empty)
        recording.check()
        about = _about(recording)
        if (folder / RECORD).is_file():
            about = json.loads((folder / RECORD).read_text(encoding="utf-8")) | about
        _prepare(recording, names, patient, about)
        return _run_cases(recording, names, about, jobs, log)


def _about(recording: Recording) -> dict:
    """What the recording was made of."""
    from importlib import metadata

    def git(*arguments: str) -> str | None:
        child = subprocess.run(
            ["git", "-C", str(recording.checkout), *arguments], capture_output=True, text=True, encoding="utf-8"
        )
        return child.stdout.strip() if child.returncode == 0 else None

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "changes": bool(changes),
        "python": sys.version.split()[0],
        "packages": versions,
    }


def _prepare(recording: Recording, names: Sequence[str], patient: Path | None, about: dict) -> None:
    """Make the inputs that are not there yet, and note the SHA-256 of the one that is used where it lies."""
    about.setdefault("cases", {})
    sources = about.setdefault("sources", {})
    if any(CASES[name].patient for name in names):
        ct = recording.inputs / "patient_ct.nrrd"
        if not ct.is_file():
            ct.parent.mkdir(exist_ok=True)
            if patient is None:
                fetch_patient(ct)
            else:
                copy(patient, ct)
    if any(CASES[name].skulls for name in names):
        assert recording.skulls is not None
        if not (recording.inputs / "canonical.json").is_file():
            make_inputs(recording.inputs, recording.skulls)
    if "skullbreak" in names:
        assert recording.skulls is not None
        sources[SKULLBREAK_FILE] = hashlib.sha256((recording.skulls / SKULLBREAK_FILE).read_bytes()).hexdigest()


def _run_cases(recording: Recording, names: Sequence[str], about: dict, jobs: int, log: Callable[[str], None]) -> bool:
    """Record the cases, each when those that it needs are recorded; note each in the recording's file as it ends."""
    lock, begun = threading.Lock(), time.monotonic()
    waiting: dict[str, Future] = {}

    def one(name: str) -> bool:
        for needed in CASES[name].needs:
            if needed in waiting:
                waiting[needed].result()
        start = time.monotonic()
        shutil.rmtree(recording.folder / name, ignore_errors=True)
        (recording.folder / name).mkdir()
        case, error = CaseRun(recording, name), None
        try:
            CASES[name].run(case)
        except Exception as problem:  # the other cases can still be recorded
            error = f"{problem}" if isinstance(problem, RecordingError) else repr(problem)
        seconds = round(time.monotonic() - start, 1)
        with lock:
            version = {key: about[key] for key in ("commit", "changes")}
            about["cases"][name] = {**version, "seconds": seconds, "error": error, "commands": case.commands}
            (recording.folder / RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            log(f"{name:<11}{seconds:>7.1f} s   {error or CASES[name].about}")
        return error is None

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for name in names:  # in an order in which what is needed comes first, so that nothing waits for ever
            waiting[name] = pool.submit(one, name)
        fine = all(future.result() for future in waiting.values())
    log(f"{len(names)} cases in {time.monotonic() - begun:.0f} s: '{recording.folder}'")
    return fine
