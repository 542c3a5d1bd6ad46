"""The compose files: they follow the schema of the specification, and jobs and the servers accept what they pass on."""

from __future__ import annotations

import copy
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis
import yaml

from jobs_core import config_sources, urls
from jobs_core.cli.systemd import STOP_RESERVE
from jobs_core.plugins import Plugins
from jobs_core.testing.services import free_port
from jobs_core.testing.services.redis import server_program

from ..support.project import until

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
FILES = sorted(path for path in COMPOSE.glob("*.yml") if path.name != "jobs.yml")
SCHEMES = {"postgres": "postgresql", "rabbitmq": "amqp", "redis": "redis", "sqlite": "sqlite", "zeromq": "zmq+tcp"}


def merged(path: Path) -> dict:
    """Return a compose file with what its service `jobs` extends, as Compose merges them: mappings by key, lists appended."""
    document = yaml.safe_load(path.read_text())
    service = document["services"]["jobs"]
    extends = service.pop("extends")
    base = copy.deepcopy(yaml.safe_load((path.parent / extends["file"]).read_text())["services"][extends["service"]])
    for key, value in service.items():
        if isinstance(value, dict):
            base[key] = {**base.get(key, {}), **value}
        else:
            base[key] = base.get(key, []) + value if isinstance(value, list) else value
    document["services"]["jobs"] = base
    return document


@pytest.fixture
def secrets(tmp_path) -> Path:
    """The directory of the compose files, with secrets that the script made."""
    place = tmp_path / "compose"
    shutil.copytree(COMPOSE, place, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([place / "secrets.sh"], check=True)
    return place


def test_there_is_a_file_for_each_backend():
    assert [path.stem for path in FILES] == sorted(SCHEMES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_follows_the_compose_specification(path, tmp_path):
    whole = tmp_path / "merged.yml"
    whole.write_text(yaml.safe_dump(merged(path)))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path), str(whole)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_jobs_accepts_the_variables_and_the_backend_of_a_file(path, secrets, monkeypatch, tmp_path):
    document = merged(secrets / path.name)
    service = document["services"]["jobs"]
    mounted = {
        **{each["target"]: (secrets / document["secrets"][each["source"]]["file"]) for each in service.get("secrets", ())},
        **{each["target"]: document["configs"][each["source"]]["content"] for each in service.get("configs", ())},
    }
    (content,) = mounted.values()
    url = tmp_path / "url"
    url.write_text(content if isinstance(content, str) else content.read_text())
    assert Path("/run/secrets") / next(iter(mounted)) == Path(service["environment"].pop("JOBS_BACKEND_FILE"))
    for name, value in {**service["environment"], "JOBS_BACKEND_FILE": str(url)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(Path(__file__).parents[2] / "examples" / "first_steps")
    config = config_sources.load().config
    assert urls.scheme(config.backend) == SCHEMES[path.stem]
    assert SCHEMES[path.stem] in Plugins.discover().provided("jobs_queue_backends")
    longest = max(pool.stop_timeout for pool in config.pools.values())
    assert int(service["stop_grace_period"].removesuffix("s")) >= longest + STOP_RESERVE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_service_of_workers_has_no_rights_that_it_does_not_need(path):
    service = merged(path)["services"]["jobs"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service  # the image's


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_port_is_published_and_every_server_is_waited_for(path):
    services = merged(path)["services"]
    assert [name for name, service in services.items() if "ports" in service] == []
    servers = services.keys() - {"jobs"}
    assert services["jobs"].get("depends_on", {}).keys() == servers
    for name in servers:
        assert "healthcheck" in services[name]
        assert ":" in services[name]["image"]


def test_the_secrets_are_made_once_and_are_for_their_owner_alone(secrets):
    before = {path.name: path.read_text() for path in (secrets / "secrets").iterdir()}
    subprocess.run([secrets / "secrets.sh"], check=True)
    assert {path.name: path.read_text() for path in (secrets / "secrets").iterdir()} == before
    assert stat.S_IMODE((secrets / "secrets").stat().st_mode) == 0o700
    assert len(before["password"]) >= 24
    assert all(before["password"] in text for text in before.values())
    used = {entry["file"] for path in FILES for entry in merged(path).get("secrets", {}).values()}
    assert used <= {f"./secrets/{name}" for name in before}


def test_a_user_who_is_not_root_can_make_the_secrets_again():
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories can only be entered by their user
        script = Path(shutil.copy(COMPOSE / "secrets.sh", name))
        user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        if user:
            os.chown(name, 65534, 65534)
        for _ in range(2):
            subprocess.run([script], check=True, cwd="/", **user)
        assert len((Path(name) / "secrets" / "password").read_text()) >= 24


def test_redis_accepts_its_configuration_and_stores_every_write(secrets, tmp_path):
    port = free_port()
    command = [server_program(), secrets / "secrets" / "redis.conf", "--dir", tmp_path, "--port", str(port)]
    server = subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: _accepts(port))
        password = (secrets / "secrets" / "password").read_text()
        with redis.Redis(port=port, password=password) as client:
            assert client.config_get("append*")["appendfsync"] == "always"
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    finally:
        server.kill()
        server.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_nothing_of_the_secrets_is_under_version_control():
    assert "secrets/" in (COMPOSE / ".gitignore").read_text().splitlines()
    assert os.access(COMPOSE / "secrets.sh", os.X_OK)
