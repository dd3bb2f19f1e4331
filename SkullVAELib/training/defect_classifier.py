"""Training of the classifier of candidate defects: registered skulls with holes, an atlas of natural openings, and a
small network that is calibrated on individuals it was not trained on.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import ndimage

from SkullVAELib.completion.candidates import FEATURES, MissingBone
from SkullVAELib.completion.defect_classifier import as_vector
from SkullVAELib.completion.options import DefectOptions
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.data.hole_cases import random_case, with_margin
from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.distance_field import downsample_mask
from SkullVAELib.geometry.volume import Volume, to_nearest_ras
from SkullVAELib.io.images import read_volume
from SkullVAELib.registration.patient import align_to_mean, fit_warp_to_mean
from SkullVAELib.registration.reference import MeanSkull
from SkullVAELib.registration.skull import Skull, prepare_skull
from SkullVAELib.shape.warped import WarpedShape
from SkullVAELib.vae.networks import SkullModel

ATLAS_SHAPE = (48, 56, 48)
"""Cells of the atlas of natural openings over the extent of the canonical grid, about 4 mm."""

NETWORKS, HIDDEN = 4, 12
"""Networks of the ensemble, and their hidden units."""

FOLDS = 6
"""Folds by individual for the test and the calibration."""

_STEPS, _DECAY = 1200, 3e-4

# Voxels of less than this, mm, are averaged before anything is cut.
_FINE_MM = 0.6

# A candidate is a defect if so much of it is removed bone and it covers so much of a hole; it is none if less than
# so much of it, and less than so many ml, are.
_INSIDE, _COVERED = 0.5, 0.3
_OUTSIDE, _OUTSIDE_ML = 0.2, 1.0


@dataclass(frozen=True)
class ClassifierCase:
    """The candidates of one image.

    Attributes
    ----------
    individual, condition : str
        Whose skull it is, and how it was acquired.
    features : numpy.ndarray, shape (N, F)
        Features of the candidates, see `as_vector`.
    removed_ml : numpy.ndarray, shape (N, H)
        Volume of each candidate within each hole, ml.
    holes_ml, radii_mm : numpy.ndarray, shape (H,)
        Volume of bone that each hole removed, and its radius.
    openings, shell : numpy.ndarray or None
        Volume in ml of missing bone and of the complete shape in the cells of the atlas, for an intact skull.
    """

    individual: str
    condition: str
    features: np.ndarray
    removed_ml: np.ndarray
    holes_ml: np.ndarray
    radii_mm: np.ndarray
    openings: np.ndarray | None = None
    shell: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """(N,) 1 for a defect, 0 for none, -1 where a candidate is partly both."""
        volume = np.exp(self.features[:, FEATURES.index("volume_ml")])
        inside = self.removed_ml.sum(1)
        covered = (self.removed_ml / np.maximum(self.holes_ml, 1e-3)).max(1, initial=0.0)
        labels = np.full(len(self.features), -1)
        labels[(inside > _INSIDE * volume) & (covered > _COVERED)] = 1
        labels[(inside < _OUTSIDE * volume) & (inside < _OUTSIDE_ML)] = 0
        return labels


def read_skull(path: Path) -> Volume:
    """A complete skull, bool, on voxels of 0.6 mm or more with axes nearest to RAS and a margin."""
    volume = to_nearest_ras(read_volume(path))
    bone = Volume(volume.array > 0, volume.affine)
    if bone.spacing.max() < _FINE_MM:
        half = downsample_mask(bone, 2 * float(bone.spacing.max()))
        bone = half.with_array(half.array >= 0.5)
    return with_margin(bone)


def registered_case(
    skull: Volume, individual: str, number: int, model: SkullModel, natural: torch.Tensor | None
) -> ClassifierCase:
    """Cut holes into a skull, register it and measure its candidates.

    Parameters
    ----------
    skull : Volume
        See `read_skull`.
    individual : str
        Its name, which with the number seeds everything random.
    number : int
        Case number; 0 is the intact skull as it is.
    model : SkullModel
        A model that was not trained on the individual.
    natural : torch.Tensor or None
        Atlas of natural openings of the other individuals; None to fill the atlas.

    Returns
    -------
    ClassifierCase
    """
    rng = np.random.default_rng(zlib.crc32(f"{individual}{number}".encode()))
    case = random_case(skull, rng, intact=number == 0)
    patient = prepare_skull(individual, case.defective)
    aligned = align_to_mean(patient, model)
    warped = WarpedShape(MeanSkull.of(model).tables, fit_warp_to_mean(aligned, model))
    coarse = float(case.defective.spacing.max())
    missing = MissingBone.of(
        warped, model.spread.float().cpu(), aligned.matrix, patient, coarse, DefectOptions(), natural
    )
    removed = _removed(patient, case.whole, case.holes)
    voxel_ml, count = patient.fraction.voxel_ml, len(case.holes)
    candidates = missing.candidates()
    inside = [np.bincount(removed[c.box][c.mask], minlength=count + 1)[1:] * voxel_ml for c in candidates]
    openings, shell = _atlas_cells(missing, warped) if number == 0 else (None, None)
    return ClassifierCase(
        individual,
        case.condition,
        np.array([as_vector(c.features) for c in candidates]).reshape(-1, len(FEATURES)),
        np.array(inside, float).reshape(len(candidates), count),
        np.bincount(removed.ravel(), minlength=count + 1)[1:] * voxel_ml,
        np.array([hole.radius_mm for hole in case.holes]),
        openings,
        shell,
    )


def _removed(patient: Skull, whole: Volume, holes: Sequence) -> np.ndarray:
    """Number of the hole that removed each voxel of the reduced grid, 0 for none."""
    fraction = patient.fraction
    index = np.indices(fraction.array.shape).reshape(3, -1).T
    at = apply_affine(np.linalg.inv(whole.affine) @ fraction.affine, index).T
    bone = ndimage.map_coordinates(whole.array.astype(np.float32), at, order=1, mode="constant")
    gone = np.argwhere((bone.reshape(fraction.array.shape) > 0.4) & (fraction.array < 0.5))
    points = apply_affine(fraction.affine, gone)
    removed = np.zeros(fraction.array.shape, np.uint8)
    for number, hole in enumerate(holes, 1):
        removed[tuple(gone[hole.contains(points)].T)] = number
    return removed


def _atlas_cells(missing: MissingBone, warped: WarpedShape) -> tuple[np.ndarray, np.ndarray]:
    """Volume in ml of natural openings and of the complete shape in the cells of the atlas, on the mean skull."""
    known = missing.inside & (missing.deviation < 4) & (missing.distance < 15) & ~missing.end
    opening = known & missing.missing & (missing.distance > 1.0)
    index, grid = np.argwhere(known), warped.grid
    points = torch.tensor(apply_affine(missing.to_canonical, index)).float()
    on_mean = (points + grid.sample(warped.warp, points)).numpy()
    cell = np.round((on_mean / grid.half_mm + 1) / 2 * (np.array(ATLAS_SHAPE) - 1)).astype(int)
    valid = ((cell >= 0) & (cell < ATLAS_SHAPE)).all(1)
    flat = np.ravel_multi_index(tuple(cell[valid].T), ATLAS_SHAPE)
    counts = [
        np.bincount(flat, weights, minlength=int(np.prod(ATLAS_SHAPE)))
        for weights in (opening[tuple(index[valid].T)].astype(float), None)
    ]
    openings, shell = ((count * missing.fraction.voxel_ml).reshape(ATLAS_SHAPE).astype(np.float32) for count in counts)
    return openings, shell


def natural_openings(cases: Sequence[ClassifierCase], without: str | None = None) -> torch.Tensor:
    """The atlas of natural openings: how often intact skulls lack bone, smoothed over 4 mm.

    Parameters
    ----------
    cases : sequence of ClassifierCase
        Intact skulls.
    without : str, optional
        An individual to leave out.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z)
        0..1.
    """
    used = [c for c in cases if c.openings is not None and c.individual != without]
    if not used:
        raise SkullVAEError("There is no intact skull for the atlas of natural openings", "Give at least two skulls")
    openings, shell = (
        ndimage.gaussian_filter(sum(getattr(c, name) for c in used), 1.0) for name in ("openings", "shell")
    )
    return torch.tensor(openings / np.maximum(shell, 1e-3)).float()


@dataclass(frozen=True)
class Network:
    """A network with one hidden layer on standardised features."""

    mean: np.ndarray
    scale: np.ndarray
    parameters: tuple[np.ndarray, ...]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits (N,) of feature vectors (N, F)."""
        weight, bias, out_weight, out_bias = self.parameters
        return np.tanh(np.clip((features - self.mean) / self.scale, -4, 4) @ weight + bias) @ out_weight + out_bias


