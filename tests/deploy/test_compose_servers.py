"""The servers of the compose files, with exactly the settings and secrets of those files, and the service that works on each.

Debian's programs stand for those of the images: redis-server, rabbitmq-server and PostgreSQL, on free ports of loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from jobs_core.testing.services import PATIENCE
from jobs_core.testing.services.postgres import PostgresServer, programs
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer

from ..support.project import Process, until
from .test_compose import COMPOSE, merged

FIRST_STEPS = Path(__file__).parents[2] / "examples" / "first_steps"


def health(name: str) -> list[str]:
    """Return the command with which Compose asks the server of a file for its health."""
    kind, *command = yaml.safe_load((COMPOSE / f"{name}.yml").read_text())["services"][name]["healthcheck"]["test"]
    return ["sh", "-c", *command] if kind == "CMD-SHELL" else command


@contextlib.contextmanager
def redis(secrets: Path, work: Path) -> Iterator[int]:
    """Start Redis with the file that its command names; check its health as it does, on its own port."""
    command = yaml.safe_load((COMPOSE / "redis.yml").read_text())["services"]["redis"]["command"]
    assert command == ["redis-server", "/run/secrets/redis.conf", "--dir", "/data"]
    settings = (secrets / "redis.conf").read_text().splitlines()
    options = [word for line in settings for word in ("--" + line.partition(" ")[0], line.partition(" ")[2])]
    with RedisServer(work / "redis", *options) as server:
        asked = health("redis")
        asked[-1] = asked[-1].replace("redis-cli", f"redis-cli -p {server.port}")
        assert subprocess.run(asked, capture_output=True, timeout=PATIENCE).returncode == 0
        yield server.port


@contextlib.contextmanager
def rabbitmq(secrets: Path, work: Path) -> Iterator[int]:
    """Start RabbitMQ with the file of the secret; the user guest does not exist then."""
    with RabbitMQNode(work / "rabbitmq", config=(secrets / "rabbitmq.conf").read_text()) as node:
        assert [line.split("\t")[0] for line in node.control("list_users", "--no-table-headers").splitlines()] == ["jobs"]
        program, quiet, check = health("rabbitmq")
        assert (program, quiet) == ("rabbitmq-diagnostics", "-q")
        assert node.control(check, program=program) is not None
        yield node.port


@contextlib.contextmanager
def postgres(secrets: Path, work: Path) -> Iterator[int]:
    """Start PostgreSQL with the user, database and password of the environment; log in with passwords, as its image does."""
    environment = yaml.safe_load((COMPOSE / "postgres.yml").read_text())["services"]["postgres"]["environment"]
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    assert Path(environment["POSTGRES_PASSWORD_FILE"]).name == "password"
    password = (secrets / "password").read_text()
    with PostgresServer(user=user) as server:
        local = ["-h", str(server.directory), "-p", str(server.port), "-U", user, "-d", "postgres"]
        server.run("psql", *local, "-c", f"ALTER USER {user} PASSWORD '{password}'", "-c", f"CREATE DATABASE {database}")
        rules = server.directory / "data" / "pg_hba.conf"
        rules.write_text("local all all trust\nhost all all all scram-sha-256\n")
        server.run("psql", *local, "-c", "SELECT pg_reload_conf()")
        program, *arguments = health("postgres")
        assert subprocess.run([programs() / program, *arguments, "-p", str(server.port)], timeout=PATIENCE).returncode == 0
        yield server.port


SERVERS: dict[str, Callable[[Path, Path], contextlib.AbstractContextManager[int]]] = {
    "redis": redis,
    "rabbitmq": rabbitmq,
    "postgres": postgres,
}


@pytest.fixture
def secrets(tmp_path) -> Path:
    place = tmp_path / "compose"
    shutil.copytree(COMPOSE, place, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([place / "secrets.sh"], check=True)
    return place / "secrets"


@pytest.fixture
def application(tmp_path) -> Path:
    return Path(shutil.copytree(FIRST_STEPS, tmp_path / "app", ignore=shutil.ignore_patterns(".jobs", "__pycache__")))


def service(name: str, url: Path, run_dir: Path) -> dict[str, str]:
    """Return the environment of the service `jobs` of a file, with its backend's URL in `url` instead of /run/secrets."""
    variables = merged(COMPOSE / f"{name}.yml")["services"]["jobs"]["environment"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JOBS_", "PYTEST_"))}
    return {**kept, **variables, "JOBS_BACKEND_FILE": str(url), "JOBS_RUN_DIR": str(run_dir)}


@pytest.mark.parametrize("name", SERVERS)
def test_the_service_of_a_file_runs_a_job_on_the_server_of_that_file(name, secrets, application, tmp_path):
    with SERVERS[name](secrets, tmp_path) as port:
        written = (secrets / f"{name}-url").read_text()
        host = urlsplit(written).hostname
        assert host in yaml.safe_load((COMPOSE / f"{name}.yml").read_text())["services"]
        url, wrong = tmp_path / "url", tmp_path / "wrong"
        there = urlsplit(written)._replace(netloc=f"{urlsplit(written).netloc.partition('@')[0]}@127.0.0.1:{port}").geturl()
        url.write_text(there)
        wrong.write_text(there.replace((secrets / "password").read_text(), "wrong"))
        environment = service(name, url, tmp_path / "run")
        command = [sys.executable, "-m", "jobs_core"]
        refused = subprocess.run(
            [*command, "check"], cwd=application, env={**environment, "JOBS_BACKEND_FILE": str(wrong)}, capture_output=True
        )
        assert refused.returncode != 0, "the server asks for no password"
        supervisor = Process([*command, "start"], application, environment)
        try:
            until(lambda: subprocess.run([*command, "status"], cwd=application, env=environment).returncode == 0)
            subprocess.run([sys.executable, "shop.py"], cwd=application, env=environment, check=True)
            supervisor.until_said("to ada@example.com: Your order is on its way")
            assert supervisor.stop() == 0
        finally:
            supervisor.close()
