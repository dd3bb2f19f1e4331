"""Fixtures that the tests share, and the list of reasons for which a test may be skipped.

Environment variables:

SKULLVAE_MODEL
    Another model file to test than the released one.
SKULLVAE_SKULLS
    Folder of real skulls, which are not part of the repository: complete/ with the complete skulls, and defective/
    with skullbreak_parietotemporal_001.nii.gz. Without it, `../shared/skulls` beside the checkout is taken, and the
    tests that need real skulls are skipped where neither exists.

A skip, an xfail and an empty parameter set count as failures unless ALLOWED_SKIPS lists the reason. Otherwise a
machine on which hundreds of tests cannot run would pass. The end of a run reports how many were skipped, by reason.
"""

from __future__ import annotations

import importlib.util
import locale
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from skip_rules import AllowedSkip, SkipRules

from SkullVAELib.geometry.volume import Volume

# As the command line does, before torch is loaded: see SkullVAELib/cli/main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Otherwise each test that opens the panel with an input would load the libraries in a process.
os.environ["SKULLVAE_PRELOAD"] = "0"
# Libraries that are loaded later may change the locale, and with it the encoding of files opened without one: with the
# plainest locale such a file fails in every run, not only after a test that loads one of them.
locale.setlocale(locale.LC_CTYPE, "C")

ROOT = Path(__file__).resolve().parent.parent

_NOT_POSIX = AllowedSkip("Windows has no counterpart to what the test uses", ("win32",))

ALLOWED_SKIPS = {
    "POSIX signals": _NOT_POSIX,
    "pipes": _NOT_POSIX,
    "parents of processes": _NOT_POSIX,
    "no pipes with names here": _NOT_POSIX,
    "no pipes and devices with names here": _NOT_POSIX,
    "no permission bits here": _NOT_POSIX,
    "Windows keeps no such permissions": _NOT_POSIX,
    "folders cannot be locked here": _NOT_POSIX,
    "no SIGKILL here": _NOT_POSIX,
    "no SIGKILL and no forked processes here": _NOT_POSIX,
    "looks for processes in POSIX's way": _NOT_POSIX,
    "no shell scripts here": _NOT_POSIX,
    "only Linux tells a process's children": AllowedSkip("the test reads /proc", ("darwin", "win32")),
    "only Linux tells a process's memory": AllowedSkip("the test reads /proc", ("darwin", "win32")),
    "no Chromium on this machine": AllowedSkip(
        "a browser is required on Linux, where system_libraries.py reports how to install it", ("darwin", "win32")
    ),
    "no dciodvfy on this machine": AllowedSkip(
        "the checker is required on Linux, where system_libraries.py reports how to install it", ("darwin", "win32")
    ),
    "root may write anywhere": AllowedSkip("permissions do not restrict root, or the platform has no such user"),
    "mounting a small disk is not permitted here": AllowedSkip("only root may mount a file system"),
    "SKULLVAE_MODEL names another model than the recorded one": AllowedSkip(
        "the recorded implant is that of the released model"
    ),
    "Slicer's own parameter nodes support other types as well": AllowedSkip(
        "SLICER_SOURCE_DIR replaces the class under test by Slicer's own"
    ),
    "no complete history: not a git checkout, or a shallow clone": AllowedSkip("the size of the history is tested"),
    "no real skulls: SKULLVAE_SKULLS is not set": AllowedSkip(
        "the skulls of real patients and subjects are not part of the repository"
    ),
}
"""Reason of a skip, word for word -> why it is acceptable."""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipRules(ALLOWED_SKIPS))


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """At most two threads, so that figures and order of summation are alike on small and large machines."""
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _threads_as_before():
    """A training run sets torch's threads for its process; here the next test wants its own."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Shared:
    """What the first worker of a run makes for all of them: files in one folder, and what its maker returned.

    A worker that needs what another is making waits for it.
    """

    def __init__(self, tmp_path_factory: pytest.TempPathFactory, config: pytest.Config):
        here = tmp_path_factory.getbasetemp()
        # pytest-xdist gives every worker a folder of its own in that of the run.
        self.folder = (here.parent if hasattr(config, "workerinput") else here) / "shared"
        self.folder.mkdir(exist_ok=True)

    def made_once(self, name: str, make: Callable[[Path], object]) -> object:
        """What make(folder) returned, which has been pickled in between; folder: an empty one of this name."""
        kept = self.folder / f"{name}.pickle"
        with FileLock(self.folder / f"{name}.lock"):
            if not kept.exists():
                (self.folder / name).mkdir(exist_ok=True)
                made = make(self.folder / name)
                kept.with_suffix(".part").write_bytes(pickle.dumps(made))
                kept.with_suffix(".part").rename(kept)
                return made
        return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def shared(tmp_path_factory, pytestconfig) -> Shared:
    """See `Shared`."""
    return Shared(tmp_path_factory, pytestconfig)


@dataclass(frozen=True)
class Trained:
    """A run through all stages by train.py: its data, options and folder, and what was said on stderr."""

    data: Path
    options: tuple[object, ...]
    folder: Path
    said: str = ""

    def arguments(self, folder: Path, *more: object) -> list[object]:
        """Of train.py, for the same run in another folder."""
        return ["all", "--data", self.data, "--output", folder, *self.options, *more]


@pytest.fixture(scope="session")
def canonical_run(shared) -> Trained:
    """Our own method on four tiny heads, of which "out" is held out."""
    import tiny

    def train(place: Path) -> Trained:
        config = tiny.write_config(place / "config.json", tiny.TINY, tiny.OPTIONS)
        return _trained(tiny.write_heads(place / "data"), "--config", config, "--holdout", "out")

    return shared.made_once("canonical", train)


@pytest.fixture(scope="session")
def paper_run(shared) -> Trained:
    """The paper's method on the same heads, with a further decoder."""
    import tiny

    def train(place: Path) -> Trained:
        config = tiny.write_config(place / "config.json", tiny.TINY_PAPER, tiny.PAPER_OPTIONS)
        return _trained(tiny.write_paper_set(place / "data"), "--config", config, "--decoders", "sampled")

    return shared.made_once("paper", train)


