"""Options of what is added to the plate of an implant or cut into it: fixation, holes, an engraving and a build-up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from SkullVAELib.core.errors import SkullVAEError

HOLE_DIAMETER_MM = 2.0
"""Diameter of a hole at a given point where none is given."""

FARTHEST_TAB_MM = 20.0
"""Maximum distance of a tab's screw from the rim."""

TAB_MM = 5.0
"""Distance of a tab's screw from the rim where the bone there is thick enough."""

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-./ "
"""Characters that can be engraved."""

_LIMITS = {
    "tabs": (0, 12, "The number of tabs"),
    "tab_thickness_mm": (0.8, 3.0, "The thickness of the tabs"),
    "screw_diameter_mm": (1.0, 3.0, "The diameter of the screws"),
    "screw_bone_mm": (0.0, 15.0, "The thickness of bone for the screws"),
    "flange_mm": (2.0, 25.0, "The width of the flange"),
    "flange_thickness_mm": (0.8, 3.0, "The thickness of the flange"),
    "flange_screws": (0, 24, "The number of screws in the flange"),
    "engraving_mm": (3.0, 15.0, "The height of the engraving"),
    "engraving_depth_mm": (0.2, 1.0, "The depth of the engraving"),
}

_HOLE_MM = (0.8, 10.0)
_RADIUS_MM = (5.0, 80.0)
_RAISED_MM = (0.5, 15.0)
_LONGEST_TEXT = 24
_PLACE = "Write R,A,S in mm, such as 30,80,95"


