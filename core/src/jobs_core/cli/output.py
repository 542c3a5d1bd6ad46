"""Print tables on a terminal, plain lines in a pipe, and JSON on request.

All output of a command goes through here, because it may contain text from foreign messages: see `escapes`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from json import dumps
from typing import Any

import click
import msgspec
from msgspec import Struct

from .. import escapes
from ..escapes import in_one_line, one_line

GOOD, BAD, WARN = "✓", "✗", "!"


class Window(Struct):
    """What takes the output of a command that runs inside of `jobsctl top`, and answers its questions."""

    width: int
    write: Callable[[str], None]  # of whole lines, without control characters
    ask: Callable[[str], bool]


_window: ContextVar[Window | None] = ContextVar("window", default=None)


@contextlib.contextmanager
def into(window: Window) -> Iterator[None]:
    """Send everything that the block prints in this thread to a window instead of the terminal."""
    before = _window.set(window)
    try:
        yield
    finally:
        _window.reset(before)


def asked(question: str) -> bool | None:
    """Ask a question in the window of this thread and return the answer; None without a window."""
    window = _window.get()
    return None if window is None else window.ask(escapes.lines(in_this_command(question)))


def _print(text: str, *, err: bool = False, nl: bool = True, style: Mapping[str, Any] | None = None) -> None:
    """Print text that is safe for a terminal."""
    window = _window.get()
    if window is not None:
        window.write(text)
    elif style:
        click.secho(text, err=err, nl=nl, **style)
    else:
        click.echo(text, err=err, nl=nl)


def json(value: Any) -> None:
    """Print one JSON document, indented."""
    try:
        document = msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:  # unpaired surrogates, as in undecodable file names
        document = dumps(value, default=str).encode()
    echo_json(msgspec.json.format(document, indent=2))


def echo_json(document: bytes) -> None:
    """Print a JSON document; escape only characters that would control a terminal."""
    _print(escapes.json(document.decode()))


command = "jobsctl"
"""The command that the user has to type; inside a framework's command line, for example `manage.py jobs`. Set by `main.run`."""

_OURS = re.compile(r"(?<![\w./-])jobsctl(?=\s+[a-z-])")


def in_this_command(text: str) -> str:
    """Replace `jobsctl` in advice by the command that the user has to type."""
    return text if command == "jobsctl" else _OURS.sub(lambda _: command, text)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print lines of text; escape characters that would control a terminal."""
    _print(escapes.lines(in_this_command(text)), err=err, nl=nl)


def progress(done: int, total: int) -> None:
    """Show how far a command is, in one line of standard error that changes; nothing if that is no terminal."""
    if (window := _window.get()) is not None:
        window.write(f"{done:,} of {total:,}")
    elif sys.stderr.isatty():
        bar = "█" * (30 * done // total)
        click.echo(f"\r{bar:<30} {done:,} of {total:,}", err=True, nl=done >= total)


def script(text: str) -> None:
    """Print text for another program, unchanged."""
    click.echo(text)


def on_terminal() -> bool:
    """Return whether a person reads the output."""
    return _window.get() is not None or sys.stdout.isatty()


def width() -> int:
    """Return the width of the terminal, or of the window of this thread."""
    window = _window.get()
    return shutil.get_terminal_size().columns if window is None else window.width


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing", plain: bool | None = None) -> None:
    """Print rows under their columns on a terminal; in a pipe, or with `plain`, tab-separated lines without a heading."""
    cells = texts(rows)
    if plain or (plain is None and not on_terminal()):
        for row in cells:
            echo("\t".join(row))
        return
    if not cells:
        echo(empty)
        return
    head, *lines = fitted(columns, cells, width())
    styled(head, bold=True)
    for line in lines:
        echo(line)


def texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    """Return the cells as text, each on one line."""
    return [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]


WHOLE = {"id", "since", "at", "pid"}
"""Columns that are never shortened, because users copy or compare their values."""

NARROWEST = 8
"""Least width to which a column is shortened."""


def fitted(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table, within `width` if possible: a heading, and one line per row; align numbers to the right.

    The widest columns are shortened first. Columns that still do not fit are shown below each row, with their names.
    """
    from rich.cells import cell_len  # late: only tables need it

    right = [all(_is_number(row[number]) for row in cells) for number in range(len(columns))]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    whole = [name in WHOLE or number for name, number in zip(columns, right, strict=True)]
    least = [size if keep else min(size, NARROWEST) for size, keep in zip(widths, whole, strict=True)]
    beside = len(columns)
    while beside > 1 and _total(least[:beside]) > width:
        beside -= 1
    widths = _narrowed(widths[:beside], least, width)
    made = []
    for row in (columns, *cells):
        made.append("  ".join(map(_padded, row, widths, right)).rstrip())
        below = [f"{name} {cell}" for name, cell in zip(columns[beside:], row[beside:], strict=True) if cell]
        if below and row is not columns:
            made.append(f"    {'  '.join(below)}")
    return made


def _total(widths: Sequence[int]) -> int:
    """Return the width of a line of these columns, with two spaces between them."""
    return sum(widths) + 2 * (len(widths) - 1)


def _narrowed(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Narrow the widest columns until a line fits into `width`, or all columns have their least width."""
    narrow = list(widths)
    while _total(narrow) > width:
        room = [size - lowest for size, lowest in zip(narrow, least, strict=False)]
        if not any(room):
            break
        widest = max((size, number) for number, size in enumerate(narrow) if room[number])[1]
        narrow[widest] -= 1
    return narrow


def _padded(text: str, width: int, to_right: bool) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    space = " " * (width - cell_len(text))
    return space + text if to_right else text + space


def sheet(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], rest: str = "") -> None:
    """Print one of several tables of a page under its title; align columns even in a pipe."""
    styled(f"\n{title}", bold=True)
    cells = texts(rows)
    if on_terminal() and cells:
        table(columns, cells, plain=False)
    elif cells:
        for line in aligned(columns, cells):
            echo(line)
    if rest:
        echo(rest)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield rows under their columns as plain lines; align numbers to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    right = [all(_is_number(row[number]) for row in rows) for number in range(len(columns))]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def styled(text: str, **style: Any) -> None:
    """Print a line in a style, such as bold, unless NO_COLOR is set."""
    _print(escapes.lines(in_this_command(text)), style={} if "NO_COLOR" in os.environ else style)


def facts(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one per line; leave out empty values."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {}, ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = str(value)
        echo(f"{name:<{width}}  {one_line(text) if name in WHOLE else in_one_line(text)}")


def block(title: str, text: str) -> None:
    """Print a text of several lines, indented under its title; escape control characters."""
    echo(f"{title}")
    for line in text.splitlines():
        echo(f"  {one_line(line)}")


def _is_number(text: str) -> bool:
    return text == "" or text.replace(",", "").replace(".", "", 1).isdigit()
