"""A process that serves requests does the work of its first enqueue when it starts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs_core import App, Config, ConfigError, PluginError
from jobs_core.testing.services.redis import RedisServer

from ..support.stopwatch import Stopwatch

SCRIPT = """
import json, sys
import jobs_core
@jobs_core.job(name="note")
def note(): ...
jobs_core.warm_up()
before = set(sys.modules)
note.enqueue()
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported_by_the_first_enqueue(url, directory):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=directory, env={"JOBS_BACKEND": url}, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_enqueue_after_it_imports_nothing(tmp_path):
    assert imported_by_the_first_enqueue("sqlite:///queue.db", tmp_path) == []
    with RedisServer(tmp_path / "redis") as server:
        url = f"redis://127.0.0.1:{server.port}"
        assert imported_by_the_first_enqueue(url, tmp_path) == []


def test_the_connection_is_open_after_it_and_it_can_be_repeated():
    app = App(Config(backend="memory://warm"))
    assert app._producer._backend is None
    app.warm_up()
    backend = app._producer._backend
    assert backend is not None
    app.warm_up()
    assert app._producer._backend is backend
    app.close()
    app.warm_up()
    assert app._producer._backend is not None
    app.close()


def test_a_queue_that_cannot_be_reached_is_a_warning_and_costs_little_time(caplog):
    app = App(Config(backend="redis://127.0.0.1:1"))
    watch = Stopwatch()
    app.warm_up()
    assert watch.stop() < 10
    assert "the backend cannot be reached yet; the first enqueue tries again" in caplog.text


@pytest.mark.parametrize("url", ["nonsense", "nowhere://x"])
def test_a_wrong_configuration_is_reported_at_the_start(url):
    with pytest.raises((ConfigError, PluginError)):
        App(Config(backend=url)).warm_up()
