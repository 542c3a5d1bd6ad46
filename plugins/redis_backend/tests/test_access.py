"""The users that docs/backends.md proposes may do everything that is needed, and nothing else."""

from __future__ import annotations

import re
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.notes import Note
from jobs_core.errors import BackendError, BackendUnavailable
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.testing.services import program
from jobs_core.testing.services.redis import RedisServer, urls
from jobs_core.urls import scheme
from jobs_redis.transport.connection import ServerConnection, connector
from jobs_redis.url import parse

DOCS = Path(__file__).parents[3] / "docs" / "backends.md"
PROPOSED = re.findall(r"^ACL SETUSER .*$", DOCS.read_text(), re.MULTILINE)


@pytest.fixture
def server(tmp_path):
    with RedisServer(tmp_path / "redis") as server:
        for line in PROPOSED:
            assert server.command(*line.replace("PASSWORD", "secret").split()) == b"+OK"
        yield server


@pytest.fixture
def backend(server):
    made = opened(server, "jobs:secret")
    yield made
    made.close()


def opened(server, user, owner="worker"):
    return opened_at(f"redis://{user}@127.0.0.1:{server.port}", owner)


def opened_at(url, owner):
    backend = Plugins.discover().choose("jobs_queue_backends", scheme(url), "backend")(url, BackendOptions())
    backend.open(owner)
    return backend


def test_the_proposed_user_may_do_all_that_jobs_does(server, backend):
    do_all_that_jobs_does(backend, lambda: server.command("RPUSH", "{jobs}:in:t", "{}"))


def test_the_proposed_user_may_do_all_that_jobs_does_on_a_cluster(redis_cluster):
    for node in redis_cluster:
        for line in PROPOSED:
            assert node.command(*line.replace("PASSWORD", "secret").split()) == b"+OK"
    backend = opened_at(f"redis+cluster://jobs:secret@{urls(redis_cluster)}", "worker")
    try:
        do_all_that_jobs_does(backend, lambda: [node.command("RPUSH", "{jobs:t}:in:t", "{}") for node in redis_cluster])
    finally:
        backend.close()
        for node in redis_cluster:
            node.command("ACL", "DELUSER", "jobs", "feeder")


def do_all_that_jobs_does(backend, feed):
    """Do everything that jobs does; `feed` pushes as a program in another language does."""
    backend.push([Outgoing(name, "t", b"{}") for name in ("a", "b", "c", "d")], new_token())
    assert backend.wait(["t"], 60.0)
    done, retried, dead, _ = backend.reserve(["t"], 4, new_token())
    backend.note([Note(done.id, done.token, b"half", (b"begins",))])
    settlements = [
        Settlement(done.id, done.token, Outcome.DONE, result=b"1", result_ttl=60.0, timeline=b"run"),
        Settlement(retried.id, retried.token, Outcome.RETRY, after=60.0),
        Settlement(dead.id, dead.token, Outcome.DEAD, reason="no", error=b"{}"),
    ]
    backend.settle(settlements, new_token())
    backend.heartbeat()
    backend.housekeep(100)
    assert backend.fetch_result("a", 1.0).result == b"1"
    assert backend.fetch_result("b", 0.01) is None
    backend.pause("t")
    backend.resume("t")
    assert backend.paused() == frozenset()
    assert backend.topics() == ["t"]
    assert [record.id for record in backend.browse("t", State.DEAD, 10)] == ["c"]
    assert [record.id for record in backend.browse("t", State.DONE, 10)] == backend.find_ids("a", 10) == ["a"]
    backend.cancel("b")
    backend.requeue(["c"])
    backend.purge("t", State.READY)
    backend.wait(["t"], 0.01)
    assert backend.counts(["t"])["t"].reserved == 1
    feed()
    assert backend.wait(["t"], 60.0)
    assert backend.release_owner("worker", ["d"], b"") == 1
    assert backend.advice() == []


def test_the_proposed_user_may_do_all_that_scripts_do():
    scripts = [file.read_text() for file in resources.files("jobs_redis.scripts").iterdir() if file.name.endswith(".lua")]
    used = set(re.findall(r"(?:redis\.p?call|call_with)\('([A-Z]+)'", "".join(scripts)))
    assert len(used) > 20
    assert used <= set(re.findall(r"\+(\w+)", " ".join(PROPOSED).upper()))


@pytest.mark.parametrize(
    "words",
    ["FLUSHALL", "CONFIG SET dir /", "GET others", "KEYS *", "SCAN 0", "SCRIPT FLUSH", "CLIENT LIST", "RENAME {jobs}:meta x"],
)
def test_the_proposed_user_may_do_nothing_else(server, words):
    connection = ServerConnection(connector(parse(f"redis://jobs:secret@127.0.0.1:{server.port}")), "here")
    with pytest.raises(BackendError, match="lacks a permission"):
        connection.call(*words.split())
    connection.disconnect()


def test_the_proposed_user_for_other_languages_may_push_into_inlets_and_nothing_else(server):
    def said(*words):
        client = [
            program("redis-cli", "redis-tools"),
            "-p",
            str(server.port),
            "--user",
            "feeder",
            "--pass",
            "secret",
            "--no-auth-warning",
        ]
        return subprocess.run([*client, *words], capture_output=True, text=True, timeout=60).stdout.strip()

    assert said("RPUSH", "{jobs}:in:t", "{}") == "1"
    for words in (["RPUSH", "{jobs}:end:x", "1"], ["LRANGE", "{jobs}:in:t", "0", "-1"], ["EVAL", "return 1", "0"]):
        assert "NOPERM" in said(*words)


def test_a_wrong_password_and_a_missing_permission_are_reported_with_the_fix(server):
    with pytest.raises(BackendError, match="wrong user or password"):
        opened(server, "jobs:wrong")
    server.command("CONFIG", "SET", "requirepass", "x")
    with pytest.raises(BackendError, match="it requires a password"):
        opened(server, "")


def test_an_unreachable_server_is_an_outage(server, backend):
    server.kill()
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        backend.counts(["t"])
