"""The paths of the model files that are included in SkullVAE."""

from __future__ import annotations

from pathlib import Path

from SkullVAELib.core.errors import SkullVAEError


def default_model_path() -> Path:
    """Path of the included model.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    SkullVAEError
        If the file is missing.
    """
    return included_file("skullvae.safetensors")


def included_file(name: str) -> Path:
    """Path of an included model file: next to the library in a checkout or in Slicer, otherwise inside the package.

    Parameters
    ----------
    name : str
        Name of the file.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    SkullVAEError
        If the file is in neither place.
    """
    here = Path(__file__).resolve().parent.parent
    places = [
        here.parent / "SkullVAE/Resources/Models" / name,
        here.parent / "Resources/Models" / name,
        here / "models" / name,
    ]
    for place in places:
        if place.is_file():
            return place
    raise SkullVAEError("The included model is missing from this installation", "Choose a model file with --model")
