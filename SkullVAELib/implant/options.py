"""What the part shall be: the options, read and checked before anything slow is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from SkullVAELib.core.errors import SkullVAEError

MESH_FORMATS = ("stl", "obj", "ply")

THICKNESS_MODES = ("patient", "constant", "minimum")

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
}


@dataclass(frozen=True)
class ImplantOptions:
    """What the part shall be. Lengths in mm.

    clearance_mm: least distance to bone; thickness: "patient" as the completed shape has it, "constant" or "minimum"
    thickness_mm, from the outer surface inwards; under_contour_mm: how much lower the outer surface lies than the
    completed shape's; smoothing_mm: standard deviation of a smoothing of the shape, which does not move the rim;
    hole_diameter_mm: perfusion holes, None for none, their middles hole_pitch_mm apart and their walls hole_margin_mm
    from every edge; split_mm: no piece longer than this, None for one piece a defect; resolution_mm: step of
    the grid; thickness_map: whether the thickness is wanted at every point of the mesh.

    Raises SkullVAEError for values that make no sense.
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

    def __post_init__(self):
        if self.thickness not in THICKNESS_MODES:
            raise SkullVAEError(f"The thickness '{self.thickness}' is unknown", self._THICKNESS)
        if (self.thickness == "patient") != (self.thickness_mm is None):
            raise SkullVAEError(
                "A constant or minimum thickness needs its millimetres, the patient's own has none",
                self._THICKNESS,
            )
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                what = name.removesuffix("_mm").replace("_", " ")
                raise SkullVAEError(f"A {what} of {value:g} mm is not possible", f"Use {low:g} to {high:g} mm")
        if self.hole_diameter_mm is not None and self.hole_pitch_mm < self.hole_diameter_mm + 1:
            raise SkullVAEError(
                f"Holes of {self.hole_diameter_mm:g} mm every {self.hole_pitch_mm:g} mm leave no bridge between them",
                "Use a pitch at least 1 mm larger than the diameter",
            )

    @property
    def depth_mm(self) -> float:
        """How deep below the completed shape's outer surface the part is known to reach; 0 for the patient's own."""
        return 0.0 if self.thickness_mm is None else self.under_contour_mm + self.thickness_mm

    @property
    def plain(self) -> bool:
        """Whether the part is the implant as it is: nothing about it was asked for."""
        return not (self.clearance_mm or self.under_contour_mm or self.hole_diameter_mm or self.thickness_mm)

    @property
    def step_mm(self) -> float:
        """Step of the grid: finer than asked for where a hole would else be no longer round."""
        if self.hole_diameter_mm is None:
            return self.resolution_mm
        return min(self.resolution_mm, max(0.25, self.hole_diameter_mm / 5))

    @property
    def edge_mm(self) -> float:
        """Radius of the part's edges: a sharper one would show the grid's own steps. The plain implant keeps nearer to
        its voxels."""
        return (1.0 if self.plain else 1.5) * self.step_mm

    @property
    def thinnest_mm(self) -> float:
        """Thinner sheets and threads are left out: nobody can make them. Of the plain implant less is left out, only
        what tears into shreds on the grid."""
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
    ) -> ImplantOptions:
        """Options from text as a command line has it; None leaves a default.

        >>> PartOptions.parse(thickness="constant:4", holes="2,10,3").thickness_mm
        4.0
        """
        given: dict = {"thickness_map": thickness_map}
        for name, value in (
            ("clearance_mm", clearance),
            ("under_contour_mm", under_contour),
            ("smoothing_mm", smooth),
            ("split_mm", split),
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
                raise SkullVAEError(f"The holes '{holes}' are not three numbers", cls._HOLES)
            names = ("hole_diameter_mm", "hole_pitch_mm", "hole_margin_mm")
            given |= {n: _number(t, f"The holes '{holes}'", cls._HOLES) for n, t in zip(names, numbers, strict=True)}
        return cls(**given)

    _THICKNESS: ClassVar[str] = "Use patient, constant:MM or minimum:MM, such as constant:4"
    _HOLES: ClassVar[str] = "Use DIAMETER,PITCH,MARGIN in mm, such as 2,10,3"


def _number(text: str, what: str, remedy: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SkullVAEError(f"{what} cannot be read", remedy) from None
