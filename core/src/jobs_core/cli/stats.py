"""`jobsctl stats`: what the workers of all machines did, over time."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from ..backends.base import Backend
from ..backends.statistics import DAY, FIVE_MINUTES, HOURS_KEPT, JOBS_KEPT, MINUTE, MINUTES_KEPT
from ..escapes import one_line
from ..scoreboard.layout import BUCKETS
from ..statistics import Durations, Line, Span, Statistics, Tally, of_jobs, of_topics
from ..units import count, format_duration
from . import output
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .topics import doubt
from .types import PAST, TEXT, TOPIC

MOST_COLUMNS = 48
"""Most columns of a sparkline: beside a name and the highest value, they fit into 80 columns of a terminal."""

NAME = 10
"""Columns that a name has at least."""

MOST_GAPS = 3
"""Most gaps that are listed."""

K = TypeVar("K")


class Marks:
    """The characters of sparklines: levels from zero to the highest value, and one for a time without a report."""

    def __init__(self, levels: str, gap: str, none: str, more: str) -> None:
        self.levels, self.gap, self.none, self.more = levels, gap, none, more


BLOCKS = Marks("▁▂▃▄▅▆▇█", "·", "–", "…")
ASCII = Marks("_.:-=+*#", "?", "-", "~")


@click.command("stats")
@click.argument("topic", required=False, type=TOPIC)
@click.option(
    "--since",
    type=PAST,
    default="24h",
    show_default=True,
    help='Begin here: "2h" for two hours ago, or a date; 30 days at most.',
)
@click.option("--job", "job", metavar="NAME", type=TEXT, help="Show one job function, by its name with or without its module.")
@json_option
@pass_context
def stats_command(context: Context, topic: str | None, since: datetime, job: str | None, as_json: bool) -> None:
    """Show what the workers of all machines did over time: all topics, or TOPIC with its job functions.

    "failed" is the share of attempts that failed, retried or not; "dead" counts jobs that went to the dead letters; "p95" is
    the time that 95 of 100 runs (or waits for the first run) did not exceed, estimated from a histogram. Supervisors report
    once a minute; minutes are kept for a day, then hours for 30 days, and job functions for a day. A time without a report
    shows as a gap, not as zero. "enqueued" is what the store counted, by any producer, where it counts: the highest column, and
    all together.
    """
    now = time.time()
    begin = max(since.timestamp(), now - HOURS_KEPT)
    if begin >= now:
        fail("--since: expected a time in the past", Exit.USAGE)
    if job is not None and begin < now - JOBS_KEPT - MINUTE:
        output.echo("jobs: job functions are counted for a day only", err=True)
        begin = now - JOBS_KEPT
    least = MINUTE if job is None else FIVE_MINUTES
    span = Span.of(begin, now, MOST_COLUMNS, least, MINUTES_KEPT)
    of_a_day = span if begin >= now - JOBS_KEPT else Span.of(now - JOBS_KEPT, now, MOST_COLUMNS, FIVE_MINUTES)

    def read(backend: Backend) -> tuple[Statistics, dict[tuple[str, str], Line], str, str]:
        found = of_topics(backend, span, topic)
        asked = topic or next(iter(found.topics), "default")
        uncounted = f"{backend.name}://" if backend.counts([asked])[asked].pushed is None else ""
        jobs = {} if topic is None and job is None else of_jobs(backend, of_a_day, topic)
        unknown = "" if topic is None or topic in found.topics else doubt(context, backend, topic)
        return found, jobs, unknown, uncounted

    found, jobs, unknown, uncounted = context.operate(read)
    if unknown:
        output.echo(f"jobs: {unknown}", err=True)
    chosen = {name: line for name, line in jobs.items() if job in (None, name[1], name[1].rpartition(".")[2])}
    if job is not None and not chosen and found.everything.total.reports:
        near = difflib.get_close_matches(job, {each for _, name in jobs for each in (name, name.rpartition(".")[2])}, 1)
        fail(f"no run of job {job} was counted in this time" + (f"; did you mean {near[0]}?" if near else ""))
    if as_json:
        output.json(_as_data(found, chosen, of_a_day, with_topics=job is None, enqueues=not uncounted))
        return
    page = _Page(found, BLOCKS if _shows_blocks() else ASCII, uncounted)
    page.head()
    if not found.everything.total.reports:
        return
    if job is not None:
        page.one_job(chosen, of_a_day)
    elif topic is not None:
        page.topic(topic, found.topics.get(topic, Line.empty(span)))
        page.jobs(chosen, of_a_day)
    else:
        page.topics(_with_all(found, context))


def _with_all(found: Statistics, context: Context) -> dict[str, Line]:
    """Return the lines of all topics, with those that are configured, of runs that no topic's row has, and of all together."""
    config = context.app.config
    names = sorted({*found.topics, *config.served_topics(), *config.topics})
    lines = {name: found.topics.get(name) or Line.empty(found.span) for name in names}
    rest = found.everything.total.runs - sum(line.total.runs for line in lines.values())
    if len(lines) > 1 or rest > 0:
        lines["(all)"] = found.everything
    return lines


