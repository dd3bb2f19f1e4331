"""Options of the printable implant, without torch; command line, session and panel derive theirs from here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.implant.addition_options import NO_ADDITIONS, AdditionOptions

MESH_FORMATS = ("stl", "obj", "ply", "3mf")
"""Mesh file formats; STL is always written, and 3MF needs the package lib3mf."""

THICKNESS_MODES = ("patient", "constant", "minimum")
"""How the thickness is determined: by the completed skull, or with a length in mm, see `ImplantOptions.thickness`."""

THICKNESS_FORMS = " or ".join((THICKNESS_MODES[0], *(f"{mode}:MM" for mode in THICKNESS_MODES[1:])))
"""The forms of a thickness in the text of an option."""

INSERTABLE_MM = 3.0
"""Depth in mm up to which an implant is cut back so that it can be inserted, where none is given."""

_LIMITS = {
    "clearance_mm": (0.0, 5.0),
    "thickness_mm": (1.0, 12.0),
    "under_contour_mm": (0.0, 5.0),
    "smoothing_mm": (0.0, 3.0),
    "hole_diameter_mm": (1.0, 10.0),
    "hole_pitch_mm": (2.0, 100.0),
    "hole_margin_mm": (0.5, 50.0),
    "split_mm": (20.0, 500.0),
    "resolution_mm": (0.25, 1.0),
    "insertable_mm": (0.1, 20.0),
}

# Names in messages, where they are not those of the options.
_NAMES = {"insertable_mm": "depth of the cut for the insertion"}


@dataclass(frozen=True)
class ImplantOptions:
    """Options of the printable implant. Lengths are in mm.

    Attributes
    ----------
    clearance_mm : float
        Minimum distance to bone, 0 to 5.
    thickness : {"patient", "constant", "minimum"}
        Thickness measured from the outer surface inwards: that of the completed shape, constant `thickness_mm`, or that
        of the completed shape but at least `thickness_mm`.
    thickness_mm : float or None
        Length for "constant" and "minimum", 1 to 12; None for "patient".
    under_contour_mm : float
        Recess of the outer surface below that of the completed shape, 0 to 5.
    smoothing_mm : float
        Standard deviation of the Gaussian smoothing of the shape, 0 to 3; it does not move the rim.
    hole_diameter_mm : float or None
        Diameter of the perfusion holes, 1 to 10; None for none.
    hole_pitch_mm, hole_margin_mm : float
        Distance between the axes of neighbouring holes, and between a hole and any edge.
    split_mm : float or None
        Maximum length of a piece, 20 to 500; None for one piece per defect.
    resolution_mm : float
        Step of the grid that the implant is made on, 0.25 to 1.
    thickness_map : bool
        Whether the thickness is computed at every point of the mesh.
    insertable_mm : float or None
        Maximum depth, 0.1 to 20, of what is removed so that the implant can be inserted along one straight direction;
        None removes nothing.
    additions : AdditionOptions
        Tabs, flange, further holes, engraving and build-up.

    Raises
    ------
    SkullVAEError
        A value is invalid or out of range.
    """

    clearance_mm: float = 0.0
    thickness: str = "patient"
    thickness_mm: float | None = None
    under_contour_mm: float = 0.0
    smoothing_mm: float = 0.5
    hole_diameter_mm: float | None = None
    hole_pitch_mm: float = 10.0
    hole_margin_mm: float = 3.0
    split_mm: float | None = None
    resolution_mm: float = 0.5
    thickness_map: bool = False
    insertable_mm: float | None = None
    additions: AdditionOptions = NO_ADDITIONS

    def __post_init__(self):
        if self.thickness not in THICKNESS_MODES:
            raise SkullVAEError(f"The thickness mode '{self.thickness}' is unknown", self._THICKNESS)
        if (self.thickness == "patient") != (self.thickness_mm is None):
            raise SkullVAEError(
                "The thickness is invalid: constant and minimum need a length in mm, patient takes none",
                self._THICKNESS,
            )
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                what = _NAMES.get(name, name.removesuffix("_mm").replace("_", " "))
                raise SkullVAEError(f"The {what} of {value:g} mm is out of range", f"Use {low:g} to {high:g} mm")
        if self.additions.fixed and self.clearance_mm > 2:
            raise SkullVAEError(
                f"Tabs and flanges are not possible with a clearance of {self.clearance_mm:g} mm",
                "Use a clearance of at most 2 mm",
            )
        if self.hole_diameter_mm is not None and self.hole_pitch_mm < self.hole_diameter_mm + 1:
            raise SkullVAEError(
                f"Holes of {self.hole_diameter_mm:g} mm at a pitch of {self.hole_pitch_mm:g} mm are too close together",
                "Use a pitch that is at least 1 mm larger than the diameter",
            )

    @property
    def depth_mm(self) -> float:
        """Depth in mm that the implant reaches below the completed shape's outer surface; 0 for mode "patient"."""
        return 0.0 if self.thickness_mm is None else self.under_contour_mm + self.thickness_mm

    @property
    def plain(self) -> bool:
        """Whether the implant is that of the completed shape, without clearance, recess, holes or other thickness."""
        return not (self.clearance_mm or self.under_contour_mm or self.hole_diameter_mm or self.thickness_mm)

    @property
    def step_mm(self) -> float:
        """Step of the grid in mm: finer than `resolution_mm` where holes would not be round otherwise."""
        step = min(self.resolution_mm, self.additions.finest_mm)
        if self.hole_diameter_mm is None:
            return step
        return min(step, max(0.25, self.hole_diameter_mm / 5))

    @property
    def edge_mm(self) -> float:
        """Radius of the implant's edges in mm: sharper edges would show the steps of the grid.

        It is smaller for a plain implant, which follows the implant's voxels more closely.
        """
        return (1.0 if self.plain else 1.5) * self.step_mm

    @property
    def thinnest_mm(self) -> float:
        """Thickness in mm below which features are removed, because they cannot be manufactured.

        It is smaller for a plain implant, from which only features that the grid cannot resolve are removed.
        """
        return 0.4 if self.plain else 0.8

    @classmethod
    def parse(
        cls,
        clearance: float | None = None,
        thickness: str | None = None,
        under_contour: float | None = None,
        smooth: float | None = None,
        holes: str | None = None,
        split: float | None = None,
        thickness_map: bool = False,
        insertable: float | None = None,
        **additions: Any,
    ) -> ImplantOptions:
        """Return options from the values of a command line; None selects the default.

        Parameters
        ----------
        clearance, under_contour, smooth, split, insertable : float, optional
            Lengths in mm.
        thickness : str, optional
            "patient", "constant:MM" or "minimum:MM".
        holes : str, optional
            "DIAMETER,PITCH,MARGIN" in mm.
        thickness_map : bool
            As the attribute.
        **additions
            Arguments of `AdditionOptions.parse`.

        Returns
        -------
        ImplantOptions
            The options.

        Raises
        ------
        SkullVAEError
            A value is invalid or out of range.

        Examples
        --------
        >>> ImplantOptions.parse(thickness="constant:4", holes="2,10,3").thickness_mm
        4.0
        """
        given: dict = {"thickness_map": thickness_map, "additions": AdditionOptions.parse(**additions)}
        for name, value in (
            ("clearance_mm", clearance),
            ("under_contour_mm", under_contour),
            ("smoothing_mm", smooth),
            ("split_mm", split),
            ("insertable_mm", insertable),
        ):
            if value is not None:
                given[name] = value
        if thickness is not None:
            kind, _, length = thickness.partition(":")
            given["thickness"] = kind
            given["thickness_mm"] = _number(length, f"The thickness '{thickness}'", cls._THICKNESS) if length else None
        if holes is not None:
            numbers = holes.split(",")
            if len(numbers) != 3:
                raise SkullVAEError(f"The holes '{holes}' are invalid: three numbers are needed", cls._HOLES)
            names = ("hole_diameter_mm", "hole_pitch_mm", "hole_margin_mm")
            given |= {n: _number(t, f"The holes '{holes}'", cls._HOLES) for n, t in zip(names, numbers, strict=True)}
        return cls(**given)

    _THICKNESS: ClassVar[str] = f"Use {THICKNESS_FORMS}, for example constant:4"
    _HOLES: ClassVar[str] = "Use DIAMETER,PITCH,MARGIN in mm, for example 2,10,3"


def _number(text: str, what: str, remedy: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SkullVAEError(f"{what} cannot be parsed", remedy) from None
