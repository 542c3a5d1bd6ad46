"""Measure the drain beside a transaction that stays open: `python -m bench.peers.bloat [--only TEXT] [--jobs N] [--minutes N]`.

A queue in PostgreSQL leaves dead rows behind, which vacuum cannot remove while somebody's transaction is open. A producer keeps
ten thousand no-op jobs waiting, in calls of a thousand, and a REPEATABLE READ transaction that began before the first job stays
open until the last one. The samples are kept in bench/results/bloat/, a file a peer. `--keep` writes a point for each minute of
them into docs/pictures/bloat.json, from which tools/draw_bloat.py draws the picture of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from .peers import PEERS, Peer
from .run import run
from .venvs import environment, versions

DATA = Path(__file__).parents[2] / "docs" / "pictures" / "bloat.json"
RESULTS = Path(__file__).parents[1] / "results" / "bloat"
PAUSE = 5.0
"""Seconds between two samples."""


class Sample(NamedTuple):
    seconds: float
    """Since the first job."""
    jobs: int
    """Done so far."""
    cpu: float
    """CPU seconds of workers and server so far, without the producer's process."""
    load: float
    """Of the machine, over the last minute."""
    dead: int
    """Dead rows of all tables, as the server estimates them."""
    megabytes: float
    """Size of the database."""


_SIZES = "SELECT coalesce(sum(n_dead_tup), 0)::bigint, pg_database_size(current_database()) / 1e6 FROM pg_stat_user_tables"


def measure(peer: Peer, jobs: int, minutes: float, *, hold: bool) -> None:
    """Keep samples until so many jobs are done, or so many minutes are over."""
    name = f"{peer.name}{'' if hold else ', alone'}"
    samples: list[Sample] = []
    about = {"name": name, "settings": peer.settings, "versions": versions(peer), "fields": Sample._fields}
    with run(peer) as made, psycopg.connect(made.broker, autocommit=True) as looking, psycopg.connect(made.broker) as holding:
        made.produce("push", 1)  # makes our tables
        made.start()
        if not made.until(2, 60.0):
            raise RuntimeError(f"{name} does not start:\n{made.log()}")
        if hold:
            holding.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            holding.execute("SELECT count(*) FROM pg_stat_user_tables")
        with made.producing("stream", jobs) as producer:
            made.until(1000, 60.0)
            begin, already = time.monotonic(), made.count()
            while True:
                now, done = time.monotonic() - begin, made.count() - already
                ((dead, size),) = looking.execute(_SIZES).fetchall()
                samples.append(Sample(round(now, 3), done, made.cpu(), os.getloadavg()[0], int(dead), float(size)))
                _keep(name, {**about, "samples": samples})
                if done + already >= jobs or now > 60 * minutes:
                    break
                if producer.poll() not in (None, 0):
                    raise RuntimeError(f"the producer of {name} failed:\n{(made.directory / 'producer.log').read_text()}")
                time.sleep(PAUSE)
    print(f"{name}: {samples[-1].jobs:,} jobs in {samples[-1].seconds:,.0f} s", flush=True)


def _keep(name: str, kept: dict[str, object]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = RESULTS / f"{name}.part"
    part.write_text(json.dumps(kept) + "\n")
    part.rename(RESULTS / f"{name}.json")


def points(samples: list[Sample]) -> list[dict[str, float]]:
    """Return a point for each minute: jobs a second, and CPU time of a job in microseconds.

    A process that has ended takes its CPU time along: the samples after that, usually the last one, are left out.
    """
    samples = [samples[0], *(after for before, after in itertools.pairwise(samples) if after.cpu >= before.cpu)]
    found, begin = [], samples[0]
    for sample in samples[1:]:
        if sample.seconds - begin.seconds >= 60.0 or (sample is samples[-1] and sample.seconds - begin.seconds >= 30.0):
            jobs = max(1, sample.jobs - begin.jobs)
            found.append(
                {
                    "minute": round(sample.seconds / 60, 2),
                    "jobs": sample.jobs,
                    "rate": round(jobs / (sample.seconds - begin.seconds), 1),
                    "cpu": round((sample.cpu - begin.cpu) / jobs * 1e6, 1),
                    "load": round(sample.load, 1),
                }
            )
            begin = sample
    return found


def keep() -> None:
    """Write docs/pictures/bloat.json, in the order of the peers."""
    kept = []
    for name in (peer.name for peer in PEERS if peer.bloat):
        if (path := RESULTS / f"{name}.json").exists():
            found = json.loads(path.read_text())
            kept.append(
                {
                    "name": name,
                    "settings": found["settings"],
                    "versions": found["versions"],
                    "points": points([Sample(*sample) for sample in found["samples"]]),
                }
            )
    DATA.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"written into {DATA}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers.bloat", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="peers of this name; may be repeated (default: all)")
    parser.add_argument("--jobs", type=int, default=10_000_000, help="end after so many jobs (default 10,000,000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="end after so many minutes (default 60)")
    parser.add_argument("--alone", action="store_true", help="without the open transaction, to compare")
    parser.add_argument("--keep", action="store_true", help="measure nothing; write docs/pictures/bloat.json")
    options = parser.parse_args()
    if options.keep:
        keep()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end with us all that was started
    for peer in PEERS:
        if peer.bloat and (not options.only or peer.name in options.only):
            environment(peer)
            measure(peer, options.jobs, options.minutes, hold=not options.alone)


if __name__ == "__main__":
    main()
