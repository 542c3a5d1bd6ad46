"""Wheels as users install them, in a virtual environment with nothing of the repository on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_core.testing.services.redis import RedisServer

ROOT = Path(__file__).parents[2]
TASKS = """
from pathlib import Path
from jobs_core import job

@job
def note(text: str) -> None:
    with Path("ledger").open("a") as ledger:
        ledger.write(text + "\\n")
"""
SHOP = """
from tasks import note
print(note.enqueue("installed").id)
"""
BROKEN = {  # distribution: its module, and the report about it
    "jobs-raises": ("raise RuntimeError('kaputt')", "cannot be imported: RuntimeError: kaputt"),
    "jobs-unknown": (
        "from jobs_core import hookimpl\n@hookimpl\ndef jobs_queue_backend(): return {}",
        "implements an unknown hook jobs_queue_backend; is jobs_queue_backends meant?",
    ),
    "jobs-wrong": (
        "from jobs_core import hookimpl\n@hookimpl\ndef jobs_queue_backends(): return ['wrong']",
        "jobs_queue_backends returned list, expected a dict of name to factory",
    ),
    "jobs-nothing": (
        "from jobs_core import hookimpl\n@hookimpl\ndef jobs_queue_backends(): return {'nothing': lambda url, options: url}",
        "fine",
    ),
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of the core, of some plugins and of the example backend."""
    directory = tmp_path_factory.mktemp("wheels")
    plugins = [ROOT / "plugins" / name for name in ("redis_backend", "opentelemetry", "sentry", "web")]
    members = [ROOT / "core", *plugins, ROOT / "examples" / "plugin_file_backend"]
    _pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(directory), *map(str, members))
    return directory


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


