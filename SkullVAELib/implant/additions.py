"""What is added to a plate or cut into it after it was made: build-up, fixation, further holes and an engraving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from SkullVAELib.geometry.affines import apply_affine, as_place, perpendicular_axes
from SkullVAELib.implant.addition_options import AdditionOptions
from SkullVAELib.implant.engraving import STROKE, TextPlace, engrave, place_text
from SkullVAELib.implant.fixation import (
    Fixation,
    Ground,
    Site,
    capsule,
    cut_rounded,
    drill_screw,
    grid_box,
    make_fixation,
)
from SkullVAELib.implant.implicit_solid import FAR_MM, FineGrid, OuterSurface, inner_box, path_through
from SkullVAELib.implant.rim_line import RimLine, SurfaceNodes
from SkullVAELib.mesh.distance import BoneDistance
from SkullVAELib.mesh.mesh import Mesh

THICKEST_MM = 30.0
"""Maximum length of a hole through the plate, and distance of a given point from the outer surface."""

_EDGE_ROOM_MM = 1.0
"""Minimum distance between the edge of a hole at a given point and the rim or another such hole."""

_NEAR_SCREW_MM = 40.0
"""Distance from a screw beyond which nothing belongs to its tab."""

_TAPER = 2.5
"""Length of the tapered edge of a build-up, as a multiple of its thickness."""


@dataclass(frozen=True)
class OwnPoints:
    """The points that were given for one defect, RAS mm; attributes as those of `AdditionOptions`."""

    tab_at: np.ndarray
    holes_at: np.ndarray
    build_up: np.ndarray


@dataclass
class Additions:
    """Additions to the plate of one defect.

    Attributes
    ----------
    options : AdditionOptions
        What is added.
    grid, outer, rim
        The grid of the plate, the completed outer surface and the rim on it.
    fixation : Fixation
        Tabs and flange.
    holes : list of tuple
        For each further hole the point (3,) on the completed outer surface, the outward axis (3,) and the diameter.
    warnings : list of str
        What could not be made.
    """

    options: AdditionOptions
    grid: FineGrid
    outer: OuterSurface
    rim: RimLine
    fixation: Fixation
    holes: list[tuple[np.ndarray, np.ndarray, float]]
    warnings: list[str] = field(default_factory=list)
    _shares: _Shares | None = None

    @classmethod
    def of(
        cls,
        plate: np.ndarray,
        grid: FineGrid,
        outer: OuterSurface,
        ground: Ground,
        bone: BoneDistance | None,
        deficit: Callable[[np.ndarray], np.ndarray],
        clearance_mm: float,
        under_mm: float,
        options: AdditionOptions,
        own: OwnPoints,
    ) -> Additions:
        """Plan the additions to a plate; arguments as in `make_fixation`, own: the points given for this defect."""
        rim = RimLine(plate, grid, outer, under_mm)
        fixation = Fixation(np.full(grid.shape, FAR_MM, np.float32))
        if options.tabs or options.flange_mm or len(own.tab_at):
            fixation = make_fixation(
                plate, grid, outer, rim, ground, bone, deficit, clearance_mm, under_mm, options, own.tab_at
            )
        made = cls(options, grid, outer, rim, fixation, [], list(fixation.warnings))
        for *point, diameter in own.holes_at:
            at = outer.points[outer.nearest(np.array([point]))]
            inset, off = -float(rim.signed(at)[0]), float(np.linalg.norm(at[0] - point))
            least = diameter / 2 + _EDGE_ROOM_MM
            if inset < least or off > THICKEST_MM:
                figure = f"{inset:.1f} mm inside the rim" if inset > 0 else f"{-inset:.1f} mm outside the implant"
                if off > THICKEST_MM:
                    figure = f"{off:.0f} mm from the outer surface"
                made.warnings.append(
                    f"The hole at {as_place(np.array(point))} is left out: it is {figure}. Give a point at least"
                    f" {least:.1f} mm inside the rim."
                )
                continue
            apart = [float(np.linalg.norm(at[0] - other)) - (diameter + wide) / 2 for other, _, wide in made.holes]
            if apart and min(apart) < _EDGE_ROOM_MM:
                made.warnings.append(
                    f"The hole at {as_place(np.array(point))} is left out: another hole is too near. Leave at least"
                    f" {_EDGE_ROOM_MM:g} mm between the edges of holes."
                )
                continue
            made.holes.append((at[0], outer.normal(at)[0], diameter))
        return made

    def obstacles(self, piece: np.ndarray) -> np.ndarray:
        """Points (N, 3), RAS mm, that perfusion holes and a text stay away from: tabs, flange and further holes."""
        covered = np.argwhere((self.fixation.solid < 0) & (piece < 0))[::3]
        points = [covered @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]]
        for at, axis, diameter in self.holes:
            first, second = perpendicular_axes(axis)
            for angle in np.arange(12) * np.pi / 6:
                around = at + diameter / 2 * (np.cos(angle) * first + np.sin(angle) * second)
                points.append(around - np.arange(0, 12, 1.0)[:, None] * axis)
        return np.concatenate(points)

    def text_place(
        self, mesh: Mesh, faces: np.ndarray, solid: np.ndarray, obstacles: np.ndarray
    ) -> tuple[TextPlace | None, list[str]]:
        """The place for the engraving on a piece, and a warning where it does not fit."""
        options = self.options
        if not options.engraving:
            return None, []
        found = place_text(
            options.engraving,
            options.engraving_mm,
            options.engraving_depth_mm,
            mesh,
            faces,
            solid,
            self.grid,
            obstacles,
        )
        if found is not None:
            return found, []
        wide = options.engraving_mm * (len(options.engraving) - 1 / 3) * (1 - STROKE)
        return None, [
            f"The engraving is left out: there is no room for {wide:.0f} x {options.engraving_mm:g} mm on the inner"
            " surface where the plate is thick enough. Use a shorter text or a smaller --engrave-size."
        ]

    def apply(
        self, solid: np.ndarray, pieces: list[np.ndarray], number: int, gap_mm: float, text: TextPlace | None
    ) -> tuple[np.ndarray, dict, list[str], list[np.ndarray]]:
        """Add to a piece and cut into it.

        Parameters
        ----------
        solid : numpy.ndarray
            Function (*shape) of the piece.
        pieces : list of numpy.ndarray
            Functions of all pieces of the plate; the same list for each of them.
        number : int
            Number of the piece among them, from 0.
        gap_mm : float
            Distance between them.
        text : TextPlace or None
            The place of the engraving.

        Returns
        -------
        solid : numpy.ndarray
            Function of the piece with its additions.
        figures : dict
            "screws", "holes_at" and "engraved" of what was made.
        warnings : list of str
            What could not be made.
        steps : list of numpy.ndarray
            Functions of the piece with tabs and flange, before the holes, and with the holes, before the text.
        """
        options = self.options
        warnings: list[str] = []
        added = self.fixation.solid
        if len(pieces) > 1 and (added < 0).any():
            if self._shares is None:
                self._shares = _Shares.of(self.fixation, pieces, self.grid, self.options.pad_mm)
            added = self._share(self._shares, number, gap_mm)
        solid = np.minimum(solid, added)
        steps, screws = [solid.copy()], []
        for site in self.fixation.screws:
            height = np.arange(-1.0, 6.0, 0.1)[:, None]
            if not (self.grid.sample(added, site.at + height * site.axis) < 0).any():
                continue
            thickness = drill_screw(solid, self.grid, site, options.screw_diameter_mm, 4.0)
            if thickness is not None:
                screws.append(_screw_figures(site, options.screw_diameter_mm, thickness))
        holes = []
        for at, axis, diameter in self.holes:
            if _drill(solid, self.grid, at, axis, diameter):
                holes.append(
                    {"at_mm": _rounded(at, 2), "direction": _rounded(-axis, 4), "diameter_mm": float(diameter)}
                )
        steps.append(solid if text is None else solid.copy())
        if text is not None:
            engrave(solid, self.grid, text, options.engraving_mm, options.engraving_depth_mm)
        figures = {"screws": screws, "holes_at": holes, "engraved": options.engraving if text is not None else ""}
        return solid, figures, warnings, steps

    def _share(self, shares: _Shares, number: int, gap_mm: float) -> np.ndarray:
        """The part (*shape) of tabs and flange that is nearer to a piece than to the others, with half the gap.

        Around a screw all of it belongs to the piece that is nearest to the screw.
        """
        added = self.fixation.solid.copy()
        gap = max(gap_mm, 0.2)
        own, other = shares.away[number], np.delete(shares.away, number, 0).min(0)
        apart = (own - other + gap) / 2
        own_screw, other_screw = shares.screws[number], np.delete(shares.screws, number, 0).min(0)
        for screw, (near, beside) in enumerate(shares.tabs):
            if own_screw[screw] <= other_screw[screw]:
                # Distances are to nodes inside the pieces, of which the surface is up to a step farther out.
                apart[near] = np.minimum(apart[near], np.maximum(beside, gap + self.grid.step_mm - other[near]))
            else:
                apart[near] = np.maximum(apart[near], gap - beside)
        values = added.ravel()
        values[shares.flat] = np.maximum(values[shares.flat], apart)
        return added


@dataclass(frozen=True)
class _Shares:
    """Distances by which tabs and flange are shared between P pieces, at N nodes.

    flat: (N,) the nodes. away: (P, N) mm from each piece. screws: (P, S) mm of the screws from each piece. tabs: for
    each screw the numbers of the nodes near its tab and their distances from the tab, mm, negative within.
    """

    flat: np.ndarray
    away: np.ndarray
    screws: np.ndarray
    tabs: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, fixation: Fixation, pieces: list[np.ndarray], grid: FineGrid, pad_mm: float) -> _Shares:
        flat = np.flatnonzero(fixation.solid.ravel() < 2 * grid.step_mm)
        points = grid.points(flat)
        bases = np.array([site.base for site in fixation.screws]).reshape(-1, 3)
        trees = [cKDTree(apply_affine(grid.affine, _surface_nodes(piece)), 32, False) for piece in pieces]
        away = np.array([tree.query(points)[0] for tree in trees])
        screws = np.array([tree.query(bases)[0] for tree in trees])
        tabs = []
        for site, (start, end) in zip(fixation.screws, fixation.lines, strict=True):
            # The axis of a screw may meet the opposite wall of a small skull.
            near = np.flatnonzero(np.linalg.norm(points - site.base, axis=1) < _NEAR_SCREW_MM)
            beside = capsule(points[near], start, end, site.axis)[0] - pad_mm
            close = beside < 2 * FAR_MM  # beyond, what is at the tab is not affected
            tabs.append((near[close], beside[close]))
        return cls(flat, away, screws, tabs)


def _surface_nodes(solid: np.ndarray) -> np.ndarray:
    """Indices (N, 3) of the nodes inside a solid with a neighbour outside."""
    box = inner_box(solid, 1)
    if box is None:
        return np.zeros((0, 3), int)
    inside = solid[box] < 0
    return np.argwhere(inside & ~ndimage.binary_erosion(inside)) + [part.start for part in box]


def raise_surface(
    plate: np.ndarray, grid: FineGrid, outer: OuterSurface, under_mm: float, regions: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Build up the outer surface of a plate.

    Parameters
    ----------
    plate : numpy.ndarray
        Function (*shape), negative inside.
    grid : FineGrid
        The grid; its active nodes reach above the regions.
    outer : OuterSurface
        The completed outer surface.
    under_mm : float
        Recess of the plate's outer face.
    regions : numpy.ndarray
        (N, 5) centre in RAS mm, radius and thickness. The thickness is reached inside the tapered edge, which is 2.5
        times as long as the region is thick, and at most as long as the radius; at the rim it is 0.

    Returns
    -------
    solid : numpy.ndarray
        Function of the raised plate.
    warnings : list of str
        Regions that are far from the implant, or do not reach it or their thickness.
    """
    rim = RimLine(plate, grid, outer, under_mm)
    warnings = []
    for *centre, radius, thickness in regions:
        at = outer.points[outer.nearest(np.array([centre]))][0]
        off = float(np.linalg.norm(at - centre))
        if off > THICKEST_MM:
            warnings.append(
                f"The build-up at {as_place(np.array(centre))} is left out: it is {off:.0f} mm from the outer surface"
                f" of the implant. Give a point at most {THICKEST_MM:g} mm from it."
            )
            continue
        wanted = grid.active[grid.near(at[None], radius + thickness + 3.0).ravel()[grid.active]]
        nodes = SurfaceNodes.of(grid, outer, rim, wanted, (-under_mm - 2.5, thickness + 2.0))
        height = nodes.height + under_mm
        feet = nodes.points - nodes.height[:, None] * outer.normals[outer.nearest(nodes.points)]
        taper = min(radius, _TAPER * thickness)
        share = np.clip((radius - np.linalg.norm(feet - at, axis=1)) / taper, 0, 1)
        at_rim = np.clip(-nodes.rim / taper, 0, 1)
        raised = thickness * _smooth(share) * _smooth(at_rim)
        most = float(raised.max()) if len(raised) else 0.0
        if most < 0.9 * thickness:
            what = "does not reach the implant" if most < 0.1 else f"is only {most:.1f} mm thick"
            warnings.append(
                f"The build-up at {as_place(np.array(centre))} {what}, because its edge tapers over {taper:.1f} mm to"
                " the rim. Move it inwards, or make it thinner."
            )
        # Below the face the layer ends 0.8 mm deep, within the plate; it does not exist where nothing is raised.
        layer = np.maximum(np.maximum(height - raised, -height - 0.8), np.where(raised > 0.02, -FAR_MM, FAR_MM))
        plate = plate.copy()
        local = plate.ravel()
        local[nodes.flat] = np.minimum(local[nodes.flat], np.clip(layer, -FAR_MM, FAR_MM))
    return plate, warnings


