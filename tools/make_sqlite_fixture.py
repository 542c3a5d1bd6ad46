"""Write tests/unit/fixtures/sqlite-schema-N.db: a queue file of the present schema with a job in every state.

Topic `t` has plain jobs, `limited` and `fair` have jobs in lines, and `flow` has the members of a flow of which one is dead.

Run it once before the schema version is raised, while the old schema is in place, and commit the file.
"""

import shutil
from pathlib import Path

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.flows import After, Member, Part
from jobs_core.backends.limits import Limit, Lines
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
backend.define_limits({"a": Limit(concurrency=1)}, {"fair": Lines(fair=True)})
limited = [Outgoing(name, "limited", b"payload", limits=("a",)) for name in ("holds-a-slot", "limited")]
backend.push([*limited, Outgoing("of-a-key", "fair", b"payload", key="k")], "push lines")
holder = SqliteBackend(f"sqlite:///{path}", BackendOptions(clock=lambda: moment[0], lease=1e9))
holder.open("holder")
holder.reserve(["limited"], 1, "r")
takes = Member("flow", after=(After("member-done"), After("s", "stage")), inputs=("member-done",), label="takes")
members = {
    "member-done": Member("flow"),
    "member-dead": Member("flow", "s"),
    "member-stuck": takes,
    "member-ready": Member("flow"),
    "member-waiting": Member("flow", after=(After("*", "all"),)),
}
pushed = [Outgoing(name, "flow", b"payload", member=member) for name, member in members.items()]
backend.push_part(Part("flow", name="a flow", ttl=1e10), pushed, "push flow")
done, dead = backend.reserve(["flow"], 2, "reserve members")
ends = [
    Settlement(done.id, done.token, Outcome.DONE, result=b"7"),
    Settlement(dead.id, dead.token, Outcome.DEAD, reason="failed"),
]
backend.settle(ends, "settle members")
with backend._connection.reading() as db:
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
for each in (holder, backend):
    each._owner = ""  # closed as by a kill: reserved jobs stay reserved
    each.close()
for rest in (f"{path}-wal", f"{path}-shm"):
    Path(rest).unlink(missing_ok=True)
wake = path.with_name(f"{path.name}.wake")
shutil.rmtree(wake, ignore_errors=True)
print(path.name, path.stat().st_size)
