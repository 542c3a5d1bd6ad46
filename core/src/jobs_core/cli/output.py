"""Printing: tables on a terminal, plain lines in a pipe, JSON when asked for.

All that a command says goes through here, for it may hold what somebody put into a message: see `escapes`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .. import escapes
from ..escapes import one_line

if TYPE_CHECKING:
    from rich.table import Table as RichTable

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


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Lines of text, without anything that a terminal would act on."""
    click.echo(escapes.lines(text), err=err, nl=nl)


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
    from rich.console import Console

    Console().print(rich_table(columns, cells))


def texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    """Cells as text, each a line."""
    return [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]


def rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> RichTable:
    """A table for a terminal; numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        numeric = all(_is_number(row[number]) for row in cells)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        made.add_row(*[Text(cell) for cell in row])  # Text: what a message says is no markup
    return made


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
    click.secho(escapes.lines(text), **({} if "NO_COLOR" in os.environ else style))


def facts(pairs: Mapping[str, Any]) -> None:
    """Names and values, one a line; what is empty is left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [], {}, ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        echo(f"{name:<{width}}  {one_line(str(value))}")


def block(title: str, text: str) -> None:
    """A text of several lines, indented under its title; control characters written out."""
    echo(f"{title}")
    for line in text.splitlines():
        echo(f"  {one_line(line)}")


def _is_number(text: str) -> bool:
    return text == "" or text.replace(",", "").replace(".", "", 1).isdigit()
