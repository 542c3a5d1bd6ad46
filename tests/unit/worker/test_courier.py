"""The courier beside a backend that is slow."""

import threading
import time

import pytest

from jobs_core import App, job, set_current_app
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Pool
from jobs_core.plugins import Plugins
from jobs_core.units import Duration
from jobs_core.worker.main import Worker

from ...support.project import until

LEASE = 0.6


class FarAway(MemoryBackend):
    """Its answers take longer than the pause between two beats, and between two housekeepings."""

    def heartbeat(self):
        time.sleep(LEASE / 4)
        return super().heartbeat()

    def housekeep(self, limit):
        time.sleep(LEASE / 4)
        return super().housekeep(limit)


@pytest.fixture
def far_app(registry, monkeypatch):
    url = "memory://far-away"
    app = App(Config(backend=url, lease=Duration(LEASE)), plugins=Plugins(), registry=registry)
    set_current_app(app)
    made = app.new_backend
    monkeypatch.setattr(app, "new_backend", lambda: FarAway(url, made()._options))
    yield app
    set_current_app(None)
    app.close()
    forget(url)


def test_a_worker_whose_round_trips_outlast_its_beats_still_takes_jobs(far_app, registry):
    done = []

    @job(registry=registry, name="note")
    def note(text: str) -> None:
        done.append(text)

    worker = Worker(far_app, "p", Pool(), None)

    def push_to_the_idle_worker():
        try:
            for text in "abc":
                note.enqueue(text)
                until(lambda text=text: text in done, 10.0)
                until(lambda: not far_app.operate(lambda backend: backend.counts(["default"]))["default"].reserved)
        finally:
            worker.courier.stop()

    pushing = threading.Thread(target=push_to_the_idle_worker)
    pushing.start()
    worker.run()
    pushing.join()
    assert done == ["a", "b", "c"]
