"""Commands to machines: to whom one goes, and what became of it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..app import App
from ..backends.base import Backend
from ..machines import EVERYWHERE, MachineReport, Order, command, is_meant, reports, set_size, size_of, sizes


def meant(found: Sequence[MachineReport], name: str) -> list[MachineReport]:
    """Return the machines of this name or host."""
    return [report for report in found if name != EVERYWHERE and is_meant(name, report.name)]


def with_pool(found: Sequence[MachineReport], pool: str) -> list[MachineReport]:
    """Return the machines that have a pool; all of them if none is named."""
    return [report for report in found if not pool or any(each.name == pool for each in report.pools)]


def give(
    app: App, backend: Backend, order: Order, chosen: Sequence[MachineReport], *, everywhere: bool, stored: bool = False
) -> dict[str, str]:
    """Give a command to machines; return the id of the command of each. Raises NotSupported and BackendUnavailable.

    With `everywhere`, it is one command, for machines that start within a minute, too. With `stored`, the size of a pool is
    stored, so that it lasts; with `everywhere`, machines that start later take it over.
    """
    if stored:
        targets = [EVERYWHERE] if everywhere else [report.name for report in chosen]
        set_size(app, backend, order.pool, order.workers, targets)
    if everywhere:
        return dict.fromkeys((report.name for report in chosen), command(app, backend, order))
    found = sizes(app, backend) if stored else []

    def wanted(report: MachineReport) -> Order:
        size = size_of(found, order.pool, report.name)
        return order if size is None else msgspec.structs.replace(order, workers=size.workers)

    return {report.name: command(app, backend, wanted(report), report.name) for report in chosen}


def ended(backend: Backend, given: Mapping[str, str]) -> dict[str, str]:
    """Return how a command ended on each machine that has reported it: "", or why it was not carried out."""
    return {
        report.name: report.commands[given[report.name]]
        for report in reports(backend)
        if given.get(report.name) in report.commands
    }
