"""Commands to machines: to whom one goes, and what became of it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from ..app import App
from ..backends.base import Backend
from ..backends.documents import all_of
from ..errors import SignatureError
from ..machines import COMMAND, EVERYWHERE, MachineReport, Order, command, is_meant, reports, set_size, size_of, sizes
from ..sealed import unseal


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


class Given(Struct, frozen=True):
    """A command of the last minute, and what became of it on each machine for which it was meant: see `ended`."""

    id: str
    order: Order
    target: str
    outcomes: dict[str, str | None]  # None: the machine has not reported it yet


def lately(app: App, backend: Backend, machines: Sequence[MachineReport]) -> list[Given]:
    """Return the commands of the last minute, newest first; those that cannot be trusted are left out. Raises NotSupported."""
    found = []
    for document in sorted(all_of(backend, COMMAND), key=lambda document: -document.version):
        try:
            sealed = unseal(app.signer, document)
            order = msgspec.json.decode(sealed.body, type=Order)
        except (SignatureError, msgspec.MsgspecError):
            continue
        those = with_pool([each for each in machines if is_meant(sealed.target, each.name)], order.pool)
        outcomes = {each.name: each.commands.get(document.name) for each in those}
        found.append(Given(document.name, order, sealed.target, outcomes))
    return found
