"""Run every row, and print its counts and any loss: `python -m tests.torture [BACKEND ...] [--jobs N] [--only TEXT]`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from . import BACKENDS
from .stage import Row

PATIENCE = 240.0
"""Longest time that a row waits for its jobs, seconds."""

COUNTS = ["attempted", "acknowledged", "ok", "lost", "duplicated", "recovered", "unexpected"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"of {', '.join(BACKENDS)} (default: all)")
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs a row (default 100,000)")
    parser.add_argument("--only", action="append", default=[], help="rows whose name contains this; may be repeated")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end with us all that was started
    failed = []
    _show("backend, trouble", [*COUNTS, "s to the next", "s in all"])
    for backend in options.backends or BACKENDS:
        module = importlib.import_module(f"{__package__}.{backend}")
        rows: dict[str, Row] = module.ROWS | (getattr(module, "ASIDE", {}) if options.only else {})
        for name, row in rows.items():
            if options.only and not any(text in name for text in options.only):
                continue
            try:
                counts, again, seconds = endure(row, options.jobs)
            except AssertionError as error:
                failed.append(f"{backend}, {name}: {error}")
                print(f"FAILED: {failed[-1]}", flush=True)
                continue
            _show(f"{backend}, {name}", [*(f"{counts[count]:,}" for count in COUNTS), f"{again:.2f}", f"{seconds:.0f}"])
            if counts["lost"] or counts["unexpected"] or counts["attempted"] != options.jobs:
                failed.append(f"{backend}, {name}: {counts}")
                print(f"FAILED: {failed[-1]}", flush=True)
    return 1 if failed else 0


def _show(name: str, cells: list[str]) -> None:
    print(f"{name:<46}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


def endure(row: Row, count: int) -> tuple[dict[str, int], float, float]:
    """Run a row; return its counts, the seconds from the end of the fault to the next finished job, and the seconds in all."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jobs-torture-") as directory, row(Path(directory), count) as (stage, trouble):
        tally = stage.run(trouble, count, batch=100, patience=PATIENCE)
        return asdict(tally), stage.recovered, time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main())