def _shows_blocks() -> bool:
    """Return whether standard output can show block characters."""
    if os.environ.get("TERM") == "dumb":
        return False
    try:
        (BLOCKS.levels + BLOCKS.gap + BLOCKS.none + BLOCKS.more).encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class _Page:
    """The page that a person reads."""

    def __init__(self, found: Statistics, marks: Marks, uncounted: str = "") -> None:
        self._found = found
        self._uncounted = uncounted  # the backend, if it does not count enqueues
        self._marks = marks
        self._width = shutil.get_terminal_size().columns if output.on_terminal() else 10**6

    def head(self) -> None:
        """Say which time this is about, and which of it is unknown."""
        span, gaps = self._found.span, self._found.gaps
        output.echo(f"{_moment(span.begin)} to {_moment(span.until)} ({format_duration(span.until - span.begin)})")
        if not self._found.everything.total.reports:
            output.echo("no machine has reported: only `jobsctl start` does, once a minute")
            return
        for begin, end in gaps[:MOST_GAPS]:
            output.echo(f"no machine reported from {_moment(begin)} to {_moment(end)} ({format_duration(end - begin)})")
        if len(gaps) > MOST_GAPS:
            rest = sum(end - begin for begin, end in gaps[MOST_GAPS:])
            output.echo(f"nor {count(len(gaps) - MOST_GAPS, 'more time')}, {format_duration(rest)} together")

    def topics(self, lines: Mapping[str, Line]) -> None:
        """Show the table of topics, and a sparkline for each."""
        output.echo()
        self._table("topic", lines, self._found.span)
        self._graphs("runs", self._found.span, {name: (line, _runs, _number) for name, line in lines.items()})
        failing = {name: (line, _failed, _number) for name, line in lines.items() if line.total.failed}
        if failing:
            self._graphs("failed attempts", self._found.span, failing)
        self._enqueues({name: line for name, line in lines.items() if line.total.enqueued or name == "(all)"})

    def _enqueues(self, lines: Mapping[str, Line]) -> None:
        """Draw the enqueues of topics, or say that the backend does not count them."""
        if self._uncounted:
            output.echo()
            output.echo(f"enqueued: not counted by {self._uncounted}")
        elif any(line.total.enqueued for line in lines.values()):
            self._graphs("enqueued", self._found.span, {name: _enqueued(line) for name, line in lines.items()})

    def topic(self, name: str, line: Line) -> None:
        """Show one topic, with several sparklines."""
        output.echo()
        self._table("topic", {name: line}, self._found.span)
        self._details(self._found.span, line, enqueues=not self._uncounted)
        if self._uncounted:
            self._enqueues({})

    def jobs(self, jobs: Mapping[tuple[str, str], Line], span: Span) -> None:
        """Show the job functions of one topic, in the last day."""
        if jobs:
            output.echo()
            if span != self._found.span:
                output.echo(f"job functions since {_moment(span.begin)}:")
            self._table("job", {job: line for (_, job), line in sorted(jobs.items())}, span)

    def one_job(self, jobs: Mapping[tuple[str, str], Line], span: Span) -> None:
        """Show one job function, in each of its topics."""
        names = {job for _, job in jobs}
        lines = {(topic if len(names) == 1 else f"{topic} {job}"): jobs[topic, job] for topic, job in sorted(jobs)}
        output.echo()
        if len(lines) > 1:
            output.echo(f"{one_line(', '.join(sorted(names)))} in {len({topic for topic, _ in jobs})} topics:")
        self._table("topic", lines, span)
        for name, line in lines.items():
            self._details(span, line, self._clipped([name], 45)[0] if len(lines) > 1 else "")

    def _details(self, span: Span, line: Line, title: str = "", *, enqueues: bool = False) -> None:
        graphs: dict[str, _Graph] = {"enqueued": _enqueued(line)} if enqueues else {}
        graphs |= {"runs": (line, _runs, _number), "failed": (line, _failed, _number)}
        graphs["run p95"] = line, lambda tally: tally.run.below(0.95), short
        graphs["wait p95"] = line, lambda tally: tally.wait.below(0.95), short
        self._graphs(title, span, graphs)

    def _known_seconds(self, span: Span) -> float:
        """Return the seconds of a span for which a machine has reported."""
        gaps = sum(max(0, min(end, span.until) - max(begin, span.begin)) for begin, end in self._found.gaps)
        return max(MINUTE, span.until - span.begin - gaps)

    def _table(self, kind: str, lines: Mapping[str, Line], span: Span) -> None:
        heads = ("runs", "rate", "failed", "dead", "run p50", "p95", "wait p50", "p95")
        cells = [_cells(line.total, self._known_seconds(span), self._marks.none) for line in lines.values()]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        names = self._clipped(lines, sum(widths) + 2 * len(widths))
        first = max(map(len, [kind, *names]))
        for number, (name, row) in enumerate([(kind, heads), *zip(names, cells, strict=True)]):
            text = "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(row, widths, strict=True))])
            output.styled(text, bold=number == 0)

    def _graphs(self, title: str, span: Span, graphs: Mapping[str, _Graph]) -> None:
        """Draw sparklines under each other, each up to its own highest value."""
        points = [self._points(span, line, value) for line, value, _ in graphs.values()]
        highest = [max(filter(None, each), default=0.0) for each in points]
        most = [shown(each) for each, (_, _, shown) in zip(highest, graphs.values(), strict=True)]
        names = self._clipped(graphs, span.columns + max(map(len, most)) + 4)
        first = max(map(len, names))
        each = f"one column for {format_duration(span.step)}"
        output.echo()
        output.styled(f"{title}, {each}, highest to the right" if title else f"{each}, highest to the right", bold=True)
        for name, values, text in zip(names, points, most, strict=True):
            output.echo(f"{name.ljust(first)}  {sparkline(values, self._marks)}  {text}")
        if any(not self._is_known(span, n, Tally()) for n in range(span.columns)):
            output.echo(f"{' ' * first}  {self._marks.gap} no machine reported")

    def _points(self, span: Span, line: Line, value: _Value) -> list[float | None]:
        """Return the value of each column; None if no machine reported."""
        columns = enumerate(line.columns)
        return [(value(tally) or 0.0) if self._is_known(span, n, tally) else None for n, tally in columns]

    def _is_known(self, span: Span, column: int, tally: Tally) -> bool:
        """Return whether a machine reported in a column of a span, which may be shorter than that of the page."""
        if tally.runs:
            return True
        begin = span.begin + column * span.step
        end = min(begin + span.step, span.until)
        return not any(gap[0] <= begin and end <= gap[1] for gap in self._found.gaps)

    def _clipped(self, names: Iterable[str], beside: int) -> list[str]:
        """Return names in one line each, shortened if there is not enough room on a terminal beside this many columns."""
        most = max(NAME, self._width - beside)
        texts = map(one_line, names)
        return [text if len(text) <= most else f"{text[: most - 1]}{self._marks.more}" for text in texts]


