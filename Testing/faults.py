"""What a run leaves when it is killed, out of memory, out of disk, interrupted, or not alone: `make faults`.

    make faults ARGS="--kills 60"

Runs of `skullvae complete`, `skullvae mesh` and Training/train.py on tiny heads are ended by SIGKILL, half of them at
random moments and half just before a random change of the output folder. After each kill every file there must be one
of the earlier run or one of the new, whole; report.json must stand for a whole set; and a following run must succeed
and clear up. The other faults must end with exit code 2 (signals: 130, 143), one sentence, and nothing left. Writes
faults/faults.json; exit code 1 when something was found.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import tiny

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_FORKING = multiprocessing.get_context("forkserver")
_PATIENCE = 600

# What differs between two runs of the same input; the versions tell the commit, which a campaign may outlast.
_UNSTABLE = ("seconds", "versions")


@dataclass
class Ended:
    """How a run ended: exit code (negative: the signal), what it said on stderr, seconds, changes of its folder."""

    code: int
    said: str
    seconds: float
    changes: int


@dataclass
class Job:
    """A command whose output folder is looked at after each fault.

    earlier, later: names, and digests of the contents, of the sets of files that two runs with different inputs write.
    """

    name: str
    program: str
    earlier_arguments: list[str]
    arguments: list[str]
    output: Path
    earlier: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    changes: int = 0

    def problems(self) -> list[str]:
        """What is wrong with the folder as it is."""
        present = digests(self.output)
        found = [f"{name} is half a file" for name in present if name.startswith("broken")]
        if not any(present.items() <= whole.items() for whole in (self.earlier, self.later)):
            found.append(f"{sorted(present)} are of no one run")
        if "report.json" in present and present not in (self.earlier, self.later):
            found.append(f"report.json seals {sorted(present)}")
        return found + strangers(self.output)


class TrainingJob(Job):
    """A training run, whose checkpoints come and go; there is no earlier set."""

    def problems(self) -> list[str]:
        from SkullVAELib.core.errors import SkullVAEError
        from SkullVAELib.vae.checkpoint import read_tensors

        found = strangers(self.output)
        for path in self.output.rglob("*.safetensors"):
            if any(part.startswith(".skullvae-") for part in path.parts):
                continue
            try:
                tensors, _ = read_tensors(path, math.inf)
                if not all(tensor.isfinite().all() for tensor in tensors.values()):
                    found.append(f"{path.name} holds no numbers")
            except SkullVAEError as error:
                found.append(str(error))
        present = digests(self.output)
        for name in set(present) & {"model.safetensors", "population.safetensors", "held_out.safetensors", "run.json"}:
            if present[name] != self.later[name]:
                found.append(f"{name} differs from the undisturbed run's")
        return found


def digests(folder: Path) -> dict[str, str]:
    """Name and digest of each file of a folder, without what differs between two runs of the same input."""
    entries = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.is_dir() or path.name in ("log.csv",):
            continue
        if path.suffix == ".json":
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                entries[f"broken {path.name}"] = ""
                continue
            kept = {key: value for key, value in content.items() if key not in _UNSTABLE}
            entries[path.name] = _digest(json.dumps(kept, sort_keys=True).encode())
        elif path.suffix == ".safetensors":
            entries[path.name] = _tensor_digest(path)
        else:
            entries[path.name] = _digest(path.read_bytes())
    return entries


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tensor_digest(path: Path) -> str:
    """Of the tensors alone: the metadata tell seconds and days."""
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # whatever is wrong with it, it is no whole file
        return f"broken: {error}"
    return _digest(b"".join(name.encode() + np.ascontiguousarray(t).tobytes() for name, t in sorted(tensors.items())))


def strangers(folder: Path) -> list[str]:
    """Hidden files that are not a run's private folder."""
    hidden = folder.glob(".*") if folder.is_dir() else ()
    return [f"{path.name} was left" for path in hidden if not path.name.startswith(".skullvae-")]


def left_behind(folder: Path) -> list[str]:
    """Private folders that a run has left."""
    return [path.name for path in folder.glob(".skullvae-*")] if folder.is_dir() else []


