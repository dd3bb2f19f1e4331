"""What the tests share: models, a generated skull and its completion, the folder of real skulls.

SKULLVAE_MODEL names another model file to test than the shipped one; SKULLVAE_SKULLS the folder of real skulls.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from SkullVAELib.errors import SkullVAEError
from SkullVAELib.volume import Volume

# As the command line does, before torch is loaded: see SkullVAELib/cli.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
HELDOUT = ROOT / "Testing" / "data" / "heldout.safetensors"


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """At most two threads, so that figures and order of summation are alike on small and large machines."""
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The model file under test: the shipped one, unless SKULLVAE_MODEL names another."""
    from SkullVAELib.checkpoint import default_model_path

    if os.environ.get("SKULLVAE_MODEL"):
        return Path(os.environ["SKULLVAE_MODEL"])
    try:
        return default_model_path()
    except SkullVAEError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model(model_path):
    from SkullVAELib.checkpoint import load_model

    return load_model(model_path)


@pytest.fixture(scope="session")
def heldout_model():
    """A model trained as the shipped one was, but without visible_human, mgh_angel001 and mgh_dca."""
    from SkullVAELib.checkpoint import load_model

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
    from SkullVAELib.sample import generated_skull

    return Sample(*generated_skull(model, seed=1))


@pytest.fixture(scope="session")
def completed(model):
    """Complete a bone volume with the model under test: completed(bone, **options) -> Completion."""
    from SkullVAELib.completion import CompletionOptions, complete
    from SkullVAELib.progress import Stages

    def run(bone: Volume, **options):
        return complete(bone.with_array(bone.array.astype(np.uint8)), model, CompletionOptions(**options), Stages({}))

    return run


@pytest.fixture(scope="session")
def completion(completed, sample):
    """The generated skull, completed once for every test that only looks at the result."""
    return completed(sample.bone)
