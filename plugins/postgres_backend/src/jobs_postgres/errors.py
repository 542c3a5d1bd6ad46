"""Translate errors of PostgreSQL and of psycopg into the core's own, each with its fix; only here."""

from __future__ import annotations

import re

import psycopg

from jobs_core.backend_kit import one_line
from jobs_core.errors import BackendError, BackendUnavailable, OwnerLost, QueueFull

OWNER_LOST = "JOBS1"
TOO_MANY = "JOBS2"
READ_ONLY = "25006"
_RETRIED = ("40001", "40P01")  # serialization failure, deadlock
_POOLING = "a proxy that pools transactions is in between: add ?pooling=transaction to the URL"
_FIXES = {
    "3D000": "there is no such database: create it",
    "28P01": "wrong user or password",
    "28000": "the server refuses this role: see pg_hba.conf",
    "3F000": "the tables of jobs are missing: run `jobsctl setup` as a role that may create them",
    "42P01": "the tables of jobs are missing: run `jobsctl setup` as a role that may create them",
    "42883": "the functions of jobs are missing or of another release: run `jobsctl setup`",
    "42501": "the role lacks a permission: let the owner of the tables (at first, of the database) run the SQL that "
    "`jobsctl setup --sql --producer ROLE` prints for a role that enqueues, and `--worker ROLE` for workers and jobsctl",
    READ_ONLY: "this server is read-only: it is a standby, the URL names the wrong server, or default_transaction_read_only "
    "is on for this role or database",
    "53300": "no connection is left for jobs: close some, or raise max_connections, or the limit of this role or database",
    "57014": "a statement was cancelled, by hand or because it took too long: the server is overloaded, or a transaction holds "
    "a lock on the tables of jobs; `jobsctl check` names it",
    "26000": _POOLING,
    "42P05": _POOLING,
}
_FIXES_OF_OUTBOX = {
    "3F000": "the tables of the outbox are missing: run `jobsctl outbox setup` as a role that may create them",
    "42P01": "the tables of the outbox are missing: run `jobsctl outbox setup` as a role that may create them",
    "42883": "the functions of the outbox are missing or of another release: run `jobsctl outbox setup`",
    "42501": "the role in outbox.url lacks a permission: supervisors and `jobsctl` need the role that owns the "
    "tables of the outbox",
}
_AT_CONNECTING = {  # the client gives no code for these
    "database .* does not exist|no such database": "3D000",
    "password authentication failed|role .* does not exist|no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "too many clients|too many connections|remaining connection slots": "53300",
    "session is read-only|server is in hot standby mode": READ_ONLY,
}
_PASSING = frozenset({READ_ONLY, "53300", "57014"})


def translated(error: Exception, where: str, *, outbox: bool = False) -> BackendError:
    """Convert an error of the client to one of the core; `where` names the server without its secrets.

    The tables of an `outbox` have another command that sets them up.
    """
    text = one_line(" ".join(str(error).split()))  # the client's messages have several lines
    code = getattr(error, "sqlstate", None) or next(
        (code for said, code in _AT_CONNECTING.items() if re.search(said, text)), ""
    )
    if code == OWNER_LOST:
        return OwnerLost(text)
    fix = (_FIXES_OF_OUTBOX.get(code) if outbox else None) or _FIXES.get(code)
    if fix:
        kind = BackendUnavailable if code in _PASSING else BackendError
        said = error.diag.message_primary if isinstance(error, psycopg.Error) else None  # without the statement
        return kind(f"{where}: {fix} ({one_line(said) if said else text})")
    if code == "53100" and not _ends_server(error):
        return QueueFull(f"{where}: the disk of the server is full: make room there; queued jobs are safe")
    if code.startswith(("08", "53", "57P", "58")) or code in _RETRIED or code == "55P03":
        return BackendUnavailable(f"{where} is unavailable: {text}")
    if text == "wait timeout expired":
        return BackendUnavailable(f"{where} cannot be reached: it has not answered within 10 s")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError):
        return BackendUnavailable(f"{where} cannot be reached: {text}")
    return BackendError(f"{where}: {text}")


def _ends_server(error: Exception) -> bool:
    """Return whether the server crashes with this error, such as for want of room for its log: it may have committed before."""
    return isinstance(error, psycopg.Error) and error.diag.severity_nonlocalized == "PANIC"


def may_be_repeated(error: psycopg.Error) -> bool:
    """Return whether the same statement may succeed at once: its transaction collided with another one, and did nothing.

    A settlement also collides with its own first try, if that was given up while it waited, such as for a standby.
    """
    return error.sqlstate in _RETRIED or (error.sqlstate == "23505" and error.diag.table_name == "settled")