def _start_fork_server() -> None:
    """Have the libraries loaded by the process that all runs are forked from; it searches them in the given path."""
    _FORKING.set_forkserver_preload(["faults_child"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "Testing"), str(ROOT), before)))
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class Bench:
    """A folder with tiny inputs, a model and the jobs; and the ways to run and to disturb them."""

    def __init__(self, place: Path, run: Path | None = None, data: Path | None = None, config: Path | None = None):
        _start_fork_server()
        self.place, self.number = place, 0
        self.data = data or tiny.write_heads(place / "data")
        self.config = config or tiny.write_config(place / "config.json", tiny.TINY, tiny.OPTIONS)
        self.training = TrainingJob(
            "train", "train", [], ["all", "--data", str(self.data), "--holdout", "out", "--config", str(self.config),
                                   "--resume", "--output", str(place / "train")], place / "train",
        )  # fmt: skip
        if run is None:
            self.learn(self.training)
            run = Path(shutil.copytree(self.training.output, place / "reference"))
        self.heads = [self._defective(place / f"{name}.nrrd", tiny.HEADS[name]) for name in ("out", "ada")]
        self.complete = self._job("complete", "DIR", lambda head, out: [
            "complete", head, "-o", out, "--force", "--model", str(run / "model.safetensors"), "--progress", "json"
        ])  # fmt: skip
        self.mesh = self._job("mesh", "implant.stl", lambda head, out: ["mesh", head, "-o", out])

    def _defective(self, path: Path, half_axes: tuple) -> Path:
        from SkullVAELib.io.images import write_volume

        head = tiny.shell(half_axes)
        head.array[45:65, 30:60, 50:] = 0
        write_volume(head, path)
        return path

    def _job(self, name: str, target: str, arguments) -> Job:
        folder = self.place / name
        folder.mkdir(exist_ok=True)
        out = str(folder if target == "DIR" else folder / target)
        earlier, later = (arguments(str(head), out) for head in self.heads)
        return Job(name, "skullvae", earlier, later, folder)

    def learn(self, job: Job) -> None:
        """Run a job undisturbed, with either input, to know what whole results are."""
        if job.earlier_arguments:
            self.must_succeed(job, job.earlier_arguments)
            job.earlier = digests(job.output)
            shutil.copytree(job.output, self._earlier(job))
        ended = self.must_succeed(job, job.arguments)
        job.later, job.seconds, job.changes = digests(job.output), ended.seconds, ended.changes

    def must_succeed(self, job: Job, arguments: list[str]) -> Ended:
        ended = self.run(job, arguments)
        if ended.code != 0:
            raise SystemExit(f"An undisturbed run of {job.name} ended with {ended.code}: {ended.said}")
        return ended

    def start(self, job: Job, arguments: list[str] | None = None, **faults: object):
        """Begin a run in a process of its own."""
        import faults_child

        self.number += 1
        said = self.place / f"said{self.number}.txt"
        process = _FORKING.Process(
            target=faults_child.run, args=(job.program, arguments or job.arguments, said, job.output), kwargs=faults
        )
        process.said = said
        process.begun = time.monotonic()
        process.start()
        return process

    def end(self, process) -> Ended:
        """Wait for a run to end."""
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            return Ended(-999, "the run hangs", _PATIENCE, 0)
        changes = process.said.with_suffix(".changes")
        said = process.said.read_text(errors="replace", encoding="utf-8") if process.said.exists() else ""
        seconds = time.monotonic() - process.begun
        return Ended(
            process.exitcode, said, seconds, int(changes.read_text(encoding="utf-8")) if changes.exists() else 0
        )

    def run(self, job: Job, arguments: list[str] | None = None, after: float | None = None,
            number: int = signal.SIGKILL, **faults: object) -> Ended:  # fmt: skip
        """Run a job, and send it a signal after some seconds if asked to."""
        process = self.start(job, arguments, **faults)
        if after is not None:
            process.join(after)
            if process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        return self.end(process)

    def reset(self, job: Job) -> None:
        """Give a job's folder the earlier run's files; a training run begins afresh."""
        shutil.rmtree(job.output, ignore_errors=True)
        if job.earlier_arguments:
            shutil.copytree(self._earlier(job), job.output)

    def _earlier(self, job: Job) -> Path:
        """A copy of what the earlier run left."""
        return self.place / f"earlier_{job.name}"

    def kills(self, job: Job, count: int, draw: random.Random, every: int = 6) -> dict:
        """Kill a job `count` times, on the way from the earlier results to the later; figures and problems.

        every: after so many kills one run may end, and is looked at, and all begins again.
        """
        figures: dict = {"kills": 0, "too_late": 0, "with_private_folder": 0, "following_runs": 0, "problems": []}
        while figures["kills"] < count:
            self.reset(job)
            for _ in range(min(every, count - figures["kills"])):
                if draw.random() < 0.5:
                    what = f"at change {(change := draw.randint(1, job.changes))} of {job.changes}"
                    ended = self.run(job, kill_at=change)
                else:
                    what = f"after {(after := draw.uniform(0.02, 1) * job.seconds):.2f} s"
                    ended = self.run(job, after=after)
                killed = ended.code == -signal.SIGKILL
                figures["kills" if killed else "too_late"] += 1
                if not killed and ended.code != 0:
                    figures["problems"].append(f"{what}: ended with {ended.code}: {ended.said[-300:]}")
                figures["with_private_folder"] += bool(left_behind(job.output))
                figures["problems"] += [f"{what}: {problem}" for problem in job.problems()]
            ended = self.run(job)
            figures["following_runs"] += 1
            if ended.code != 0 or digests(job.output) != job.later or left_behind(job.output):
                left = left_behind(job.output)
                figures["problems"].append(f"the following run: {ended.code} {ended.said[-300:]} {left}")
        return figures

    def refused(self, job: Job, name: str, **faults: object) -> list[str]:
        """Problems of a run that must end with exit code 2, one sentence, and leave what was there; or succeed."""
        before = digests(job.output)
        ended = self.run(job, **faults)
        if ended.code == 0:
            return []
        return _one_sentence(name, ended, 2) + _untouched(name, job, before)

    def interrupted(self, job: Job, number: int, after: float) -> list[str]:
        """Problems of a run that a signal ends, which must clear up."""
        before = digests(job.output)
        ended = self.run(job, after=after, number=number)
        name = f"{signal.Signals(number).name} after {after:.2f} s"
        return [] if ended.code == 0 else _one_sentence(name, ended, 128 + number) + _untouched(name, job, before)

    def together(self, job: Job) -> list[str]:
        """Problems of two runs that write into the same folder at once."""
        runs = [self.start(job, arguments) for arguments in (job.earlier_arguments, job.arguments)]
        codes = [self.end(run).code for run in runs]
        found = [] if codes == [0, 0] else [f"two at once: exit codes {codes}"]
        if digests(job.output) not in (job.earlier, job.later) or left_behind(job.output):
            found.append(f"two at once: left {sorted(digests(job.output))} {left_behind(job.output)}")
        return found

    def jumping_clock(self, job: Job) -> list[str]:
        """Problems of a run among files that a clock set wrong has dated far back or far ahead."""
        found = []
        for years in (-30, 30):
            date = time.time() + years * 365 * 86400
            stale = job.output / f".skullvae-{years}"
            stale.mkdir(parents=True)
            for path in (*job.output.iterdir(), *self.heads):
                os.utime(path, (date, date))
            ended = self.run(job)
            if ended.code != 0 or digests(job.output) != job.later or left_behind(job.output):
                found.append(f"clock {years} years off: {ended.code} {ended.said[-300:]} {left_behind(job.output)}")
        return found


