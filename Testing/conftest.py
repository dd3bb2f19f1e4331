"""What the tests share: models, a generated skull and its completion, tiny training runs, the folder of real skulls.

SKULLVAE_MODEL names another model file to test than the shipped one; SKULLVAE_SKULLS the folder of real skulls.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.geometry.volume import Volume

# As the command line does, before torch is loaded: see SkullVAELib/cli/main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
HELDOUT = ROOT / "Testing" / "data" / "heldout.safetensors"


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
def canonical_run(tmp_path_factory) -> Trained:
    """Our own method on four tiny heads, of which "out" is held out."""
    import tiny

    place = tmp_path_factory.mktemp("canonical")
    config = tiny.write_config(place / "config.json", tiny.TINY, tiny.OPTIONS)
    return _trained(tiny.write_heads(place / "data"), "--config", config, "--holdout", "out")


@pytest.fixture(scope="session")
def paper_run(tmp_path_factory) -> Trained:
    """The paper's method on the same heads, with a further decoder."""
    import tiny

    place = tmp_path_factory.mktemp("paper")
    config = tiny.write_config(place / "config.json", tiny.TINY_PAPER, tiny.PAPER_OPTIONS)
    return _trained(tiny.write_paper_set(place / "data"), "--config", config, "--decoders", "sampled")


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
    try:
        return default_model_path()
    except SkullVAEError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model(model_path):
    from SkullVAELib.vae.checkpoint import load_model

    return load_model(model_path)


@pytest.fixture(scope="session")
def heldout_model():
    """A model trained as the shipped one was, but without visible_human, mgh_angel001 and mgh_dca."""
    from SkullVAELib.vae.checkpoint import load_model

    if not HELDOUT.is_file():
        pytest.skip(f"{HELDOUT.relative_to(ROOT)} is not there")
    return load_model(HELDOUT)


@pytest.fixture(scope="session")
def real_skulls() -> Path:
    """The folder of real skulls, which the project does not contain: {complete, defective}/."""
    folder = Path(os.environ.get("SKULLVAE_SKULLS") or ROOT.parent / "shared" / "skulls")
    if not (folder / "complete").is_dir():
        pytest.skip(f"no real skulls: SKULLVAE_SKULLS names no folder, and '{folder.name}' is not beside the checkout")
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
def sample(model) -> Sample:
    from SkullVAELib.data.generated_skull import generated_skull

    return Sample(*generated_skull(model, seed=1))


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
    """The generated skull, completed once for every test that only looks at the result."""
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
