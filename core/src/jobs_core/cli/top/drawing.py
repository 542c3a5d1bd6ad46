"""Lines of the screen, and tables that fit into its width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import output

BOLD, DIM, GOOD, BAD, WARN, CHOSEN = "bold", "dim", "bold green", "bold red", "yellow", "reverse"
"""Styles. None carries a meaning that the text of its line does not have."""

LEAST_TEXT = 20
"""Width that a column of text needs before a less important column is left out for it."""


class Line(NamedTuple):
    """One line of the screen."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table. In a narrow terminal, those with the highest `rank` are left out first."""

    name: str
    rank: int = 0


def clipped(text: str, width: int) -> str:
    """Return a text, or as much of its beginning as fits into this many cells, with an ellipsis."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the heading and one line for each row, in the columns that fit into the width. Empty columns are left out."""
    from rich.cells import cell_len

    shown = [number for number in range(len(columns)) if any(row[number] for row in rows) or columns[number].rank == 0]
    wide = {number: max([cell_len(columns[number].name), *(cell_len(row[number]) for row in rows)]) for number in shown}

    def least() -> int:
        return sum((wide[number] if kept[number] else min(wide[number], LEAST_TEXT)) + 2 for number in shown) - 2

    kept = [column.name in output.WHOLE for column in columns]

    while least() > width and len(shown) > 1:
        shown.remove(max(shown, key=lambda number: (columns[number].rank, number)))
    cells = [[row[number] for number in shown] for row in rows]
    made = output.fitted([columns[number].name for number in shown], cells, width)
    return [clipped(line, width) for line in made]
