"""The plan of a migration: settings, jobs, schedule and lines of code to change."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Change(Struct, frozen=True, order=True):
    """One place in the code that changes: what stands there, and what would."""

    file: str
    line: int
    old: str
    new: str


class JobDraft(Struct, kw_only=True):
    """One job: its decorator, and what changes in its function."""

    name: str
    module: str
    file: str = ""
    line: int = 0
    function: str
    """The name of the function."""
    head: str = ""
    """Its first line without what the other system passed, such as `def send(to: str) -> None:`."""
    options: dict[str, str] = field(default_factory=dict)
    """Options of `@job`, as Python source."""
    imports: set[str] = field(default_factory=set)
    """Import statements that the options need."""
    remarks: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


class EntryDraft(Struct):
    """One entry of the schedule; `settings` are the keys of its table."""

    name: str
    settings: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


class Table(Struct):
    """One table of jobs.toml; "" is the top level."""

    name: str
    settings: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


class Plan(Struct):
    """All of it, in the order in which it is printed."""

    source: str
    """The application, as it was named."""
    tables: list[Table] = field(default_factory=list)
    jobs: list[JobDraft] = field(default_factory=list)
    schedule: list[EntryDraft] = field(default_factory=list)
    calls: list[Change] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What has no equal, or behaves otherwise, for the application as a whole."""
