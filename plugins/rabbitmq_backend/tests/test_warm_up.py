"""After `warm_up`, the first enqueue only publishes: it imports nothing, and creates no queue."""

from __future__ import annotations

from tests.unit.test_warm_up import imported_by_the_first_enqueue

from jobs_core import App, Config, job
from jobs_core.registry import Registry
from jobs_rabbitmq.topology import Topology


def test_the_first_enqueue_after_it_imports_nothing(rabbitmq_url, tmp_path):
    assert imported_by_the_first_enqueue(rabbitmq_url, tmp_path) == []


def test_the_queues_of_the_jobs_defined_so_far_exist_after_it(rabbitmq_url, monkeypatch):
    registry = Registry()

    @job(registry=registry, name="note", topic="mail")
    def note() -> None: ...

    app = App(Config(backend=rabbitmq_url), registry=registry)
    app.warm_up()
    asked = []
    for name in ("exists", "_make_topic"):
        monkeypatch.setattr(Topology, name, lambda topology, what, name=name: asked.append((name, what)))
    app.enqueue(note.call())
    app.close()
    assert asked == []
