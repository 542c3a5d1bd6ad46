"""Machines and workers: what runs where, and commands to the supervisors."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from jobs_core import BackendUnavailable
from jobs_core.backends.base import Backend
from jobs_core.machines import EVERYWHERE, Do, Order, command, set_size
from jobs_core.operating.overview import Overview, WorkerLine
from jobs_core.operating.this_machine import view

from ..errors import Refused
from ..visit import Visit

MOST_WORKERS = 10_000

MOST_LINES = 100
"""Workers of this machine that the page shows: those that need attention first, then those busy for longest."""

SAID = {
    "quiet": "takes no new jobs",
    "resume": "takes new jobs again",
    "reload": "loads new code and configuration",
}


def show(visit: Visit) -> Response:
    """List machines and workers."""
    snapshot = visit.snapshot()
    if snapshot.error:
        raise BackendUnavailable(snapshot.error)
    here = view(visit.app.run_dir)
    return visit.page(
        "machines.html", machines=snapshot.machines, local=here, lines=[] if here is None else _lines(here), most=MOST_LINES
    )


def _lines(here: Overview) -> Sequence[WorkerLine]:
    def rank(line: WorkerLine) -> tuple[bool, float, int]:
        longest = line.running[0].seconds(here.monotonic) if line.running else -1.0
        return line.state in ("idle", "busy"), -longest, line.pid

    return sorted(here.workers, key=rank)


def quiet(visit: Visit) -> Response:
    """Tell a machine to take no new jobs."""
    return _tell(visit, "quiet")


def resume(visit: Visit) -> Response:
    """Tell a machine to take jobs again."""
    return _tell(visit, "resume")


def reload(visit: Visit) -> Response:
    """Tell a machine to load new code and configuration."""
    return _tell(visit, "reload")


def _tell(visit: Visit, do: Do) -> Response:
    machine = visit.field("machine")
    visit.operate(lambda backend: command(visit.app, backend, Order(do), machine))
    name = "every machine" if machine == EVERYWHERE else machine
    return visit.back(f"The command is sent: {name} {SAID[do]} within 5 s.", visit.url("machines"))


def scale(visit: Visit) -> Response:
    """Set the number of workers of a pool on a machine; without a number, return to its configured size."""
    machine, pool, text = visit.field("machine"), visit.field("pool"), visit.form.get("workers", "").strip()
    if text and not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) <= MOST_WORKERS):
        raise Refused(422, f"expected a number of workers from 0 to {MOST_WORKERS:,}, got {text[:40]}")
    workers = int(text) if text else None

    def act(backend: Backend) -> None:
        set_size(visit.app, backend, pool, workers, [machine])

    visit.operate(act)
    size = "its configured size" if workers is None else f"{workers:,}"
    return visit.back(f"Pool {pool} of {machine} is set to {size}; it follows within 5 s.", visit.url("machines"))