def fit_network(features: np.ndarray, labels: np.ndarray, seed: int) -> Network:
    """Fit a network to candidates.

    Parameters
    ----------
    features : numpy.ndarray, shape (N, F)
        Feature vectors.
    labels : numpy.ndarray, shape (N,)
        0 or 1.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    Network
    """
    generator = torch.Generator().manual_seed(seed)
    mean, scale = features.mean(0), features.std(0) + 1e-3
    x = torch.tensor(np.clip((features - mean) / scale, -4, 4)).float()
    y = torch.tensor(labels).float()
    shapes = ((x.shape[1], HIDDEN), (HIDDEN,), (HIDDEN,), ())
    weights = [
        torch.nn.Parameter(0.2 * torch.randn(shape, generator=generator) if i in (0, 2) else torch.zeros(shape))
        for i, shape in enumerate(shapes)
    ]
    optimiser = torch.optim.Adam(weights, lr=0.02)
    for step in range(_STEPS):
        logits = torch.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
        loss = loss + _DECAY * (weights[0].square().sum() + weights[2].square().sum())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == _STEPS * 2 // 3:
            optimiser.param_groups[0]["lr"] = 0.004
    return Network(mean, scale, tuple(w.detach().numpy() for w in weights))


@dataclass(frozen=True)
class HeldOut:
    """Logits of candidates by networks that were not trained on their individual.

    Attributes
    ----------
    logits, labels : numpy.ndarray, shape (N,)
        Mean logit of the ensemble, and 0 or 1.
    temperature : float
        Divisor of the logits that minimises the cross-entropy.
    """

    logits: np.ndarray
    labels: np.ndarray
    temperature: float

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities, (N,)."""
        return 1 / (1 + np.exp(-self.logits / self.temperature))

    @property
    def auc(self) -> float:
        """Area under the receiver operating characteristic."""
        ranks = np.empty(len(self.logits))
        ranks[np.argsort(self.logits)] = np.arange(len(self.logits))
        positive = int(self.labels.sum())
        return float((ranks[self.labels == 1].mean() - (positive - 1) / 2) / (len(ranks) - positive))

    def reliability(self, bins: int = 10) -> list[dict]:
        """Number, mean probability and share of defects in bins of the probability."""
        found, p = [], self.probabilities
        for low in np.arange(bins) / bins:
            inside = (p >= low) & (p < low + 1 / bins) if low + 1 / bins < 1 else p >= low
            if inside.any():
                found.append(
                    {
                        "from": round(float(low), 2),
                        "n": int(inside.sum()),
                        "probability": round(float(p[inside].mean()), 3),
                        "defects": round(float(self.labels[inside].mean()), 3),
                    }
                )
        return found

    def as_json(self) -> dict:
        """Figures for the file and the documentation."""
        p = self.probabilities
        return {
            "candidates": len(p),
            "defects": int(self.labels.sum()),
            "auc": round(self.auc, 4),
            "temperature": round(self.temperature, 3),
            "defects_below_half": int(((self.labels == 1) & (p < 0.5)).sum()),
            "others_above_half": int(((self.labels == 0) & (p >= 0.5)).sum()),
            "reliability": self.reliability(),
        }


def held_out_test(cases: Sequence[ClassifierCase]) -> HeldOut:
    """Test the classifier on individuals that its networks were not trained on, and calibrate it.

    Parameters
    ----------
    cases : sequence of ClassifierCase
        Cases of at least `FOLDS` individuals.

    Returns
    -------
    HeldOut
    """
    features, labels, names = _table(cases)
    individuals = np.random.default_rng(0).permutation(sorted(set(names)))
    logits = np.zeros(len(labels))
    for fold in range(FOLDS):
        test = np.isin(names, individuals[fold::FOLDS])
        if test.any():
            networks = [fit_network(features[~test], labels[~test], seed) for seed in range(2)]
            logits[test] = np.mean([network.logits(features[test]) for network in networks], axis=0)
    signs = np.where(labels == 1, 1.0, -1.0)
    temperatures = np.linspace(1.0, 4.0, 61)
    loss = [np.log1p(np.exp(-signs * logits / t)).mean() for t in temperatures]
    return HeldOut(logits, labels, float(temperatures[int(np.argmin(loss))]))


def _table(cases: Sequence[ClassifierCase]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and individuals of all candidates that are clearly a defect or clearly none."""
    features = np.concatenate([case.features for case in cases])
    labels = np.concatenate([case.labels for case in cases])
    names = np.concatenate([[case.individual] * len(case.features) for case in cases])
    clear = labels >= 0
    return features[clear], labels[clear], names[clear]


