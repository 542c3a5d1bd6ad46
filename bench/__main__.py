"""Run scenarios in turn, print medians beside their goals, keep JSON: `python -m bench [SCENARIO ...] [--rounds N]`."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sqlite3
from pathlib import Path

from jobs_core import __version__
from jobs_core.cli import output

from . import one_worker, rabbitmq, redis, supervisor, zeromq
from .support import median

MODULES = [one_worker, rabbitmq, redis, supervisor, zeromq]
SCENARIOS = {name: scenario for module in MODULES for name, scenario in module.SCENARIOS.items()}
GOALS = {what: goal for module in MODULES for what, goal in module.GOALS.items()}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, interleaved (default 5)")
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    names = options.scenarios or list(SCENARIOS)
    figures: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name in names:
            for what, value in SCENARIOS[name]().items():
                figures.setdefault(what, []).append(value)
    rows = [_row(what, values) for what, values in figures.items()]
    output.table(["what", "median", "min", "max", "goal", ""], rows, plain=False)
    _keep(figures)


def _row(what: str, values: list[float]) -> tuple[str, ...]:
    middle = median(values)
    goal, verdict = "", ""
    if what in GOALS:
        sign, bound = GOALS[what]
        goal = f"{sign} {_number(bound)}"
        verdict = "met" if (middle <= bound if sign == "≤" else middle >= bound) else "MISSED"
    return what, _number(middle), _number(min(values)), _number(max(values)), goal, verdict


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def _keep(figures: dict[str, list[float]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    record = {
        "at": now.isoformat(timespec="seconds"),
        "jobs_core": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "figures": {what: {"median": median(values), "rounds": values} for what, values in figures.items()},
    }
    path = RESULTS / f"{now:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
