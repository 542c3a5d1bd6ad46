"""A new process imports only what its first enqueue needs: scripts, cron jobs and web servers wait for that."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs_core.testing.services.redis import RedisServer

SCRIPT = """
import json, sys
import msgspec, pluggy  # what they import themselves is not ours to change
before = set(sys.modules)
import jobs_core
@jobs_core.job(name="note")
def note(n: int) -> None: ...
note.enqueue(1)
print(json.dumps(sorted(set(sys.modules) - before)))
"""

FOR_NO_ENQUEUE = {
    "what is slow in the standard library": (
        "asyncio concurrent.futures difflib email encodings.idna hmac http importlib.metadata importlib.resources "
        "multiprocessing shutil ssl subprocess sysconfig tempfile unittest urllib.request xml zipfile zoneinfo"
    ),
    "libraries": "click cronsim cryptography obstore pika pytest redis rich setproctitle tomli tomllib watchfiles zmq",
    "parts for workers and operators": (
        "jobs_core.alert_channels.channels jobs_core.backends.memory jobs_core.cli jobs_core.events jobs_core.payloads.store "
        "jobs_core.runs.failure jobs_core.runs.outcome jobs_core.schedule jobs_core.scoreboard jobs_core.supervisor "
        "jobs_core.testing jobs_core.unfinished jobs_core.worker"
    ),
    "frameworks": "django fastapi flask sqlalchemy starlette",
}
OF_OTHERS = {  # what only some backends need
    "sqlite": "hashlib hiredis jobs_redis.backend jobs_redis.transport jobs_rabbitmq.backend jobs_zeromq.backend",
    "redis": "jobs_core.backends.sqlite jobs_redis.cluster jobs_redis.transport.library jobs_zeromq.backend sqlite3 json",
}


@pytest.fixture(params=[*OF_OTHERS])
def backend(request, tmp_path):
    if request.param == "sqlite":
        yield "sqlite", "sqlite:///queue.db"
        return
    with RedisServer(tmp_path / "redis") as server:  # a new one, which has none of the scripts yet
        yield "redis", f"redis://127.0.0.1:{server.port}"


def test_a_first_enqueue_imports_nothing_that_it_does_not_need(backend, tmp_path):
    kind, url = backend
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env={"JOBS_BACKEND": url}, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    refused = " ".join([*FOR_NO_ENQUEUE.values(), OF_OTHERS[kind]]).split()
    assert [name for name in imported if any(name == bad or name.startswith(f"{bad}.") for bad in refused)] == []
