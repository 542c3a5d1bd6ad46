"""What every view of `top` has: lines, keys, a selection, a place to scroll to."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ...escapes import in_one_line, one_line
from ...operating.formatting import age
from .. import output
from ..common import Context
from .acting import Act, run_command
from .drawing import BAD, BOLD, CHOSEN, DIM, Column, Line, clipped, table
from .reading import Status

Keys = Sequence[tuple[str, str]]
"""Keys, each with what it does in a word or two."""

STALE: Final = 5.0
"""Seconds after the time of its next reading from which a view says how old it is."""


class Desk(Protocol):
    """What a view can do with the screen."""

    def open(self, view: View) -> None:
        """Show a view above this one; `back` returns."""

    def act(self, act: Act) -> None:
        """Carry out an action, after a confirmation."""

    def prompt(self, label: str, text: str, then: Callable[[str], str | None]) -> None:
        """Let the user edit a line of text. `then` gets it and returns an error, with which the user edits on; or None."""

    def say(self, text: str) -> None:
        """Show a message."""

    def refresh(self) -> None:
        """Read the view again at once."""


class View(abc.ABC):
    """One view. Its methods are called by the main thread, except `read`."""

    title = ""
    keys: Keys = ()
    interval = 1.0
    reads = True  # whether `read` has to be called

    def __init__(self) -> None:
        self.status = Status()
        self.top = 0  # number of the first line, or row, that is shown

    def read(self, context: Context) -> None:  # noqa: B027  # a view with `reads = False` has nothing to read
        """Read what the view shows, on the thread of the reader. Raises JobsError."""

    def help(self) -> Keys:
        """Return the keys that do something now."""
        return self.keys

    def heading(self) -> str:
        """Return the line above the content."""
        return ""

    def troubles(self) -> list[Line]:
        """Return the lines that say why the content is missing or old."""
        status = self.status
        old = time.time() - status.at
        since = f"; this was read {age(old)} ago" if status.at else ""
        if status.error:
            return [Line(f"{output.WARN} {in_one_line(status.error)}{since}", BAD)]
        if status.waiting:
            return [Line(f"{output.WARN} {in_one_line(status.waiting)}{since}", BAD)]
        if status.at and self.reads and old > 4 * self.interval + STALE:
            return [Line(f"this was read {age(old)} ago; F5 reads it again", DIM)]
        return [Line(in_one_line(status.note), DIM)] if status.note else []

    @abc.abstractmethod
    def lines(self, width: int, height: int) -> list[Line]:
        """Return the content in exactly this size, or less."""

    @abc.abstractmethod
    def press(self, key: str, desk: Desk, height: int) -> bool:
        """Do what a key means here; return False if it means nothing. `height` is that of the content."""


class Row(NamedTuple):
    """One row of a table: what identifies it, its cells, and what its keys act on."""

    id: str
    cells: tuple[str, ...]
    item: Any = None
    style: str = ""


class TableView(View):
    """A view with one table, in which a row is chosen."""

    columns: Sequence[Column] = ()
    nothing = "nothing"  # what to show if there is no row

    def __init__(self) -> None:
        super().__init__()
        self.filter = ""
        self._chosen = ""  # the id of the chosen row
        self._at = 0  # its number when it was last seen

    @abc.abstractmethod
    def rows(self) -> list[Row]:
        """Return all rows."""

    def filtered(self) -> list[Row]:
        """Return the rows that pass the filter: whose text contains it."""
        text = self.filter.lower()
        return [row for row in self.rows() if text in " ".join(row.cells).lower()] if text else self.rows()

    def chosen(self) -> Row | None:
        """Return the chosen row; if it has gone, the one in its place."""
        rows = self.filtered()
        self._at = self._place(rows)
        if not rows:
            return None
        self._chosen = rows[self._at].id
        return rows[self._at]

    def _place(self, rows: Sequence[Row]) -> int:
        found = next((number for number, row in enumerate(rows) if row.id == self._chosen), self._at)
        return max(0, min(found, len(rows) - 1))

    def lines(self, width: int, height: int) -> list[Line]:
        from rich.cells import set_cell_size

        rows = self.filtered()
        if not rows:
            return [Line(self.empty(), DIM)]
        self.chosen()
        room = max(1, height - 1)
        self.top = max(0, min(self.top, self._at, len(rows) - room))
        self.top = max(self.top, self._at - room + 1)
        cells = [[one_line(cell) for cell in row.cells] for row in rows]
        head, *drawn = table(self.columns, cells, width - 2)
        made = [Line(f"  {head}", BOLD)]
        for number in range(self.top, min(len(rows), self.top + room)):
            here = number == self._at
            text = f"{'›' if here else ' '} {drawn[number]}"
            made.append(Line(set_cell_size(text, width), CHOSEN) if here else Line(text, rows[number].style))
        return made

    def empty(self) -> str:
        """Return what to show instead of rows."""
        if not self.status.at and self.reads:
            return "" if self.status.error else "reading…"
        return f"nothing matches {self.filter}; Esc ends the filter" if self.filter else self.nothing

    def press(self, key: str, desk: Desk, height: int) -> bool:
        room = max(1, height - 1)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -room, "page down": room, "home": -(10**9), "end": 10**9}
        if key in steps:
            rows = self.filtered()
            self._at = max(0, min(self._place(rows) + steps[key], len(rows) - 1))
            self._chosen = rows[self._at].id if rows else ""
            return True
        if key == "/":
            desk.prompt(self.label(), self.filter, lambda text: self.search(text, desk))
            return True
        if key == "escape" and self.filter:
            self.search("", desk)
            return True
        row = self.chosen()
        return row is not None and self.use(key, row, desk)

    def label(self) -> str:
        """Return what the filter looks for."""
        return "show rows with"

    def search(self, text: str, desk: Desk) -> str | None:
        """Set the filter; return an error, or None."""
        self.filter = text
        return None

    def use(self, key: str, row: Row, desk: Desk) -> bool:
        """Do what a key means for a row; return False if it means nothing."""
        return False


class TextView(View):
    """The output of a command, read again and again if it says something about the present."""

    def __init__(self, title: str, words: tuple[str, ...], *, again: bool = True, text: Sequence[str] = ()) -> None:
        super().__init__()
        self.title = title
        self.words = words
        self.interval = 1.0 if again else 10.0**9
        self.reads = bool(words)
        self._text = list(text)
        self._width = 100  # as last drawn

    def read(self, context: Context) -> None:
        said: list[str] = []

        def write(text: str) -> None:
            if text.startswith("jobs: waiting for "):
                self.status.waiting = text.removeprefix("jobs: ").strip()
            else:
                said.extend(line.removeprefix("jobs: ") for line in text.rstrip("\n").split("\n"))

        run_command(context, self.words, output.Window(self._width, write, lambda question: False))
        self._text = said

    def heading(self) -> str:
        return one_line(self.title)

    def lines(self, width: int, height: int) -> list[Line]:
        self._width = width
        if not self._text and self.reads and not self.status.at:
            return [Line("reading…", DIM)]
        wrapped = [part for line in self._text for part in _wrapped(one_line(line.replace("\t", "  ")), width)]
        self.top = max(0, min(self.top, len(wrapped) - height))
        shown = [Line(line) for line in wrapped[self.top : self.top + height]]
        if self.top + height < len(wrapped):
            left = len(wrapped) - self.top - height + 1
            shown[-1] = Line(clipped(f"↓ {left:,} more lines", width), DIM)
        return shown

    def press(self, key: str, desk: Desk, height: int) -> bool:
        page = max(1, height - 2)
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "page up": -page,
            "page down": page,
            " ": page,
            "home": -(10**9),
            "end": 10**9,
        }
        if key not in steps:
            return False
        self.top = max(0, self.top + steps[key])
        return True


def _wrapped(line: str, width: int) -> list[str]:
    """Break a line so that it fits, at spaces if possible, and indent what follows as it is indented itself."""
    from rich.cells import cell_len, chop_cells

    indent = " " * min(len(line) - len(line.lstrip()) + 2, width // 2)
    parts, begin = [], ""
    while cell_len(begin + line) > width:
        part = chop_cells(line, max(1, width - len(begin)))[0]
        space = part.rfind(" ")
        if space > len(part) // 2:
            part = part[: space + 1]
        parts.append(begin + part.rstrip())
        line, begin = line[len(part) :], indent
    return [*parts, begin + line]
