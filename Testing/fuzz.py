"""Coverage-guided fuzzing of all that reads a volume or a model from outside: `make fuzz`.

    make fuzz ARGS="--minutes 30"
    make fuzz ARGS="--minutes 5 --only .nhdr,.mha"

Each kind of file is fuzzed in a child process by atheris (libFuzzer), which sees what the Python code covers; ITK is
C++ and may crash or hang, so the child has limits of memory and time, and another takes over when it ends. What must
hold for any bytes: a whole volume or model, or SkullVAEError with one sentence and a remedy; within ten seconds and
2 GB. Findings are kept, as files that can be read again, in the folder fuzz/findings, with a line on each in
fuzz/findings.txt; fuzz/fuzz.json has the figures. Exit code 1 when there are findings.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import fuzz_inputs
from fuzz_inputs import MODELS, VOLUMES

ROOT = Path(__file__).resolve().parent.parent
KINDS = (*VOLUMES, MODELS)

SECONDS = 10
MOST_BYTES = 2 * 2**30
LONGEST_INPUT = 2**16

# The library's own code that the campaign is about; the figures tell which of its lines were run.
FUZZED = {VOLUMES: ("volume.py", "image_header.py"), (MODELS,): ("checkpoint.py",)}


def main() -> int:
    """Run the campaign, or one child of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="in total, shared by the kinds (default 30)")
    parser.add_argument("--only", default=",".join(KINDS), help="suffixes with commas between them (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "fuzz")
    parser.add_argument("--slice", type=float, default=60, help="seconds a child works before the next kind's turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--lines", choices=KINDS, help=argparse.SUPPRESS)
    options, more = parser.parse_known_args()
    if options.child:
        Child(options.child, options.output).run(more)
    if options.lines:
        print(json.dumps(covered_lines(options.lines, options.output)))
        return 0
    return campaign(options)


def campaign(options: argparse.Namespace) -> int:
    """Give every kind its turn until the time is up; returns the exit code."""
    kinds = options.only.split(",")
    output = options.output
    for kind in kinds:
        (output / "corpus" / kind[1:]).mkdir(parents=True, exist_ok=True)
        for seed in fuzz_inputs.seeds(kind):
            (output / "corpus" / kind[1:] / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    (output / "findings").mkdir(exist_ok=True)
    figures = {kind: {"executions": 0, "seconds": 0.0} for kind in kinds}
    seconds = min(options.slice, options.minutes * 60 / len(kinds))
    end, turn = time.monotonic() + options.minutes * 60, 0
    while time.monotonic() < end - 1:
        kind = kinds[turn % len(kinds)]
        begun = time.monotonic()
        left = min(seconds, end - begun)
        while left > 1:  # a child that a finding ended leaves the rest of the turn to another
            figures[kind]["executions"] += run_child(kind, output, left, options.seed + turn + int(left))
            left = min(seconds, end - begun) - (time.monotonic() - begun)
        figures[kind]["seconds"] += time.monotonic() - begun
        turn += 1
        print(f"{kind}: {figures[kind]['executions']} inputs, {len(findings(output))} findings", flush=True)
    for kind in kinds:
        content = subprocess.run(
            command("--lines", kind, output), capture_output=True, text=True, timeout=3600, encoding="utf-8"
        )
        figures[kind]["lines"] = json.loads(content.stdout) if content.returncode == 0 else None
        figures[kind]["corpus"] = len(list((output / "corpus" / kind[1:]).iterdir()))
    result = {"minutes": options.minutes, "kinds": figures, "findings": findings(output)}
    (output / "fuzz.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if result["findings"] else 0


def command(what: str, kind: str, output: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), what, kind, "--output", str(output)]


def findings(output: Path) -> list[str]:
    path = output / "findings.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def record(output: Path, kind: str, what: str, data: bytes) -> None:
    """Keep an input and report its effect; findings that are known already are not reported again."""
    if any(line.partition(": ")[2] == what for line in findings(output)):
        return
    name = hashlib.sha1(data).hexdigest()[:12] + kind
    (output / "findings" / name).write_bytes(data)
    with open(output / "findings.txt", "a", encoding="utf-8") as file:
        file.write(f"{name}: {what}\n")


def run_child(kind: str, output: Path, seconds: float, seed: int) -> int:
    """Fuzz one kind in a process of its own until the time is up or a finding ends it; returns its executions."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "executions").write_bytes(bytes(8))
        process = subprocess.Popen(
            [
                *command("--child", kind, output), f"-max_total_time={max(1, int(seconds))}", f"-timeout={SECONDS}",
                f"-max_len={LONGEST_INPUT}", f"-artifact_prefix={folder}/", f"-seed={seed or 1}",
                "-rss_limit_mb=0", "-len_control=0", str(output / "corpus" / kind[1:]),
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FUZZ_SCRATCH": scratch},
            stdout=subprocess.DEVNULL, stderr=(folder / "stderr").open("wb"),
        )  # fmt: skip
        if wait_while_it_works(process, folder / "executions"):
            ended = {0: None, 70: f"runs for more than {SECONDS} s"}.get(process.returncode, "ends the process")
        else:
            process.kill()
            process.wait()
            ended = "hangs, and cannot be interrupted"
        if ended:
            current = next((path for path in folder.iterdir() if "-" in path.name), folder / "input" / f"input{kind}")
            log = (folder / "stderr").read_text(errors="replace", encoding="utf-8")
            if not current.exists():
                raise SystemExit(f"The fuzzing of {kind} ended with {process.returncode}:\n{log[-2000:]}")
            cause = next((line for line in log.splitlines() if "ERROR: libFuzzer" in line), f"{process.returncode}")
            digest = hashlib.sha1(current.read_bytes()).hexdigest()[:6]
            record(output, kind, f"{ended} ({cause.strip()[-60:]}; {digest})", current.read_bytes())
        return struct.unpack("<q", (folder / "executions").read_bytes())[0]


def wait_while_it_works(process: subprocess.Popen, counter: Path) -> bool:
    """Wait until a child ends; False as soon as it has gone on with no input for long, to begin with or later."""
    last, since = 0, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        (count,) = struct.unpack("<q", counter.read_bytes())
        if count != last:
            last, since = count, time.monotonic()
        elif time.monotonic() - since > 30 * SECONDS:  # the libraries load first, on a busy machine slowly
            return False
    return True


class Child:
    """The process that fuzzes one kind of file."""

    def __init__(self, kind: str, output: Path):
        self.kind, self.output = kind, output
        self.scratch = Path(os.environ["FUZZ_SCRATCH"])
        self.counter = mmap.mmap(os.open(self.scratch / "executions", os.O_RDWR), 8)
        self.count = 0

    def run(self, options: list[str]) -> None:
        """Never returns: libFuzzer ends the process."""
        import atheris

        with atheris.instrument_imports(include=["SkullVAELib", "nibabel", "safetensors"]):
            self.read = reader(self.kind, self.scratch)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = _status("VmSize") + 2 * MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            blindly = lambda part: bytes(atheris.Mutate(part, max(len(part) + 8, 16)))  # noqa: E731
            return fuzz_inputs.mutate(self.kind, data, random.Random(seed), blindly)[:most]

        atheris.Setup([sys.argv[0], *options], self.one, custom_mutator=mutate)
        atheris.Fuzz()

    def one(self, data: bytes) -> None:
        self.count += 1
        self.counter[:] = struct.pack("<q", self.count)
        before, peak = _status("VmRSS"), _status("VmHWM")
        with contextlib.suppress(FileNotFoundError):
            self.check(data)
        after = _status("VmHWM")
        if after > peak and after - before > MOST_BYTES:
            record(self.output, self.kind, f"takes {(after - before) / 2**30:.1f} GiB", data)

    def check(self, data: bytes) -> None:
        try:
            self.read(data)
        except Exception as error:
            what = _place(error)
            record(self.output, self.kind, what, data)


def reader(kind: str, scratch: Path) -> Callable[[bytes], None]:
    """A function that reads such a file, and raises for all that must not be: the claims of this campaign."""
    from SkullVAELib.core.errors import SkullVAEError

    folder = scratch / "input"
    folder.mkdir()
    path = folder / f"input{kind}"
    if kind == MODELS:
        from SkullVAELib.vae.checkpoint import load_any_model, read_tensors

        def read() -> None:
            try:
                read_tensors(path)
            finally:
                check_model(load_any_model(path))
    else:
        from SkullVAELib.io.images import read_volume

        fuzz_inputs.prepare_folder(folder)

        def read() -> None:
            check_volume(read_volume(path), read_volume(path))

    def target(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read()
        except SkullVAEError as error:
            check_error(error)

    return target


def check_error(error) -> None:
    """What any SkullVAEError must be; so small an input has no reason to want for memory."""
    content = str(error)
    assert "\n" not in content and len(content) < 500 and error.cause and error.remedy, "message of more than a line"
    assert "memory" not in content, "memory was asked for what is not there"


def check_volume(volume, again) -> None:
    """What any volume that was read must be; `again`: the same file, read a second time."""
    import numpy as np

    assert volume.array.ndim == 3 and min(volume.array.shape) > 1, "shape"
    assert volume.array.dtype.kind in "iuf", "kind of voxels"
    assert volume.affine.shape == (4, 4) and np.isfinite(volume.affine).all(), "affine"
    assert (volume.spacing > 0).all() and np.isfinite(volume.spacing).all(), "spacing"
    assert np.isfinite(volume.voxel_ml) and volume.voxel_ml > 0, "volume of a voxel"
    assert np.isfinite(np.linalg.inv(volume.affine)).all(), "affine without inverse"
    directions = volume.affine[:3, :3] / volume.spacing
    assert np.allclose(directions.T @ directions, np.eye(3), atol=5e-3), "axes"
    assert np.array_equal(volume.array, again.array, equal_nan=volume.array.dtype.kind == "f"), "voxels made up"
    assert np.array_equal(volume.affine, again.affine), "another affine"


def check_model(model) -> None:
    """What any model that was read must be."""
    import torch

    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu", f"{name} is not there"
        assert torch.isfinite(tensor).all(), f"{name} is not finite"
        assert tensor.is_floating_point() or name.endswith("num_batches_tracked"), f"{name} is {tensor.dtype}"
    assert isinstance(model.provenance, dict), "provenance"
    assert all(isinstance(name, str) for name in model.classes), "classes"
    with torch.no_grad():
        model.decode(model.latent_mean[None])


def covered_lines(kind: str, output: Path) -> dict[str, str]:
    """Which share of the lines of the fuzzed modules the inputs that were kept run, as "run/all"."""
    import types

    modules = next(names for kinds, names in FUZZED.items() if kind in kinds)
    library = ROOT / "SkullVAELib"
    paths = {str(library / name): name for name in modules if (library / name).exists()}
    seen: set[tuple[str, int]] = set()

    def trace(frame: types.FrameType, event: str, argument: object):
        if frame.f_code.co_filename not in paths:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    def lines(code: types.CodeType) -> set[int]:
        inner = (lines(part) for part in code.co_consts if isinstance(part, types.CodeType))
        return {line for _, _, line in code.co_lines() if line}.union(*inner)

    with tempfile.TemporaryDirectory() as scratch:
        sys.settrace(trace)  # before the import, so that a module's own lines count as they run
        read = reader(kind, Path(scratch))
        for path in sorted((output / "corpus" / kind[1:]).iterdir()):
            with contextlib.suppress(Exception):
                read(path.read_bytes())
        sys.settrace(None)
    content = {}
    for path, name in paths.items():
        every = lines(compile(Path(path).read_text(encoding="utf-8"), path, "exec"))
        content[name] = f"{len({line for file, line in seen if file == path} & every)}/{len(every)}"
    return content


def _status(field: str) -> int:
    """Bytes of a field of this process's /proc status."""
    with open("/proc/self/status", "rb") as file:
        line = next(line for line in file if line.startswith(field.encode()))
    return int(line.split()[1]) * 1024


def _place(error: Exception) -> str:
    """What was raised and where, alike for all inputs that meet the same mistake."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "SkullVAELib" in f.filename] or [None]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames[-1] else ""
    text = " ".join(str(error).split())[:80]
    return f"{type(error).__name__}{where}" + (f" ({text})" if isinstance(error, AssertionError) else "")


if __name__ == "__main__":
    sys.exit(main())
