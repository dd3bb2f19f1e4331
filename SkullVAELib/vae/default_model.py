"""Where the model that ships with SkullVAE lies."""

from __future__ import annotations

from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError


def default_model_path() -> Path:
    """The model that ships with SkullVAE: beside the library in a checkout or in Slicer, else inside the package.

    Raises SkullVAEError when neither is there.
    """
    here = Path(__file__).resolve().parent.parent
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
