"""The errors of an unusable server say what is wrong, where, and how to fix it."""

from __future__ import annotations

import contextlib
import socket
import threading
import traceback

import pytest
from redis.crc import key_slot

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.errors import BackendError, BackendUnavailable, QueueFull
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.testing.services import free_port
from jobs_core.testing.services.redis import RedisServer, server_program, server_version
from jobs_core.urls import scheme
from jobs_redis import store

SECRET = "geheim"


@pytest.fixture
def server(tmp_path):
    """A server whose settings the test may change."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


def refused(url):
    """Return the error of an enqueue there."""
    backend = Plugins.discover().choose("jobs_queue_backends", scheme(url), "backend")(url, BackendOptions())
    with pytest.raises(BackendError) as raised:
        try:
            backend.open(None)
            backend.push([Outgoing("one", "t", b"{}")], new_token())
        finally:
            backend.close()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return raised.value


def is_an_outage(error):
    return isinstance(error, BackendUnavailable)


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{}", "redis+cluster://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/jobs"])
def test_nothing_listens_there(form):
    error = refused(form.format(free_port()))
    assert is_an_outage(error)
    assert error.nothing_sent
    assert "connection refused: is Redis running" in str(error)


def test_there_is_no_such_socket(tmp_path):
    error = refused(f"redis+unix://{tmp_path}/redis.sock")
    assert is_an_outage(error)
    assert "no such socket" in str(error)


def test_an_unknown_host():
    error = refused("redis://nobody.invalid")
    assert is_an_outage(error)
    assert "cannot be reached: no host has this name" in str(error)


@contextlib.contextmanager
def speaking(answer):
    """A server that gives the same answer to every client."""

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, contextlib.suppress(ConnectionError):  # it may have left after the first bytes
                    client.recv(1 << 16)
                    client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_that_is_not_redis_is_reported():
    with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "is not Redis" in str(refused(f"redis://127.0.0.1:{port}"))


def test_a_server_that_loads_its_data_is_waited_for():
    with speaking(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        error = refused(f"redis://127.0.0.1:{port}")
    assert is_an_outage(error)
    assert "is loading its data (LOADING)" in str(error)


def test_a_password_that_is_wrong_missing_or_not_wanted(server):
    where = f"127.0.0.1:{server.port}"
    assert "it has no password" in str(refused(f"redis://:{SECRET}@{where}"))
    server.command("CONFIG", "SET", "requirepass", "x")
    assert "it requires a password" in str(refused(f"redis://{where}"))
    assert "wrong user or password" in str(refused(f"redis://:{SECRET}@{where}"))


@pytest.mark.parametrize("missing", ["-evalsha", "-zadd", "resetkeys"])
def test_a_missing_permission_is_named_with_the_page_that_lists_all(server, missing):
    server.command("ACL", "SETUSER", "jobs", "on", f">{SECRET}", "~*", "+@all", missing)
    error = refused(f"redis://jobs:{SECRET}@127.0.0.1:{server.port}")
    assert not is_an_outage(error)
    assert "the user lacks a permission" in str(error)
    assert '"Backends" in the documentation' in str(error)
    assert "user_script" not in str(error)


def test_a_database_that_is_not_there(server):
    assert "no database of that number" in str(refused(f"redis://127.0.0.1:{server.port}/99"))


def test_a_replica_is_distinguished_from_a_changing_master(server):
    server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    error = refused(f"redis://127.0.0.1:{server.port}")
    assert is_an_outage(error)
    assert "replica" in str(error)
    assert "the URL names the wrong server" in str(error)


def test_full_memory_is_not_an_outage(server):
    server.command("CONFIG", "SET", "maxmemory", "1")
    error = refused(f"redis://127.0.0.1:{server.port}")
    assert isinstance(error, QueueFull)
    assert "maxmemory" in str(error)


def test_too_few_replicas_are_an_outage(server):
    if server_version(server_program()) < (7, 0):
        pytest.skip("before 7.0, Redis lets scripts write whatever min-replicas-to-write says")
    server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    error = refused(f"redis://127.0.0.1:{server.port}")
    assert is_an_outage(error)
    assert "min-replicas-to-write" in str(error)


@pytest.mark.parametrize("sent", [0, 1])
def test_a_partly_sent_push_is_not_reported_as_unsent(monkeypatch, sent):
    monkeypatch.setattr(store, "LARGEST_PUSH", 1)

    class Breaking:
        parts = 0

        def run(self, *_):
            self.parts += 1
            if self.parts > sent:
                error = BackendUnavailable("no connection")
                error.nothing_sent = True
                raise error
            return b""

    breaking = store.Store("{jobs}", Breaking(), BackendOptions())
    with pytest.raises(BackendUnavailable) as raised:
        breaking.push([Outgoing(name, "t", b"{}") for name in "abc"], new_token())
    assert raised.value.nothing_sent == (sent == 0)


def test_keys_of_another_program_are_reported(server):
    server.command("SET", "{jobs}:topics", "mine")
    assert "does another program use the prefix" in str(refused(f"redis://127.0.0.1:{server.port}"))


def test_a_url_of_another_kind_of_server_names_the_right_one(server, redis_cluster):
    where = f"127.0.0.1:{server.port}"
    assert "use redis://host for a single server" in str(refused(f"redis+cluster://{where}"))
    assert "it is not a sentinel" in str(refused(f"redis+sentinel://{where}/jobs"))
    elsewhere = next(prefix for prefix in map(str, range(100)) if key_slot(prefix.encode()) > 16384 / len(redis_cluster))
    error = refused(f"redis://127.0.0.1:{redis_cluster[0].port}?prefix={elsewhere}")
    assert "use redis+cluster://" in str(error)
