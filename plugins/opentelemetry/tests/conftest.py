"""An application on memory whose spans and metrics stay in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support.project import Project

from jobs_core import App, set_current_app
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Pool
from jobs_core.ids import new_token
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker
from jobs_opentelemetry.settings import Settings
from jobs_opentelemetry.telemetry import Telemetry


class Rig:
    """An application, its spans and its metrics."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.registry = app.registry
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.tracer = self.tracers.get_tracer("the application")

    def plug(self, settings: Settings | None = None) -> None:
        hooks = Telemetry(settings or Settings(), self.tracers, self.meters)
        self.app.plugins._add(hooks, PluginInfo("opentelemetry", "jobs-opentelemetry", "1"))

    def work(self, mode: str = "sync", topics: tuple[str, ...] = ("default",)) -> None:
        """Run all enqueued jobs in a worker on a thread of this process."""
        pool = Pool(mode="threads" if mode == "sync" else mode, concurrency=2, topics=list(topics))  # type: ignore[arg-type]
        worker = Worker(self.app, "mail", pool, None, owner="web1-1", drain=True)
        thread = threading.Thread(target=worker.run)
        thread.start()
        thread.join(120)
        assert not thread.is_alive()

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the finished spans of this name, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if name in ("", span.name)]

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def points(self, metric: str) -> list:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]


@pytest.fixture
def bare() -> Iterator[Rig]:
    url = f"memory://{new_token()}"
    app = App(Config(backend=url), plugins=Plugins(), registry=Registry())
    set_current_app(app)
    yield Rig(app)
    set_current_app(None)
    app.close()
    forget(url)


@pytest.fixture
def rig(bare: Rig) -> Rig:
    bare.plug()
    return bare


@pytest.fixture
def project(tmp_path) -> Iterator[Callable[..., Project]]:
    made: list[Project] = []

    def make(tasks: str) -> Project:
        made.append(Project(tmp_path / f"project{len(made)}", tasks))
        return made[-1]

    yield make
    for each in made:
        each.close()
