"""Charts as numbers: the templates draw them as SVG, without script and without styles of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from jobs_core.statistics import Span

WIDTH, HEIGHT = 600, 120
"""The size of a chart in units of its own; the page scales it."""


class Bar(Struct, frozen=True):
    """A part of a column."""

    x: float
    y: float
    width: float
    height: float
    series: str


class Chart(Struct, frozen=True):
    """A chart with columns over time."""

    title: str
    series: list[str]
    bars: list[Bar]
    gaps: list[Bar]  # times that no machine has reported
    columns: list[tuple[float, float, str]]  # x and width of each, and what to say about it
    highest: str
    last: str
    begin: str
    end: str
    width: int = WIDTH
    height: int = HEIGHT


def stacked(title: str, span: Span, series: Mapping[str, Sequence[float | None]], shown: Callable[[float], str]) -> Chart:
    """Return a chart whose columns stack the series; None stands for a time without a report."""
    count = span.columns
    sums = [sum(values[number] or 0.0 for values in series.values()) for number in range(count)]
    top = max(sums, default=0.0) or 1.0
    each = WIDTH / count
    bars, gaps, columns = [], [], []
    for number in range(count):
        x = round(number * each, 2)
        told = []
        base = 0.0
        unknown = all(values[number] is None for values in series.values())
        for name, values in series.items():
            value = values[number]
            if value:
                height = max(1.5, value / top * HEIGHT)
                base += height
                bars.append(Bar(x, round(HEIGHT - base, 2), round(each * 0.82, 2), round(height, 2), name))
            if value is not None:
                told.append(f"{name} {shown(value)}")
        if unknown:
            gaps.append(Bar(x, 0, round(each, 2), HEIGHT, "gap"))
        columns.append((x, round(each, 2), f"{moment(span.begin + number * span.step)}: {', '.join(told) or 'no report'}"))
    return Chart(
        title, list(series), bars, gaps, columns, shown(max(sums, default=0.0)), shown(sums[-1] if sums else 0.0),
        moment(span.begin), moment(span.until),
    )  # fmt: skip


def moment(at: float) -> str:
    """Return a time of day, with the day, for people."""
    return datetime.fromtimestamp(at).astimezone().strftime("%a %H:%M")
