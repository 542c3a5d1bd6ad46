"""`jobsctl status`: show the state of the installation, for people and for scripts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import click
import msgspec

from ..errors import JobsError
from ..escapes import in_one_line, one_line
from ..machines import reports
from ..operating.formatting import count
from ..operating.overview import MOST, Overview, WorkerLine
from ..scoreboard.state import Board, read_board
from ..supervisor import pidfile
from . import output
from .common import Context, json_option, pass_context
from .exits import Exit

MOST_NOTES = 5


@click.command("status")
@click.option(
    "--all",
    "-a",
    "everything",
    is_flag=True,
    help="Show every worker, topic and running job, not only the notable ones, and all machines that share the backend.",
)
@json_option
@pass_context
def status_command(context: Context, everything: bool, as_json: bool) -> None:
    """Show workers, topics and running jobs, problems first. Exit code 3 if nothing is running on this machine.

    It asks neither the supervisor nor the backend, so it works when they do not answer. Jobs are counted since the first
    start in this run directory; `failed` counts attempts that were retried or ended in the dead letters.

    With --all, it also asks the backend for all machines, as `jobsctl machines` does. If the backend does not answer, it says
    so; the rest of the output and the exit code do not depend on that.
    """
    try:
        place = context.place
    except pidfile.OfAnotherUser as error:
        if as_json:
            output.json({"running": True if error.pid else None, "pid": error.pid, "user": error.user})
        raise
    directory = place.run_dir
    more = _machines(context) if everything and as_json else {}
    try:
        board = here(directory, as_json, most_entries=10**6 if everything else 20, more=more)
    except click.exceptions.Exit:  # there is no more to show of this machine
        if everything and not as_json:
            _list_machines(context)
        raise
    view = Overview(
        board,
        width=shutil.get_terminal_size().columns if output.on_terminal() else 200,
        most=None if everything else MOST,
    )
    if as_json:
        facts = {"running": True, "run_dir": str(directory), "configuration_error": place.trouble}
        output.json({**facts, **document(view), **more})
        return
    show(view)
    if it := view.board.supervisor:
        output.echo(f"\nrun directory {directory}, backend {it.backend}")
        output.echo(f"log {it.log or f'on standard error of process {it.pid}'}")
    if everything:
        _list_machines(context)


def _machines(context: Context) -> dict[str, Any]:
    """Return the reports of the machines as data; `machines` is None, and `machines_error` the reason, if they are unknown."""
    try:
        return {"machines": msgspec.to_builtins(context.operate(reports))}
    except JobsError as error:
        return {"machines": None, "machines_error": str(error)}


def _list_machines(context: Context) -> None:
    from .machines import list_machines  # late: the module has all commands to machines

    output.styled("\nMachines", bold=True)
    try:
        list_machines(context.operate(reports))
    except JobsError as error:
        output.styled(f"{output.WARN} they are unknown: {one_line(str(error))}", fg="yellow")


def here(
    directory: Path, as_json: bool = False, *, most_entries: int = 20, more: Mapping[str, Any] = MappingProxyType({})
) -> Board:
    """Return the board of this run directory; end the command if nothing is running, or the supervisor is only starting.

    `more` is added to what is printed as JSON then.
    """
    pid = pidfile.running(directory)
    if pid is None:
        _end({"running": False, **more}, as_json, f"not running in {directory}; `jobsctl start` starts it", Exit.NOT_RUNNING)
    board = read_board(directory, most_entries=most_entries)
    if board.supervisor is None or board.supervisor.pid != pid:  # the file belongs to an earlier supervisor
        _end({"running": True, "pid": pid, "state": "starting", **more}, as_json, f"starting up as process {pid}", Exit.FINE)
    return board


def _end(facts: Mapping[str, Any], as_json: bool, text: str, code: Exit) -> NoReturn:
    if as_json:
        output.json(facts)
    else:
        output.echo(text)
    raise click.exceptions.Exit(code)


def show(view: Overview) -> None:
    """Print everything, the most important first."""
    troubles = view.troubles()
    output.styled(view.headline(), bold=True, fg="red" if troubles else "green")
    for line in view.summary():
        output.echo(line)
    if troubles:
        output.echo()
    for trouble in troubles:
        output.styled(f"{output.WARN} {in_one_line(trouble)}", fg="red", bold=True)
    _show_notes(view.notes())
    for sheet in (view.pools(), view.worker_table(), view.running_table(), view.topics()):
        if sheet.rows or sheet.rest:
            output.sheet(sheet.title, sheet.columns, sheet.rows, sheet.rest)
    crashes = view.crashes()
    if crashes:
        assert view.board.supervisor
        output.styled(f"\nCrashes ({view.board.supervisor.crashed:,} in all)", bold=True)
        for line in crashes:
            output.echo(f"  {in_one_line(line)}")
    if view.processes():
        output.echo(f"\n{view.processes()}")


def _show_notes(notes: list[str]) -> None:
    if notes:
        output.echo()
    for note in notes[:MOST_NOTES]:
        output.styled(f"{output.WARN} {one_line(note)}", fg="yellow")
    if len(notes) > MOST_NOTES:
        output.styled(f"{output.WARN} and {count(len(notes) - MOST_NOTES, 'more topic')} with dead letters", fg="yellow")


def document(view: Overview) -> dict[str, Any]:
    """Return everything for a script. Times are unix seconds, durations seconds, memory bytes."""
    it, backlog = view.board.supervisor, view.board.backlog
    assert it is not None
    found: dict[str, Any] = msgspec.to_builtins(it)
    found["uptime"] = round(view.now - it.started_at, 3)
    found["troubles"] = view.troubles(most=None)
    found["notes"] = view.notes()
    found["jobs"] = dict(view.ended())
    found["workers"] = [_worker(line, view.monotonic) for line in view.workers]
    found["backend"] = {"url": it.backend, "answers": None}
    found["topics"] = {}
    if backlog:
        found["backend"] |= {
            "answers": backlog.answers and view.now - backlog.answered_at < 5.0,
            "answered_at": backlog.answered_at,
            "round_trip": backlog.round_trip,
            "error": backlog.error,
        }
        found["topics"] = {
            name: {
                **{
                    key: value
                    for key, value in msgspec.to_builtins(topic).items()
                    if key not in ("limited", "members", "pushed", "refused") or value
                },
                "alert": name in backlog.alerts,
                "unserved": name in backlog.unserved,
            }
            for name, topic in backlog.topics.items()
        }
        found["counted_at"] = backlog.at
    return found


_WORKER = (
    "pid", "pool", "owner", "state", "since", "generation", "running_count", "done", "failed", "memory", "reason",
)  # fmt: skip


def _worker(line: WorkerLine, monotonic: float) -> dict[str, Any]:
    running = [
        {
            "id": entry.id,
            "job": entry.job,
            "topic": entry.topic,
            "seconds": round(entry.seconds(monotonic), 3),
            "overdue": bool(entry.deadline) and entry.deadline < monotonic,
        }
        for entry in line.running
    ]
    return {**{name: getattr(line, name) for name in _WORKER}, "beat_age": round(line.silent, 3), "running": running}