def _smooth(share: np.ndarray) -> np.ndarray:
    """A step from 0 to 1 without kinks."""
    return share * share * (3 - 2 * share)


def _drill(solid: np.ndarray, grid: FineGrid, at: np.ndarray, axis: np.ndarray, diameter_mm: float) -> bool:
    """Cut a hole through the plate, whose function is changed; False where the piece is not there."""
    heights = np.arange(16.0, -THICKEST_MM, -0.1)
    inside = grid.sample(solid, at + heights[:, None] * axis) < 0
    near = inside & (heights < 16.0) & (heights > -10.0)
    if not near.any():
        return False
    top = float(heights[near.argmax()])
    length = float(path_through(solid, grid, (at + top * axis)[None], axis[None], THICKEST_MM)[0])
    box, points = grid_box(grid, at + np.array([[top + 2.0], [top - length - 2.0]]) * axis, diameter_mm)
    offset = points - at
    along = offset @ axis
    across = np.linalg.norm(offset - along[..., None] * axis, axis=-1)
    drill = np.maximum(across - diameter_mm / 2, np.maximum(along - top - 2.0, top - length - 2.0 - along))
    solid[box] = cut_rounded(solid[box], drill, grid.step_mm)
    return True


def _screw_figures(site: Site, diameter_mm: float, thickness_mm: float) -> dict:
    """Entry of a screw in the report."""
    return {
        "at_mm": _rounded(site.at, 2),
        "direction": _rounded(-site.axis, 4),
        "diameter_mm": diameter_mm,
        "thickness_mm": round(thickness_mm, 2),
        "bone_mm": round(site.bone_mm, 2),
    }


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(float(value), digits) + 0.0 for value in values]
