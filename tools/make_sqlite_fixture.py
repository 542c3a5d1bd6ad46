"""Write tests/unit/fixtures/sqlite-schema-N.db: a queue file of the present schema with a job in every state.

Run it once before the schema version is raised, while the old schema is in place, and commit the file.
"""

from pathlib import Path

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.backends.sqlite.connection import SCHEMA_VERSION

path = Path(__file__).parents[1] / "tests" / "unit" / "fixtures" / f"sqlite-schema-{SCHEMA_VERSION}.db"
path.unlink(missing_ok=True)
moment = [1_800_000_000.0]
backend = SqliteBackend(f"sqlite:///{path}", BackendOptions(clock=lambda: moment[0], lease=1e9))
backend.open("the-owner")
for name in ("done", "dead", "reserved"):
    backend.push([Outgoing(name, "t", b"payload")], f"push {name}")
    (delivery,) = backend.reserve(["t"], 1, f"reserve {name}")
    if name == "done":
        ending = Settlement(name, delivery.token, Outcome.DONE, result=b'{"value":1}', result_ttl=1e10)
        backend.settle([ending], "settle done")
    elif name == "dead":
        ending = Settlement(name, delivery.token, Outcome.DEAD, reason="failed", error=b'{"type":"ValueError"}')
        backend.settle([ending], "settle dead")
backend.push([Outgoing("ready-1", "t", b"payload"), Outgoing("ready-2", "t", b"payload")], "push ready")
backend.push([Outgoing("scheduled", "t", b"payload", delay=1e10)], "push scheduled")
with backend._connection.reading() as db:
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
backend._owner = ""  # closed as by a kill: reserved jobs stay reserved
backend.close()
for rest in (f"{path}-wal", f"{path}-shm"):
    Path(rest).unlink(missing_ok=True)
wake = path.with_name(f"{path.name}.wake")
if wake.exists():
    wake.rmdir()
print(path.name, path.stat().st_size)
