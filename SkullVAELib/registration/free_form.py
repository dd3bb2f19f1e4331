"""The conforming warp: a smooth deformation that lays the prior's surface onto the patient's intact bone.

A free-form deformation on cubic B-splines. It is fitted robustly, so the hole's cut faces and bone that the prior does
not know pull nothing, and its smoothness carries the correction across the hole.
"""

from __future__ import annotations

import numpy as np
import torch

from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.shape.two_table import TwoTableShape, outward_directions, pick_side


def _spline_matrix(length_mm: float, control: int, nodes: int) -> torch.Tensor:
    """(nodes, control) cubic B-spline weights of evenly spaced nodes; control points overhang by one on each side."""
    u = torch.linspace(0, 1, nodes).double() * (control - 3)
    offset = u[:, None] - (torch.arange(control).double() - 1)[None]
    a = offset.abs()
    return torch.where(a < 1, (4 - 6 * a**2 + 3 * a**3) / 6, (2 - a).clamp(min=0) ** 3 / 6).float()


def _second_differences(u: torch.Tensor, axis: int) -> torch.Tensor:
    return u.diff(n=2, dim=axis)


def _leaning(control: list[int], spacing_mm: float) -> torch.Tensor:
    """(3 * X * Y * Z, 3) orthonormal: control points under what moves a whole head asymmetrically without a change of
    its shape, a shift to the side, a roll and a yaw."""
    x, y, z = torch.meshgrid(*((torch.arange(n) - (n - 1) / 2) * spacing_mm / 50 for n in control), indexing="ij")
    still, shift = torch.zeros_like(x), torch.ones_like(x)
    motions = torch.stack([shift, still, still, z, still, -x, y, -x, still]).reshape(3, -1)
    return torch.linalg.qr(motions.T).Q


def fit_warp(
    prior: TwoTableShape, points: torch.Tensor, normals: torch.Tensor, options: WarpOptions = WarpOptions()
) -> torch.Tensor:
    """Displacements that lay the patient's surface on the prior's: prior(x + u(x)) = 0 for bone surface x.

    points, normals: (N, 3) in canonical mm, normals away from bone and of unit length. Surface that faces outwards is
    laid on the outer table, the other on the inner one.
    Returns u, (3, X', Y', Z') in mm, on a coarse grid over the canonical extent; `Grid.sample` evaluates it anywhere.
    A point whose normal disagrees with the prior's gradient does not vote: it is a cut face, or no table.
    """
    grid = prior.grid
    pick = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[: options.count]
    points, normals = points[pick], normals[pick]
    extent = 2 * grid.half_mm
    control = [int(np.ceil(length / options.spacing_mm)) + 3 for length in extent]
    nodes = [int(np.ceil(length / 5.0)) + 1 for length in extent]
    basis = [_spline_matrix(*v) for v in zip(extent, control, nodes, strict=True)]
    coefficients = torch.zeros(3, *control, requires_grad=True)
    optimiser = torch.optim.Adam([coefficients], lr=0.4)
    outer = (normals * outward_directions(points)).sum(1) > 0
    mirror = torch.tensor([-1.0, 1, 1])[:, None, None, None]
    # Half a vault shows where the middle is to a millimetre only. Held to be asymmetry, that error would be carried to
    # the other side with its sign turned, and a plate would lie by twice as much beside its place.
    leaning = _leaning(control, options.spacing_mm)

    def displacement() -> torch.Tensor:
        return torch.einsum("cxyz,ix,jy,kz->cijk", coefficients, *basis)

    agreement = torch.zeros(len(points))  # until the first step tells
    for i in range(options.steps):
        moved = points + grid.sample(displacement(), points)
        if i % 20 == 0:
            with torch.no_grad():
                slope = pick_side(grid.sample(prior.slopes_by_side, moved), outer)
                cosine = (slope * normals).sum(-1) / slope.norm(dim=-1).clamp(min=1e-3)
                agreement = ((cosine - 0.3) / 0.4).clamp(0, 1)
        distance = pick_side(grid.sample(prior.by_side, moved), outer)[:, 0]
        c2 = (options.cut_mm if i > options.steps // 2 else 2 * options.cut_mm) ** 2 / 4
        data = (agreement * distance**2 / (distance**2 + c2)).sum() / agreement.sum().clamp(min=1) * c2
        bend = sum((_second_differences(coefficients, k) ** 2).mean() for k in (1, 2, 3))
        stretch = sum((coefficients.diff(dim=k) ** 2).mean() for k in (1, 2, 3))
        uneven = (coefficients - coefficients.flip(1) * mirror).flatten()
        uneven = ((uneven - leaning @ (leaning.T @ uneven)) ** 2).mean()
        loss = data + options.stiffness * (bend + 0.1 * stretch + options.symmetry * uneven)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if i == int(0.7 * options.steps):
            for group in optimiser.param_groups:
                group["lr"] /= 3
    return displacement().detach()


def inverse_warp(warp: torch.Tensor, grid: Grid, steps: int = 10) -> torch.Tensor:
    """v with v(y) = -u(y + v(y)): where u lays the patient on the prior, v lays the prior's places on the patient.

    warp: u, (3, X', Y', Z') mm over the grid's extent; returns v alike. A fixed point, which a smooth u has.
    """
    nodes = Grid(tuple(warp.shape[1:]), 1.0)
    at = (
        nodes.coordinates().reshape(-1, 3) / torch.as_tensor(nodes.half_mm).float() * torch.tensor(grid.half_mm).float()
    )
    back = torch.zeros_like(at)
    for _ in range(steps):
        back = -grid.sample(warp, at + back)
    return back.T.reshape(warp.shape)
