"""The Adam optimiser for the few parameters of a registration.

`torch.optim.Adam` gives the same bits; its first use imports the compiler of torch, a second of every completion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma & Ba 2015) with a learning rate for each parameter, without weight decay.

    Parameters
    ----------
    parameters : sequence of (torch.Tensor, float)
        Leaf tensors that require a gradient, each with its learning rate; `minimise` changes them in place.
    """

    def __init__(self, parameters: Sequence[tuple[torch.Tensor, float]]) -> None:
        self._parameters = tuple(parameters)
        self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p, _ in self._parameters]
        self._steps = 0

    @torch.no_grad()
    def _update(self, factor: float) -> None:
        self._steps += 1
        first_bias, second_bias = 1 - _BETA_1**self._steps, 1 - _BETA_2**self._steps
        for (parameter, rate), (first, second) in zip(self._parameters, self._moments, strict=True):
            assert parameter.grad is not None, "the loss does not depend on a parameter"
            first.lerp_(parameter.grad, 1 - _BETA_1)
            second.mul_(_BETA_2).addcmul_(parameter.grad, parameter.grad, value=1 - _BETA_2)
            spread = (second.sqrt() / second_bias**0.5).add_(_EPSILON)
            parameter.addcdiv_(first, spread, value=-rate * factor / first_bias)

    def minimise(self, loss: torch.Tensor, factor: float = 1.0) -> None:
        """Take one step down a scalar loss, with the learning rates multiplied by a factor."""
        for parameter, _ in self._parameters:
            parameter.grad = None
        loss.backward()
        self._update(factor)
