"""Printing: tables on a terminal, plain lines in a pipe, JSON when asked for.

All that a command says goes through here, for it may hold what somebody put into a message: see `escapes`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from typing import Any

import click
import msgspec

from .. import escapes
from ..escapes import in_one_line, one_line

GOOD, BAD, WARN = "✓", "✗", "!"


def json(value: Any) -> None:
    """One JSON document, readable."""
    try:
        document = msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:  # halves of characters, as in undecodable file names
        document = dumps(value, default=str).encode()
    echo_json(msgspec.json.format(document, indent=2))


def echo_json(document: bytes) -> None:
    """A JSON document as it is, but for characters that a terminal would act on."""
    click.echo(escapes.json(document.decode()))


command = "jobsctl"
"""What a reader has to type for our command: inside a framework's own, such as `manage.py jobs`. Set by `main.run`."""

_OURS = re.compile(r"(?<![\w./-])jobsctl(?=\s+[a-z-])")


def in_this_command(text: str) -> str:
    """Advice as it can be typed where it is read: everything that is written names `jobsctl`."""
    return text if command == "jobsctl" else _OURS.sub(lambda _: command, text)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Lines of text, without anything that a terminal would act on."""
    click.echo(escapes.lines(in_this_command(text)), err=err, nl=nl)


def script(text: str) -> None:
    """What another program reads: as it is."""
    click.echo(text)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing", plain: bool | None = None) -> None:
    """Rows under their columns on a terminal; tab-separated lines without a heading in a pipe (or as `plain` says)."""
    cells = texts(rows)
    if plain or (plain is None and not on_terminal()):
        for row in cells:
            echo("\t".join(row))
        return
    if not cells:
        echo(empty)
        return
    head, *lines = fitted(columns, cells, shutil.get_terminal_size().columns)
    styled(head, bold=True)
    for line in lines:
        echo(line)


def texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    """Cells as text, each a line."""
    return [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]


WHOLE = {"id", "since", "at", "pid"}
"""Columns that are never cut nor broken: they are there to be copied, or to be compared."""

NARROWEST = 8
"""Characters that are left of a column that is cut."""


def fitted(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """The heading and the rows of a table, a line each, where possible within `width`; numbers to the right.

    The widest texts are cut first. Columns that find no room even so are told below each row by name.
    """
    from rich.cells import cell_len  # late: for who looks at a table

    right = [all(_is_number(row[number]) for row in cells) for number in range(len(columns))]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    whole = [name in WHOLE or number for name, number in zip(columns, right, strict=True)]
    least = [size if keep else min(size, NARROWEST) for size, keep in zip(widths, whole, strict=True)]
    beside = len(columns)
    while beside > 1 and sum(least[:beside]) + 2 * (beside - 1) > width:
        beside -= 1
    while sum(widths[:beside]) + 2 * (beside - 1) > width:
        room = [size - lowest for size, lowest in zip(widths[:beside], least, strict=False)]
        if not any(room):
            break
        widest = max((size, number) for number, size in enumerate(widths[:beside]) if room[number])[1]
        widths[widest] -= 1
    made = []
    for row in (columns, *cells):
        texts_ = [_padded(row[n], widths[n], right[n]) for n in range(beside)]
        made.append("  ".join(texts_).rstrip())
        below = [f"{columns[n]} {row[n]}" for n in range(beside, len(columns)) if row[n] and row is not columns]
        made += [f"    {'  '.join(below)}"] if below else []
    return made


def _padded(text: str, width: int, to_right: bool) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    space = " " * (width - cell_len(text))
    return space + text if to_right else text + space


def sheet(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], rest: str = "") -> None:
    """A table among others on a page: under its title everywhere, with aligned columns in a pipe too."""
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
    """Rows under their columns as plain lines; numbers to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    right = [all(_is_number(row[number]) for row in rows) for number in range(len(columns))]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def styled(text: str, **style: Any) -> None:
    """A line that stands out on a terminal; NO_COLOR is respected."""
    click.secho(escapes.lines(in_this_command(text)), **({} if "NO_COLOR" in os.environ else style))


def facts(pairs: Mapping[str, Any]) -> None:
    """Names and values, one a line; what is empty is left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {}, ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = str(value)
        echo(f"{name:<{width}}  {one_line(text) if name in WHOLE else in_one_line(text)}")


def block(title: str, text: str) -> None:
    """A text of several lines, indented under its title; control characters written out."""
    echo(f"{title}")
    for line in text.splitlines():
        echo(f"  {one_line(line)}")


def _is_number(text: str) -> bool:
    return text == "" or text.replace(",", "").replace(".", "", 1).isdigit()
