"""`jobsctl check` reports each risk in a server's settings, with its fix."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs_core.errors import BackendError
from jobs_core.testing.services import free_port
from jobs_core.testing.services.redis import RedisServer
from jobs_redis.advice import advice
from jobs_redis.transport.connection import ServerConnection, connector
from jobs_redis.url import parse


@pytest.fixture
def own_server(tmp_path):
    """A server whose settings the test may change."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


def advised(server, url="redis://127.0.0.1"):
    """Return the advice for this server, as if it were reached by this URL."""
    connection = ServerConnection(connector(parse(f"redis://127.0.0.1:{server.port}")), "here")
    try:
        return advice(parse(url), connection)
    finally:
        connection.disconnect()


def test_a_durable_server_on_loopback_needs_no_advice(own_server):
    assert advised(own_server) == []


def test_a_missing_append_only_file_and_an_evicting_policy_are_reported_with_the_fix(own_server):
    own_server.command("CONFIG", "SET", "appendonly", "no")
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    appendonly, policy = advised(own_server)
    assert "appendonly is off" in appendonly
    assert "CONFIG SET appendonly yes" in appendonly
    assert "allkeys-lru" in policy
    assert "noeviction" in policy


def test_a_replica_and_nearly_full_memory_are_reported(own_server):
    used = int(own_server.fact("used_memory", "INFO", "memory"))
    own_server.command("CONFIG", "SET", "maxmemory", str(round(used * 1.02)))
    own_server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    role, memory = advised(own_server)
    assert "a replica of 127.0.0.1:" in role
    assert "QueueFull" in memory


def test_an_append_only_file_that_is_never_synced_is_reported(own_server):
    own_server.command("CONFIG", "SET", "appendfsync", "no")
    (line,) = advised(own_server)
    assert "everysec" in line


@pytest.mark.parametrize("host", ["redis.example", "10.0.0.7"])
def test_the_default_user_and_unencrypted_remote_connections_are_reported(own_server, host):
    user, protocol = advised(own_server, f"redis://{host}")
    assert "default user" in user
    assert "rediss://" in protocol
    (user,) = advised(own_server, f"rediss://{host}")
    assert "default user" in user


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_loopback_needs_no_user_of_its_own(own_server, host):
    assert advised(own_server, f"redis://{host}:1") == []


class Told:
    """A server that reports given facts about itself."""

    def __init__(self, info):
        self._info = info

    def call(self, *command):
        if command == ("INFO", "server"):
            return self._info
        raise BackendError("not allowed")


def test_an_old_server_is_reported_and_valkey_is_not_mistaken_for_one():
    here = parse("redis://localhost")
    (line,) = advice(here, Told(b"# Server\r\nredis_version:6.0.16\r\n"))
    assert "Redis 6.0.16 is older than 6.2" in line
    assert advice(here, Told(b"redis_version:6.2.0\r\n")) == []
    assert advice(here, Told(b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n")) == []


def test_facts_that_a_server_hides_are_left_out(own_server):
    own_server.command("CONFIG", "SET", "appendonly", "no")
    own_server.command("ACL", "SETUSER", "jobs", "on", ">secret", "~{jobs}*", "+@all", "-@admin", "-@dangerous")
    connection = ServerConnection(connector(parse(f"redis://jobs:secret@127.0.0.1:{own_server.port}")), "here")
    try:
        assert advice(parse("redis://127.0.0.1"), connection) == []
    finally:
        connection.disconnect()


def test_jobsctl_check_shows_it(own_server, tmp_path):
    own_server.command("CONFIG", "SET", "appendonly", "no")
    (tmp_path / "tasks.py").write_text("from jobs_core import job\n@job\ndef note() -> None: ...\n")
    (tmp_path / "jobs.toml").write_text(f'backend = "redis://127.0.0.1:{own_server.port}"\nmodules = ["tasks"]\n')
    command = [sys.executable, "-m", "jobs_core", "check"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "appendonly is off" in said.stdout + said.stderr
