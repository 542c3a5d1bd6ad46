"""Torture: many jobs through real workers while the broker suffers faults, counted with ledgers outside it.

`make torture` runs every row of every backend with 100,000 jobs each (`python -m tests.torture --help`); `make test` runs
some of them with 5,000. To add a backend, add a module with `ROWS` beside redis.py, and its name below.
"""

from __future__ import annotations

BACKENDS = ["redis", "rabbitmq", "zeromq", "sqlite", "postgres", "postgres_started"]
"""Modules of this package, each with `ROWS: dict[str, Row]`."""
