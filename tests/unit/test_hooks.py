"""Every hook does what its page says: one `test_hook_…` each."""

from __future__ import annotations

import contextlib
import threading
from typing import ClassVar

import click
import pytest

from jobs_core import Flow, JobDefinitionError, current_job, hookimpl, hookspecs, job
from jobs_core.backends.base import Outcome, State
from jobs_core.cli import main as cli_main
from jobs_core.config import Pool
from jobs_core.loaders.base import Bootstrapper, JobLoader
from jobs_core.plugins import PluginInfo
from jobs_core.worker.main import Worker, prepare


@pytest.fixture
def plug(app):
    """Add a plugin object to the application."""

    def plug(plugin):
        app.plugins._add(plugin, PluginInfo(f"{type(plugin).__name__}-{id(plugin)}", "jobs-test", "1"))
        app._before_enqueue = None
        return plugin

    return plug


@pytest.fixture
def work(app):
    """Run all enqueued jobs, in a worker on a thread of this process (its main thread, as a process has it)."""

    def work(mode="threads", bootstrapper=None):
        worker = Worker(app, "pool", Pool(mode=mode, concurrency=2), bootstrapper, drain=True)
        thread = threading.Thread(target=worker.run)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()

    return work


def test_every_hook_has_its_test():
    tested = {name.removeprefix("test_hook_") for name in globals() if name.startswith("test_hook_")}
    elsewhere = {
        "jobs_queue_backends",  # tests/unit/test_plugins.py
        "jobs_before_enqueue",  # tests/unit/test_app.py
        "jobs_payload_codecs",  # tests/unit/test_compression.py
        "jobs_alert_channels",  # with the supervisor, whose housekeeper calls the rest
        "jobs_broker_commands",
        "jobs_supervisor_started",
        "jobs_supervisor_stopping",
        "jobs_worker_crashed",
        "jobs_topic_backlog",
    }
    hooks = {name for name in vars(hookspecs) if name.startswith("jobs_")}
    assert tested | elsewhere == hooks


