"""The examples with a web server: server, workers and an HTTP client, as their pages say."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.project import Process, until

ROOT = Path(__file__).parents[2]


class Example:
    """A copy of a folder of examples/, and what was started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._at_end: Callable[[], None] = lambda: None
        self._processes: list[Process] = []

    def start(self, *command: str) -> Process:
        """Start a Python program or module and leave it running."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("JOBS_", "DJANGO_", "FLASK_"))}
        process = Process([sys.executable, *command], self.folder, {**environment, "PYTHONUNBUFFERED": "1"})
        self._processes.append(process)
        return process

    def serve(self, *command: str) -> None:
        """Start a web server on a port of its choice, and wait until it listens."""
        line = self.start(*command).until_said("http://127.0.0.1:")
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found
        self.url = found[0]

    def supervise(self, *jobs: str) -> None:
        """`start` of a framework's `jobs` command, `status`, and `stop` when the test ends."""
        supervisor = self.start(*jobs, "start")
        supervisor.until_said("ready: ")
        assert self.start(*jobs, "status").wait() == 0

        def stop() -> None:
            assert self.start(*jobs, "stop").wait() == 0
            assert supervisor.wait() == 0
            assert self.start(*jobs, "status").wait() == 3

        self._at_end = stop

    def call(self, path: str, data: dict[str, Any] | None = None) -> Any:
        """One request, a POST if there is data; the JSON of the answer."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def until(self, path: str, **expected: Any) -> None:
        """Ask until the answer holds what is expected."""
        until(lambda: expected.items() <= self.call(path).items())

    def end(self) -> None:
        """What a test does last, if it got there."""
        self._at_end()

    def close(self) -> None:
        for process in self._processes:
            process.close()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Callable[[str], Example]]:
    made: list[Example] = []

    def copy(name: str) -> Example:
        ignored = shutil.ignore_patterns(".jobs", "*.db", "__pycache__")
        made.append(Example(shutil.copytree(ROOT / "examples" / name, tmp_path / name, ignore=ignored)))
        return made[-1]

    yield copy
    for each in made:
        each.close()


def test_flask_shop(example):
    shop = example("flask_shop")
    shop.serve("-m", "flask", "--app", "shop", "run", "--port", "0")
    shop.supervise("-m", "flask", "--app", "shop", "jobs")
    order = shop.call("/orders", {"email": "ada@example.com"})
    shop.until(f"/orders/{order['id']}", state="confirmed")
    shop.end()


def test_django_shop(example):
    shop = example("django_shop")
    assert shop.start("manage.py", "migrate", "--verbosity", "0").wait() == 0
    shop.serve("manage.py", "runserver", "--noreload", "127.0.0.1:0")
    shop.supervise("manage.py", "jobs")
    order = shop.call("/orders", {"email": "ada@example.com"})
    shop.until(f"/orders/{order['id']}", state="confirmed")
    shop.end()


def test_fastapi_app(example):
    web = example("fastapi_app")
    web.serve("main.py")
    web.supervise("-m", "jobs_core")
    picture = web.call("/pictures", {"name": "dunes", "width": 100})
    web.until(f"/pictures/{picture['id']}", state="done", result="dunes-100.jpg")
    web.end()


def test_plain_script(example):
    script = example("plain_script")
    script.supervise("-m", "jobs_core")
    (script.folder / "notes.txt").write_text("one two three")
    report = script.start("report.py", str(script.folder / "notes.txt"))
    assert report.wait() == 0, report.output
    assert "3 words in" in report.output
    script.end()
