"""`jobsctl machines`: the machines that share a backend, and commands to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from ..backends.base import Backend
from ..machines import REFUSED, REPORT, MachineReport, Order, reports
from ..operating.commanding import ended as ended_on
from ..operating.commanding import give, meant, with_pool
from ..operating.formatting import size
from ..units import format_duration
from . import output
from .common import Context, confirm, fail, json_option, pass_context
from .control import MOST_WORKERS
from .exits import Exit
from .groups import DefaultsToList
from .types import TEXT

LOOK = 0.5
"""Seconds between two looks for the reports of machines that carry a command out."""

PATIENCE = 4 * REPORT
"""Seconds that a command waits for these reports."""

names_argument = click.argument("names", metavar="[MACHINE]...", nargs=-1, type=TEXT)
all_option = click.option("--all", "everywhere", is_flag=True, help="All machines.")
pool_option = click.option("--pool", metavar="NAME", type=TEXT, help="Only this pool.")


@click.group("machines", cls=DefaultsToList)
def machines_command() -> None:
    """Show the machines that share the backend, and give them commands; `jobsctl machines` alone lists them."""


@machines_command.command("list")
@json_option
@pass_context
def list_command(context: Context, as_json: bool) -> None:
    """List the machines that have reported within 30 s."""
    found = context.operate(reports)
    if as_json:
        output.json([msgspec.to_builtins(report) for report in found])
        return
    list_machines(found)


def list_machines(found: Sequence[MachineReport]) -> None:
    """Print machines as a table."""
    columns = ["machine", "state", "version", "generation", "workers", "jobs", "memory", "done", "failed", "crashed", "seen"]
    output.table(columns, map(_row, found), empty="no machine has reported within 30 s: `jobsctl start` starts one")


@machines_command.command("show")
@click.argument("name", metavar="MACHINE", type=TEXT)
@json_option
@pass_context
def show_command(context: Context, name: str, as_json: bool) -> None:
    """Show the pools of one machine, and the jobs that have run longest there.

    The name of a host shows all supervisors on it; if there are several, --json prints them as a list.
    """
    found = _chosen(context.operate(reports), [name])
    if as_json:
        output.json(msgspec.to_builtins(found[0] if len(found) == 1 else found))
        return
    for number, report in enumerate(found):
        if number:
            output.echo()
        _show(report)


def _show(found: MachineReport) -> None:
    output.echo(f"{found.name}: {found.state}, run directory {found.run_dir}, process {found.pid}, seen {_seen(found)}")
    if found.last_refusal:
        output.echo(f"last reload refused: {found.last_refusal}")
    pools = [
        (
            pool.name,
            ", ".join(pool.topics),
            f"{pool.serving}/{pool.wanted}{' by hand' if pool.scaled else ''}",
            "quiet" if pool.quiet else "",
            pool.last_error,
        )
        for pool in found.pools
    ]
    output.table(["pool", "topics", "workers", "", "error"], pools)
    longest = [(run.job, run.id, run.topic, format_duration(round(run.seconds)), run.pid) for run in found.longest]
    output.table(["job", "id", "topic", "running for", "worker"], longest, empty="no job is running")


def _row(report: MachineReport) -> tuple[Any, ...]:
    serving, wanted = sum(pool.serving for pool in report.pools), sum(pool.wanted for pool in report.pools)
    return (
        report.name, report.state, report.version, report.generation, f"{serving}/{wanted}", report.running,
        size(report.memory), report.done, report.failed, report.crashed, _seen(report),
    )  # fmt: skip


def _seen(report: MachineReport) -> str:
    return f"{format_duration(round(report.age))} ago"


# -- commands --------------------------------------------------------------------------------------


@machines_command.command("quiet")
@names_argument
@all_option
@pool_option
@pass_context
def quiet_command(context: Context, names: tuple[str, ...], everywhere: bool, pool: str | None) -> None:
    """Take no new jobs on these machines and finish the running ones."""
    _give(context, names, everywhere, Order("quiet", pool or ""))


@machines_command.command("resume")
@names_argument
@all_option
@pool_option
@pass_context
def resume_command(context: Context, names: tuple[str, ...], everywhere: bool, pool: str | None) -> None:
    """Take jobs again on these machines."""
    _give(context, names, everywhere, Order("resume", pool or ""))


@machines_command.command("scale")
@click.argument("pool", type=TEXT)
@click.argument("workers", type=click.IntRange(0, MOST_WORKERS))
@names_argument
@all_option
@click.option("--force", is_flag=True, help="Allow more workers than the configuration does.")
@pass_context
def scale_command(context: Context, pool: str, workers: int, names: tuple[str, ...], everywhere: bool, force: bool) -> None:
    """Set the number of workers in a pool of each of these machines, until `auto` resets it.

    The size outlasts reloads and restarts. With --all, it also applies to machines that start later.
    """

    def check(chosen: Sequence[MachineReport]) -> None:
        most = [each.max for report in chosen for each in report.pools if each.name == pool]
        if most and workers > max(most) and not force:
            confirm(f"Set pool {pool} to {workers:,}, above the configured maximum of {max(most):,}?", False, "--force")

    _give(context, names, everywhere, Order("scale", pool, workers), check, stored=True)


@machines_command.command("auto")
@click.argument("pool", type=TEXT)
@names_argument
@all_option
@pass_context
def auto_command(context: Context, pool: str, names: tuple[str, ...], everywhere: bool) -> None:
    """Return a pool of each of these machines to its configured size, or to the one that is set for all machines."""
    _give(context, names, everywhere, Order("scale", pool), stored=True)


@machines_command.command("reload")
@names_argument
@all_option
@pass_context
def reload_command(context: Context, names: tuple[str, ...], everywhere: bool) -> None:
    """Load the code and configuration that are now installed on these machines, without a gap in service."""
    _give(context, names, everywhere, Order("reload"))


@machines_command.command("stacks")
@names_argument
@all_option
@pool_option
@pass_context
def stacks_command(context: Context, names: tuple[str, ...], everywhere: bool, pool: str | None) -> None:
    """Append the stacks of every worker to its .stacks file in the run directory of its machine."""
    _give(context, names, everywhere, Order("stacks", pool or ""))


def _give(
    context: Context,
    names: Sequence[str],
    everywhere: bool,
    order: Order,
    check: Callable[[Sequence[MachineReport]], None] = lambda chosen: None,
    *,
    stored: bool = False,
) -> None:
    """Give a command, wait until each machine has reported how it ended, and end with exit code 1 if one did not obey.

    With `stored`, the size of a pool is stored, too, so that it lasts.
    """
    if everywhere == bool(names):
        fail("give either the names of machines or --all", Exit.USAGE)
    chosen = context.operate(reports)
    if names:
        chosen = _chosen(chosen, names)
    else:  # a machine without this pool is not meant
        chosen = with_pool(chosen, order.pool)
    if not chosen:
        fail(
            f"no machine {f'with a pool {order.pool} ' if order.pool else ''}has reported within 30 s: "
            "`jobsctl machines` lists those that have, `jobsctl status` on the machine says what is wrong there"
        )
    check(chosen)

    waited = context.operate(lambda backend: give(context.app, backend, order, chosen, everywhere=everywhere, stored=stored))
    ended = context.operate(lambda backend: _await(backend, waited), what="the machines to report")
    for name in sorted(waited):
        unsigned = not context.app.signer and (ended.get(name) or "").startswith(REFUSED)
        fix = "; this configuration has none: give the command where they are configured" if unsigned else ""
        output.echo(f"{name}: {_outcome(ended.get(name))}{fix}")
    if any(ended.get(name) != "" for name in waited):
        raise click.exceptions.Exit(Exit.FAILED)


def _outcome(ended: str | None) -> str:
    if ended is None:
        waited = format_duration(round(PATIENCE))
        return f"no answer within {waited}; the machine may still carry it out, until a minute after it was given"
    return f"not carried out: {ended}" if ended else "done"


def _await(backend: Backend, waited: dict[str, str]) -> dict[str, str]:
    """Return how the command ended on each machine; machines that have not reported it in time are left out."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ended = ended_on(backend, waited)
        if len(ended) == len(waited) or time.monotonic() >= deadline:
            return ended
        time.sleep(LOOK)


def _chosen(found: Sequence[MachineReport], names: Sequence[str]) -> list[MachineReport]:
    """Return the machines of these names or hosts; end the command if a name has none."""
    chosen: dict[str, MachineReport] = {}
    for name in names:
        those = meant(found, name)
        if not those:
            fail(
                f"no machine {name} has reported within 30 s: `jobsctl machines` lists those that have, "
                "`jobsctl status` on the machine says what is wrong there"
            )
        chosen.update((report.name, report) for report in those)
    return list(chosen.values())
