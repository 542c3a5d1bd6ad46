"""`jobsctl top`: show the status and the rates, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ..escapes import in_one_line, one_line
from ..scoreboard.state import Board, TopicState, read_board
from ..supervisor import pidfile
from . import output
from .common import Context, pass_context
from .formatting import age, count, rate
from .overview import Overview, Sheet, clip, waiting_columns
from .rates import Meter, Rates
from .status import here
from .types import Number

if TYPE_CHECKING:
    from rich.console import RenderableType

END_KEYS = ("q", "Q", "\x04")

_FIXED_LINES = 15
"""Number of lines on a page that are not rows of its three long tables."""


@click.command("top")
@click.option("--once", is_flag=True, help="Print one page after one interval and exit, as in a pipe.")
@click.option("--interval", type=Number(min=0.05, max=60), default=1.0, show_default=True, help="Seconds between updates.")
@pass_context
def top_command(context: Context, once: bool, interval: float) -> None:
    """Show running jobs and their rates, live; q or Ctrl-C quits.

    Rates are jobs done and failed attempts a second since the last update; the graph shows the last minute of each topic.
    It sends no request to the supervisor or the backend.
    """
    directory = context.place.run_dir
    page = Page()
    page.look(here(directory))
    if once or not output.on_terminal() or not sys.stdin.isatty():
        time.sleep(interval)
        page.look(here(directory))
        page.print()
        return
    _live(page, directory, interval)


class Page:
    """The screens of `top`, each rendered from a new reading of the board."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._rates = Rates()
        self._board = Board()

    def look(self, board: Board) -> None:
        """Set the reading of the board to show, and compute the rates since the previous one."""
        self._board = board
        if board.supervisor is not None:
            self._rates = self._meter.look(board)

    def view(self, width: int, height: int) -> tuple[Overview, list[Sheet]]:
        """Return the text of the page, and the tables that fit below it."""
        words = Overview(self._board, width=width)
        lines = _FIXED_LINES + len(words.troubles()) + len(words.pools().rows)
        most = max(3, (height - lines) // 3)
        view = Overview(self._board, width=width, most=most)
        return view, [self._topics(view, width, most), self._pools(view), view.worker_table(), view.running_table()]

    def print(self) -> None:
        """Print the page as text, as `status` does."""
        view, sheets = self.view(100, 60)
        output.styled(view.headline(), bold=True)
        for line in (*view.summary(), *(f"{output.WARN} {text}" for text in (*view.troubles(), *view.notes()))):
            output.echo(in_one_line(line))
        for sheet in sheets:
            if sheet.rows or sheet.rest:
                output.sheet(sheet.title, sheet.columns, sheet.rows, sheet.rest)

    def rendered(self, width: int, height: int) -> RenderableType:
        """Render the page for a terminal of this size."""
        from rich.console import Group
        from rich.text import Text

        if self._board.supervisor is None:
            return Text("nothing is running here; waiting for a supervisor (q quits)")
        view, sheets = self.view(width, height)
        troubles = view.troubles()
        parts: list[RenderableType] = [Text(one_line(view.headline()), "bold red" if troubles else "bold green")]
        parts += [Text(one_line(line), no_wrap=True, overflow="ellipsis") for line in view.summary()]
        parts += [
            Text(f"{output.WARN} {in_one_line(trouble)}", "bold red", no_wrap=True, overflow="ellipsis") for trouble in troubles
        ]
        for sheet in sheets:
            if sheet.rows:
                head, *lines = output.fitted(sheet.columns, output.texts(sheet.rows), width)
                parts += [Text(f"\n{head}", "bold", no_wrap=True), Text("\n".join(lines), no_wrap=True)]
            if sheet.rest:
                parts.append(Text(one_line(sheet.rest), "dim"))
        return Group(*parts)

    def _topics(self, view: Overview, width: int, most: int) -> Sheet:
        backlog = self._board.backlog
        known = dict(backlog.topics) if backlog else {}
        known |= {name: TopicState() for name in self._rates.topics if name not in known}
        held = waiting_columns(known.values())
        graph = min(60, max(8, width - 60 - 9 * len(held)))
        alerts = backlog.alerts if backlog else []
        ranked = sorted(known.items(), key=lambda each: self._rank(each[0], each[1], alerts))
        rows = [self._topic(name, topic, held.values(), graph) for name, topic in ranked[:most]]
        left = len(ranked) - len(rows)
        columns = ["topic", "ready", *held, "oldest", "done/s", "failed/s", "peak", "last minute".ljust(graph)]
        return Sheet("Topics", columns, rows, f"and {count(left, 'more topic')}" if left > 0 else "")

    def _topic(self, name: str, topic: TopicState, held: Collection[str], graph: int) -> Sequence[Any]:
        done, failed = self._rates.topics.get(name, (0.0, 0.0))
        oldest = "" if topic.oldest_age is None else age(topic.oldest_age)
        shown = clip(name, 12) if not topic.paused else clip(name, 10) + " ⏸"
        peak, last_minute = rate(self._meter.peak(name)), self._meter.graph(name, graph)
        counts = [f"{getattr(topic, field):,}" for field in ("ready", *held)]
        return shown, *counts, oldest, rate(done), rate(failed), peak, last_minute

    def _rank(self, name: str, topic: TopicState, alerts: list[str]) -> tuple[bool, float, float, str]:
        return name not in alerts, -(topic.oldest_age or 0.0), -sum(self._rates.topics.get(name, (0.0, 0.0))), name

    def _pools(self, view: Overview) -> Sheet:
        assert self._board.supervisor is not None
        sheet = view.pools()
        rows = []
        for pool, row in zip(self._board.supervisor.pools, sheet.rows, strict=True):
            done, failed = self._rates.pools.get(pool.name, (0.0, 0.0))
            rows.append((*row[:5], rate(done), rate(failed), row[-1]))
        return Sheet(sheet.title, [*sheet.columns[:5], "done/s", "failed/s", sheet.columns[-1]], rows)


def _live(page: Page, directory: Path, interval: float) -> None:
    """Draw until the user quits; wait for a supervisor while none is running."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            width, height = console.size
            live.update(page.rendered(width, height), refresh=True)
            if _pressed(keys, interval) in END_KEYS:
                return
            page.look(read_board(directory) if pidfile.running(directory) else Board())


@contextlib.contextmanager
def _keys() -> Iterator[Sequence[int]]:
    """Yield two descriptors: of the keys, and of a pipe with a byte for each signal that ends this command.

    The terminal is always restored afterwards. Signals do not raise exceptions, because Python ignores an exception in a
    finalizer, and the command would then continue.
    """
    descriptor = sys.stdin.fileno()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of signals already
            os.write(writer, END_KEYS[-1].encode())

    before = termios.tcgetattr(descriptor)
    ends = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    tty.setcbreak(descriptor)
    try:
        yield descriptor, reader
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in ends.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _pressed(descriptors: Sequence[int], seconds: float) -> str:
    """Wait up to `seconds` for a key or a signal that ends the command; return the key, or "" if there was none."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for descriptor in select.select(descriptors, [], [], left)[0]:
            key = os.read(descriptor, 1).decode(errors="replace") or END_KEYS[-1]  # the end of the terminal counts as a key
            if key in END_KEYS:
                return key
    return ""
