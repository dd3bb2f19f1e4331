"""The optimiser of the registration gives the same numbers as torch.optim.Adam, without its imports."""

from __future__ import annotations

import subprocess
import sys

import torch

from SkullVAELib.core.adam import Adam


def _loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.square() / (1 + a.square())).sum() + (a[0] * b - 2).square().sum() + b.abs().sum()


def test_the_same_bits_as_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(7, generator=generator), torch.randn(3, 4, generator=generator)]
    a, b = (start.clone().requires_grad_(True) for start in starts)
    theirs = torch.optim.Adam([{"params": [a], "lr": 0.3}, {"params": [b], "lr": 0.01}])
    c, d = (start.clone().requires_grad_(True) for start in starts)
    ours = Adam([(c, 0.3), (d, 0.01)])
    for step in range(60):
        theirs.zero_grad()
        _loss(a, b).backward()
        if step == 40:
            for group in theirs.param_groups:
                group["lr"] *= 0.5
        theirs.step()
        ours.minimise(_loss(c, d), 1.0 if step < 40 else 0.5)
    assert torch.equal(a, c) and torch.equal(b, d)
    assert _loss(c, d) < 0.5 * _loss(*starts)


def test_the_compiler_of_torch_is_not_imported() -> None:
    code = (
        "import sys, torch\n"
        "from SkullVAELib.core.adam import Adam\n"
        "x = torch.ones(3, requires_grad=True)\n"
        "Adam([(x, 0.1)]).minimise(x.square().sum())\n"
        "print('torch._dynamo' in sys.modules, float(x[0]) < 1)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert run.stdout.split() == ["False", "True"]
