"""The engine of a queue file, for a process that serves it to others: the ZeroMQ broker.

A `Connection` opens the file, and `Connection.transaction` begins a `Transaction`. The functions of the modules named here
work in one, or on SQLite's own connection for reading. `requests` is the path of a job (push, reserve, claim, settle), with
many requests at a time; `owners` has the leases, `operators` the changes by operators, and `views` what they read.
"""

from __future__ import annotations

from . import housekeeping, operators, owners, requests, settling, views
from .connection import Connection, Transaction
from .url import parse_url

__all__ = [
    "Connection",
    "Transaction",
    "housekeeping",
    "operators",
    "owners",
    "parse_url",
    "requests",
    "settling",
    "views",
]