class Installed:
    """A virtual environment with a few wheels and their dependencies, and an application that uses it."""

    def __init__(self, directory: Path, wheels: Path, *distributions: str) -> None:
        self.directory = directory / "application"
        self.directory.mkdir()
        self._venv = directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self._venv], check=True)
        self.python = str(self._venv / "bin" / "python")
        constraints = ["-c", str(ROOT / "constraints.txt")]
        _pip(
            "--python", self.python, "install", "-q", "--no-compile", "--find-links", str(wheels), *constraints, *distributions
        )
        (self.directory / "tasks.py").write_text(TASKS)
        (self.directory / "shop.py").write_text(SHOP)

    def configure(self, backend: str) -> None:
        (self.directory / "jobs.toml").write_text(f'backend = "{backend}"\nmodules = ["tasks"]\n')

    def run(self, *command: str, code: int = 0) -> str:
        """Run a program of the environment; return its whole output."""
        program = str(self._venv / "bin" / command[0])
        environment = {"PATH": os.defpath, "HOME": str(self.directory), "PYTHONWARNINGS": "error"}
        done = subprocess.run(
            [program, *command[1:]], cwd=self.directory, env=environment, text=True, capture_output=True, timeout=60
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def distributions(self) -> set[str]:
        listed = json.loads(_pip("--python", self.python, "list", "--format", "json"))
        return {entry["name"].lower() for entry in listed}

    def add(self, distribution: str, source: str) -> None:
        """Add a distribution with one plugin, as an installer would."""
        module = distribution.replace("-", "_")
        site = next(self._venv.glob("lib/python*/site-packages"))
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text(f"[jobs]\n{module} = {module}\n")

    def works(self) -> None:
        """Return True if a job can be enqueued and run."""
        self.run("jobsctl", "check")
        self.run("python", "shop.py")
        self.run("jobsctl", "worker", "--drain")
        assert (self.directory / "ledger").read_text().endswith("installed\n")
        path = self.run("python", "-c", "import sys, jobs_core; print(sys.path, jobs_core.__file__)")
        assert str(ROOT) not in path


@pytest.fixture(scope="module")
def with_file(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("file"), wheels, "jobs-core", "jobs-file")


def test_a_third_partys_backend_is_installed_beside_the_core_and_runs_a_job(with_file):
    with_file.configure("file://queue")
    with_file.works()
    with_file.run("jobsctl", "start", "--daemon")
    before = (with_file.directory / "ledger").read_text()
    with_file.run("python", "shop.py")
    with_file.run("jobsctl", "stop")
    with_file.run("jobsctl", "worker", "--drain")  # all that came before the stop
    assert (with_file.directory / "ledger").read_text() == f"{before}installed\n"
    assert "jobs-file 0.1.0" in with_file.run("jobsctl", "plugins")


def test_an_installed_core_writes_packages_of_plugins(with_file):
    """The texts that it writes are part of the wheel."""
    for kind in ("backend", "loader", "middleware", "channel"):
        with_file.run("jobsctl", "new-plugin", f"my-{kind}", "--kind", kind)
        made = with_file.directory / f"jobs-my-{kind}"
        assert (made / "src" / f"jobs_my_{kind}" / f"{kind}.py").exists()
        assert list(made.glob("tests/test_*.py"))


def test_core_and_jobs_redis_and_nothing_else(wheels, tmp_path):
    installed = Installed(tmp_path, wheels, "jobs-core", "jobs-redis")
    needed = {
        "jobs-core",
        "click",
        "cronsim",
        "msgspec",
        "pluggy",
        "rich",
        "markdown-it-py",
        "mdurl",
        "pygments",
        "setproctitle",
    }
    allowed = needed | {"jobs-redis", "redis", "hiredis"} | {"tomli", "async-timeout", "typing-extensions"}  # below 3.11
    assert needed | {"jobs-redis", "redis"} <= installed.distributions() <= allowed
    with RedisServer(tmp_path / "redis") as server:
        installed.configure(f"redis://127.0.0.1:{server.port}/0")
        installed.works()


def test_jobs_opentelemetry_needs_the_api_alone_and_records_nothing_without_an_sdk(wheels, tmp_path):
    installed = Installed(tmp_path, wheels, "jobs-core", "jobs-opentelemetry")
    assert {name for name in installed.distributions() if "opentelemetry" in name} == {
        "jobs-opentelemetry",
        "opentelemetry-api",
    }
    installed.configure("sqlite:///queue.db")
    with (installed.directory / "jobs.toml").open("a") as file:
        file.write("[plugins.opentelemetry]\n")
    installed.works()


def test_jobs_sentry_works_without_a_dsn(wheels, tmp_path):
    installed = Installed(tmp_path, wheels, "jobs-core", "jobs-sentry")
    installed.configure("sqlite:///queue.db")
    with (installed.directory / "jobs.toml").open("a") as file:
        file.write("[plugins.sentry]\nmonitors = true\n")
    installed.works()


def test_jobs_web_has_its_templates_and_files(wheels, tmp_path):
    installed = Installed(tmp_path, wheels, "jobs-core", "jobs-web")
    installed.configure("sqlite:///queue.db")
    assert "Serve the dashboard in a browser" in installed.run("jobsctl", "web", "--help")
    dashboard = "from jobs_web import create_app; print(create_app(authorize=lambda request: None).routes)"
    assert "/static/{name}" in installed.run("python", "-c", dashboard)


def test_broken_plugins_are_reported_by_name_and_distribution_and_harm_only_their_users(with_file):
    for distribution, (source, _) in BROKEN.items():
        with_file.add(distribution, source)
    said = with_file.run("jobsctl", "plugins", code=1).splitlines()
    for distribution, (_, problem) in BROKEN.items():
        (line,) = [line for line in said if line.startswith(distribution.replace("-", "_"))]
        assert f"{distribution} 1.2.3" in line
        assert problem in line
    with_file.configure("file://queue")
    checked = with_file.run("jobsctl", "check")
    assert "plugin 'jobs_raises' of jobs-raises 1.2.3 cannot be imported: RuntimeError: kaputt" in checked
    with_file.works()

    with_file.configure("wrong://queue")
    said = with_file.run("jobsctl", "worker", "--drain", code=2)
    assert "backend: there is no backend 'wrong'" in said
    assert "plugin 'jobs_wrong' of jobs-wrong 1.2.3 jobs_queue_backends returned list" in said
    with_file.configure("nothing://queue")
    said = with_file.run("jobsctl", "worker", "--drain", code=2)
    assert "jobs-nothing 1.2.3: the factory of backend 'nothing' returned str, expected Backend" in said
    assert "Traceback" not in said