def _one_sentence(name: str, ended: Ended, code: int) -> list[str]:
    """Problems of what a run said; warnings, and what a training run tells of its course, are not of its end."""
    lines = [line for line in ended.said.strip().splitlines() if not line.startswith("Warning: ")]
    if any(line.startswith("train.py: ") for line in lines):
        lines = [line for line in lines if line.startswith(("train.py: ", "Traceback"))]
    if code == 128 + signal.SIGTERM and ended.code == code and not lines:
        return []  # who ends it knows
    if ended.code == code and len(lines) == 1 and "Unexpected" not in lines[0]:
        return []
    return [f"{name}: exit code {ended.code}, {lines[-3:]}"]


def _untouched(name: str, job: Job, before: dict[str, str]) -> list[str]:
    left = [] if job.program == "train" else left_behind(job.output)
    same = job.program == "train" or digests(job.output) == before
    return [] if same and not left and not job.problems() else [f"{name}: left {left} {job.problems()}"]


def full_disks(bench: Bench, job: Job, sizes: tuple[int, ...]) -> dict:
    """Run a job into file systems of so many bytes; where none may be mounted, with a limit on each file's size."""
    figures = {"runs": 0, "how": "a small file system", "problems": []}
    plain = job.output
    for size in sizes:
        disk = bench.place / f"disk_{job.name}"
        disk.mkdir(exist_ok=True)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True, check=False
        )
        figures["runs"] += 1
        if made.returncode != 0:
            figures["how"] = "a limit on the size of a file, since no file system may be mounted here"
            figures["problems"] += bench.refused(job, f"files of {size} bytes at most", largest_file=size)
            continue
        try:
            job.output = disk / "out"
            if job.name == "mesh":
                job.output.mkdir()
            moved = [argument.replace(str(plain), str(job.output)) for argument in job.arguments]
            figures["problems"] += bench.refused(job, f"a disk of {size} bytes", arguments=moved)
        finally:
            job.output = plain
            subprocess.run(["umount", str(disk)], check=True)
    return figures


