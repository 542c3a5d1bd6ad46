"""Write the tables of docs/benchmarks.md and README.md from the figures in bench/measured/: `python -m bench.page`.

A table stands between two marks. One whose figures are not there stays as it is. A test compares the pages with the figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import goals, kept
from .peers import results, table
from .peers.brokers import BROKERS
from .support import median

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"


def write() -> None:
    for path, text in written().items():
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}", flush=True)


def written() -> dict[Path, str]:
    """Return the text of each page."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in _blocks():
        page = _replaced(page, name, text)
    readme = README.read_text(encoding="utf-8")
    if lines := table.best({broker: results.load(broker) for broker in BROKERS}):
        readme = _replaced(readme, "figures", "\n".join(lines) + "\n")
    return {PAGE: page, README: readme}


def _replaced(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    assert page.count(begin) == page.count(end) == 1, f"{name}: the page lacks its marks"
    return re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)


def _blocks() -> Iterator[tuple[str, str]]:
    for name, record in kept.load("ours").items():
        yield name, f"{_about(record)}\n\n{ours(record['figures'])}\n"
    for broker in BROKERS:
        if record := results.load(broker):
            yield f"peers on {broker}", f"{_about(record)}\n\n{table.tables(record)}"
    for name in ("api", "web"):
        if record := kept.load(name):
            parts = [columns(each["title"], each["columns"]) for each in record["tables"]]
            yield name, "\n\n".join([_about(record), *parts]) + "\n"


def _about(record: dict[str, Any]) -> str:
    machine = record["machine"]
    servers = ", ".join(f"{name} {machine[name]}" for name in kept.SERVERS if name in machine)
    return (
        f"Measured on {machine['date']}: {machine['cpus']} CPUs, {machine['memory, GB']} GB, Linux {machine['kernel']}, "
        f"Python {machine['python']}, SQLite {machine['sqlite']}, {servers}; load average "
        f"{machine['load before']:.1f} before and {machine['load after']:.1f} after."
    )


def ours(figures: dict[str, list[float]]) -> str:
    """Return a table of our own figures beside their goals."""
    lines = ["| what | goal | measured |", "| --- | ---: | ---: |"]
    for what, values in figures.items():
        goal = goals.GOALS.get(what)
        missed = " **missed**" if goal and not goals.met(goal, median(values)) else ""
        told = f"{goal[0]} {table.number(goal[1])}" if goal else ""
        lines.append(f"| {what} | {told} | {table.cell(values)}{missed} |")
    return "\n".join(lines)


def columns(title: str, found: dict[str, dict[str, str]]) -> str:
    """Return a table with a column for each of what was found; they may have different rows."""
    lines = [f"| {title} | {' | '.join(found)} |", f"| --- |{' ---: |' * len(found)}"]
    for row in dict.fromkeys(row for column in found.values() for row in column):
        lines.append(f"| {row} | {' | '.join(column.get(row, '–') for column in found.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write()
