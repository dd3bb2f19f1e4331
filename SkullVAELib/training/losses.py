"""Losses of both training methods."""

from __future__ import annotations

import torch


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL (N, L) in nats of posteriors to N(0, 1), latent by latent.

    >>> kl_divergence(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).tolist()
    [[0.0, 2.0]]
    """
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1)


def dice_score(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(N,) Dice of bool volumes (N, ...); 1 where both are empty."""
    prediction, truth = prediction.flatten(1), truth.flatten(1)
    both, total = (prediction & truth).sum(1).float(), (prediction.sum(1) + truth.sum(1)).float()
    return torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)


CLASS_WEIGHT = 80
"""Weight of the Dice loss of one class of one skull; two classes and a batch of four make the paper's 640."""


def paper_dice_loss(logits: torch.Tensor, bone: torch.Tensor) -> torch.Tensor:
    """(N, 2) 1 - soft Dice of background and bone, logits (N, 2, X, Y, Z), bone (N, X, Y, Z) 0 or 1.

    MONAI's DiceLoss(to_onehot_y=True, softmax=True, reduction="none") without its one-hot copies: two classes share one
    sum of products.
    """
    probability = torch.sigmoid((logits[:, 1] - logits[:, 0]).float()).flatten(1)
    truth = bone.flatten(1).to(probability.dtype)
    count = truth.shape[1]
    both, predicted, true = (probability * truth).sum(1), probability.sum(1), truth.sum(1)
    overlap = torch.stack([count - predicted - true + both, both], 1)
    total = torch.stack([2 * count - predicted - true, predicted + true], 1)
    return 1 - (2 * overlap + 1e-5) / (total + 1e-5)


PAPER_WEIGHT = 160
"""80 for each of two classes: the weight of one skull's Dice loss in the paper."""


def soft_dice_loss(prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of 1 - Dice between the bone of two fields (N, X, Y, Z) in mm, where known (0..1)."""
    a, b = (torch.sigmoid(-field / 0.75) * known for field in (prediction, target))
    axes = (1, 2, 3)
    return (1 - (2 * (a * b).sum(axes) + 1) / ((a * a).sum(axes) + (b * b).sum(axes) + 1)).mean()


def distance_loss(
    prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor, removed: torch.Tensor
) -> torch.Tensor:
    """Mean absolute error in mm near the surface; threefold where bone was removed, for that is what is asked for.

    Fields (N, X, Y, Z); the mean over the batch of each skull's own, so that a batch may be shared by processes.
    """
    weight = known * (0.1 + torch.exp(-((target / 3) ** 2))) * (1 + 2 * removed)
    axes = (1, 2, 3)
    return ((weight * (prediction - target).abs()).sum(axes) / weight.sum(axes).clamp(min=1)).mean()