def little_memory(bench: Bench, job: Job, sizes: tuple[int, ...]) -> dict:
    """Run a job with so many MiB of address space beyond what its libraries take.

    Where a C library cannot have the few bytes it needs itself, it ends the process without a word: an abort. That is
    a kill like any other, after which only the private folder may be left.
    """
    figures: dict = {"runs": len(sizes), "aborts": 0, "problems": []}
    for size in sizes:
        before = digests(job.output)
        ended = bench.run(job, more_bytes=size * 2**20)
        name = f"{size} MiB"
        if ended.code not in (0, 2) and "Traceback" not in ended.said:
            figures["aborts"] += 1
            figures["problems"] += [f"{name}: {problem}" for problem in job.problems()]
        elif ended.code != 0:
            figures["problems"] += _one_sentence(name, ended, 2) + _untouched(name, job, before)
    return figures


def campaign(kills: int, seed: int) -> dict:
    """Every fault; figures of each, with what was found."""
    draw = random.Random(seed)
    figures: dict = {}

    def entries(name: str, result: dict | list) -> None:
        figures[name] = result if isinstance(result, dict) else {"problems": result}
        print(f"{name}: {json.dumps(figures[name])}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.learn(bench.complete)
        bench.learn(bench.mesh)
        entries("kill mesh", bench.kills(bench.mesh, kills // 2, draw))
        entries("kill complete", bench.kills(bench.complete, kills // 4, draw))
        entries("kill train", bench.kills(bench.training, kills - kills // 2 - kills // 4, draw))
        job = bench.complete
        bench.reset(job)
        entries("little memory, complete", little_memory(bench, job, (4, 64, 160)))
        entries("little memory, mesh", little_memory(bench, bench.mesh, (1, 4, 16)))
        entries("full disk, mesh", full_disks(bench, bench.mesh, (8192, 65536, 262144)))
        entries("full disk, complete", full_disks(bench, job, (8192, 65536, 262144)))
        entries("full disk, train", full_disks(bench, bench.training, (65536, 1048576)))
        entries("two at once", {"runs": 2, "problems": bench.together(job)})
        entries("jumping clock", bench.jumping_clock(job))
        bench.reset(job)
        problems, count = [], 6
        for turn in range(count):
            number = (signal.SIGTERM, signal.SIGINT)[turn % 2]
            problems += bench.interrupted(job, number, draw.uniform(0.05, 0.95) * job.seconds)
        entries("signals", {"runs": count, "problems": problems})
        entries("closed stdout", bench.refused(job, "closed stdout", closed_stdout=True))
    return figures


def main() -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="in total (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "faults")
    options = parser.parse_args()
    figures = campaign(options.kills, options.seed)
    options.output.mkdir(exist_ok=True)
    (options.output / "faults.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return 1 if any(figure["problems"] for figure in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
