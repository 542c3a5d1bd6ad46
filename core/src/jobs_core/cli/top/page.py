"""The first view of `top`: what happens on this machine now, from the scoreboard alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ...escapes import in_one_line, one_line
from ...operating.formatting import age, count, rate
from ...operating.overview import Overview, Sheet, clip, waiting_columns
from ...scoreboard.state import Board, TopicState
from .. import output
from ..rates import Meter, Rates
from .drawing import BAD, BOLD, DIM, GOOD, Line, clipped

_FIXED_LINES = 15
"""Number of lines on a page that are not rows of its three long tables."""


class Page:
    """The screens of `top`, each rendered from a new reading of the board."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._rates = Rates()
        self.board = Board()

    def look(self, board: Board) -> None:
        """Set the reading of the board to show, and compute the rates since the previous one."""
        self.board = board
        if board.supervisor is not None:
            self._rates = self._meter.look(board)

    def view(self, width: int, height: int) -> tuple[Overview, list[Sheet]]:
        """Return the text of the page, and the tables that fit below it."""
        words = Overview(self.board, width=width)
        lines = _FIXED_LINES + len(words.troubles()) + len(words.pools().rows)
        most = max(3, (height - lines) // 3)
        view = Overview(self.board, width=width, most=most)
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

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the page for a terminal of this size; it may be longer than that."""
        if self.board.supervisor is None:
            return [Line("nothing is running here; waiting for a supervisor (q quits)")]
        view, sheets = self.view(width, height)
        troubles = view.troubles()
        made = [Line(one_line(view.headline()), BAD if troubles else GOOD)]
        made += [Line(one_line(line)) for line in view.summary()]
        made += [Line(f"{output.WARN} {in_one_line(trouble)}", BAD) for trouble in troubles]
        for sheet in sheets:
            if sheet.rows:
                head, *lines = output.fitted(sheet.columns, output.texts(sheet.rows), width)
                made += [Line(""), Line(head, BOLD), *map(Line, lines)]
            if sheet.rest:
                made.append(Line(one_line(sheet.rest), DIM))
        return [Line(clipped(line.text, width), line.style) for line in made]

    def rates_of(self, topic: str) -> tuple[float, float]:
        """Return how many runs of a topic are done here a second, and how many fail."""
        return self._rates.topics.get(topic, (0.0, 0.0))

    def _topics(self, view: Overview, width: int, most: int) -> Sheet:
        backlog = self.board.backlog
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
        assert self.board.supervisor is not None
        sheet = view.pools()
        rows = []
        for pool, row in zip(self.board.supervisor.pools, sheet.rows, strict=True):
            done, failed = self._rates.pools.get(pool.name, (0.0, 0.0))
            rows.append((*row[:5], rate(done), rate(failed), row[-1]))
        return Sheet(sheet.title, [*sheet.columns[:5], "done/s", "failed/s", sheet.columns[-1]], rows)
