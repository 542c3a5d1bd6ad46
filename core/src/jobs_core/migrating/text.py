"""The plan of a migration as text: jobs.toml, the jobs of each file, and the lines to change."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from ..units import count
from .plan import Change, EntryDraft, JobDraft, Plan, Table

WIDTH = 118


def written(plan: Plan) -> str:
    """Return the whole plan: TOML, then Python, with comments; it is to be copied in parts."""
    return "\n".join([*_head(plan), *_settings(plan), *_jobs(plan), *_calls(plan)])


def settings(plan: Plan) -> str:
    """Return jobs.toml alone."""
    return "\n".join(_settings(plan)[1:])


def _head(plan: Plan) -> Iterator[str]:
    numbers = f"{count(len(plan.jobs), 'task')}, {count(len(plan.schedule), 'entry', 'entries')} of the schedule"
    yield from _comment(f"What {plan.source} would look like here: {numbers}, {count(len(plan.calls), 'call')} in the code.")
    yield from _comment("Nothing was written. Copy it in parts, and read the remarks.")
    for remark in plan.remarks:
        yield from _comment(f"- {remark}")


def _settings(plan: Plan) -> list[str]:
    lines = ["", _title("jobs.toml")]
    for table in plan.tables:
        lines += _table(table)
    for entry in plan.schedule:
        lines += _schedule(entry)
    return lines


def _title(text: str) -> str:
    return f"# ---- {text} ".ljust(WIDTH, "-")


def _comment(text: str, indent: str = "") -> Iterable[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ", break_on_hyphens=False)


def _table(table: Table) -> Iterator[str]:
    yield ""
    if table.name:
        yield f"[{table.name}]"
    for remark in table.remarks:
        yield from _comment(remark)
    for name, value in table.settings.items():
        yield f"{name} = {toml(value)}"


def _schedule(entry: EntryDraft) -> Iterator[str]:
    table = Table(f"schedule.{_key(entry.name)}", entry.settings, entry.remarks)
    lines = list(_table(table))
    if not {"cron", "every"} & entry.settings.keys():
        lines = [f"# {line}" if line and not line.startswith("#") else line for line in lines]
    yield from lines


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)


def toml(value: Any) -> str:
    """Write text, numbers, lists and dicts as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(str(key))} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _jobs(plan: Plan) -> Iterator[str]:
    by_file = sorted(plan.jobs, key=lambda job: (job.file or job.module, job.line))
    for file, group in itertools.groupby(by_file, key=lambda job: job.file or job.module):
        jobs = list(group)
        yield from ("", _title(file))
        yield from _imports(jobs)
        for job in jobs:
            yield from _job(job)


def _imports(jobs: list[JobDraft]) -> Iterator[str]:
    ours = {"job"}
    others = set()
    for statement in itertools.chain.from_iterable(job.imports for job in jobs):
        if statement.startswith("from jobs_core import "):
            ours.add(statement.rpartition(" ")[2])
        else:
            others.add(statement)
    new = " ".join(change.new for job in jobs for change in job.changes)
    ours |= {name for name in ("Retry", "current_job") if re.search(rf"\b{name}\(", new)}
    yield from ("", f"from jobs_core import {', '.join(sorted(ours))}", *sorted(others))


def _job(job: JobDraft) -> Iterator[str]:
    yield from ("", "")
    for remark in job.remarks:
        yield from _comment(remark)
    options = ", ".join(f"{name}={value}" for name, value in job.options.items())
    line = f"@job({options})"
    if len(line) <= WIDTH:
        yield line
    else:
        yield from ("@job(", *(f"    {name}={value}," for name, value in job.options.items()), ")")
    yield job.head
    yield from _changes(job.changes, "    ")
    yield "    ..."


def _changes(changes: Iterable[Change], indent: str) -> Iterator[str]:
    for change in changes:
        yield from _comment(f"line {change.line}: {_one_line(change.old)}  ->  {_one_line(change.new)}", indent)


def _calls(plan: Plan) -> Iterator[str]:
    if not plan.calls:
        return
    yield from ("", _title("calls"))
    for file, changes in itertools.groupby(plan.calls, key=lambda change: change.file):
        yield from ("", f"# {file}")
        yield from _changes(changes, "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
