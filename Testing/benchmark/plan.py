"""Which skull gets which defects, which skulls are measured together, and which are CT: fixed and without chance.

A skull whose image ends 80 mm below its vertex gets defects of the vault alone. Fourteen defects of each are too many
for thirty skulls; a plan thins them out so that every skull meets every size and every site, and every defect about
as many skulls. CT is what patients have, and there are few: those skulls get all fourteen.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from SkullVAELib.geometry.affines import apply_affine
from SkullVAELib.geometry.masks import bounding_box
from SkullVAELib.io.images import read_volume

from .cases import PLACES, SITES, SIZES, STANDARD, VAULT_ONLY

CT_SKULLS = ("cerebrix", "cisc881", "elgabrielc", "ge_thick_slices", "visible_human", "visible_human_female")
"""Individuals whose skull was segmented on CT; all others count as MRI-based."""

FOLDS = 5
CASES = 6
"""Cases of a skull that does not get all fourteen."""

SLICES_EVERY = 4
"""Of the skulls that are not CT, every fourth has a case in slices."""

LEAST_HEIGHT_MM = 100.0
"""A skull whose bone is lower than this, from its vertex down, has a vault only."""

_ORDER = ("medium", "large", "small", "very large")


def is_average(individual: str) -> bool:
    """Whether a skull is the average of many heads, which is trained on and not measured."""
    return individual.endswith("_average")


def folds_of(individuals: Iterable[str], ct: Sequence[str] = CT_SKULLS, count: int = FOLDS) -> list[tuple[str, ...]]:
    """Groups of individuals that are held out together: those of CT dealt out in turn, then the others.

    >>> folds_of(["cisc881", "a", "elgabrielc", "b"], count=3)
    [('cisc881', 'b'), ('elgabrielc',), ('a',)]
    """
    names = sorted(name for name in set(individuals) if not is_average(name))
    groups: list[list[str]] = [[] for _ in range(count)]
    for number, name in enumerate(sorted(names, key=lambda name: (name not in ct, name))):
        groups[number % count].append(name)
    return [tuple(group) for group in groups if group]


@functools.cache
def plan_rows(numbers: tuple[int, ...], count: int, length: int = CASES) -> tuple[tuple[int, ...], ...]:
    """Defects of the first `count` skulls, `length` each; those of a skull do not depend on how many follow.

    Each has every size and every site; the defects that were given least so far come first.
    """
    choices = [
        choice
        for choice in itertools.combinations(numbers, length)
        if {PLACES[n].size_class for n in choice} == set(SIZES) and {PLACES[n].site for n in choice} == set(SITES)
    ]
    used: Counter[int] = Counter()
    rows = []
    for _ in range(count):
        row = min(choices, key=lambda choice: (sum(used[n] for n in choice), choice))
        used.update(row)
        rows.append(tuple(sorted(row, key=lambda n: (_ORDER.index(PLACES[n].size_class), n))))
    return tuple(rows)


def plan_of(
    individuals: Sequence[str], vault_only: Iterable[str], ct: Sequence[str] = CT_SKULLS, length: int = CASES
) -> dict[str, tuple[int, ...]]:
    """Individual -> numbers of its defects, a medium one first."""
    vault_only = set(vault_only)
    plan = {}
    for numbers, chosen in ((STANDARD, set(individuals) - vault_only), (VAULT_ONLY, set(individuals) & vault_only)):
        whole = tuple(sorted(numbers, key=lambda n: (_ORDER.index(PLACES[n].size_class), n)))
        thinned = sorted(chosen - set(ct))
        plan |= dict.fromkeys(chosen & set(ct), whole)
        rows = plan_rows(numbers, len(thinned), length) if length < len(numbers) else [whole] * len(thinned)
        plan |= dict(zip(thinned, rows, strict=True))
    return plan


def thinned(numbers: Sequence[int], every: int, turn: int) -> tuple[int, ...]:
    """Every n-th of a skull's defects, beginning elsewhere for each skull."""
    return tuple(numbers[turn % every :: every])


def is_vault_only(file: Path) -> bool:
    """Whether a skull's bone ends less than 100 mm below its vertex."""
    volume = read_volume(file)
    bone = volume.array > 0
    box = bounding_box(bone)
    corners = list(itertools.product(*((side.start, side.stop - 1) for side in box)))
    height = np.ptp(apply_affine(volume.affine, np.array(corners, float))[:, 2])
    return bool(height < LEAST_HEIGHT_MM)
