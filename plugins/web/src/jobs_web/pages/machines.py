"""Machines and workers: what runs where, and commands to the supervisors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from jobs_core import BackendUnavailable, NotSupported
from jobs_core.backends.base import Backend
from jobs_core.machines import (
    EVERYWHERE,
    MOST_WORKERS,
    Do,
    MachineReport,
    Order,
    StacksReport,
    WorkerStacks,
    reports,
    stacks_of,
)
from jobs_core.operating.commanding import Given, give, lately, meant, with_pool
from jobs_core.operating.overview import Overview, WorkerLine
from jobs_core.operating.stacks import readable
from jobs_core.operating.this_machine import view
from jobs_core.units import count

from ..errors import Refused
from ..live import packed
from ..visit import Visit

if TYPE_CHECKING:
    from ..site import Site

MOST_LINES = 100
"""Workers of this machine that the page shows: those that need attention first, then those busy for longest."""

SAID = {
    "quiet": "takes no new jobs",
    "resume": "takes new jobs again",
    "reload": "loads new code and configuration",
    "stacks": "takes the stacks of its workers",
}

QUESTIONS = {"quiet": "Take no new jobs", "resume": "Take jobs again", "reload": "Load new code and configuration"}


class Seen(Struct, frozen=True):
    """What is read of machines. None: they do not report on this backend."""

    machines: list[MachineReport] | None
    commands: list[Given]


def read(site: Site, name: str = "") -> Seen:
    """Read the reports of machines, and what became of the commands of the last minute."""

    def look(backend: Backend) -> Seen:
        if "documents" not in backend.features:
            return Seen(None, [])
        found = reports(backend)
        return Seen(found, lately(site.app, backend, found))

    return site.app.operate(look)


def still(seen: Seen) -> bytes:
    """Return what counts as a change of machines: everything but times that go on."""
    machines = [
        replace(each, age=float(each.age > SILENT), longest=[replace(run, seconds=0.0) for run in each.longest])
        for each in seen.machines or ()
    ]
    return packed((machines, seen.commands))


SILENT = 15.0
"""Age in seconds from which a machine is shown as silent."""


def show(visit: Visit) -> Response:
    """List machines and workers."""
    snapshot = visit.snapshot()
    if snapshot.error:
        raise BackendUnavailable(snapshot.error)
    here = view(visit.app.run_dir)
    seen: Seen = visit.site.read("machines")
    return visit.page(
        "machines.html",
        machines=seen.machines,
        commands=seen.commands,
        pools=sorted({pool.name for machine in seen.machines or () for pool in machine.pools}),
        everywhere=EVERYWHERE,
        local=here,
        lines=[] if here is None else _lines(here),
        most=MOST_LINES,
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


def take_stacks(visit: Visit) -> Response:
    """Tell a machine to take the stacks of its workers."""
    return _tell(visit, "stacks")


def _tell(visit: Visit, do: Do) -> Response:
    machine, pool = visit.field("machine"), visit.form.get("pool", "")
    order = Order(do, "" if do == "reload" else pool)
    if machine == EVERYWHERE and do in QUESTIONS:
        where = f"in pool {pool} of" if order.pool else "on"
        if asked := visit.unsure(
            f"{QUESTIONS[do]} {where} all machines?", "Every machine gets the command.", visit.url("machines")
        ):
            return asked
    _give(visit, order, machine)
    who = "every machine" if machine == EVERYWHERE else machine
    where = f"pool {order.pool} of {who}" if order.pool else who
    back = (
        visit.url("machines", "stacks", machine=machine) if do == "stacks" and machine != EVERYWHERE else visit.url("machines")
    )
    return visit.back(f"The command is sent: {where} {SAID[do]} within 5 s.", back)


def _give(visit: Visit, order: Order, machine: str) -> None:
    """Give a command to a machine or to all; refuse one that is meant for nobody."""
    everywhere = machine == EVERYWHERE

    def act(backend: Backend) -> None:
        found = reports(backend)
        chosen = with_pool(found if everywhere else meant(found, machine), order.pool)
        if not chosen:
            pool = f" with a pool {order.pool}" if order.pool else ""
            raise Refused(404, f"no machine {'' if everywhere else machine}{pool} has reported within 30 s".replace("  ", " "))
        give(visit.app, backend, order, chosen, everywhere=everywhere, stored=order.do == "scale")

    visit.operate(act)


def scale(visit: Visit) -> Response:
    """Set the number of workers of a pool on a machine, or on all; without a number, return to its configured size."""
    machine, pool, text = visit.field("machine"), visit.field("pool"), visit.form.get("workers", "").strip()
    if text and not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) <= MOST_WORKERS):
        raise Refused(422, f"expected a number of workers from 0 to {MOST_WORKERS:,}, got {text[:40]}")
    workers = int(text) if text else None
    who = "all machines" if machine == EVERYWHERE else machine
    most = _most(visit, machine, pool)
    if workers is not None and most is not None and workers > most:
        detail = f"The configuration allows up to {count(most, 'worker')}."
        if asked := visit.unsure(f"Set pool {pool} of {who} to {count(workers, 'worker')}?", detail, visit.url("machines")):
            return asked
    _give(visit, Order("scale", pool, workers), machine)
    size = "its configured size" if workers is None else f"{workers:,}"
    return visit.back(f"Pool {pool} of {who} is set to {size}; it changes within 5 s.", visit.url("machines"))


def _most(visit: Visit, machine: str, pool: str) -> int | None:
    """Return the most workers that the configurations of these machines allow; None if that is not known."""
    found = visit.operate(lambda backend: reports(backend) if "documents" in backend.features else [])
    chosen = found if machine == EVERYWHERE else meant(found, machine)
    return max((each.max for report in chosen for each in report.pools if each.name == pool), default=None)


# -- stacks ----------------------------------------------------------------------------------------


def read_stacks(site: Site, machine: str) -> StacksReport | None:
    """Read the stacks that a machine has reported last."""
    return site.app.operate(lambda backend: stacks_of(backend, machine))


def still_stacks(found: StacksReport | None) -> bytes:
    """Return what counts as a change of stacks: those of another command."""
    return b"" if found is None else found.command.encode()


def stacks(visit: Visit) -> Response:
    """Show the stacks of the workers of a machine."""
    machine = visit.query("machine")
    if not machine or len(machine) > 200 or not machine.isprintable():
        raise Refused(404, "there is no such machine")
    try:
        found: StacksReport | None = visit.site.read("machines/stacks", machine)
    except NotSupported as error:
        raise Refused(501, str(error)) from None
    everything = visit.query("all") == "yes"
    workers: list[tuple[WorkerStacks, str]] = []
    if found is not None:
        workers = [(worker, readable(worker.text, everything)) for worker in found.workers]
    return visit.page("stacks.html", machine=machine, found=found, workers=workers, everything=everything)
