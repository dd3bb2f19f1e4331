"""Model files: safetensors with JSON metadata. Nothing in them can run code, and no pickle is ever loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .errors import SkullVAEError
from .networks import Architecture, SkullModel

FORMAT = "SkullVAE model 1"
LARGEST_BYTES = 512 * 2**20


def default_model_path() -> Path:
    """The model that ships with SkullVAE: beside the library in a checkout or in Slicer, else inside the package.

    Raises SkullVAEError when neither is there.
    """
    here = Path(__file__).resolve().parent
    name = "skullvae.safetensors"
    places = [
        here.parent / "SkullVAE/Resources/Models" / name,
        here.parent / "Resources/Models" / name,
        here / "models" / name,
    ]
    for place in places:
        if place.is_file():
            return place
    raise SkullVAEError("The shipped model is missing from this installation", "Name a model file with --model")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
    """Write a safetensors file whole or not at all; metadata values are stored as JSON."""
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            file.write(save(contiguous, {key: json.dumps(value) for key, value in metadata.items()}))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and metadata of a safetensors file. Raises SkullVAEError when it is none, or unreasonably large."""
    remedy = "Choose a SkullVAE model file (.safetensors)"
    if not path.is_file():
        raise SkullVAEError(f"The model file '{path}' does not exist", remedy)
    if path.stat().st_size > LARGEST_BYTES:
        raise SkullVAEError(f"'{path.name}' is larger than any SkullVAE model", remedy)
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError, OSError, struct.error) as error:
        raise SkullVAEError(f"'{path.name}' is not a readable model file", remedy) from error


def save_model(model: SkullModel, path: Path, provenance: dict) -> None:
    """Write a model in half precision: one file carries encoder, decoder, latent statistics and DEV vectors."""
    metadata = {
        "format": FORMAT,
        "architecture": dataclasses.asdict(model.architecture),
        "classes": model.classes,
        "provenance": provenance,
    }
    write_tensors(path, {name: tensor.half() for name, tensor in model.state_dict().items()}, metadata)


def load_model(path: Path, device: torch.device | str = "cpu") -> SkullModel:
    """Load a model for inference; `model.provenance` and `model.sha256` tell where it comes from.

    Raises SkullVAEError when the file is not a SkullVAE model.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    wrong = SkullVAEError(f"'{path.name}' is not a SkullVAE model", "Choose a file written by Training/train.py")
    if metadata.get("format") != FORMAT:
        raise wrong
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in metadata["architecture"].items()}
        with torch.device("meta"):
            model = SkullModel(Architecture(**fields), tuple(metadata["classes"]))
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        model.provenance = metadata["provenance"]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise wrong from error
    model.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return model.eval().to(device)
