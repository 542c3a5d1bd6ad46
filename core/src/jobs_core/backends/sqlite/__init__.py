"""The backend that needs no server: a SQLite file that several processes share, durable and crash-safe.

`sqlite:///jobs.db` (relative to the configuration), `sqlite:////var/lib/app/jobs.db`. With `?durability=process`, jobs survive
the crash of any process but not of the machine, and a push saves an fsync. The head of schema.sql describes how jobs are
stored; wakeup.py describes how waiting processes are woken.
"""

from __future__ import annotations

from .backend import SqliteBackend

__all__ = ["SqliteBackend"]
