"""A process for the contract to run and to kill: `python -m jobs_core.testing.contract_child URL LEASE TOPIC VERB ARG...`.

With several arguments, a process is forked for each once everything is imported, so that all begin at the same time.

The module is not in the package `contract`, whose import of pytest and Hypothesis costs half a second of CPU time.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..backends.auxstore import composed
from ..backends.base import Answer, Backend, BackendFactory, BackendOptions, Outcome, Outgoing, Settlement
from ..errors import BackendUnavailable
from ..ids import new_id, new_token
from ..plugins import Plugins
from ..urls import scheme

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE = 20.0
"""Longest outage of a broker that is tolerated, in seconds."""


def main(url: str, lease: str, topic: str, verb: str, *arguments: str) -> None:
    results = os.environ.get("JOBS_CONTRACT_RESULTS", "")
    factories = _factory(url), _factory(results) if results else None

    def live(argument: str) -> None:
        options = BackendOptions(lease=float(lease), base_dir=Path.cwd())
        backend: Backend = factories[0](url, options)
        if factories[1] is not None:
            backend = composed(backend, factories[1](results, options))
        act(backend, topic, verb, argument)

    if len(arguments) == 1:
        live(*arguments)
    else:
        at_once(live, arguments)


def at_once(live: Callable[[str], None], arguments: Sequence[str]) -> None:
    """Call `live` with each argument in a fork of this process; end with exit code 1 if one failed."""
    gc.freeze()
    children = []
    for argument in arguments:
        pid = os.fork()
        if not pid:
            live(argument)
            return
        children.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in children]
    if any(ends):
        sys.exit(1)


def act(backend: Backend, topic: str, verb: str, argument: str) -> None:
    persist(backend.open, None if verb in ("push", "add") else argument if verb == "victim" else new_token())
    if verb == "push":
        for _ in range(int(argument)):
            persist(backend.push, [Outgoing(new_id(), topic, b"pushed")], new_token())
    elif verb == "drain":
        drain(backend, topic, Path(argument))
    elif verb == "add":
        for _ in range(int(argument)):
            add(backend)
    elif verb == "victim":
        victim(backend, topic)
    backend.close()


def add(backend: Backend) -> None:
    """Add 1 to the number in a document."""
    while True:
        found = persist(backend.document, "contract-kind", "sum")
        value, version = (int(found.data), found.version) if found else (0, 0)
        changed = f"{value + 1}".encode()
        if persist(backend.put_document, "contract-kind", "sum", changed, new_token(), expected=version) is not None:
            return


def _factory(url: str) -> BackendFactory:
    factory: BackendFactory = Plugins.discover().choose("jobs_queue_backends", scheme(url), "url")
    return factory


def persist(ask: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Repeat a call with the same request id until it is answered, as the core does during an outage."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask(*arguments, **options)
        except BackendUnavailable:
            if time.monotonic() > deadline:
                raise


def drain(backend: Backend, topic: str, ledger: Path) -> None:
    """Reserve and settle jobs until none comes for a while; before settling them, write their ids to the ledger."""
    record = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    idle = 0
    while idle < 3:
        deliveries = persist(backend.reserve, [topic], 10, new_token())
        if not deliveries:
            idle += 1
            persist(backend.wait, [topic], 0.2)
            continue
        idle = 0
        os.write(record, "".join(f"{delivery.id}\n" for delivery in deliveries).encode())
        answers = persist(backend.settle, [Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
        assert Answer.STALE not in answers, answers


def victim(backend: Backend, topic: str) -> None:
    """Push a job, reserve one, send a heartbeat and settle; print each step first, because a fail point may kill it there."""
    print("push", flush=True)
    backend.push([Outgoing("pushed-by-victim", topic, b"pushed by the victim")], new_token())
    print("reserve", flush=True)
    deliveries = backend.reserve([topic], 1, new_token())
    while not deliveries:
        backend.wait([topic], 1.0)
        deliveries = backend.reserve([topic], 1, new_token())
    print("heartbeat", flush=True)
    backend.heartbeat()
    print("settle", flush=True)
    backend.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
    print("end", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
