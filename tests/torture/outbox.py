"""The outbox while its carriers are killed and cut off: `python -m tests.torture.outbox [--jobs N]`.

Transactions leave jobs, small flows and one of 10,000 members; two carriers race. They are killed, and their connections to the
database or to the backend are cut, again and again, while a worker finishes what arrives. A job that runs twice
was enqueued twice.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psycopg

from jobs_core import App, Config, Flow, job, set_current_app
from jobs_core.backends.base import Answer, Outcome, Settlement
from jobs_core.config import Outbox
from jobs_core.errors import BackendUnavailable
from jobs_core.ids import new_token
from jobs_core.registry import Registry
from jobs_core.supervisor.housekeeper.carrier import Carrier
from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.redis import RedisServer

from ..support.proxy import Proxy

T = TypeVar("T")

registry = Registry()
LARGE = 10_000
"""Members of the one large flow."""

CARRIERS = 2


@job(registry=registry, name="tasks.note")
def note(text: str = "x") -> None: ...


def application(url: str, outbox: str, directory: Path) -> App:
    return App(Config(backend=url, outbox=Outbox(url=outbox), base_dir=directory), registry=registry)


def start_carrier(url: str, outbox: str, directory: Path) -> int:
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            Carrier(application(url, outbox, directory), lambda state: None).run()
        os._exit(1)
    return child


def leave(app: App, url: str, count: int) -> Iterator[str]:
    """Commit transactions until so many jobs are in the outbox; yield the ids that were committed."""
    left = count
    for number in itertools.count():
        if not left:
            return
        size = min(left, LARGE if number == 3 and left > 2 * LARGE else 100)
        ids: list[str] = []
        while not ids:
            with contextlib.suppress(BackendUnavailable):  # a busy machine: this transaction was rolled back
                ids = _committed(app, url, size, flow=number % 4 == 3)
        yield from ids
        left -= size


def _committed(app: App, url: str, size: int, *, flow: bool) -> list[str]:
    """Leave jobs, or a flow of so many members, in one transaction; return the ids."""
    with psycopg.connect(url) as connection:
        if not flow:
            return [handle.id for handle in app.enqueue_many([note.using(transaction=connection).call()] * size)]
        with Flow(transaction=connection) as made:
            return [made.add(note.call()).id for _ in range(size)]


def endure(backend: str, count: int) -> tuple[Counter[str], int, int]:
    """Return how often each job ran, how many ids were committed, and the number of faults."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobs-torture-")))
        server = stack.enter_context(PostgresServer())
        database = stack.enter_context(Proxy(server.port))
        outbox = f"postgresql://jobs@127.0.0.1:{database.port}/postgres"
        direct, through = f"sqlite:///{directory}/queue.db", f"sqlite:///{directory}/queue.db"
        cuts: list[Callable[[], object]] = [database.cut]
        if backend == "redis":
            redis = stack.enter_context(RedisServer(directory))
            queue = stack.enter_context(Proxy(redis.port))
            direct, through = (f"redis://127.0.0.1:{port}/0" for port in (redis.port, queue.port))
            cuts.append(queue.cut)
        app = application(direct, server.url, directory)
        set_current_app(app)
        committed: list[str] = []
        producing = threading.Thread(target=lambda: committed.extend(leave(app, server.url, count)))
        carriers = [start_carrier(through, outbox, directory) for _ in range(CARRIERS)]
        producing.start()
        seen, faults = _read_under_faults(
            app, producing, carriers, cuts, lambda: start_carrier(through, outbox, directory), count
        )
        for carrier in carriers:
            os.kill(carrier, signal.SIGKILL)
            os.waitpid(carrier, 0)
        lost, unexpected = set(committed) - set(seen), set(seen) - set(committed)
        print(f"lost {len(lost)}, unexpected {len(unexpected)}", flush=True)
        app.close()
        return seen, len(committed), faults


def _read_under_faults(
    app: App, producing: threading.Thread, carriers: list[int], cuts: list[Callable[[], object]], start: Callable[[], int],
    count: int,
) -> tuple[Counter[str], int]:  # fmt: skip
    seen, faults, quiet = Counter[str](), 0, time.monotonic()
    next_fault = time.monotonic() + 0.5
    backend = app.new_backend()
    backend.open("reader")
    while len(seen) < count and time.monotonic() - quiet < 120.0:
        taken = _again(functools.partial(backend.reserve, ["default"], 500, new_token()))
        seen.update(each.id for each in taken)
        ends = [Settlement(each.id, each.token, Outcome.DONE) for each in taken]
        answers = _again(functools.partial(backend.settle, ends, new_token()))
        stale = [end.id for end, answer in zip(ends, answers, strict=True) if answer is Answer.STALE]
        if stale:  # the reader was away for longer than its lease: these run again, which is no fault of the outbox
            print(f"{len(stale)} runs of the reader were stale", flush=True)
            seen.subtract(stale)
        if taken:
            quiet = time.monotonic()
        else:
            backend.wait(["default"], 0.2)
        if time.monotonic() >= next_fault:
            if faults % 3 == 2:
                cuts[faults // 3 % len(cuts)]()
            else:
                os.kill(carriers[0], signal.SIGKILL)
                os.waitpid(carriers.pop(0), 0)
                carriers.append(start())
            faults += 1
            next_fault = time.monotonic() + 0.5
    producing.join()
    backend.close()
    return seen, faults


def _again(call: Callable[[], T]) -> T:
    """Call the backend until it answers; the call has its request id, so that a repetition changes nothing."""
    while True:
        with contextlib.suppress(BackendUnavailable):
            return call()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.outbox", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs a backend (default 100,000)")
    jobs = parser.parse_args().jobs
    failed = False
    for backend in ("sqlite", "redis"):
        begin = time.monotonic()
        seen, committed, faults = endure(backend, jobs)
        twice = sum(times - 1 for times in seen.values())
        print(
            f"{backend}: committed {committed:,}, ran {len(seen):,}, twice {twice}, faults {faults}, "
            f"{time.monotonic() - begin:.0f} s", flush=True,
        )  # fmt: skip
        failed = failed or twice > 0 or len(seen) != committed or committed != jobs
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
