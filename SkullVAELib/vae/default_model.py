"""The path of the model that is included in SkullVAE."""

from __future__ import annotations

from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError


def default_model_path() -> Path:
    """Path of the included model: next to the library in a checkout or in Slicer, otherwise inside the package.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    SkullVAEError
        If the file is in neither place.
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
    raise SkullVAEError("The included model is missing from this installation", "Choose a model file with --model")
