"""The facts about a dead worker, and the consequences for the jobs that it had reserved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...boundary import clip
from ...runs.failure import document
from ...scoreboard.reader import RunEntry, WorkerFile
from ...scoreboard.state import STACKS
from ...worker.quarantine import SUSPECT
from ..system.messages import Repair

LONGEST_STACKS = 16_000
MOST_JOBS = 20


class Found(Struct, frozen=True):
    """The facts that a dead worker's files contain."""

    owner: str
    started: list[str]  # the jobs that are charged
    ran: list[str]  # the other jobs that had started and were not settled
    document: bytes  # for the jobs' history
    report: dict[str, Any]  # for the hook


def describe(path: Path, repair: Repair) -> Found:
    """Read a dead worker's files. If there are none, it had no jobs, and the file's name is its owner id."""
    owner, pool, pid, charge = path.name, "", 0, False
    unsettled: list[RunEntry] = []
    try:
        file = WorkerFile(path)
    except (OSError, ValueError):
        pass
    else:
        header = file.header()
        owner, pool, pid, charge = header.owner, header.pool, header.pid, header.charge
        unsettled = list(file.unsettled())
        file.close()
    started = charged(unsettled, repair.culprit) if charge and repair.charge else []
    stacks = _stacks(path)
    report = {
        "owner": owner,
        "pool": pool,
        "pid": pid,
        "reason": repair.reason,
        "signal": repair.signal,
        "exit_code": repair.exit_code,
        "peak_memory": repair.peak_memory,
        "stacks": stacks,
        "log": repair.log,
        "started": started[:MOST_JOBS],
        "started_count": len(started),
    }
    told = document(
        at=repair.at,
        type="WorkerDied",
        message=f"{repair.reason} (worker {owner}, process {pid}, peak memory {repair.peak_memory / 1e6:.0f} MB)",
        traceback=stacks,
        signal=repair.signal,
        exit_code=repair.exit_code,
        peak_memory=repair.peak_memory,
        log=repair.log,
    )
    return Found(owner, started, [entry.id for entry in unsettled if entry.id not in started], told, report)


def charged(running: Iterable[RunEntry], culprit: str = "") -> list[str]:
    """Return the jobs that are charged with a worker's death, out of those that had started and were not settled.

    If it was killed for a job, only that job is charged. Otherwise the suspects are, if any had started; otherwise all jobs.
    """
    if culprit:
        return [culprit]
    running = list(running)
    return [entry.id for entry in running if entry.redeliveries >= SUSPECT] or [entry.id for entry in running]


def _stacks(path: Path) -> str:
    try:
        text = path.with_name(path.name + STACKS).read_bytes()[-4 * LONGEST_STACKS :].decode(errors="replace")
    except OSError:
        return ""
    return clip(text, LONGEST_STACKS)