_Value = Callable[[Tally], "float | None"]
_Graph = tuple[Line, _Value, Callable[[float], str]]


def _runs(tally: Tally) -> float:
    return tally.runs


def _failed(tally: Tally) -> float:
    return tally.failed


def _enqueued(line: Line) -> _Graph:
    """Return the graph of a topic's enqueues, with the highest column and the total to its right."""
    total = _compact(line.total.enqueued)
    return line, lambda tally: tally.enqueued, lambda highest: f"{_compact(highest)} of {total}"


def _compact(value: float) -> str:
    """Format a count in six characters at most: `9,999`, `12.3k`, `123k`, `4.5M`."""
    if value < 10_000:
        return f"{value:,.0f}"
    unit, size = next(((unit, size) for unit, size in (("k", 1e3), ("M", 1e6)) if value < 999.5 * size), ("G", 1e9))
    return f"{value / size:,.{1 if value < 99.95 * size else 0}f}{unit}"


def _number(value: float) -> str:
    """Format a count: `1,234,567`, then `12.3M`."""
    return f"{value:,.0f}" if value < 1e7 else f"{value / 1e6:,.1f}M"


def _cells(total: Tally, seconds: float, none: str) -> list[str]:
    """Return the cells of a row of the table."""
    pace = rate(total.runs / seconds) if total.runs else none
    failed = f"{100 * total.failed / total.ended:.1f}%" if total.ended else none
    durations = [_quantile(of, share, none) for of in (total.run, total.wait) for share in (0.5, 0.95)]
    return [_number(total.runs), pace, failed, _number(total.outcome("dead")), *durations]


