"""The device that torch computes on."""

from __future__ import annotations

from SkullVAELib.core.errors import SkullVAEError


def resolve_device(name: str):
    """The device for a name.

    Parameters
    ----------
    name : str
        "auto" (a CUDA device if there is one), "cpu" or "cuda".

    Returns
    -------
    torch.device

    Raises
    ------
    SkullVAEError
        If "cuda" is requested and torch finds no CUDA device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SkullVAEError("No CUDA device was found", "Use --device cpu")
    return torch.device(name)
