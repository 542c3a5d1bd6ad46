"""Torture: many jobs through real workers while the broker is maltreated, counted with ledgers outside it.

`make torture` runs every row of every backend with 100,000 jobs each (`python -m tests.torture --help`); `make test`
runs some of them with 5,000. A backend adds a module beside redis.py with `ROWS`, and its name below.
"""

from __future__ import annotations

BACKENDS = ["redis", "rabbitmq", "zeromq"]
"""Modules of this package, each with `ROWS: dict[str, Row]`."""
