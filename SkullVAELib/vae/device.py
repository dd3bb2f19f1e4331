"""The device that torch computes on."""

from __future__ import annotations

from SkullVAELib.core.errors import SkullVAEError


def resolve_device(name: str):
    """The torch.device for "auto" (the graphics card if there is one), "cpu" or "cuda".

    Raises SkullVAEError when a graphics card is asked for and torch finds none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SkullVAEError("No graphics card that torch can use was found", "Use --device cpu")
    return torch.device(name)
