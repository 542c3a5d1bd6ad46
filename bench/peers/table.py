"""Write the kept figures as tables into docs/benchmarks.md, between two marks for each broker."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

from ..support import median
from .results import load
from .venvs import PYTHONS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- peers on {}: begin -->\n", "<!-- peers on {}: end -->\n"
RATIO = "ours is so many times this"
COMPARED = ("postgres",)
"""Brokers whose tables compare rows round by round: these figures are of a machine that others use too."""
TITLES = {
    "drain": "No-op jobs, drained by two worker processes",
    "enqueue": "Enqueue, from one process",
    "latency": "From enqueue to start, workers idle",
    "idle": "A worker set that waits, seen from the server",
    "commits": "Commits of 64 writers (4 processes of 16 threads), one row each",
    "cold": "A new process: import, define the jobs, enqueue one, end",
    "many": "10,000 jobs that wait for a second",
    "group": "A group of no-op jobs, and a job after it",
    "results": "The same, where the job after the group takes all results",
    "limit": "10,000 jobs of 5 ms, 10 at once, by workers that could run 32",
    "rate": "2,500 no-op jobs, 500 a second",
    "kill": "2,000 jobs of 5 ms, the whole worker set killed with SIGKILL three times; not run: 40 s after the last one",
}


def write() -> None:
    """Write the tables; those of a broker without kept figures stay as they are."""
    page = PAGE.read_text()
    for broker, kept in load().items():
        page = written(page, broker, kept)
    PAGE.write_text(page)
    print(f"written into {PAGE}")


def written(page: str, broker: str, kept: dict[str, Any]) -> str:
    """Return the page with a broker's tables."""
    parts = [_table(TITLES[measure], kept[measure], compared=broker in COMPARED) for measure in TITLES if kept.get(measure)]
    packages = sorted({line for lines in kept.get("versions", {}).values() for line in lines})
    parts.append(f"Python {PYTHONS.get(broker, platform.python_version())}; {', '.join(packages)}.\n")
    begin, end = BEGIN.format(broker), END.format(broker)
    block = begin + "\n" + "\n".join(parts) + "\n" + end
    return re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: block, page, flags=re.DOTALL)


def _table(title: str, rows: dict[str, Any], *, compared: bool) -> str:
    columns = list(dict.fromkeys(what for row in rows.values() for what in row["figures"]))
    ratios = {name: _ratios(rows["jobs"], row, columns[0]) for name, row in rows.items()} if compared and "jobs" in rows else {}
    heads = [columns[0], RATIO, *columns[1:]] if any(ratios.values()) else columns
    lines = [f"#### {title}\n", f"| | {' | '.join(heads)} | settings |", f"| --- |{' ---: |' * len(heads)} --- |"]
    for name, row in rows.items():
        cells = [_cell(ratios[name] if what == RATIO else row["figures"].get(what)) for what in heads]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['settings']} |")
    loads = [each["load"] for row in rows.values() for each in row.get("rounds", ())]
    if compared and loads:
        lines.append(f"\nLoad average of the machine meanwhile: {_number(min(loads))} to {_number(max(loads))}.")
    return "\n".join(lines) + "\n"


def _ratios(ours: dict[str, Any], row: dict[str, Any], what: str) -> list[float]:
    """Return our figure over another's of the same round, for each round: what else the machine does hardly changes it."""
    if row is ours:
        return []
    mine, other = (_by_round(each, what) for each in (ours, row))
    return [mine[begun] / other[begun] for begun in mine if other.get(begun)]


def _by_round(row: dict[str, Any], what: str) -> dict[float, float]:
    return {each["begun"]: value for each, value in zip(row["rounds"], row["figures"][what], strict=True)}


def _cell(values: list[float] | None) -> str:
    if not values:
        return "–"
    middle = _number(median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))}–{_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.2f}" if value < 10 else f"{value:.1f}"
