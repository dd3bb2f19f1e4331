"""The probability that a candidate defect is a defect: a small network on measured features, calibrated on individuals
that it was not trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from SkullVAELib.completion.candidates import FEATURES
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.vae.default_model import included_file

FILE_NAME = "defects.safetensors"
"""Name of the file with the weights, the atlas of natural openings and where they come from."""

_REASONS = {
    "volume_ml": ("it is small", "it is large"),
    "radius_mm": ("it is narrow", "it is wide"),
    "enclosed": ("little of its rim is bone", "its rim is bone"),
    "image_end": ("it is away from the end of the image", "it is at the end of the image"),
    "air": ("it is enclosed in bone, as a sinus is", "it is open outwards and inwards"),
    "elevation": ("it is low, near the skull base", "it is high on the vault"),
    "around": ("it is limited to one side", "bone ends all around, as where a skull is cut off"),
    "spread_mm": ("skulls vary little there", "skulls vary much there"),
    "displaced": ("no bone is near it", "bone is near it, but displaced"),
    "depth": ("only part of the thickness of the bone is missing", "the bone is missing through its full thickness"),
    "rim_bone": ("the bone around it is thin or has holes", "the bone around it is intact"),
    "rim_error_mm": (
        "the complete shape fits the bone around it",
        "the complete shape does not fit the bone around it",
    ),
    "plate_mm": ("bone is thin there", "bone is thick there"),
    "mirror": ("the other side has bone", "bone is missing on the other side, too"),
    "natural": ("complete skulls have bone there", "complete skulls often lack bone there"),
    "lateral": ("it is in the middle", "it is at the side"),
    "frontal": ("it is at the back", "it is in front"),
    "coarse_mm": ("the voxels are small", "the voxels are large"),
}

_LOGARITHMS = ("volume_ml", "radius_mm", "coarse_mm", "rim_error_mm", "plate_mm")


@dataclass(frozen=True)
class DefectClassifier:
    """An ensemble of networks with one hidden layer, whose mean logit is scaled for calibration.

    Attributes
    ----------
    natural_openings : torch.Tensor, shape (X, Y, Z)
        Atlas over the extent of the canonical grid, on the mean skull: how often complete skulls lack bone there, 0..1.
    mean, scale : numpy.ndarray, shape (F,)
        Standardisation of the features.
    hidden, output : tuple of numpy.ndarray
        Weights (M, F, H) and biases (M, H), weights (M, H) and biases (M,) of the M networks.
    temperature : float
        Divisor of the mean logit.
    typical : numpy.ndarray, shape (F,)
        Median features of true defects.
    about : dict
        Where the weights come from and how they were tested.
    """

    natural_openings: torch.Tensor
    mean: np.ndarray
    scale: np.ndarray
    hidden: tuple[np.ndarray, np.ndarray]
    output: tuple[np.ndarray, np.ndarray]
    temperature: float
    typical: np.ndarray
    about: dict

    @classmethod
    def load(cls, path: Path) -> DefectClassifier:
        """Load a classifier.

        Parameters
        ----------
        path : Path
            A .safetensors file written by Training/train_defects.py.

        Returns
        -------
        DefectClassifier

        Raises
        ------
        SkullVAEError
            The file is not a classifier of these features.
        """
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {}).get("skullvae_defects", "{}"))
            if tuple(about.get("features", ())) != FEATURES:
                raise SkullVAEError(f"'{path.name}' is not a classifier of candidate defects", "Install SkullVAE again")
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
        atlas = tensors.pop("natural_openings")
        values = {name: tensor.numpy().astype(float) for name, tensor in tensors.items()}
        return cls(
            atlas,
            values["mean"],
            values["scale"],
            (values["hidden_weight"], values["hidden_bias"]),
            (values["output_weight"], values["output_bias"]),
            float(values["temperature"][0]),
            values["typical"],
            about,
        )

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Calibrated logits (N,) of feature vectors (N, F), see `as_vector`."""
        x = np.clip((features - self.mean) / self.scale, -4.0, 4.0)
        hidden = np.tanh(np.einsum("nf,mfh->nmh", x, self.hidden[0]) + self.hidden[1])
        each = np.einsum("nmh,mh->nm", hidden, self.output[0]) + self.output[1]
        return each.mean(1) / self.temperature

    def probability(self, features: dict[str, float]) -> tuple[float, str]:
        """Probability that a candidate is a defect, and what it is due to.

        Parameters
        ----------
        features : dict
            See `Candidate.features`.

        Returns
        -------
        probability : float
            0..1.
        reason : str
            For a low probability the feature that lowers it most in comparison with a typical defect, in plain words;
            otherwise that bone is missing.
        """
        vector = as_vector(features)
        logit = float(self.logits(vector[None])[0])
        probability = float(1 / (1 + np.exp(-logit)))
        others = np.repeat(vector[None], len(vector), 0)
        np.fill_diagonal(others, self.typical)
        gain = self.logits(others) - logit
        worst = int(np.argmax(gain))
        if probability >= 0.9 or gain[worst] <= 0:
            return probability, "bone is missing that complete skulls have there"
        low, high = _REASONS[FEATURES[worst]]
        return probability, low if vector[worst] < self.typical[worst] else high


def as_vector(features: dict[str, float]) -> np.ndarray:
    """Features (F,) in the order of `FEATURES`; sizes are logarithms."""
    return np.array(
        [np.log(max(features[name], 0.01)) if name in _LOGARITHMS else features[name] for name in FEATURES], float
    )


@lru_cache(maxsize=1)
def default_classifier() -> DefectClassifier:
    """The classifier that is included in SkullVAE.

    Raises
    ------
    SkullVAEError
        If its file is missing.
    """
    return DefectClassifier.load(included_file(FILE_NAME))
