"""The losses of both training methods: every term, every weight, and how they are added up.

Both methods are beta-VAEs: reconstruction loss + beta x KL divergence (Higgins et al., ICLR 2017). They differ in the
reconstruction:

* arXiv 2209.14783 (`paper_reconstruction_loss`): 80 x Dice loss of two classes, summed over classes and batch.
* Our method (`canonical_reconstruction_loss`): 160 x (Dice loss + distance_weight x distance error in mm), a mean over
  the batch.

`canonical.py` and `paper.py` call these functions and hold no weight of their own. Every term is a mean over the skulls
of a batch, so that processes that share a batch can average their parts.
"""

from __future__ import annotations

import torch

LossAndTerms = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""A scalar loss to minimise, and its terms by their column names in log.csv (scalars, without weights)."""

CLASS_WEIGHT = 80
"""Weight of the Dice loss of one class of one skull in arXiv 2209.14783.

With two classes and a batch of four skulls the worst Dice loss is 80 x 2 x 4 = 640, the scale of the paper's curves.
"""

SKULL_WEIGHT = 2 * CLASS_WEIGHT
"""Weight of the Dice loss of one skull in our method: the paper's 80 for each of two classes."""

_EDGE_MM = 0.75
"""Width of the soft edge between bone and background in `soft_dice_loss`, in mm."""

_SURFACE_MM, _FAR_WEIGHT, _REMOVED_WEIGHT = 3, 0.1, 3
"""`distance_loss`: reach of the weight about the surface in mm, weight far from it, factor where bone was removed."""


# Weighted sums: what training minimises


def beta_vae_loss(reconstruction: torch.Tensor, kl: torch.Tensor, beta: float, skulls: int = 1) -> torch.Tensor:
    """Stage 1: reconstruction + beta x skulls x KL.

    Parameters
    ----------
    reconstruction : torch.Tensor
        Scalar reconstruction loss.
    kl : torch.Tensor
        Scalar KL divergence in nats, summed over latents, mean over skulls; see `kl_loss`.
    beta : float
        Weight of the KL divergence per skull (Higgins et al., ICLR 2017).
    skulls : int
        1 where the reconstruction loss is a mean over skulls (our method), the batch size where it is a sum (paper).
    """
    return reconstruction + beta * skulls * kl


def canonical_reconstruction_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    known: torch.Tensor,
    removed: torch.Tensor,
    distance_weight: float | None,
) -> LossAndTerms:
    """Our method, both stages: 160 x (Dice loss + distance_weight x distance error), a mean over the batch.

    Parameters
    ----------
    prediction, target : torch.Tensor
        Signed distance fields (N, X, Y, Z) in mm, negative in bone.
    known : torch.Tensor
        (N, X, Y, Z) 0..1: where the target is known.
    removed : torch.Tensor
        (N, X, Y, Z) 1 where the defect removed bone, else 0.
    distance_weight : float or None
        Weight of 1 mm of distance error relative to a Dice loss of 1; None leaves the distance error out.

    Returns
    -------
    LossAndTerms
        The loss, and the terms ``dice_loss`` (0..1) and ``distance_mm``, which is reported even where it is left out.
    """
    dice = soft_dice_loss(prediction, target, known)
    distance = distance_loss(prediction, target, known, removed)
    error = dice if distance_weight is None else dice + distance_weight * distance
    return SKULL_WEIGHT * error, {"dice_loss": dice, "distance_mm": distance}


def paper_reconstruction_loss(logits: torch.Tensor, bone: torch.Tensor, batch: int) -> LossAndTerms:
    """arXiv 2209.14783, both stages: 80 x Dice loss, summed over the two classes and the batch.

    The sum over the batch is computed as its mean times the batch size, so that processes can share a batch.

    Parameters
    ----------
    logits : torch.Tensor
        (N, 2, X, Y, Z) of background and bone.
    bone : torch.Tensor
        (N, X, Y, Z), 0 or 1.
    batch : int
        Size of the whole batch, of which this process may hold a part.

    Returns
    -------
    LossAndTerms
        The loss, and the term ``dice_loss`` (0..1), a mean over skulls and classes.
    """
    dice = paper_dice_loss(logits, bone)
    return CLASS_WEIGHT * batch * dice.sum(1).mean(), {"dice_loss": dice.mean()}


