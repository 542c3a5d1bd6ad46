"""Measure `jobsctl web` on a store with a million ready jobs: `python -m bench.web [BACKEND ...] [--ready N] [--keep]`.

Prints tables as docs/benchmarks.md has them: the time of each page, what open pages cost, and the rates of the API. Filling
takes minutes. Every server is private, and ends with the measurement.
With `--keep`, docs/benchmarks.md shows what was measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs_core import App, set_current_app
from jobs_core.config_sources import load
from jobs_web.tokens import hash_of

from .. import api, kept, page
from ..support import median
from . import browsing
from .browsing import CONFIGURATION, TOKEN, Dashboard
from .filling import fill
from .stores import STORES, Asked

GOAL = 100.0
"""Most milliseconds of a page."""

Column = dict[str, str]


def measure(name: str, ready: int) -> tuple[Column, Column]:
    """Return what one backend measures: of pages, and of the rest."""
    with (
        tempfile.TemporaryDirectory(prefix="jobs-bench-web-") as place,
        STORES[name](Path(place)) as (url, asked),
    ):
        config = Path(place) / "jobs.toml"
        config.write_text(CONFIGURATION.format(url=url, hash=hash_of(TOKEN)))
        app = App(load(config, environ={}).config)
        set_current_app(app)
        try:
            print(f"{name}: filled in {fill(app, ready):,.0f} s", flush=True)
            with Dashboard(app) as dashboard:
                pages = dict(_pages(app, dashboard))
            with Dashboard(app) as dashboard:
                rest = dict(_rest(dashboard, asked))
        finally:
            set_current_app(None)
            app.close()
    return pages, rest


def _pages(app: App, dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    for name, path in browsing.pages_of(app).items():
        visits = browsing.visit(dashboard, path)
        mark = " **missed**" if median(visits.others) > GOAL else ""
        yield name, f"{visits}{mark}"
        print(f"  {name}: {visits} ms", flush=True)


def _rest(dashboard: Dashboard, asked: Asked | None) -> Iterator[tuple[str, str]]:
    yield from browsing.watch(dashboard, asked)
    port = dashboard.port
    yield "API, one by one, 1 connection", f"{api.one_by_one(port, TOKEN, 1, 'shop.ship'):,.0f} /s"
    several = api.one_by_one(port, TOKEN, api.CONNECTIONS, "shop.ship")
    yield f"API, one by one, {api.CONNECTIONS} connections (goal 800)", f"{several:,.0f} /s"
    yield f"API, NDJSON, {api.LINES:,} lines a request (goal 3,000)", f"{api.bulk(port, TOKEN, 'shop.ship'):,.0f} /s"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.web", description=__doc__)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=f"of {', '.join(STORES)} (default: all)")
    parser.add_argument("--ready", type=int, default=1_000_000, help="ready jobs (default 1,000,000)")
    parser.add_argument("--keep", action="store_true", help="keep the figures for docs/benchmarks.md, and write them there")
    options = parser.parse_args()
    if unknown := set(options.backends) - set(STORES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(STORES)}")
    machine = kept.machine()
    found = {name: measure(name, options.ready) for name in options.backends or STORES}
    tables: dict[str, dict[str, Column]] = {
        "page, ms: first / median / longest / CPU": {name: pages for name, (pages, _) in found.items()},
        "what": {name: rest for name, (_, rest) in found.items()},
    }
    for title, columns in tables.items():
        print(f"\n{page.columns(title, columns)}")
    if options.keep:
        shown = [{"title": title, "columns": columns} for title, columns in tables.items()]
        kept.save("web", {"machine": machine | {"load after": os.getloadavg()[0]}, "tables": shown})
        page.write()


if __name__ == "__main__":
    main()
