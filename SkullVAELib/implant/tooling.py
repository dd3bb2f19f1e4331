"""Additional printed parts of an implant, such as a mould; without torch and VTK until they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from SkullVAELib.core.errors import SkullVAEError

if TYPE_CHECKING:
    from SkullVAELib.completion.result import Completion
    from SkullVAELib.geometry.grey_levels import GreyLevels
    from SkullVAELib.implant.implant_mesh import PrintableImplant
    from SkullVAELib.implant.options import ImplantOptions
    from SkullVAELib.mesh.mesh import Mesh

_LIMITS = {
    "mould_clearance_mm": (0.05, 1.0),
    "mould_wall_mm": (3.0, 30.0),
    "ring_mm": (5.0, 40.0),
    "template_mm": (5.0, 40.0),
}


@dataclass(frozen=True)
class ToolingOptions:
    """Which additional parts are made, and their options. Lengths are in mm.

    Attributes
    ----------
    mould : bool
        Two halves of a mould for casting each piece of the implant.
    mould_clearance_mm : float
        Clearance between pins and sockets of the mould, 0.05 to 1.
    mould_wall_mm : float
        Thickness of the mould's walls around and behind its cavity, 3 to 30.
    ring_mm : float or None
        Width of a ring of bone around each defect, to try the implant in, 5 to 40; None for none.
    template_mm : float or None
        How far a form of the completed outer surface reaches beyond each defect's rim, 5 to 40; None for none.

    Raises
    ------
    SkullVAEError
        A value is out of range.
    """

    mould: bool = False
    mould_clearance_mm: float = 0.2
    mould_wall_mm: float = 5.0
    ring_mm: float | None = None
    template_mm: float | None = None

    def __post_init__(self):
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                what = name.removesuffix("_mm").replace("_", " ")
                raise SkullVAEError(f"The {what} of {value:g} mm is out of range", f"Use {low:g} to {high:g} mm")

    @classmethod
    def parse(
        cls,
        mould: bool = False,
        mould_clearance: float | None = None,
        mould_wall: float | None = None,
        ring: float | None = None,
        template: float | None = None,
    ) -> ToolingOptions:
        """Return options from the values of a command line or a request; None selects the default.

        Parameters
        ----------
        mould : bool
            As the attribute.
        mould_clearance, mould_wall, ring, template : float, optional
            Lengths in mm.

        Returns
        -------
        ToolingOptions
            The options.

        Raises
        ------
        SkullVAEError
            A value is out of range.

        Examples
        --------
        >>> ToolingOptions.parse(mould=True, mould_wall=8).mould_wall_mm
        8
        """
        given = {
            "mould_clearance_mm": mould_clearance,
            "mould_wall_mm": mould_wall,
            "ring_mm": ring,
            "template_mm": template,
        }
        return cls(bool(mould), **{name: value for name, value in given.items() if value is not None})

    def each(self) -> Iterator[tuple[str, ToolingOptions]]:
        """Yield the name of each requested kind of part, and options that request it alone."""
        none: dict[str, Any] = {other.name: other.default for other in fields(self) if other.name in _KINDS.values()}
        for name, attribute in _KINDS.items():
            if getattr(self, attribute) not in (None, False):
                yield name, replace(self, **none | {attribute: getattr(self, attribute)})

    @property
    def any(self) -> bool:
        """Whether a part is requested."""
        return any(True for _ in self.each())


BENCH_MM = 15.0
"""Width of a ring or template where none is given."""

NO_TOOLING = ToolingOptions()
"""No additional part is requested."""

# Names of the kinds of parts, and the option that requests each.
_KINDS = {"mould": "mould", "ring": "ring_mm", "template": "template_mm"}


@dataclass(frozen=True)
class ToolingInputs:
    """What additional parts are made from.

    Attributes
    ----------
    completion : Completion
        The completed skull.
    printable : PrintableImplant
        The printable implant.
    options : ImplantOptions
        Options that it was made with.
    grey : GreyLevels or None
        The CT that was completed.
    """

    completion: Completion
    printable: PrintableImplant
    options: ImplantOptions
    grey: GreyLevels | None = None


@dataclass
class Tooling:
    """Additional parts.

    Attributes
    ----------
    parts : dict of Mesh
        Closed meshes, RAS mm, by the stem of their file names.
    figures : dict
        Figures for the field "tooling" of the report, by the kind of the part.
    warnings : list of str
        Warnings, one line each.
    """

    parts: dict[str, Mesh] = field(default_factory=dict)
    figures: dict[str, dict] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: Tooling) -> None:
        """Add the parts, figures and warnings of another one."""
        self.parts |= other.parts
        self.figures |= other.figures
        self.warnings += other.warnings


def make_tooling(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    """Make the requested additional parts of an implant.

    Parameters
    ----------
    inputs : ToolingInputs
        The implant and what it was made from.
    options : ToolingOptions
        Which parts.

    Returns
    -------
    Tooling
        The parts; empty where nothing is requested or the implant has no pieces.
    """
    made = Tooling()
    for name, own in options.each():
        if inputs.printable.pieces:
            made.add(_MAKERS[name](inputs, own))
    return made


def _mould(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    from SkullVAELib.implant.mould import make_mould

    return make_mould(inputs, options)


def _ring(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    from SkullVAELib.implant.bench_parts import make_fit_ring

    return make_fit_ring(inputs, options)


def _template(inputs: ToolingInputs, options: ToolingOptions) -> Tooling:
    from SkullVAELib.implant.bench_parts import make_template

    return make_template(inputs, options)


# The function that makes each kind of part; each imports its module because it needs VTK.
_MAKERS: dict[str, Callable[[ToolingInputs, ToolingOptions], Tooling]] = {
    "mould": _mould,
    "ring": _ring,
    "template": _template,
}


def part_stem(name: str, number: int) -> str:
    """The stem of the file of a part for a defect.

    >>> part_stem("template", 1), part_stem("template", 2)
    ('template', 'template_2')
    """
    return name if number == 1 else f"{name}_{number}"
