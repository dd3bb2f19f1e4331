"""The warp: a smooth free-form deformation between the patient's intact bone and a complete shape.

Displacements are cubic B-splines. They are fitted with a robust loss, so that the cut faces of a hole and bone that the
shape does not have exert no pull; the smoothness of the splines carries the deformation across the hole.
"""

from __future__ import annotations

import numpy as np
import torch

from SkullVAELib.core.adam import Adam
from SkullVAELib.core.progress import report_step
from SkullVAELib.geometry.grid import Grid
from SkullVAELib.registration.options import WarpOptions
from SkullVAELib.shape.two_table import TwoTableShape, outward_directions, pick_side


def _spline_matrix(length_mm: float, control: int, nodes: int) -> torch.Tensor:
    """(nodes, control) cubic B-spline weights of evenly spaced nodes; one control point lies beyond each end."""
    u = torch.linspace(0, 1, nodes).double() * (control - 3)
    offset = u[:, None] - (torch.arange(control).double() - 1)[None]
    a = offset.abs()
    return torch.where(a < 1, (4 - 6 * a**2 + 3 * a**3) / 6, (2 - a).clamp(min=0) ** 3 / 6).float()


def _second_differences(u: torch.Tensor, axis: int) -> torch.Tensor:
    """Second differences of control points along an axis."""
    return u.diff(n=2, dim=axis)


def _rigid_asymmetry(control: list[int], spacing_mm: float) -> torch.Tensor:
    """(3 * X * Y * Z, 3) orthonormal displacements of the control points under a lateral shift, a roll and a yaw.

    These motions move a whole head asymmetrically without changing its shape.
    """
    x, y, z = torch.meshgrid(*((torch.arange(n) - (n - 1) / 2) * spacing_mm / 50 for n in control), indexing="ij")
    still, shift = torch.zeros_like(x), torch.ones_like(x)
    motions = torch.stack([shift, still, still, z, still, -x, y, -x, still]).reshape(3, -1)
    return torch.linalg.qr(motions.T).Q


def fit_warp(
    prior: TwoTableShape, points: torch.Tensor, normals: torch.Tensor, options: WarpOptions = WarpOptions()
) -> torch.Tensor:
    """Fit the displacements that map the patient's surface to the prior's: prior(x + u(x)) = 0 for bone surface x.

    Surface that faces outwards is fitted to the outer table, other surface to the inner table. A point whose normal
    disagrees with the prior's gradient has weight 0: it is on a cut face or belongs to no table.

    Parameters
    ----------
    prior : TwoTableShape
        Complete shape on the canonical grid.
    points : torch.Tensor, shape (N, 3)
        Bone surface in canonical mm.
    normals : torch.Tensor, shape (N, 3)
        Unit normals of the surface, pointing away from bone.
    options : WarpOptions
        Smoothness, robustness and number of steps.

    Returns
    -------
    torch.Tensor, shape (3, X', Y', Z')
        u in mm on a coarse grid over the canonical extent; `Grid.sample` evaluates it at any point.
    """
    grid = prior.grid
    pick = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[: options.count]
    points, normals = points[pick], normals[pick]
    extent = 2 * grid.half_mm
    control = [int(np.ceil(length / options.spacing_mm)) + 3 for length in extent]
    nodes = [int(np.ceil(length / 5.0)) + 1 for length in extent]
    basis = [_spline_matrix(*v) for v in zip(extent, control, nodes, strict=True)]
    coefficients = torch.zeros(3, *control, requires_grad=True)
    optimiser = Adam([(coefficients, 0.4)])
    outer = (normals * outward_directions(points)).sum(1) > 0
    mirror = torch.tensor([-1.0, 1, 1])[:, None, None, None]
    # With half of the vault missing, the midsagittal plane is known to about a millimetre only. Penalised as asymmetry,
    # that error would be transferred to the other side with opposite sign and displace the bone there twice as much.
    rigid = _rigid_asymmetry(control, options.spacing_mm)

    def displacement() -> torch.Tensor:
        return torch.einsum("cxyz,ix,jy,kz->cijk", coefficients, *basis)

    agreement = torch.zeros(len(points))  # set in the first step
    for i in range(options.steps):
        report_step(i / options.steps)
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
        asymmetry = (coefficients - coefficients.flip(1) * mirror).flatten()
        asymmetry = ((asymmetry - rigid @ (rigid.T @ asymmetry)) ** 2).mean()
        loss = data + options.stiffness * (bend + 0.1 * stretch + options.symmetry * asymmetry)
        optimiser.minimise(loss, 1.0 if i <= int(0.7 * options.steps) else 1 / 3)
    return displacement().detach()


def inverse_warp(warp: torch.Tensor, grid: Grid, steps: int = 10) -> torch.Tensor:
    """Invert a warp by fixed-point iteration: v with v(y) = -u(y + v(y)).

    u maps the patient to the prior, v maps the prior to the patient. The iteration converges for a smooth u.

    Parameters
    ----------
    warp : torch.Tensor, shape (3, X', Y', Z')
        u in mm over the extent of `grid`.
    grid : Grid
        The canonical grid.
    steps : int
        Number of iterations.

    Returns
    -------
    torch.Tensor, shape (3, X', Y', Z')
        v in mm, on the same nodes as u.
    """
    nodes = Grid(tuple(warp.shape[1:]), 1.0)
    at = (
        nodes.coordinates().reshape(-1, 3) / torch.as_tensor(nodes.half_mm).float() * torch.tensor(grid.half_mm).float()
    )
    inverse = torch.zeros_like(at)
    for _ in range(steps):
        inverse = -grid.sample(warp, at + inverse)
    return inverse.T.reshape(warp.shape)
