"""A Django project in its own directory, with jobs that report what they see of the database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.project import Process, Project

from jobs_core import App, load_config
from jobs_core.message import new_message

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "x"
INSTALLED_APPS = ["jobs_django", "shop", "crm"]
DATABASES = {"default": DATABASE, "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "other.db"}}
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
JOBS = {"backend": "sqlite:///queue.db"}
"""
SQLITE = '{"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "shop.db"}'
MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
MODELS = """
from django.db import models
class Row(models.Model):
    text = models.CharField(max_length=100)
"""
JOBS = '''
import asyncio, os, time
from pathlib import Path
from django.db import connection, connections, transaction
from jobs_core import current_job, job
from .models import Row

LEDGER = os.open(Path(__file__).parent.parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

def backend_pid():
    connection.ensure_connection()
    return connection.connection.info.backend_pid if connection.vendor == "postgresql" else id(connection.connection)

@job
def note(text: str = "x"):
    record("note", text)

@job(retries=3, backoff=0.01)
def look():
    record("open at start", connection.connection is not None, "atomic", connection.in_atomic_block)
    Row.objects.count()
    record("pid", backend_pid())

@job(timeout=0.5, retries=0)
def interrupted():
    with transaction.atomic():
        Row.objects.create(text="half done")
        record("inside")
        while True:
            time.sleep(0.01)  # it is the job under test: busy until it is interrupted

@job(retries=0)
async def alook(name: str, other: str):
    """Reads row by row while another job begins and ends."""
    seen = 0
    async for row in Row.objects.order_by("id").aiterator(chunk_size=1):
        seen += 1
        if seen == 1:
            record("begun", name)
            while f"begun {other}" not in Path(LEDGER_PATH).read_text():
                await asyncio.sleep(0.005)
    record("read", name, seen)

LEDGER_PATH = Path(__file__).parent.parent / "ledger"

@job(retries=0)
def enqueue_in_transaction(fail: bool):
    with transaction.atomic():
        note.enqueue("in a job", on_commit=True)
        record("waiting", LEDGER_PATH.read_text().count("note"))
        if fail:
            raise ValueError
'''


class Site(Project):
    """The project; its apps are `shop`, with a model and jobs.py, and `crm` with tasks.py."""

    def __init__(self, root: Path, *, database: str = SQLITE, settings: str = "") -> None:
        super().__init__(root, tasks="")
        (root / "jobs.toml").unlink()
        self.configure_django(database, settings)
        (root / "manage.py").write_text(MANAGE)
        for app, files in {"shop": {"models": MODELS, "jobs": JOBS}, "crm": {"tasks": TASKS}}.items():
            (root / app).mkdir()
            for name, text in {"__init__": "", **files}.items():
                (root / app / f"{name}.py").write_text(text)

    def configure_django(self, database: str = SQLITE, more: str = "") -> None:
        (self.root / "settings.py").write_text(f"{SETTINGS.replace('DATABASE,', f'{database},')}\n{more}\n")

    def manage(self, *arguments: str, input: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run manage.py to its end."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=self.environment(**environment), input=input, text=True, capture_output=True, timeout=60
        )

    def start_manage(self, *arguments: str, serves: str = " serves ", **environment: str) -> Process:
        """Start manage.py and leave it running until the test ends; return once it serves."""
        process = Process([sys.executable, "manage.py", *arguments], self.root, self.environment(**environment))
        self._processes.append(process)
        process.until_said(serves)
        return process

    def script(self, text: str, **environment: str) -> Any:
        """Run code as a web process would, after Django's setup; return the JSON that it prints."""
        source = f"import django; django.setup()\nimport json\n{text}"
        done = subprocess.run(
            [sys.executable, "-c", source], cwd=self.root, text=True, capture_output=True, timeout=60,
            env=self.environment(DJANGO_SETTINGS_MODULE="settings", **environment),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def enqueue(self, *lines: dict[str, Any]) -> None:
        """Enqueue by name, in order, as a producer without Django would."""
        app = self._apps[0] if self._apps else App(load_config(settings={"backend": f"sqlite:///{self.root}/queue.db"}))
        self._apps = [app]
        messages = [new_message(line["job"], "default", line.get("args", []), {}) for line in lines]
        app._producer.push([app.outgoing(message) for message in messages], 5.0)

    def drain(self, *options: str, **environment: str) -> str:
        """Run a worker until nothing is left; return its output."""
        done = self.manage("jobs", "worker", "--drain", *options, **environment)
        assert done.returncode == 0, done.stderr
        return done.stderr


TASKS = """
from jobs_core import job
@job(name="greet")
def greet(): print("hello")
"""
