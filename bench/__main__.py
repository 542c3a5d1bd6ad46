"""Run scenarios in turn, print medians beside their goals, keep JSON: `python -m bench [SCENARIO ...] [--rounds N] [--keep]`.

The JSON is a file of its own in bench/results/; with `--keep`, that of the repository, which docs/benchmarks.md shows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from jobs_core.cli import output

from . import kept, page
from .goals import GOALS, PART_OF, PARTS, SCENARIOS, met
from .support import median

RESULTS = Path(__file__).parent / "results"

Figures = dict[str, dict[str, list[float]]]
"""By part and name, a figure a round."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, interleaved (default 5)")
    parser.add_argument("--keep", action="store_true", help="keep the figures for docs/benchmarks.md, and write them there")
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    names = options.scenarios or list(SCENARIOS)
    parts = {PART_OF[name] for name in names}
    if options.keep and (missing := [name for name, part in PART_OF.items() if part in parts and name not in names]):
        parser.error(f"--keep replaces whole parts of the page; add {', '.join(missing)}")
    machine = kept.machine()
    figures: Figures = {part: {} for part in PARTS}
    failed = set()
    for number in range(options.rounds):
        for name in names:
            begin = time.monotonic()
            try:
                found = SCENARIOS[name]()
            except Exception as error:  # one failure does not end a long run
                print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
                failed.add(name)
                continue
            for what, value in found.items():
                figures[PART_OF[name]].setdefault(what, []).append(value)
            print(f"round {number + 1}, {name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    rows = [_row(what, values) for part in figures.values() for what, values in part.items()]
    output.table(["what", "median", "min", "max", "goal", ""], rows, plain=False)
    machine["load after"] = os.getloadavg()[0]
    measured = {part: {"machine": machine, "figures": values} for part, values in figures.items() if values}
    if options.keep:
        all_parts = kept.load("ours") | measured
        kept.save("ours", {part: all_parts[part] for part in PARTS if part in all_parts})
        page.write()
    else:
        _note(measured)
    return len(failed)


def _row(what: str, values: list[float]) -> tuple[str, ...]:
    middle = median(values)
    goal, verdict = "", ""
    if what in GOALS:
        sign, bound = GOALS[what]
        goal = f"{sign} {_number(bound)}"
        verdict = "met" if met(GOALS[what], middle) else "MISSED"
    return what, _number(middle), _number(min(values)), _number(max(values)), goal, verdict


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _note(record: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    sys.exit(main())