def outside_test(cases: Sequence[ClassifierCase], others: Sequence[ClassifierCase], temperature: float) -> HeldOut:
    """Test an ensemble that was trained on all cases on other individuals.

    Parameters
    ----------
    cases, others : sequence of ClassifierCase
        Cases for training and for the test.
    temperature : float
        See `HeldOut`.

    Returns
    -------
    HeldOut
    """
    features, labels, _ = _table(cases)
    networks = [fit_network(features, labels, seed) for seed in range(NETWORKS)]
    features, labels, _ = _table(others)
    return HeldOut(np.mean([network.logits(features) for network in networks], axis=0), labels, temperature)


def write_classifier(path: Path, cases: Sequence[ClassifierCase], test: HeldOut, about: dict) -> None:
    """Fit the final ensemble to all cases and write it with the atlas.

    Parameters
    ----------
    path : Path
        A .safetensors file.
    cases : sequence of ClassifierCase
        Cases that may be in a file that is published.
    test : HeldOut
        The test, whose figures and temperature are written.
    about : dict
        Where the data come from.
    """
    features, labels, _ = _table(cases)
    networks = [fit_network(features, labels, seed) for seed in range(NETWORKS)]
    stacked = [np.stack([network.parameters[i] for network in networks]) for i in range(4)]
    tensors = {
        "natural_openings": natural_openings(cases).half(),
        "mean": torch.tensor(networks[0].mean).float(),
        "scale": torch.tensor(networks[0].scale).float(),
        **{
            name: torch.tensor(values).float()
            for name, values in zip(
                ("hidden_weight", "hidden_bias", "output_weight", "output_bias"), stacked, strict=True
            )
        },
        "temperature": torch.tensor([test.temperature]).float(),
        "typical": torch.tensor(np.median(features[labels == 1], axis=0)).float(),
    }
    content = {"features": list(FEATURES), **about, "held_out": test.as_json()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"skullvae_defects": json.dumps(content)})


def save_case(path: Path, case: ClassifierCase) -> None:
    """Write a case as .npz; the file is complete or absent."""
    arrays: dict[str, Any] = {name: value for name, value in vars(case).items() if isinstance(value, np.ndarray)}
    # Given a name, numpy would add its own suffix.
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, individual=case.individual, condition=case.condition, **arrays)


def load_case(path: Path) -> ClassifierCase:
    """Read a case written by `save_case`."""
    with np.load(path) as stored:
        values = {name: stored[name] for name in stored.files}
    return ClassifierCase(str(values.pop("individual")), str(values.pop("condition")), **values)