class Recorder:
    """A hook that records its calls."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def jobs_worker_started(self, worker):
        self.seen.append(("worker started", worker.pool, worker.mode, worker.topics))

    @hookimpl
    def jobs_worker_stopping(self, worker):
        self.seen.append(("worker stopping", worker.pool))

    @hookimpl
    def jobs_job_started(self, run):
        self.seen.append(("started", run.name, run.attempt))

    @hookimpl
    def jobs_job_finished(self, run, outcome):
        self.seen.append(("finished", run.name, outcome.outcome, type(outcome.error).__name__, outcome.seconds >= 0))


def test_hook_jobs_worker_started(plug, work):
    recorder = plug(Recorder())
    work()
    assert recorder.seen[0] == ("worker started", "pool", "threads", ("default",))


def test_hook_jobs_worker_stopping(plug, work):
    recorder = plug(Recorder())
    work()
    assert recorder.seen[-1] == ("worker stopping", "pool")


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_hook_jobs_job_started(plug, work, registry, mode):
    recorder = plug(Recorder())
    job(registry=registry, name="f")(lambda: None).enqueue()
    work(mode)
    assert ("started", "f", 1) in recorder.seen


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_hook_jobs_job_finished(plug, work, registry, mode):
    recorder = plug(Recorder())

    async def fails():
        raise ValueError

    job(registry=registry, name="good")(lambda: None).enqueue()
    job(registry=registry, name="bad", retries=0)(fails).enqueue()
    work(mode)
    assert ("finished", "good", Outcome.DONE, "NoneType", True) in recorder.seen
    assert ("finished", "bad", Outcome.DEAD, "ValueError", True) in recorder.seen


class Middleware:
    """A middleware that surrounds runs."""

    def __init__(self, manager):
        self.manager = manager

    @hookimpl
    def jobs_run_context(self, run):
        return self.manager(run)


@pytest.mark.parametrize("mode", ["threads", "async"])
def test_hook_jobs_run_context(plug, work, registry, mode):
    steps = []

    @contextlib.contextmanager
    def surround(run):
        steps.append(f"before {run.name}")
        try:
            yield
        finally:
            steps.append(f"after {run.name}")

    @contextlib.asynccontextmanager
    async def asurround(run):
        with surround(run):
            yield

    async def inside():
        steps.append(f"in {current_job().name}")
        raise ValueError

    plug(Middleware(surround))
    job(registry=registry, name="plain")(lambda: steps.append(f"in {current_job().name}")).enqueue()
    job(registry=registry, name="coroutine", retries=0)(inside).enqueue()
    work(mode)
    for name in ("plain", "coroutine"):
        assert [step for step in steps if step.endswith(name)] == [f"before {name}", f"in {name}", f"after {name}"]
    steps.clear()
    plug(Middleware(lambda run: asurround(run) if run.name == "coroutine" else None))
    job(registry=registry, name="coroutine", retries=0)(inside).enqueue()
    work(mode)
    assert steps == ["before coroutine", "before coroutine", "in coroutine", "after coroutine", "after coroutine"]


def test_a_run_context_that_fails_is_the_runs_failure(plug, work, registry, app):
    def refuse(run):
        raise PermissionError("not today")

    plug(Middleware(refuse))
    ran = []
    handle = job(registry=registry, name="f", retries=0)(lambda: ran.append(1)).enqueue()
    work()
    assert ran == []
    assert app.operate(lambda backend: backend.get(handle.id)).reason == "failed"


class Framework(Bootstrapper):
    """A framework that counts its calls."""

    steps: ClassVar[list[str]] = []

    def setup(self):
        self.steps.append("setup")

    def before_fork(self):
        self.steps.append("before fork")

    def after_fork(self):
        self.steps.append("after fork")

    @contextlib.contextmanager
    def around(self, run):
        self.steps.append(f"around {run.name}")
        yield


class Provider:
    """A plugin that provides a framework and a loader."""

    def __init__(self, registry):
        self.registry = registry

    @hookimpl
    def jobs_framework_bootstrappers(self):
        return {"testing": lambda config: Framework()}

    @hookimpl
    def jobs_job_loaders(self):
        return {"testing": lambda config: Loader(self.registry)}


class Loader(JobLoader):
    """A loader that defines its job when asked to."""

    def __init__(self, registry):
        self.registry = registry

    def load(self):
        job(registry=self.registry, name="loaded")(lambda: None)
        return ["nothing"]


def configured(app, **changes):
    import msgspec

    app.config = msgspec.structs.replace(app.config, **changes)


def test_hook_jobs_framework_bootstrappers(app, plug, work, registry):
    plug(Provider(registry))
    configured(app, framework="testing")
    Framework.steps.clear()
    bootstrapper = prepare(app)
    job(registry=registry, name="f")(lambda: None).enqueue()
    work(bootstrapper=bootstrapper)
    assert Framework.steps == ["setup", "before fork", "after fork", "around f"]


def test_hook_jobs_job_loaders(app, plug, registry):
    plug(Provider(registry))
    configured(app, loader="testing")
    prepare(app)
    assert registry.get("loaded")


def test_the_loader_that_comes_with_a_framework_is_its_default(app, plug, registry):
    plug(Provider(registry))
    configured(app, framework="testing")
    prepare(app)
    assert registry.get("loaded")
    configured(app, framework="testing", loader="modules")
    registry.clear()
    prepare(app)
    assert registry.get("loaded") is None


class Transaction:
    """A transaction that defers what is to wait for its commit."""

    def __init__(self):
        self.held = []
        self.asked = []

    @hookimpl
    def jobs_hold_enqueue(self, config, on_commit, send):
        self.asked.append(on_commit)
        if on_commit:
            self.held.append(send)
        return True if on_commit else None

    def commit(self):
        for send in self.held:
            send()


def test_hook_jobs_hold_enqueue(app, plug, work, registry):
    transaction = plug(Transaction())
    ran = []
    note = job(registry=registry, name="note")(lambda text: ran.append(text))
    note.enqueue("at once")
    held = note.using(on_commit=True).enqueue("later")
    note.enqueue("later, said shortly", on_commit=True)
    job(registry=registry, name="always", on_commit=True)(lambda: ran.append("always later")).enqueue()
    work()
    assert ran == ["at once"]
    assert held.status() is State.UNKNOWN
    transaction.commit()
    work()
    assert sorted(ran[1:]) == ["always later", "later", "later, said shortly"]
    assert transaction.asked == [None, True, True, True]


def test_a_flow_with_a_member_that_waits_for_the_commit_is_sent_then_and_whole(app, plug, work, registry):
    transaction = plug(Transaction())
    ran = []
    note = job(registry=registry, name="note")(lambda text: ran.append(text))
    with Flow() as flow:
        flow.add(note.call("first"))
        flow.add(note.using(on_commit=True).call("second"))
    with Flow():
        pass
    work()
    assert ran == []
    assert flow.handle.status() == "unknown"
    transaction.commit()
    work()
    assert sorted(ran) == ["first", "second"]
    assert transaction.asked == [True, None]


def test_on_commit_without_a_plugin_for_transactions_is_an_error(app, registry):
    note = job(registry=registry, name="note")(lambda: None)
    with pytest.raises(JobDefinitionError, match="note: on_commit: no plugin here handles transactions"):
        note.enqueue(on_commit=True)
    note.using(on_commit=False).enqueue()


def test_a_function_with_a_parameter_called_on_commit_keeps_it(app, work, registry):
    ran = []
    job(registry=registry, name="odd")(lambda on_commit: ran.append(on_commit)).enqueue(on_commit=7)
    work()
    assert ran == [7]


def test_hook_jobs_cli_commands(monkeypatch):
    @click.command("extra")
    def extra():
        """Do something more."""
        click.echo("done")

    monkeypatch.setattr(cli_main, "_added", {"extra": (extra, PluginInfo("test", "jobs-test", "1"))})
    from click.testing import CliRunner

    assert "extra  Do something more." in CliRunner().invoke(cli_main.cli, ["--help"]).output
    assert CliRunner().invoke(cli_main.cli, ["extra"]).output == "done\n"
