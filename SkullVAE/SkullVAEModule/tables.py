"""What the tables of the panel have in common."""

from __future__ import annotations

import qt


def fitColumns(table, narrow: tuple[int, ...], wide: tuple[int, ...]) -> None:
    """Make columns as narrow as their texts or as wide as the panel permits; wrap texts that are still too long."""
    header = table.horizontalHeader()
    for column in narrow:
        header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
    for column in wide:
        header.setSectionResizeMode(column, qt.QHeaderView.Stretch)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
