"""The parts of the SQLite backend that the ZeroMQ broker uses, which serves a queue file to other processes.

A `Connection` opens the file, and `Connection.transaction` begins a `Transaction`. The functions of the modules below take a
transaction, or SQLite's connection for reading. `requests` handles push, reserve, claim and settle, many requests at a time;
`owners` handles leases, `operators` the changes by operators, `lines` those of limits and fair topics, `flows` parts of flows
and the changes by their operators, `documents` all documents, `notes` what jobs tell, `statistics` what workers did; and
`views`, `limits.states` and `flow_views` only read.
"""

from __future__ import annotations

from . import (
    documents,
    flow_views,
    flows,
    housekeeping,
    letters,
    limits,
    lines,
    notes,
    operators,
    owners,
    requests,
    settling,
    statistics,
    views,
)
from .connection import Connection, Transaction
from .url import parse_url

__all__ = [
    "Connection",
    "Transaction",
    "documents",
    "flow_views",
    "flows",
    "housekeeping",
    "letters",
    "limits",
    "lines",
    "notes",
    "operators",
    "owners",
    "parse_url",
    "requests",
    "settling",
    "statistics",
    "views",
]