@dataclass(frozen=True)
class AdditionOptions:
    """What is added to an implant's plate or cut into it. Lengths are in mm, points in RAS mm.

    Attributes
    ----------
    tabs : int
        Number of screw tabs for each defect, evenly around its rim, 0 to 12.
    tab_at : tuple of (R, A, S)
        Positions of the screws of further tabs.
    tab_thickness_mm : float
        Thickness of the tabs, 0.8 to 3.
    screw_diameter_mm : float
        Diameter of the screw holes, 1 to 3; the countersink is twice as wide, with an angle of 90 degrees.
    screw_bone_mm : float
        Minimum thickness of the bone below a screw, 0 to 15.
    flange_mm : float or None
        Width of a flange all round on the outer surface of the bone, 2 to 25; None for none.
    flange_thickness_mm : float
        Thickness of the flange, 0.8 to 3.
    flange_screws : int
        Number of countersunk holes in the flange, 0 to 24.
    holes_at : tuple of (R, A, S, diameter)
        Further holes through the plate, along its normal.
    engraving : str
        Text on the inner surface, of `CHARACTERS`; empty for none.
    engraving_mm, engraving_depth_mm : float
        Height of the characters, 3 to 15, and their depth, 0.2 to 1.
    build_up : tuple of (R, A, S, radius, thickness)
        Regions in which the outer surface is raised, with a tapered edge.

    Raises
    ------
    SkullVAEError
        A value is invalid or out of range.
    """

    tabs: int = 0
    tab_at: tuple[tuple[float, ...], ...] = ()
    tab_thickness_mm: float = 1.5
    screw_diameter_mm: float = 1.6
    screw_bone_mm: float = 3.0
    flange_mm: float | None = None
    flange_thickness_mm: float = 1.0
    flange_screws: int = 0
    holes_at: tuple[tuple[float, ...], ...] = ()
    engraving: str = ""
    engraving_mm: float = 6.0
    engraving_depth_mm: float = 0.5
    build_up: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self):
        for name, (low, high, what) in _LIMITS.items():
            _check(what, getattr(self, name), low, high, "mm" if name.endswith("mm") else "")
        for *_, diameter in self.holes_at:
            _check("The diameter of a hole", diameter, *_HOLE_MM)
        for *_, radius, thickness in self.build_up:
            _check("The radius of a build-up", radius, *_RADIUS_MM)
            _check("The thickness of a build-up", thickness, *_RAISED_MM)
        if self.flange_screws and self.flange_mm is not None and self.flange_mm < 2 * self.screw_diameter_mm + 1.6:
            raise SkullVAEError(
                f"A flange of {self.flange_mm:g} mm is too narrow for screws of {self.screw_diameter_mm:g} mm",
                f"Use a width of at least {2 * self.screw_diameter_mm + 1.6:g} mm, or no screws",
            )
        unknown = sorted(set(self.engraving) - set(CHARACTERS))
        if unknown:
            raise SkullVAEError(
                f"The engraving has characters that cannot be engraved: {' '.join(unknown)}",
                "Use letters without accents, digits, '-', '.', '/' and spaces",
            )
        if len(self.engraving) > _LONGEST_TEXT:
            raise SkullVAEError(
                f"The engraving has {len(self.engraving)} characters", f"Use at most {_LONGEST_TEXT} characters"
            )

    @property
    def any(self) -> bool:
        """Whether anything is added or cut."""
        return bool(self.fixed or self.holes_at or self.engraving or self.build_up)

    @property
    def fixed(self) -> bool:
        """Whether there are tabs or a flange."""
        return bool(self.tabs or self.tab_at or self.flange_mm)

    @property
    def pad_mm(self) -> float:
        """Radius of a tab around its screw: the countersink and 1.4 mm around it."""
        return self.screw_diameter_mm + 1.4

    @property
    def highest_mm(self) -> float:
        """Maximum height of anything above the plate."""
        heights = [0.0, *(thickness for *_, thickness in self.build_up)]
        if self.tabs or self.tab_at:
            heights.append(self.tab_thickness_mm)
        if self.flange_mm:
            heights.append(self.flange_thickness_mm)
        return max(heights)

    @property
    def beyond_mm(self) -> float:
        """Distance from the rim within which bone is examined and material may be added."""
        reach = [0.0]
        if self.tabs:
            reach.append(15.0 + self.pad_mm)
        if self.tab_at:
            reach.append(FARTHEST_TAB_MM + self.pad_mm)
        if self.flange_mm:
            reach.append(self.flange_mm + 2.0)
        return max(reach)

    @property
    def finest_mm(self) -> float:
        """Step of the grid in mm that resolves the details."""
        steps = [1.0]
        if self.tabs or self.tab_at or self.flange_screws:
            steps.append(min(self.screw_diameter_mm / 4, 0.45))  # what is left below a countersink is 0.6 mm thick
        if self.engraving:
            steps.append(self.engraving_mm / 15)
        steps += [diameter / 4 for *_, diameter in self.holes_at]
        return max(0.25, min(steps))

    @classmethod
    def parse(
        cls,
        tabs: str | None = None,
        tab_at: Iterable[str | Sequence[float]] | None = None,
        screws: str | None = None,
        flange: str | None = None,
        hole_at: Iterable[str | Sequence[float]] | None = None,
        engrave: str | None = None,
        engrave_size: str | None = None,
        build_up: Iterable[str | Sequence[float]] | None = None,
    ) -> AdditionOptions:
        """Return options from the values of a command line or a request; None selects the default.

        Parameters
        ----------
        tabs : str, optional
            "NUMBER" or "NUMBER,THICKNESS".
        tab_at : iterable, optional
            Points, "R,A,S" or three numbers each.
        screws : str, optional
            "DIAMETER" or "DIAMETER,BONE".
        flange : str, optional
            "WIDTH,THICKNESS" or "WIDTH,THICKNESS,SCREWS".
        hole_at : iterable, optional
            Points with or without a diameter, "R,A,S,DIAMETER" or the numbers.
        engrave : str, optional
            The text; small letters become capitals.
        engrave_size : str, optional
            "HEIGHT" or "HEIGHT,DEPTH".
        build_up : iterable, optional
            Regions, "R,A,S,RADIUS,THICKNESS" or the numbers.

        Returns
        -------
        AdditionOptions
            The options.

        Raises
        ------
        SkullVAEError
            A value is invalid or out of range.

        Examples
        --------
        >>> AdditionOptions.parse(tabs="4,1.2", hole_at=["30,80,95"]).holes_at
        ((30.0, 80.0, 95.0, 2.0),)
        """
        given: dict[str, Any] = {}
        for text, names, least, what, remedy in (
            (tabs, ("tabs", "tab_thickness_mm"), 1, "tabs", "Use NUMBER or NUMBER,THICKNESS, for example 4,1.5"),
            (
                screws,
                ("screw_diameter_mm", "screw_bone_mm"),
                1,
                "screws",
                "Use DIAMETER or DIAMETER,BONE, such as 1.6,3",
            ),
            (
                flange,
                ("flange_mm", "flange_thickness_mm", "flange_screws"),
                2,
                "flange",
                "Use WIDTH,THICKNESS or WIDTH,THICKNESS,SCREWS, for example 8,1,6",
            ),
            (
                engrave_size,
                ("engraving_mm", "engraving_depth_mm"),
                1,
                "size of the engraving",
                "Use HEIGHT or HEIGHT,DEPTH in mm, for example 6,0.5",
            ),
        ):
            if text is None:
                continue
            numbers = _numbers(text, (least, len(names)), f"The {what} '{text}'", remedy)
            given |= dict(zip(names, numbers, strict=False))
        for name in ("tabs", "flange_screws"):
            if name in given:
                if given[name] != int(given[name]):
                    raise SkullVAEError(f"The number {given[name]:g} is not whole", "Use a whole number")
                given[name] = int(given[name])
        if engrave is not None:
            given["engraving"] = " ".join(engrave.upper().split())
        for places, name, count, remedy in (
            (tab_at, "tab_at", (3, 3), _PLACE),
            (hole_at, "holes_at", (3, 4), "Write R,A,S or R,A,S,DIAMETER in mm, such as 30,80,95,2"),
            (build_up, "build_up", (5, 5), "Write R,A,S,RADIUS,THICKNESS in mm, such as 60,20,40,25,4"),
        ):
            if places:
                given[name] = tuple(_numbers(place, count, f"The place '{_text(place)}'", remedy) for place in places)
        if "holes_at" in given:
            given["holes_at"] = tuple((*hole[:3], *(hole[3:] or (HOLE_DIAMETER_MM,))) for hole in given["holes_at"])
        return cls(**given)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in fields(cls))


