"""Access: keys beyond loopback, a list of clients, sockets that only their user can reach; and `jobsctl broker`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_core import Config
from jobs_core.backends.base import BackendOptions
from jobs_core.errors import BackendError, BackendUnavailable, ConfigError
from jobs_core.testing.services import free_port
from jobs_core.testing.services.broker import BrokerService
from jobs_zeromq import keys
from jobs_zeromq.backend import ZeromqBackend
from jobs_zeromq.broker.main import settings

from .raw import Raw


def jobsctl(directory, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
    command = [sys.executable, "-m", "jobs_core", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, text=True, capture_output=True, timeout=60)


@pytest.fixture
def locked(tmp_path):
    """A broker that requires keys; one client has one."""
    made = jobsctl(tmp_path, "broker", "keygen", "keys", "--client", "web1")
    assert made.returncode == 0, made.stderr
    port = free_port()
    client = f"zmq+tcp://127.0.0.1:{port}?key=keys/web1.key_secret&broker=keys/broker.key"
    service = BrokerService(tmp_path, backend=client, toml='broker.keys = "keys"')
    service.start()
    yield service
    service.stop()


def connect(directory, url):
    backend = ZeromqBackend(url, BackendOptions(base_dir=directory))
    try:
        backend.open(None)
        return backend.status()
    finally:
        backend.close()


def test_keygen_makes_private_keys_and_keeps_existing_ones(tmp_path):
    first = jobsctl(tmp_path, "broker", "keygen", "keys", "--client", "web1", "--client", "web2")
    assert first.returncode == 0, first.stderr
    made = sorted(path.relative_to(tmp_path / "keys").as_posix() for path in (tmp_path / "keys").rglob("*.key*"))
    assert made == [
        "broker.key",
        "broker.key_secret",
        "clients/web1.key",
        "clients/web2.key",
        "web1.key_secret",
        "web2.key_secret",
    ]
    for path in (tmp_path / "keys").glob("*.key_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = (tmp_path / "keys" / "broker.key_secret").read_bytes()
    again = jobsctl(tmp_path, "broker", "keygen", "keys", "--client", "web1")
    assert again.returncode != 0
    assert "a client of that name already" in again.stderr
    assert "Traceback" not in again.stderr
    assert (tmp_path / "keys" / "broker.key_secret").read_bytes() == before


@pytest.mark.parametrize("name", ["", "broker", "../x", "a b"])
def test_a_client_is_named_by_a_plain_word(tmp_path, name):
    keys.make_broker(tmp_path / "keys")
    with pytest.raises(BackendError, match="invalid client name"):
        keys.make_client(tmp_path / "keys", name)


def test_only_clients_on_the_list_are_admitted(locked, tmp_path):
    assert connect(tmp_path, locked.url).encrypted
    keys.make_broker(tmp_path / "others")
    keys.make_client(tmp_path / "others", "stranger")
    stranger = locked.url.replace("keys/web1.key_secret", "others/stranger.key_secret")
    with pytest.raises(BackendError, match="does not accept this client"):
        connect(tmp_path, stranger)
    with pytest.raises(BackendError):  # without any key
        connect(tmp_path, locked.url.partition("?")[0])
    wrong = locked.url.replace("broker=keys/broker.key", "broker=others/broker.key")
    # A client that expects another key talks to no broker:
    with pytest.raises(BackendUnavailable, match="is .*/others/broker.key its public key"):
        connect(tmp_path, wrong)
    assert connect(tmp_path, locked.url).refused >= 1


def test_a_client_taken_off_the_list_is_refused_and_one_added_gets_in_without_a_restart(locked, tmp_path):
    keys.make_client(tmp_path / "keys", "web2")
    second = locked.url.replace("web1", "web2")
    assert connect(tmp_path, second).encrypted
    (tmp_path / "keys" / "clients" / "web1.key").unlink()
    with pytest.raises(BackendError, match="does not accept this client"):
        connect(tmp_path, locked.url)
    assert connect(tmp_path, second).encrypted


def test_plain_clients_cannot_ask_a_broker_with_keys_anything(locked):
    with Raw(locked.url.partition("?")[0], hello=False) as raw:
        raw.send(b"jobs1", b"status", b"t", b"\x80")
        assert not raw.socket.poll(500)


def test_missing_keys_and_brokers_are_reported_with_the_fix(locked, tmp_path):
    with pytest.raises(BackendError, match="nobody.key_secret: there is no such file: `jobsctl broker keygen`"):
        connect(tmp_path, locked.url.replace("web1", "nobody"))
    with pytest.raises(BackendUnavailable, match="is `jobsctl broker` running there"):
        connect(tmp_path, f"zmq+tcp://127.0.0.1:{free_port()}")


def test_the_list_of_clients_is_kept_when_it_cannot_be_read_for_want_of_descriptors(tmp_path):
    keys.make_broker(tmp_path / "keys")
    keys.make_client(tmp_path / "keys", "web1")
    listed = tmp_path / "keys" / "clients"
    public = keys.load_public(listed / "web1.key")
    allowed, fresh = keys.AllowList(listed), keys.AllowList(listed)
    assert allowed.name(public) == "web1"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert allowed.name(public) == "web1"
        assert fresh.name(public) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert fresh.name(public) == "web1"
    (listed / "web1.key").unlink()
    assert allowed.name(public) is None


def test_a_secret_that_others_may_read_is_not_used(locked, tmp_path):
    (tmp_path / "keys" / "web1.key_secret").chmod(0o644)
    with pytest.raises(BackendError, match="chmod 600"):
        connect(tmp_path, locked.url)


def test_a_public_key_in_the_place_of_a_secret_one_is_named(locked, tmp_path):
    with pytest.raises(BackendError, match="key_secret"):
        connect(tmp_path, locked.url.replace("keys/web1.key_secret", "keys/broker.key"))


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("zmq+tcp://10.0.0.7:7788", "keygen"),
        ("zmq+tcp://example.org:7788", "keygen"),
        ("zmq+tcp://127.0.0.1:7788?key=a", "go together"),
        ("zmq+tcp://127.0.0.1:7788?colour=red", "only parameters"),
        ("zmq+tcp://user:secret@127.0.0.1", "only parameters"),
        ("zmq+tcp://127.0.0.1:7788/path", "expected"),
        ("zmq+tcp://127.0.0.1:port", "port"),
        ("zmq+tcp://", "expected"),
        ("zmq+ipc:///run/jobs/", "path of a socket"),
        ("zmq+ipc:///" + "x" * 200, "107 bytes"),
        ("zmq+ipc:///run/broker.sock?key=a&broker=b", "no keys"),
    ],
)
def test_a_url_that_cannot_be_is_refused_with_its_fix(url, fix):
    with pytest.raises(BackendError, match=fix) as refused:
        ZeromqBackend(url, BackendOptions())
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize(
    ("toml", "fix"),
    [
        ({"listen": ["zmq+tcp://0.0.0.0:7788"]}, "keygen"),
        ({"listen": ["zmq+tcp://*:7788"]}, "keygen"),
        ({"listen": ["zmq+tcp://[::]:7788"]}, "keygen"),
        ({"listen": ["redis://127.0.0.1"]}, "expected"),
        ({"listen": ["zmq+tcp://127.0.0.1:no"]}, "broker.listen"),
        ({"keys": "nowhere"}, "keygen"),
        ({"listen": ["zmq+tcp://127.0.0.1"], "store": "redis://x"}, "SQLite URL"),
        ({}, "give an address"),
    ],
)
def test_a_broker_that_cannot_be_is_refused_with_its_fix(tmp_path, toml, fix):
    import msgspec

    config = msgspec.convert({"broker": toml, "backend": "sqlite:///x.db"}, Config)
    with pytest.raises(ConfigError, match=fix):
        settings(msgspec.structs.replace(config, base_dir=tmp_path))


def test_with_keys_it_may_listen_everywhere(tmp_path):
    import msgspec

    keys.make_broker(tmp_path / "keys")
    config = msgspec.convert({"broker": {"listen": ["zmq+tcp://0.0.0.0:7788"], "keys": "keys"}}, Config)
    assert settings(msgspec.structs.replace(config, base_dir=tmp_path)).listen == ["tcp://0.0.0.0:7788"]


# -- sockets, and the command ----------------------------------------------------------------------


def test_a_socket_is_in_a_directory_that_only_its_user_can_enter(tmp_path):
    service = BrokerService(tmp_path / "b", backend=f"zmq+ipc://{tmp_path}/own/broker.sock")
    service.start()
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    assert connect(tmp_path, service.url).listen == [f"ipc://{tmp_path}/own/broker.sock"]
    other = BrokerService(tmp_path / "c", backend=service.url)
    with pytest.raises(AssertionError, match="another broker is listening there"):
        other.start()
    assert connect(tmp_path, service.url).pid == service.pid  # and the first one still serves
    assert service.stop() == 0
    assert not (tmp_path / "own" / "broker.sock").exists()
    (tmp_path / "own").chmod(0o755)
    with pytest.raises(AssertionError, match="chmod 700"):
        service.start()


def test_one_store_has_one_broker(service, tmp_path):
    service.start()
    store = service.directory / ".jobs" / "broker.db"
    other = BrokerService(tmp_path / "other", toml=f'broker.store = "sqlite:///{store}"')
    with pytest.raises(AssertionError, match=f"another broker \\(process {service.pid}\\)"):
        other.start()


def test_a_store_of_a_later_release_is_left_alone(service):
    service.start()
    assert service.stop() == 0
    with contextlib.closing(sqlite3.connect(service.directory / ".jobs" / "broker.db")) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("UPDATE meta SET value = 99 WHERE key = 'readable_by'")
        db.commit()
    with pytest.raises(AssertionError, match="was written by a later jobs-core .* upgrade jobs-core here"):
        service.start()


def test_a_port_that_is_taken_is_named(service, tmp_path):
    service.start()
    other = BrokerService(tmp_path / "other", backend=service.url)
    with pytest.raises(AssertionError, match="cannot listen at"):
        other.start()


def test_status_shows_the_broker_its_address_and_its_counters(service):
    service.start()
    with Raw(service.url) as raw:
        raw.ask(b"push", {"request": "r", "messages": [{"id": "a", "topic": "t", "payload": b"x"}]})
        shown = jobsctl(service.directory, "broker", "status")
        assert shown.returncode == 0, shown.stderr
        lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
        assert (lines["pid"], lines["pushed"], lines["encrypted"]) == (str(service.pid), "1", "no")
        assert lines["listen"] == service.url.removeprefix("zmq+")
        found = json.loads(jobsctl(service.directory, "broker", "status", "--json").stdout)
    assert (found["pid"], found["pushed"], found["store"]) == (service.pid, 1, str(service.directory / ".jobs" / "broker.db"))
    assert service.stop() == 0
    away = jobsctl(service.directory, "broker", "status")
    assert (away.returncode, away.stdout) == (3, "")
    assert "cannot be reached" in away.stderr


def test_status_of_no_broker_is_a_mistake_that_is_explained(tmp_path):
    (tmp_path / "jobs.toml").write_text('backend = "sqlite:///x.db"\n')
    asked = jobsctl(tmp_path, "broker", "status")
    assert asked.returncode == 2
    assert "zmq+" in asked.stderr


def test_the_command_serves_in_the_foreground_until_term(tmp_path):
    from jobs_core.testing.services import until

    url = f"zmq+tcp://127.0.0.1:{free_port()}"
    (tmp_path / "jobs.toml").write_text(f'backend = "{url}"\n')
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "jobs_core", "broker"], cwd=tmp_path, stdout=log, stderr=log)
    until(lambda: "serves at" in Path(tmp_path, "log").read_text(), process, tmp_path / "log")
    connect(tmp_path, url)
    process.terminate()
    assert process.wait(30) == 0
    with pytest.raises(BackendUnavailable):
        connect(tmp_path, url)


def test_a_mistake_in_the_configuration_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "jobs.toml").write_text('backend = "zmq+tcp://0.0.0.0:7788?key=a&broker=b"\n')
    for command in (["-m", "jobs_core", "broker"], ["-m", "jobs_zeromq.broker"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, text=True, capture_output=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert "broker.listen" in done.stderr
        assert "Traceback" not in done.stderr
