"""`python -m tests.torture [BACKEND ...] [--jobs N] [--only TEXT]`: every row, its counts, and whether anything was lost."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from . import BACKENDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"of {', '.join(BACKENDS)} (default: all)")
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs a row (default 100,000)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    failed = []
    for backend in options.backends or BACKENDS:
        rows = importlib.import_module(f"{__package__}.{backend}").ROWS
        for name, row in rows.items():
            if options.only not in name:
                continue
            begin = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="jobs-torture-") as directory, row(Path(directory), options.jobs) as set_up:
                stage, trouble = set_up
                tally = stage.run(trouble, options.jobs, batch=100, patience=600.0)
            seconds, again = time.monotonic() - begin, stage.recovered
            print(f"{backend}, {name}: {tally}  (again after {again:.2f} s, {seconds:.0f} s in all)", flush=True)
            if tally.lost or tally.unexpected:
                failed.append(f"{backend}, {name}")
    for name in failed:
        print(f"FAILED: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