def _quantile(durations: Durations, share: float, none: str) -> str:
    found = durations.below(share)
    if found is None:
        return none
    return f"<{short(BUCKETS[0])}" if found < BUCKETS[0] else short(found)


def sparkline(values: Sequence[float | None], marks: Marks) -> str:
    """Draw values as blocks relative to the highest one; zero has a mark of its own, and so has None."""
    highest = max((value for value in values if value is not None), default=0.0)
    top = len(marks.levels) - 1

    def mark(value: float | None) -> str:
        if value is None:
            return marks.gap
        return marks.levels[max(1, round(value / highest * top)) if value > 0 else 0]

    return "".join(map(mark, values))


def rate(per_second: float) -> str:
    """Format events over time in the unit that a person would choose: `12/s`, `8.8/min`, `3/h`, `1/d`."""
    units = ("s", 1), ("min", 60), ("h", 3600), ("d", DAY)
    unit, seconds = next((each for each in units if per_second * each[1] >= 1), units[-1])
    value = per_second * seconds
    return f"{value:,.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"


def short(seconds: float) -> str:
    """Format a duration in five characters at most: `12ms`, `1.2s`, `95s`, `4.2m`, `12m`, `1.5h`; 0 is `0s`."""
    if not seconds:
        return "0s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    for unit, size, most in (("s", 1, 100), ("m", 60, 60), ("h", 3600, 100)):
        value = seconds / size
        if value < 9.95:
            return f"{value:.1f}{unit}"
        if value < most - 0.5:
            return f"{value:.0f}{unit}"
    return f"{seconds / DAY:.0f}d"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%a %d %b %H:%M")


# -- for programs -----------------------------------------------------------------------------------


def _as_data(
    found: Statistics, jobs: Mapping[tuple[str, str], Line], jobs_span: Span, *, with_topics: bool, enqueues: bool
) -> dict[str, Any]:
    span = found.span
    known = [found.is_known(n) for n in range(span.columns)]
    data: dict[str, Any] = {
        "since": span.begin,
        "until": span.until,
        "step": span.step,
        "gaps": [list(gap) for gap in found.gaps],
        "reports": found.everything.total.reports,
        "all": _line(found.everything, known, enqueues),
    }
    if with_topics:
        data["topics"] = {name: _line(line, known, enqueues) for name, line in sorted(found.topics.items())}
    if jobs:
        all_known: Iterable[bool] = [True] * jobs_span.columns
        data["jobs"] = {
            "since": jobs_span.begin,
            "step": jobs_span.step,
            "rows": [{"topic": topic, "job": job, **_line(line, all_known)} for (topic, job), line in sorted(jobs.items())],
        }
    return data


def _line(line: Line, known: Iterable[bool], enqueues: bool = False) -> dict[str, Any]:
    told = zip(line.columns, known, strict=True)
    columns = [_tally(tally, enqueues) if there or tally.runs else None for tally, there in told]
    return {**_tally(line.total, enqueues), "columns": columns}


def _tally(tally: Tally, enqueues: bool) -> dict[str, Any]:
    return {
        "enqueued": tally.enqueued if enqueues else None,
        "runs": tally.runs,
        "done": tally.outcome("done"),
        "failed": tally.failed,
        "retried": tally.outcome("retry"),
        "dead": tally.outcome("dead"),
        "cancelled": tally.outcome("cancelled"),
        "deferred": tally.outcome("deferred"),
        "run": _durations(tally.run),
        "wait": _durations(tally.wait),
    }


def _durations(of: Durations) -> dict[str, Any]:
    return {"count": of.count, "sum": round(of.seconds, 6), "max": of.most, "p50": of.below(0.5), "p95": of.below(0.95)}