def _trained(data: Path, *options: object) -> Trained:
    import tiny

    run = Trained(data, options, data.parent / "run")
    process = tiny.train_py(*run.arguments(run.folder))
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    return replace(run, said=process.stderr)


@pytest.fixture(scope="session")
def train_py():
    """Training/train.py as a module, which Slicer and Python run as a script."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "Training" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The model file under test: the shipped one, unless SKULLVAE_MODEL names another."""
    from SkullVAELib.vae.default_model import default_model_path

    if os.environ.get("SKULLVAE_MODEL"):
        return Path(os.environ["SKULLVAE_MODEL"])
    return default_model_path()


@pytest.fixture(scope="session")
def model(model_path):
    from SkullVAELib.vae.checkpoint import load_model

    return load_model(model_path)


@pytest.fixture(scope="session")
def real_skulls() -> Path:
    """The folder of real skulls, with complete/ and defective/; see above."""
    named = os.environ.get("SKULLVAE_SKULLS")
    folder = Path(named) if named else ROOT.parent / "shared" / "skulls"
    if named:
        assert (folder / "complete").is_dir(), f"SKULLVAE_SKULLS: '{folder}' has no folder 'complete'"
    elif not (folder / "complete").is_dir():
        pytest.skip("no real skulls: SKULLVAE_SKULLS is not set")
    return folder


@dataclass(frozen=True)
class Sample:
    """A generated skull with a defect: its bone (bool), the true implant on its grid, and the whole skull."""

    bone: Volume
    truth: np.ndarray

    @property
    def whole(self) -> Volume:
        return self.bone.with_array(self.bone.array | self.truth)


@pytest.fixture(scope="session")
def sample(model, shared) -> Sample:
    from SkullVAELib.data.generated_skull import generated_skull

    return shared.made_once("sample", lambda folder: Sample(*generated_skull(model, seed=1)))


@pytest.fixture(scope="session")
def completed(model):
    """Complete a bone volume with the model under test: completed(bone, **options) -> Completion."""
    from SkullVAELib.completion.options import CompletionOptions
    from SkullVAELib.completion.pipeline import complete
    from SkullVAELib.core.progress import Stages

    def run(bone: Volume, **options):
        return complete(bone.with_array(bone.array.astype(np.uint8)), model, CompletionOptions(**options), Stages({}))

    return run


@pytest.fixture(scope="session")
def completion(completed, sample):
    """The generated skull, completed once for every test that only looks at the result.

    Each worker makes its own: pickled, as `Shared` does, it would have half a gigabyte.
    """
    return completed(sample.bone)


@pytest.fixture
def scene():
    """An empty scene, as slicer.mrmlScene."""
    import slicer_standin

    slicer_standin.prepare()
    return slicer_standin.newScene()


@pytest.fixture
def widget(scene):
    """The module's panel in an empty scene, shown as Slicer shows it."""
    import slicer_standin

    _, widget = slicer_standin.openModule()
    yield widget
    slicer_standin.closeModule(widget)
