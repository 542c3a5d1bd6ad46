"""The HTTP child: probes for alive, ready and started, and the metrics, all from the scoreboard alone.

While the broker hangs, the ready probe fails, but the alive probe does not: a restart would not help.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from ...scoreboard.reader import WorkerFile
from ...scoreboard.state import BACKLOG, STATE, WORKERS, Backlog, PoolState, SupervisorState, read, read_board
from ...scoreboard.view import TAKING, shown_state, silence
from ...scoreboard.writer import start_ticks
from . import metrics
from .server import Handler, Request, Response, Server, listener

LOOKS = 20.0
"""Seconds without a new state.json after which the supervisor counts as not alive; it writes one every 5 s."""

ANSWERS = metrics.STALE

Check = tuple[str, str]
"""The name of a check, and its error; empty if it passed."""


def serve(
    run_dir: Path, listen: str, *, lease: float, ready: Callable[[], None] | None = None, base_dir: Path = Path()
) -> NoReturn:
    """Serve until TERM; call `ready` once listening. Raises ListenError if that fails."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    listening = listener(listen, base_dir)
    server = Server(listening, handlers(run_dir, lease))
    if ready is not None:
        ready()
    server.run()


def handlers(run_dir: Path, lease: float) -> dict[str, Handler]:
    """Return the handler of every path."""
    checks = Checks(run_dir, lease)

    def figures(request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        text = metrics.exposition(read_board(run_dir, most_entries=0), lease=lease, openmetrics=openmetrics)
        return Response(200, text, metrics.OPENMETRICS if openmetrics else metrics.PROMETHEUS)

    return {
        "/livez": lambda request: _answer(request, checks.alive()),
        "/readyz": lambda request: _answer(request, checks.ready()),
        "/startupz": lambda request: _answer(request, checks.started()),
        "/metrics": figures,
    }


def wants_openmetrics(accept: str) -> bool:
    """Return whether a client accepts OpenMetrics by name."""
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind == "application/openmetrics-text":
            return not any(parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters)
    return False


def _answer(request: Request, checks: Iterable[Check]) -> Response:
    found = list(checks)
    wrong = [(name, reason) for name, reason in found if reason]
    if request.asks("verbose"):
        lines = [f"[-] {name}: {reason}" if reason else f"[+] {name}" for name, reason in found]
    else:
        lines = [f"{name}: {reason}" for name, reason in wrong]
    if not wrong:
        lines.append("ok")
    return Response(503 if wrong else 200, "".join(f"{line}\n" for line in lines))


class Checks:
    """The checks of each probe; every call reads the files again."""

    def __init__(self, run_dir: Path, lease: float) -> None:
        self._run_dir = run_dir
        self._silence = silence(lease)

    def alive(self) -> Iterable[Check]:
        """Check that the supervisor is running and active."""
        return self._alive(self._state())

    def started(self) -> Iterable[Check]:
        """Check that every pool has served once."""
        it = self._state()
        yield "startup", "" if it and it.served else "not every pool is serving yet"

    def ready(self) -> Iterable[Check]:
        """Check that jobs that are enqueued now will run."""
        it = self._state()
        yield from self._alive(it)
        if it is None:
            return
        yield "application", "" if it.generation >= 1 and it.served else "it is not serving yet"
        yield "taking", _not_taking(it)
        for pool in it.pools:
            if pool.min > 0 and pool.wanted > 0:
                yield f"pool {pool.name}", self._pool(it, pool)
        yield "backend", self._backend(read(self._run_dir / BACKLOG, Backlog))

    def _state(self) -> SupervisorState | None:
        return read(self._run_dir / STATE, SupervisorState)

    def _alive(self, it: SupervisorState | None) -> Iterable[Check]:
        if it is None:
            yield "supervisor", "it has written nothing yet"
        elif not it.start_ticks or start_ticks(it.pid) != it.start_ticks:
            yield "supervisor", f"process {it.pid} is gone"
        else:
            silent = time.time() - it.written_at
            yield "supervisor", f"process {it.pid} has done nothing for {silent:.0f} s" if silent > LOOKS else ""

    def _pool(self, it: SupervisorState, pool: PoolState) -> str:
        states = []
        for child in it.workers:
            if child.pool != pool.name:
                continue
            try:
                file = WorkerFile(self._run_dir / WORKERS / child.owner)
            except (OSError, ValueError):  # not yet written, or removed
                states.append("starting" if child.state == "serving" else child.state)
                continue
            state = shown_state(file.header(), file.running(), child, time.monotonic(), self._silence)
            file.close()
            if state in TAKING:
                return ""
            states.append(state)
        found = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "there is none"
        error = f": {pool.last_error.splitlines()[0]}" if pool.failures and pool.last_error else ""
        return f"no worker is serving ({found}){error}"

    def _backend(self, backlog: Backlog | None) -> str:
        if backlog is None or not backlog.answered_at:
            return "it has not answered yet"
        if not backlog.answers:
            return f"it does not answer: {backlog.error or 'no reason is known'}"
        silent = time.time() - backlog.answered_at
        return f"it has not answered for {silent:.0f} s" if silent > ANSWERS else ""


def _not_taking(it: SupervisorState) -> str:
    if it.state == "stopping":
        return "it is stopping"
    return "an operator told it to take no new jobs" if it.quiet or it.state == "quiet" else ""
