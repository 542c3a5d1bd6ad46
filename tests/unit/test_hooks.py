"""Every hook does what its page says: one `test_hook_…` each."""

from __future__ import annotations

import contextlib
import threading
from typing import ClassVar

import click
import pytest

from jobs_core import (
    App,
    Config,
    ConfigError,
    DuplicateJob,
    Flow,
    JobDefinitionError,
    Unique,
    current_job,
    hookimpl,
    hookspecs,
    job,
)
from jobs_core.backends.base import Outcome, State
from jobs_core.cli import main as cli_main
from jobs_core.config import Pool
from jobs_core.loaders.base import Bootstrapper, JobLoader
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.worker.main import Worker, prepare


@pytest.fixture
def plug(app):
    """Add a plugin object to the application."""

    def plug(plugin):
        app.plugins._add(plugin, PluginInfo(f"{type(plugin).__name__}-{id(plugin)}", "jobs-test", "1"))
        app._envelopes.before_enqueue = None
        app._delivery.forget_hooks()
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
        "jobs_open_transactions",  # plugins/django_loader/tests/test_transactions.py
        "jobs_outboxes",  # plugins/postgres_backend/tests/test_outbox.py
        "jobs_payload_codecs",  # tests/unit/test_compression.py
        "jobs_alert_channels",  # with the supervisor, whose housekeeper calls the rest
        "jobs_broker_commands",
        "jobs_dashboard",  # tests/supervisor/test_dashboard.py
        "jobs_housekeeper_started",  # plugins/opentelemetry/tests/test_worker.py, plugins/sentry/tests
        "jobs_housekeeper_stopping",
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


# -- around an enqueue, and hooks for a configuration ---------------------------------------------------


class Around:
    """A hook whose managers note what they wrap; `fails` names the step that raises."""

    def __init__(self, fails=""):
        self.steps = []
        self._fails = fails

    def _step(self, name):
        self.steps.append(name)
        if name == self._fails:
            raise ZeroDivisionError(name)

    @hookimpl
    def jobs_enqueue_context(self, what, job, topic):
        self._step("asked")
        return self._manager(what, job, topic)

    @hookimpl
    def jobs_before_enqueue(self, message):
        self.steps.append(f"made {message.job}")

    @contextlib.contextmanager
    def _manager(self, what, job, topic):
        self._step("entered")
        try:
            yield
        except DuplicateJob:
            self.steps.append("duplicate")
            return  # which would swallow it
        self._step(f"sent {what} {job} {topic}")


def test_hook_jobs_enqueue_context(plug, registry):
    hook = plug(Around())
    f = job(registry=registry, name="f", topic="t")(lambda: None)
    f.enqueue()
    assert hook.steps == ["asked", "entered", "made f", "sent job f t"]
    hook.steps.clear()
    f.enqueue_many([(), ()])
    assert hook.steps == ["asked", "entered", "made f", "made f", "sent batch None None"]
    hook.steps.clear()
    with Flow() as flow:
        flow.add(f.call())
    assert hook.steps == ["made f", "asked", "entered", "sent flow None None"]


def test_a_context_around_an_enqueue_sees_its_error_and_cannot_swallow_it(plug, registry):
    hook = plug(Around())
    f = job(registry=registry, name="f", unique=Unique("k", conflict="raise"))(lambda: None)
    f.enqueue()
    with pytest.raises(DuplicateJob):
        f.enqueue()
    assert hook.steps[-1] == "duplicate"


@pytest.mark.parametrize("fails", ["asked", "entered", "sent job f default"])
def test_a_context_around_an_enqueue_that_fails_is_logged_and_the_job_is_enqueued(plug, work, registry, caplog, fails):
    hook = plug(Around(fails))
    ran = []
    assert job(registry=registry, name="f")(lambda: ran.append(1)).enqueue().created
    assert hook.steps[-1] in (fails, "made f")
    assert "hook jobs_enqueue_context failed; continuing without it" in caplog.text
    work()
    assert ran == [1]


def test_hook_jobs_check(plug, app):
    class Lacks:
        @hookimpl
        def jobs_check(self, config):
            return ["plugins.lacks.key: the environment has none"]

    class Fails:
        @hookimpl
        def jobs_check(self):
            raise ZeroDivisionError("x")

    class Wrong:
        @hookimpl
        def jobs_check(self):
            return 5

    class Fine:
        @hookimpl
        def jobs_check(self):
            return None

    for plugin in (Lacks(), Fails(), Wrong(), Fine()):
        plug(plugin)
    found = sorted(app.plugins.findings(app.config))
    assert "plugins.lacks.key: the environment has none" in found
    assert len(found) == 3
    assert any("hook jobs_check" in text and "ZeroDivisionError: x" in text for text in found)


def test_hook_jobs_configured_hooks():
    plugins, asked = Plugins(), []

    class Opt:
        @hookimpl
        def jobs_configured_hooks(self, config):
            asked.append(1)
            return Recorder() if "opt" in config.plugins else None

    plugins._add(Opt(), PluginInfo("opt", "jobs-opt", "1"))
    without = Config(backend="memory://a")
    App(without, plugins=plugins)
    assert plugins.implementations("jobs_job_started") == []
    plugins = Plugins()
    plugins._add(Opt(), info := PluginInfo("opt", "jobs-opt", "1"))
    App(Config(backend="memory://a", plugins={"opt": {}}), plugins=plugins)
    (found,) = plugins.implementations("jobs_job_started")
    assert found.info is info
    assert "jobs_job_started" in info.hooks
    App(without, plugins=plugins)
    assert len(asked) == 2, "asked once for each set of plugins"


@pytest.mark.parametrize(
    ("error", "survives"), [(ZeroDivisionError("x"), True), (ConfigError("plugins.opt.key: expected true"), False)]
)
def test_only_a_configuration_error_of_configured_hooks_ends_the_process(caplog, error, survives):
    class Opt:
        @hookimpl
        def jobs_configured_hooks(self, config):
            raise error

    plugins = Plugins()
    plugins._add(Opt(), PluginInfo("opt", "jobs-opt", "1"))
    if survives:
        App(Config(backend="memory://a"), plugins=plugins)
        assert "hook jobs_configured_hooks failed" in caplog.text
    else:
        with pytest.raises(ConfigError, match=r"plugins\.opt\.key"):
            App(Config(backend="memory://a"), plugins=plugins)


def test_configured_hooks_that_do_not_exist_are_problems_of_their_plugin():
    class Wrong:
        @hookimpl
        def jobs_job_finish(self, run): ...

    class Opt:
        @hookimpl
        def jobs_configured_hooks(self):
            return Wrong()

    plugins = Plugins()
    plugins._add(Opt(), info := PluginInfo("opt", "jobs-opt", "1"))
    App(Config(backend="memory://a"), plugins=plugins)
    assert "implements an unknown hook jobs_job_finish; is jobs_job_finished meant?" in info.problems
