"""The tables of docs/benchmarks.md and the README that show peers, from the kept figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from typing import Any, NamedTuple

from ..support import median
from .venvs import PYTHONS

TITLES = {
    "drain": "No-op jobs, drained",
    "enqueue": "Enqueue, from one process",
    "latency": "From enqueue to start, workers idle, producer warm",
    "cold": "From enqueue to start, workers idle, each job from a new process",
    "memory": "Memory of the whole worker set, shared pages counted once",
    "idle": "A worker set that waits, seen from the server",
    "commits": "Commits of 64 writers (4 processes of 16 threads), one row each",
    "kill": "2,000 jobs of 5 ms, the whole worker set killed with SIGKILL three times",
    "many": "10,000 jobs that wait for a second",
    "group": "A group of no-op jobs, and a job after it",
    "results": "The same, where the job after the group takes all results",
    "limit": "10,000 jobs of 5 ms, 10 at once, by workers that could run 32",
    "rate": "2,500 no-op jobs, 500 a second",
}
SYSTEMS = {
    "jobs": "`jobs`", "celery": "Celery", "rq": "RQ", "dramatiq": "Dramatiq", "huey": "Huey", "arq": "arq", "taskiq": "taskiq",
    "saq": "SAQ", "streaq": "streaq", "procrastinate": "Procrastinate", "pgqueuer": "PgQueuer", "oban": "Oban",
    "django-tasks-db": "django-tasks-db",
}  # fmt: skip
BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ", "postgres": "PostgreSQL"}
Rows = dict[str, Any]


class Compared(NamedTuple):
    """A figure by which systems are compared, each with its best row."""

    what: str
    measure: str
    column: str
    better: Callable[..., Any]


DRAIN = Compared("no-op jobs a second", "drain", "jobs/s", max)
ENQUEUE = Compared("enqueues a second, one by one", "enqueue", "one by one, jobs/s", max)
LATENCY = Compared("from enqueue to start, ms", "latency", "p50, ms", min)
COLD = Compared("the same from a new process, since its call, ms", "cold", "from the call, ms", min)
MEMORY = Compared("idle memory, MB", "memory", "idle, MB", min)
KILL = Compared("of 2,000 jobs, not run after all workers were killed three times", "kill", "not run", min)
COMPARED = (DRAIN, ENQUEUE, LATENCY, COLD, MEMORY, KILL)
README = (("redis", (DRAIN, ENQUEUE, LATENCY, KILL)), ("rabbitmq", (DRAIN,)), ("postgres", (DRAIN, ENQUEUE)))


def tables(record: dict[str, Any]) -> str:
    """Return a broker's tables."""
    broker = record["broker"]
    parts = ["\n".join(_summary(record))]
    for measure, title in TITLES.items():
        if rows := record.get(measure):
            dates = {
                datetime.fromtimestamp(each["begun"], timezone.utc).date() for row in rows.values() for each in row["rounds"]
            }
            others = sorted(map(str, dates - {date.fromisoformat(record["machine"]["date"])}))
            parts.append(_table(title + f" ({', '.join(others)})" * bool(others), rows))
    packages = sorted({line for lines in record["versions"].values() for line in lines})
    parts.append(f"Python {PYTHONS.get(broker, record['machine']['python'])}; {', '.join(packages)}.")
    return "\n\n".join(parts) + "\n"


def _table(title: str, rows: Rows) -> str:
    columns = list(dict.fromkeys(what for row in rows.values() for what in row["figures"]))
    told = any(row["settings"] for row in rows.values())
    lines = [f"#### {title}\n", f"| | {' | '.join(columns)} |{' settings |' if told else ''}"]
    lines.append(f"| --- |{' ---: |' * len(columns)}{' --- |' if told else ''}")
    for name, row in rows.items():
        cells = [cell(row["figures"].get(what)) for what in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |" + (f" {row['settings']} |" if told else ""))
    return "\n".join(lines)


def _summary(record: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each comparison: ours, and the best of the others."""
    for compared in COMPARED:
        found = _best_rows(record.get(compared.measure, {}), compared)
        if "jobs" not in found or len(found) == 1:
            continue
        ours = found.pop("jobs")
        best = compared.better(found.values())
        times = f", {number(max(ours, best) / min(ours, best))} times apart" if min(ours, best) else ""
        yield f"- {_capital(compared.what)}: {number(ours)}; best of the others {number(best)} ({_names(found, best)}){times}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def best(records: dict[str, dict[str, Any]]) -> list[str]:
    """Return the table of the README; empty if figures are missing."""
    lines = ["| | jobs | best of the others | Celery |", "| --- | ---: | ---: | ---: |"]
    for broker, figures in README:
        for compared in figures:
            found = _best_rows(records[broker].get(compared.measure, {}), compared)
            if "jobs" not in found or len(found) == 1:
                return []
            ours = found.pop("jobs")
            other = compared.better(found.values())
            celery = number(found["celery"]) if "celery" in found else ""
            cells = (f"{BROKERS[broker]}: {compared.what}", number(ours), f"{number(other)} ({_names(found, other)})", celery)
            lines.append(f"| {' | '.join(cells)} |".replace("  |", " |"))
    return lines


def _best_rows(rows: Rows, compared: Compared) -> dict[str, float]:
    """Return the best median of each system; rows on another store do not count."""
    found: dict[str, list[float]] = {}
    for name, row in rows.items():
        if "SQLite" not in name and compared.column in row["figures"]:
            found.setdefault(name.partition(",")[0], []).append(median(row["figures"][compared.column]))
    return {system: compared.better(values) for system, values in found.items()}


def _names(found: dict[str, float], value: float) -> str:
    names = [SYSTEMS[system] for system, each in found.items() if each == value]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def cell(values: list[float] | None) -> str:
    if not values:
        return "–"
    middle = number(median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
