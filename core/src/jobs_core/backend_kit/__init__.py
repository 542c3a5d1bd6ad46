"""The parts from which backends are built: all of the core that a backend uses besides the interface and the errors.

A plugin imports only `jobs_core`, `jobs_core.errors`, `jobs_core.backends.base`, `jobs_core.loaders.base` and this module.
The names below stay here and keep their meaning; every other module of the core may change. docs/backend-authors.md describes
the parts.
"""

from __future__ import annotations

from ..deadline import addresses, deadline, left
from ..escapes import json as json_for_terminal
from ..escapes import one_line
from ..failpoints import failpoint, with_failpoints
from ..ids import new_id, new_token
from ..message import unsigned
from ..pauses import doubled
from ..tally import Tally
from ..timers import Timer, Timers
from ..units import MAX_SECONDS, count
from ..urls import Address, Url, is_loopback, number, redact, split_port
from ..urls import of_sqlite as sqlite_url
from ..urls import read as read_url
from ..urls import scheme as url_scheme
from .envelope import Envelope, peek
from .self_pipe import SelfPipe

__all__ = [
    # Ids
    "new_id",
    "new_token",
    # Times and waits
    "MAX_SECONDS",
    "SelfPipe",
    "Tally",
    "Timer",
    "Timers",
    "addresses",
    "deadline",
    "doubled",
    "left",
    # URLs
    "Address",
    "Url",
    "is_loopback",
    "number",
    "read_url",
    "redact",
    "split_port",
    "sqlite_url",
    "url_scheme",
    # Messages of other programs
    "Envelope",
    "peek",
    "unsigned",
    # Text
    "count",
    "json_for_terminal",
    "one_line",
    # Tests
    "failpoint",
    "with_failpoints",
]
