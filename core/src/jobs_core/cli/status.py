"""`jobsctl status`: show the state of the installation, for people and for scripts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import msgspec

from ..escapes import in_one_line, one_line
from ..scoreboard.state import Board, read_board
from ..supervisor import pidfile
from . import output
from .common import Context, json_option, pass_context
from .exits import Exit
from .formatting import count
from .overview import MOST, Overview, WorkerLine

MOST_NOTES = 5


@click.command("status")
@click.option(
    "--all", "-a", "everything", is_flag=True, help="Show every worker, topic and running job, not only the notable ones."
)
@json_option
@pass_context
def status_command(context: Context, everything: bool, as_json: bool) -> None:
    """Show workers, topics and running jobs, problems first. Exit code 3 if nothing is running.

    It asks neither the supervisor nor the backend, so it works when they do not answer. Jobs are counted since the first
    start in this run directory; `failed` counts attempts that were retried or ended in the dead letters.
    """
    try:
        place = context.place
    except pidfile.OfAnotherUser as error:
        if as_json:
            output.json({"running": True if error.pid else None, "pid": error.pid, "user": error.user})
        raise
    directory = place.run_dir
    board = here(directory, as_json, most_entries=10**6 if everything else 20)
    view = Overview(
        board,
        width=shutil.get_terminal_size().columns if output.on_terminal() else 200,
        most=None if everything else MOST,
    )
    if as_json:
        output.json({"running": True, "run_dir": str(directory), "configuration_error": place.trouble, **document(view)})
        return
    show(view)
    if it := view.board.supervisor:
        output.echo(f"\nrun directory {directory}, backend {it.backend}")
        output.echo(f"log {it.log or f'on standard error of process {it.pid}'}")


def here(directory: Path, as_json: bool = False, *, most_entries: int = 20) -> Board:
    """Return the board of this run directory; end the command if nothing is running, or the supervisor is only starting."""
    pid = pidfile.running(directory)
    if pid is None:
        output.echo('{"running": false}' if as_json else f"not running in {directory}; `jobsctl start` starts it")
        raise click.exceptions.Exit(Exit.NOT_RUNNING)
    board = read_board(directory, most_entries=most_entries)
    if board.supervisor is None or board.supervisor.pid != pid:  # the file belongs to an earlier supervisor
        output.echo(f'{{"running": true, "pid": {pid}, "state": "starting"}}' if as_json else f"starting up as process {pid}")
        raise click.exceptions.Exit(Exit.FINE)
    return board


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
    found["troubles"] = view.troubles()
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
