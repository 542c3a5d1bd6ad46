"""The raw figures from which docs/benchmarks.md is written: bench/measured/*.json, a part of the repository.

They say on what they were measured and when, and hold no paths, names or addresses of the machine.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

from jobs_core import __version__

DIRECTORY = Path(__file__).parent / "measured"
SERVERS = {
    "Redis": ("redis-server", "--version"),
    "RabbitMQ": ("dpkg-query", "-Wf", "v=${Version}", "rabbitmq-server"),
    "PostgreSQL": ("/usr/lib/postgresql/15/bin/postgres", "--version"),
}
"""Commands that print the version of a server."""


def load(name: str) -> dict[str, Any]:
    """Return what is kept under this name, or nothing."""
    path = DIRECTORY / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(name: str, record: dict[str, Any]) -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    text = re.sub(
        r"\[\s+([^][{}\"]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(_rounded(record), indent=1)
    )
    (DIRECTORY / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Return the record with four digits of each figure: more says nothing."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) and abs(value) < 1e6 else value


def machine() -> dict[str, Any]:
    """Return what a run begins with: the machine, the date and the load."""
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpus": os.cpu_count(),
        "memory, GB": round(memory / 1e6),
        "kernel": re.split(r"[^\d.]", platform.release())[0],
        "python": platform.python_version(),
        "jobs-core": __version__,
        "sqlite": sqlite3.sqlite_version,
        **{name: found for name, command in SERVERS.items() if (found := _version(*command))},
        "load before": os.getloadavg()[0],
        "load after": os.getloadavg()[0],
    }


def _version(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"(?:v=|\) )(\d+(?:\.\d+)+)", done.stdout)
    return found[1] if found else ""