ADDITION_TEXTS = ("tabs", "screws", "flange", "engrave", "engrave_size")
"""Arguments of `AdditionOptions.parse` that are texts."""

ADDITION_LISTS = ("tab_at", "hole_at", "build_up")
"""Arguments of `AdditionOptions.parse` that are lists."""


def _check(what: str, value: float | None, low: float, high: float, unit: str = "mm") -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        unit = f" {unit}" if unit else ""
        raise SkullVAEError(f"{what}, {value:g}{unit}, is out of range", f"Use {low:g} to {high:g}{unit}")


def _text(value: str | Sequence[float]) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _numbers(value: str | Sequence[float], count: tuple[int, int], what: str, remedy: str) -> tuple[float, ...]:
    """The numbers of a text or a list; count: how few and how many there may be."""
    try:
        numbers = tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise SkullVAEError(f"{what} cannot be parsed", remedy) from None
    if not count[0] <= len(numbers) <= count[1]:
        few = str(count[0]) if count[0] == count[1] else f"{count[0]} to {count[1]}"
        raise SkullVAEError(f"{what} has {len(numbers)} numbers instead of {few}", remedy)
    if not all(map(math.isfinite, numbers)):
        raise SkullVAEError(f"{what} has a number that is not finite", remedy)
    return numbers


NO_ADDITIONS = AdditionOptions()
"""Nothing is added or cut."""
