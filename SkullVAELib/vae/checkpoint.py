"""Model files: safetensors with JSON metadata. They contain no executable code, and no pickle is ever loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.vae.latent import Z_KINDS
from SkullVAELib.vae.networks import Architecture, SkullModel
from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperModel

FORMAT = "SkullVAE model 1"
PAPER_FORMAT = "SkullVAE paper model 1"
LARGEST_BYTES = 512 * 2**20

# The header takes about a hundred bytes for each tensor and for each case of a training set; a hundred megabytes, which
# the format would allow, take gigabytes to read.
_LONGEST_HEADER = 2**24


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
    """Write a safetensors file, completely or not at all.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    tensors : dict of str to torch.Tensor
        Tensors by name.
    metadata : dict
        Metadata; each value is stored as JSON.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, {key: json.dumps(value) for key, value in metadata.items()})
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path, largest_bytes: float = LARGEST_BYTES) -> tuple[dict[str, torch.Tensor], dict]:
    """Read a safetensors file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    largest_bytes : float
        Largest accepted size. Files of a training run may be larger than any model: pass math.inf.

    Returns
    -------
    tensors : dict of str to torch.Tensor
    metadata : dict

    Raises
    ------
    SkullVAEError
        If the file does not exist, is too large, or is not a readable safetensors file.
    """
    remedy = "Choose a SkullVAE model file (.safetensors)"
    if not path.is_file():
        raise SkullVAEError(f"The model file '{path}' does not exist", remedy)
    if path.stat().st_size > largest_bytes:
        raise SkullVAEError(f"'{path.name}' is larger than any SkullVAE model", remedy)
    try:
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > _LONGEST_HEADER:
                raise ValueError("the header is too long")
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError, OSError, struct.error, RecursionError, KeyError, AttributeError) as error:
        raise SkullVAEError(f"'{path.name}' is not a readable model file", remedy) from error


def save_model(model: SkullModel | PaperModel, path: Path, provenance: dict) -> None:
    """Write a model to one file: encoder, decoder, latent statistics and deviation vectors.

    Our own model is written in half precision. The paper's model is not, because its latents would change by a
    thousandth of their size.

    Parameters
    ----------
    model : SkullModel or PaperModel
        The model.
    path : pathlib.Path
        The file.
    provenance : dict
        Origin of the model, stored as JSON.
    """
    metadata: dict = {
        "format": FORMAT,
        "architecture": dataclasses.asdict(model.architecture),
        "classes": model.classes,
        "provenance": provenance,
    }
    tensors = model.state_dict()
    if isinstance(model, PaperModel):
        metadata |= {"format": PAPER_FORMAT, "z": model.z, "pairs": len(model.latents_complete)}
        metadata["plain_output"] = model.decoder.plain_output
    else:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
        if all(n % 2 == 0 for n in model.architecture.grid_shape):
            # The standard deviation is smooth: at every other node it takes an eighth of the space.
            tensors["spread"] = F.avg_pool3d(model.spread[None], 2)[0].half()
    write_tensors(path, tensors, metadata)


def load_model(path: Path, device: torch.device | str = "cpu") -> SkullModel:
    """Load a model of our own method for inference.

    Parameters
    ----------
    path : pathlib.Path
        The model file.
    device : torch.device or str
        Device of the model.

    Returns
    -------
    SkullModel
        In evaluation mode; `provenance` and `sha256` describe its origin.

    Raises
    ------
    SkullVAEError
        If the file is not a SkullVAE model, or is a model of the paper's method, which has no canonical frame.
    """
    model = load_any_model(path, device)
    if isinstance(model, PaperModel):
        cause = f"'{Path(path).name}' is a model of the paper's method and cannot complete a patient's skull"
        raise SkullVAEError(cause, "Use it with skullvae latent, or choose another model")
    return model


def load_any_model(path: Path, device: torch.device | str = "cpu") -> SkullModel | PaperModel:
    """Load a model of our own method or of the paper's, see `load_model`."""
    path = Path(path)
    tensors, metadata = read_tensors(path)
    try:
        model = _model(tensors, metadata)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        remedy = "Choose a file written by Training/train.py"
        raise SkullVAEError(f"'{path.name}' is not a SkullVAE model", remedy) from error
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        cause = f"'{path.name}' contains weights that are NaN or infinite"
        raise SkullVAEError(cause, "Copy it again, or choose another model")
    model.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    model.file_name = path.name
    return model.eval().to(device)


def _on_grid(spread: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A field that a file has at every other node, on all nodes; another one unchanged."""
    if spread.ndim != 3 or any(2 * n != wanted for n, wanted in zip(spread.shape, shape, strict=True)):
        return spread
    return F.interpolate(spread[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]


def _model(tensors: dict[str, torch.Tensor], metadata: dict) -> SkullModel | PaperModel:
    """The model that a file describes; raises a built-in exception if the file does not describe one.

    The networks are created on the meta device and take the file's tensors only if every shape fits, so that no more
    memory is allocated than the file has, whatever sizes the metadata claim.
    """
    if metadata["format"] not in (FORMAT, PAPER_FORMAT):
        raise ValueError(metadata["format"])
    fields: dict = {k: tuple(v) if isinstance(v, list) else v for k, v in metadata["architecture"].items()}
    classes, provenance = metadata["classes"], metadata["provenance"]
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise TypeError("classes")
    if not isinstance(provenance, dict):
        raise TypeError("provenance")
    model: SkullModel | PaperModel
    with torch.device("meta"):
        if metadata["format"] == FORMAT:
            model = SkullModel(Architecture(**fields), tuple(classes))
        else:
            pairs, z, plain = metadata["pairs"], metadata["z"], metadata["plain_output"]
            if type(pairs) is not int or z not in Z_KINDS or type(plain) is not bool:
                raise TypeError("pairs, z, plain_output")
            model = PaperModel(PaperArchitecture(**fields), tuple(classes), pairs, z, plain)
    for name, wanted in model.state_dict().items():
        # BatchNorm's batch count is an integer; all other tensors are floats, possibly of lower precision in the file.
        if tensors[name].is_floating_point() != wanted.is_floating_point() or tensors[name].is_complex():
            raise TypeError(name)
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    if isinstance(model, SkullModel):
        tensors["spread"] = _on_grid(tensors["spread"], model.architecture.grid_shape)
    model.load_state_dict(tensors, assign=True)
    model.provenance = provenance
    return model
