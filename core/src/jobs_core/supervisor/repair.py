"""What is known of a dead worker, and what follows for the jobs it held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..scoreboard.reader import WorkerFile
from ..scoreboard.state import STACKS
from ..worker.failure import clip, document

LONGEST_STACKS = 16_000
MOST_JOBS = 20


class Repair(Struct, frozen=True):
    """An order to the housekeeper: this worker is dead."""

    file: str  # its name in run_dir/workers
    at: float  # unix seconds of its death
    reason: str  # a sentence
    crash: bool = False  # whether it died of something other than its own or our decision
    culprit: str = ""  # the job that it was killed for; nobody else is charged then
    signal: str = ""
    exit_code: int | None = None
    peak_memory: int = 0
    log: list[str] = []  # its last lines

    @classmethod
    def of(cls, order: dict[str, Any]) -> Repair:
        return msgspec.convert(order["repair"], cls)


class Found(Struct, frozen=True):
    """What its files say."""

    owner: str
    started: list[str]  # jobs that are charged
    document: bytes  # for their history
    report: dict[str, Any]  # for the hook


def describe(path: Path, repair: Repair) -> Found:
    """Read a dead worker's files. One that never wrote any had no jobs: its name is its owner id."""
    owner, pool, pid, charge = path.name, "", 0, False
    running: list[tuple[str, str]] = []
    try:
        file = WorkerFile(path)
    except (OSError, ValueError):
        pass
    else:
        header = file.header()
        owner, pool, pid, charge = header.owner, header.pool, header.pid, header.charge
        running = [(entry.id, entry.job) for entry in file.entries()]
        file.close()
    if repair.culprit:
        started = [repair.culprit]
    else:
        started = [job_id for job_id, _ in running] if charge else []
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
    return Found(owner, started, told, report)


def _stacks(path: Path) -> str:
    try:
        text = path.with_name(path.name + STACKS).read_bytes()[-4 * LONGEST_STACKS :].decode(errors="replace")
    except OSError:
        return ""
    return clip(text, LONGEST_STACKS)
