"""The calls about machines: list them, and give them commands, whose outcomes they report within some 5 s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from jobs_core.machines import EVERYWHERE, MOST_WORKERS, Do, MachineReport, Order, acting_as, reports
from jobs_core.operating.commanding import ended, give, meant, with_pool

from ..errors import Refused
from ..visit import Visit
from .bodies import answered, body_of, through_the_api
from .once import Answer, once
from .operation import Param, decoded, queried

LOOK = 0.5
"""Seconds between two looks for the reports of machines that carry a command out."""

WAIT = Param("wait", "Seconds to wait for the machines to report how the command ended.", 0, 60, 0)


class Machines(Struct, frozen=True):
    items: list[MachineReport]


class Where(Struct, forbid_unknown_fields=True):
    """What a command is about."""

    pool: str = ""  # empty: all pools


class Size(Struct, forbid_unknown_fields=True):
    """The size of a pool."""

    pool: str
    workers: int | None = None  # None: back to the configured size


class Outcome(Struct, frozen=True):
    """What became of a command on one machine."""

    machine: str
    command: str  # its id, which the report of the machine names, too
    state: str  # waiting | done | refused
    why: str = ""  # it was refused


class Commands(Struct, frozen=True):
    items: list[Outcome]


def machines(visit: Visit) -> Machines:
    queried(visit, ())
    return Machines(visit.operate(reports))


def machine(visit: Visit) -> MachineReport:
    """Return what a machine has reported within 30 s."""
    queried(visit, ())
    name = visit.path("machine")
    found = next((one for one in visit.operate(reports) if one.name == name), None)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> Refused:
    return Refused(404, f"no machine {name[:200]} has reported within 30 s: GET /machines lists those that have")


def commanding(do: Do) -> Callable[[Visit], Any]:
    """Return the endpoint of a command: it gives the command once, and waits for the outcomes as long as it is asked to."""

    async def endpoint(visit: Visit) -> Response:
        wait = queried(visit, (WAIT,))["wait"]
        raw = await body_of(visit.request)
        with acting_as(through_the_api(visit)):
            answer = await run_in_threadpool(once, visit, raw, lambda seed: _give(visit, do, raw))
        found = msgspec.convert(msgspec.to_builtins(answer.body), Commands)
        end = time.monotonic() + wait
        while wait:
            found = await run_in_threadpool(_look, visit, found)
            left = end - time.monotonic()
            if left <= 0 or all(one.state != "waiting" for one in found.items) or await visit.request.is_disconnected():
                break
            await asyncio.sleep(min(left, LOOK))
        return answered(Answer(200, found, answer.headers))

    return endpoint


def _give(visit: Visit, do: Do, raw: bytes) -> Answer:
    """Give a command to a machine, to all on a host, or to all ("*")."""
    order, target = _order(do, raw), visit.path("machine")
    everywhere = target == EVERYWHERE
    found = visit.operate(reports)
    chosen = with_pool(found if everywhere else meant(found, target), order.pool)
    if not chosen:
        if order.pool and (found if everywhere else meant(found, target)):
            raise Refused(404, f"no machine with a pool {order.pool[:200]} has reported within 30 s")
        raise _unknown(target)
    visit.form = {"pool": order.pool, "workers": "" if order.workers is None else str(order.workers)}  # for the audit line
    given = visit.operate(
        lambda backend: give(visit.app, backend, order, chosen, everywhere=everywhere, stored=order.do == "scale")
    )
    return Answer(200, Commands([Outcome(name, command, "waiting") for name, command in sorted(given.items())]))


def _order(do: Do, raw: bytes) -> Order:
    if do != "scale":
        where = decoded(raw, Where) if raw else Where()
        if where.pool and do == "reload":
            raise Refused(422, "pool: a machine reloads as a whole")
        return Order(do, where.pool)
    size = decoded(raw, Size)
    if not size.pool or not 0 <= (size.workers or 0) <= MOST_WORKERS:
        raise Refused(422, f"expected a pool and 0 to {MOST_WORKERS:,} workers")
    return Order(do, size.pool, size.workers)


def _look(visit: Visit, commands: Commands) -> Commands:
    """Return what the machines have reported by now."""
    told = visit.operate(lambda backend: ended(backend, {one.machine: one.command for one in commands.items}))
    return Commands([_now(one, told.get(one.machine)) for one in commands.items])


def _now(one: Outcome, told: str | None) -> Outcome:
    if told is None:
        return one
    return msgspec.structs.replace(one, state="refused" if told else "done", why=told)