# Terms


def kl_loss(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL divergence in nats of posteriors to N(0, I), summed over latents, mean over skulls: a scalar.

    mu, logvar: (N, L) mean and log variance of the posteriors; computed in float32.
    """
    return kl_divergence(mu.float(), logvar.float()).sum(1).mean()


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL divergence of Gaussian posteriors to N(0, 1) for each latent.

    KL = (mu^2 + sigma^2 - log sigma^2 - 1) / 2 (Kingma & Welling, ICLR 2014, appendix B).

    Parameters
    ----------
    mu, logvar : torch.Tensor
        (N, L) mean and log variance.

    Returns
    -------
    torch.Tensor
        (N, L) in nats.

    Examples
    --------
    >>> kl_divergence(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).tolist()
    [[0.0, 2.0]]
    """
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1)


def paper_dice_loss(logits: torch.Tensor, bone: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice of background and of bone, as in the code of arXiv 2209.14783.

    1 - (2 sum(p t) + 1e-5) / (sum(p) + sum(t) + 1e-5), with p the softmax of the logits and t the truth: MONAI's
    ``DiceLoss``, which that code uses.

    Parameters
    ----------
    logits : torch.Tensor
        (N, 2, X, Y, Z) of background and bone.
    bone : torch.Tensor
        (N, X, Y, Z), 0 or 1.

    Returns
    -------
    torch.Tensor
        (N, 2) of background and bone, each 0..1.
    """
    # Imported here because our own method does without MONAI, which takes longer to import than torch.
    from monai.losses import DiceLoss

    loss = DiceLoss(to_onehot_y=True, softmax=True, reduction="none")
    return loss(logits.float(), bone[:, None]).flatten(1)


def soft_dice_loss(prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice of the bone of two distance fields where the target is known, mean over the batch: a scalar, 0..1.

    1 - (2 sum(a b) + 1) / (sum(a^2) + sum(b^2) + 1), with a and b the bone fractions sigmoid(-d / 0.75 mm) x known
    (squared denominator: Milletari et al., 3DV 2016).

    Parameters
    ----------
    prediction, target : torch.Tensor
        Signed distance fields d (N, X, Y, Z) in mm, negative in bone.
    known : torch.Tensor
        (N, X, Y, Z) 0..1: where the target is known.
    """
    a, b = (torch.sigmoid(-field / _EDGE_MM) * known for field in (prediction, target))
    axes = (1, 2, 3)
    return (1 - (2 * (a * b).sum(axes) + 1) / ((a * a).sum(axes) + (b * b).sum(axes) + 1)).mean()


def distance_loss(
    prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor, removed: torch.Tensor
) -> torch.Tensor:
    """Weighted mean absolute error of a distance field in mm, mean over the batch: a scalar.

    The weight is known x (0.1 + exp(-(d / 3 mm)^2)), d being the target: about the surface it is eleven times that far
    away. It is threefold where bone was removed, since a completion is used there. Each skull's mean is taken by
    itself, so that processes can share a batch.

    Parameters
    ----------
    prediction, target : torch.Tensor
        Signed distance fields (N, X, Y, Z) in mm, negative in bone.
    known : torch.Tensor
        (N, X, Y, Z) 0..1: where the target is known.
    removed : torch.Tensor
        (N, X, Y, Z) 1 where the defect removed bone, else 0.
    """
    near_surface = _FAR_WEIGHT + torch.exp(-((target / _SURFACE_MM) ** 2))
    weight = known * near_surface * (1 + (_REMOVED_WEIGHT - 1) * removed)
    axes = (1, 2, 3)
    return ((weight * (prediction - target).abs()).sum(axes) / weight.sum(axes).clamp(min=1)).mean()


# Scores, which are reported and not minimised


def dice_score(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice of bool volumes (N, ...), as (N,); 1 where both are empty."""
    prediction, truth = prediction.flatten(1), truth.flatten(1)
    both, total = (prediction & truth).sum(1).float(), (prediction.sum(1) + truth.sum(1)).float()
    return torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)
