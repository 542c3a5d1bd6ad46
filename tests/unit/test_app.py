"""Enqueuing, handles, and an application that forks."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from jobs_core import (
    App,
    ArgumentError,
    BackendUnavailable,
    ConfigError,
    DuplicateJob,
    JobDefinitionError,
    JobFailed,
    JobWasCancelled,
    MessageTooLarge,
    ResultNotStored,
    ResultTimeout,
    State,
    Unique,
    hookimpl,
    job,
    set_current_app,
    uninterrupted,
)
from jobs_core.app import envelopes, resources
from jobs_core.arguments import Arguments
from jobs_core.backends.base import Outcome, Settlement
from jobs_core.backends.sqlite import connection
from jobs_core.config import Config, Topic
from jobs_core.message import decode
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.stamp import stamp_of

from ..support.project import PATIENCE


@pytest.fixture
def greet(registry):
    @job(registry=registry, name="greet")
    def greet(name: str, loud: bool = False) -> str:
        return name

    return greet


def waiting(app, topic="default"):
    """Return the messages that wait in a topic."""
    found = []
    for state in (State.READY, State.SCHEDULED):
        for record in app.operate(lambda backend, state=state: backend.browse(topic, state, 10_000)):
            found.append(decode(record.payload, topic=topic))
    return found


@pytest.mark.parametrize("variant", ["plain", "using", "options", "unique"])
@pytest.mark.parametrize("way", ["one", "many", "asynchronously"])
def test_applications_used_in_turn_resolve_the_options_of_a_job_once_each(registry, monkeypatch, variant, way):
    @job(registry=registry, name="greet", **{"options": {"priority": 3}, "unique": {"unique": "{name}"}}.get(variant, {}))
    def greet(name: str) -> None: ...

    resolved = []
    monkeypatch.setattr(envelopes, "stamp_of", lambda *given: resolved.append(given) or stamp_of(*given))
    used = greet.using(priority=9, headers={"a": 1}) if variant == "using" else greet
    before = dict(vars(used))
    apps = [App(Config(backend=f"memory://{way}-{variant}-{n}"), registry=registry) for n in range(3)]
    for turn in range(4):
        for app in apps:
            set_current_app(app)
            if way == "one":
                used.enqueue(f"{turn}")
            elif way == "many":
                used.enqueue_many([(f"{turn}",), (f"{turn} again",)])
            else:
                asyncio.run(used.aenqueue(f"{turn}"))
    assert [config for _, config in resolved] == [app.config for app in apps]
    assert {name: value for name, value in vars(used).items() if name in before} == before
    for app in apps:
        assert len(waiting(app)) == (8 if way == "many" else 4)
        app.close()


def test_an_applications_state_for_a_job_function_is_freed_with_it(app, greet):
    for n in range(100):
        greet.using(priority=n % 10, key=f"tenant {n}").enqueue("x")
    gc.collect()
    assert len(app._envelopes._stamps) == 0
    greet.enqueue("x")
    assert len(app._envelopes._stamps) == 1


def test_enqueue_stores_a_message(app, greet):
    handle = greet.enqueue("Ada", loud=True)
    (message,) = waiting(app)
    assert (message.id, message.job, message.args, message.kwargs) == (handle.id, "greet", ["Ada"], {"loud": True})
    assert handle.created
    assert handle.status() is State.READY


def test_options_reach_the_envelope(app, greet):
    greet.using(
        priority=7, delay=60, topic="vip", retries=1, timeout="5s", expires="1h", headers={"a": 1}, key="tenant", id="my-id"
    ).enqueue("x")
    (message,) = waiting(app, "vip")
    assert (message.id, message.priority, message.delay, message.retries, message.timeout) == ("my-id", 7, 60, 1, 5)
    assert (message.expires_in, message.headers, message.key) == (3600, {"a": 1}, "tenant")


def test_injected_parameters_are_not_sent(app, registry):
    f = job(registry=registry, name="f", retries=7, timeout=3, backoff=1, acks="early")(lambda: None)
    f.enqueue()
    (message,) = waiting(app)
    assert (message.retries, message.timeout, message.store_result) == (None, None, None)


def test_topic_settings_give_priority_and_expiry(registry, greet):
    app = App(
        Config(backend="memory://settings", topics={"default": Topic(priority=4, expires=9.0)}),
        plugins=Plugins(),
        registry=registry,
    )
    set_current_app(app)
    greet.enqueue("x")
    (message,) = waiting(app)
    assert (message.priority, message.expires_in) == (4, 9)
    set_current_app(None)


def test_a_wrong_call_is_refused_here(app, greet):
    for call in (lambda: greet.enqueue(), lambda: greet.enqueue(5), lambda: greet.enqueue_many([("a",), (5,)])):
        with pytest.raises(ArgumentError):
            call()
    with pytest.raises(TypeError):
        greet.enqueue("a", "b", "c")
    assert waiting(app) == []


def test_a_function_of_main_is_refused_with_the_fix(app, registry):
    def f():
        pass

    f.__module__, f.__qualname__ = "__main__", "f"
    with pytest.raises(JobDefinitionError, match="another name: move it to a module"):
        job(registry=registry)(f).enqueue()
    job(registry=registry, name="named")(f).enqueue()


def test_a_message_over_the_limit_is_refused(app, greet):
    with pytest.raises(MessageTooLarge):
        greet.enqueue("x" * 10**6)


def test_enqueue_many_is_one_push_in_order(app, greet):
    pushes = []
    backend_push = type(app.new_backend()).push

    def counting(self, messages, request):
        pushes.append(len(messages))
        return backend_push(self, messages, request)

    type(app.new_backend()).push = counting
    try:
        handles = greet.enqueue_many([("a",), {"name": "b", "loud": True}, greet.call("c"), greet.using(priority=0).call("d")])
    finally:
        type(app.new_backend()).push = backend_push
    assert pushes == [4]
    assert [m.args or m.kwargs["name"] for m in waiting(app)] == [["a"], "b", ["c"], ["d"]]
    assert [handle.id for handle in handles] == [m.id for m in waiting(app)]
    assert greet.enqueue_many([]) == []
    with pytest.raises(JobDefinitionError, match="expected a call"):
        greet.enqueue_many(["a"])


# -- unique ----------------------------------------------------------------------------------------


def test_a_duplicate_is_dropped_and_its_handle_is_the_first_ones(app, greet):
    first = greet.using(unique=True).enqueue("Ada")
    second = greet.using(unique=True).enqueue(name="Ada")
    assert (second.id, second.created) == (first.id, False)
    assert greet.using(unique=True).enqueue("Bob").created
    assert len(waiting(app)) == 2


def test_keys_are_texts_templates_or_functions(app, greet):
    for unique in ("greet-{name}", Unique(key=lambda name, loud=False: f"greet-{name}"), "greet-Ada"):
        assert not greet.using(unique=unique).enqueue("Ada").created or len(waiting(app)) == 1
    assert len(waiting(app)) == 1
    assert greet.using(unique="greet-{name}").enqueue("Bob").created


def test_a_conflict_may_raise_or_replace(app, greet):
    first = greet.using(unique=True).enqueue("Ada")
    with pytest.raises(DuplicateJob, match="already enqueued") as caught:
        greet.using(unique=Unique(conflict="raise")).enqueue("Ada")
    assert caught.value.existing_id == first.id
    second = greet.using(unique=Unique(conflict="replace")).enqueue("Ada")
    assert second.created
    assert (first.status(), second.status()) == (State.CANCELLED, State.READY)


# -- following -------------------------------------------------------------------------------------


def end(app, handle, outcome, **fields):
    """Run one job as a worker does."""
    backend = app.new_backend()
    backend.open("w")
    (delivery,) = backend.reserve([handle.topic], 1, "r")
    backend.settle([Settlement(delivery.id, delivery.token, outcome, result_ttl=60, **fields)], "s")
    backend.close()


def test_results_are_waited_for_and_typed(app, registry):
    f = job(registry=registry, name="f", store_result=True)(_pair)
    handle = f.enqueue()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(handle.result, PATIENCE)
        end(app, handle, Outcome.DONE, result=b'{"value":[1,2]}')
        assert future.result() == (1, 2)


def _pair() -> tuple[int, int]:
    return 1, 2


def test_the_message_about_a_dead_job_is_safe_for_a_terminal(app, greet):
    dead = greet.using(store_result=True).enqueue("a")
    error = msgspec.json.encode(
        {"type": "Value\x1b[1mError", "message": "two\nlines \x1b]0;owned\x07\u202e", "traceback": "\x1b"}
    )
    end(app, dead, Outcome.DEAD, reason="failed", error=error)
    with pytest.raises(JobFailed) as caught:
        dead.result()
    assert str(caught.value).endswith("(failed): Value\\x1b[1mError: two\nlines \\x1b]0;owned\\x07\\u202e")
    assert (caught.value.error_type, caught.value.traceback) == ("Value\x1b[1mError", "\x1b")


def test_the_end_of_a_job_is_reported_correctly(app, greet):
    kept = greet.using(store_result=True)
    with pytest.raises(ResultTimeout):
        kept.enqueue("a").result(0.01)
    app.operate(lambda backend: backend.purge("default", State.READY))
    dead = kept.enqueue("a")
    error = msgspec.json.encode({"type": "ValueError", "message": "no", "traceback": "Traceback …"})
    end(app, dead, Outcome.DEAD, reason="failed", error=error)
    with pytest.raises(JobFailed, match=r"is dead \(failed\): ValueError: no") as caught:
        dead.result()
    assert (caught.value.reason, caught.value.error_type, caught.value.traceback) == ("failed", "ValueError", "Traceback …")
    cancelled = kept.enqueue("a")
    assert cancelled.cancel() is State.CANCELLED
    with pytest.raises(JobWasCancelled):
        cancelled.result()
    unstorable = kept.enqueue("a")
    end(app, unstorable, Outcome.DONE, result=b'{"unstorable":"no JSON"}')
    with pytest.raises(ResultNotStored, match="no JSON"):
        unstorable.result()
    misfit = kept.enqueue("a")
    end(app, misfit, Outcome.DONE, result=b'{"value":5}')
    with pytest.raises(ResultNotStored, match="does not fit its annotation"):
        misfit.result()
    gone = kept.enqueue("a")
    end(app, gone, Outcome.DONE)
    with pytest.raises(ResultNotStored, match="unknown"):
        gone.result()
    assert gone.status() is State.UNKNOWN


def test_a_result_that_is_not_stored_is_refused_at_once_with_the_fix(app, greet):
    with pytest.raises(ResultNotStored, match=r"store_result=True"):
        greet.enqueue("a").result(PATIENCE)


# -- hooks -----------------------------------------------------------------------------------------


def test_hook_before_enqueue_may_replace_the_message(app, greet):
    class Tracing:
        @hookimpl
        def jobs_before_enqueue(self, message):
            return msgspec.structs.replace(message, headers={**message.headers, "trace": "1"})

    app.plugins._add(Tracing(), PluginInfo("tracing", "jobs-test", "1"))
    greet.enqueue("a")
    assert waiting(app)[0].headers == {"trace": "1"}


# -- many producers --------------------------------------------------------------------------------


def test_fifty_threads_enqueue_and_wait_for_results(project):
    project.worker("--mode", "threads", "--concurrency", "4")
    app = project.app()
    set_current_app(app)
    add = _add_job()

    def produce(n: int) -> int:
        return sum(add.enqueue(n, b=m).result(PATIENCE) for m in range(4))

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(produce, range(50))) == [4 * n + 6 for n in range(50)]


def _add_job():
    """Declare the job `tasks.add` of the project, as a producer that does not share its code does."""
    from jobs_core.registry import Registry

    @job(registry=Registry(), name="tasks.add", store_result=True)
    def add(a: int, b: int = 2) -> int:
        raise AssertionError

    return add


def test_an_asyncio_server_enqueues_and_waits(project):
    project.worker()
    set_current_app(project.app())
    add = _add_job()

    async def request(n: int) -> int:
        handle = await add.aenqueue(n)
        return await handle.aresult(PATIENCE)

    async def server() -> list[int]:
        ticks = asyncio.create_task(_tick())
        results = await asyncio.gather(*[request(n) for n in range(40)])
        many = await add.aenqueue_many([(n,) for n in range(3)])
        results += [await handle.aresult(PATIENCE) for handle in many]
        ticks.cancel()
        return results

    assert asyncio.run(server()) == [n + 2 for n in (*range(40), *range(3))]


async def _tick() -> None:
    """Fail the test, by a late loop, if enqueuing blocks it."""
    while True:
        await asyncio.sleep(0.01)


def test_forks_enqueue_on_connections_of_their_own(project):
    app = project.app()
    set_current_app(app)
    add = _add_job()
    add.enqueue(0)
    children = []
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                add.enqueue_many([(n,), (n,)])
                threads = [threading.Thread(target=add.enqueue, args=(n,)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        add.enqueue(100 + n)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    add.enqueue(0)
    counts = app.operate(lambda backend: backend.counts(["default"]))
    assert counts["default"].ready == 1 + 3 * 5 + 3 + 1


def _end_soon() -> None:
    """End a child that hangs, and so fail its test."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(30)


def test_a_fork_while_another_thread_reads_a_signature_does_not_hang_the_child(project, monkeypatch):
    add = _add_job()
    reading, forked = threading.Event(), threading.Event()

    def slowly(*args):
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            forked.wait(30)
        return Arguments(*args)

    monkeypatch.setattr(sys.modules["jobs_core.job_function"], "Arguments", slowly)
    thread = threading.Thread(target=lambda: add.arguments)
    thread.start()
    assert reading.wait(30)
    pid = os.fork()
    if pid == 0:
        _end_soon()
        os._exit(0 if add.arguments else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    forked.set()
    thread.join()
    assert code == 0


def test_a_fork_while_another_thread_enqueues_does_not_hang_the_child(project):
    app = project.app()
    set_current_app(app)
    add = _add_job()
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            add.enqueue(1)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                _end_soon()
                code = 1
                try:
                    add.enqueue(2)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_a_fork_while_another_thread_makes_a_backend_does_not_hang(project):
    app, making, made = project.app(), threading.Event(), []
    app.new_backend()  # imports the backend's modules, whose fork functions are called before those of the application

    def make() -> None:
        with resources.making:
            making.set()
            while connection._one_fork_at_a_time.acquire(blocking=False):
                connection._one_fork_at_a_time.release()
                time.sleep(0.001)  # until the fork has begun, which sends no event
            made.append(app.new_backend())

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    assert making.wait(PATIENCE)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join(PATIENCE)
    assert made


def test_functions_that_are_registered_while_a_thread_forks_are_all_called(monkeypatch):
    monkeypatch.setattr(uninterrupted, "_at_fork", [])
    calls = []

    def noted(name):
        return lambda: calls.append(name)

    def register(name, before):
        uninterrupted.at_fork(before=before, after_in_parent=noted(f"{name} parent"), after_in_child=noted(f"{name} child"))

    def import_elsewhere():
        calls.append("first before")
        thread = threading.Thread(target=register, args=("second", noted("second before")))
        thread.start()
        thread.join()

    register("first", import_elsewhere)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if calls == ["first before", "second before", "second child", "first child"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert calls == ["first before", "second before", "second parent", "first parent"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("moment", ["before", "after_in_parent", "after_in_child"])
def test_a_function_that_raises_at_a_fork_keeps_no_other_from_being_called(monkeypatch, moment):
    monkeypatch.setattr(uninterrupted, "_at_fork", [])
    calls = []

    def broken():
        raise KeyboardInterrupt

    for broken_one in (False, True, False):
        functions = {when: lambda when=when: calls.append(when) for when in ("before", "after_in_parent", "after_in_child")}
        uninterrupted.at_fork(**functions | ({moment: broken} if broken_one else {}))
    expected = {when: 2 if when == moment else 3 for when in ("before", "after_in_parent", "after_in_child")}
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(calls.count(when) == expected[when] for when in ("before", "after_in_child")) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert all(calls.count(when) == expected[when] for when in ("before", "after_in_parent"))


def test_a_producer_that_runs_elsewhere_finds_the_configuration_beside_its_jobs_or_says_that_there_is_none(tmp_path):
    shop, elsewhere = tmp_path / "shop", tmp_path / "elsewhere"
    for directory in (shop, elsewhere):
        directory.mkdir()
    (shop / "tasks.py").write_text("from jobs_core import job\n@job\ndef f(): ...\n")
    enqueue = [sys.executable, "-c", "import tasks; tasks.f.enqueue(); tasks.f.enqueue()"]
    environment = {**os.environ, "PYTHONPATH": str(shop)}
    environment.pop("PWD", None)
    done = subprocess.run(enqueue, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("no jobs.toml in ") == 1
    assert (elsewhere / ".jobs" / "jobs.db").exists()
    (shop / "jobs.toml").write_text('backend = "sqlite:///queue.db"\n')
    done = subprocess.run(enqueue, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count(f"using {shop / 'jobs.toml'}") == 1
    assert (shop / "queue.db").exists()
    environment["JOBS_CONFIG"] = str(shop / "jobs.toml")
    done = subprocess.run(enqueue, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_concurrent_enqueues_are_combined(app, greet):
    sizes = []
    gate = threading.Event()
    backend = app.new_backend()
    original = type(backend).push

    def slow(self, messages, request):
        sizes.append(len(messages))
        gate.wait(PATIENCE)
        return original(self, messages, request)

    type(backend).push = slow
    try:
        with ThreadPoolExecutor(10) as pool:
            futures = [pool.submit(greet.enqueue, str(n)) for n in range(10)]
            while len(app._producer._waiting) + 1 < 10:
                pass
            gate.set()
            ids = {future.result(PATIENCE).id for future in futures}
    finally:
        type(backend).push = original
    assert sizes == [1, 9]
    assert len(ids) == 10


# -- trouble ---------------------------------------------------------------------------------------


def test_an_enqueue_waits_out_an_outage_and_repeats_its_request(app, greet, monkeypatch):
    backend = app.new_backend()
    original, requests = type(backend).push, []

    def failing(self, messages, request):
        requests.append(request)
        answer = original(self, messages, request)
        if len(requests) < 4:
            raise BackendUnavailable("the reply was lost")
        return answer

    monkeypatch.setattr(type(backend), "push", failing)
    greet.enqueue("a")
    assert len(requests) == 4
    assert len(set(requests)) == 1
    assert len(waiting(app)) == 1


def test_an_outage_longer_than_enqueue_timeout_is_an_error(registry, greet, monkeypatch):
    app = App(Config(backend="memory://outage", enqueue_timeout=0.2), plugins=Plugins(), registry=registry)
    set_current_app(app)

    def failing(self, messages, request):
        raise BackendUnavailable("nobody there")

    monkeypatch.setattr(type(app.new_backend()), "push", failing)
    with pytest.raises(BackendUnavailable, match="may or may not have been enqueued: nobody there") as told:
        greet.enqueue("a")
    assert not told.value.nothing_sent
    set_current_app(None)


def test_where_no_connection_came_about_an_enqueue_says_that_nothing_was_enqueued(registry, greet, monkeypatch):
    app = App(Config(backend="memory://nowhere", enqueue_timeout=0.2), plugins=Plugins(), registry=registry)
    set_current_app(app)

    def failing(self, owner):
        raise BackendUnavailable("nobody there")

    with monkeypatch.context() as patches:
        patches.setattr(type(app.new_backend()), "open", failing)
        with pytest.raises(BackendUnavailable, match="the job was not enqueued: nobody there") as told:
            greet.enqueue("a")
    assert told.value.nothing_sent
    assert waiting(app) == []
    greet.enqueue("b")
    set_current_app(None)


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("nonsense", ConfigError, "expected a URL"),
        ("redis://h", Exception, "backend: there is no backend 'redis': pip install jobs-redis"),
        ("sqlit:///x", Exception, "did you mean 'sqlite'"),
        ("zmq+tcp://h", Exception, "pip install jobs-zeromq"),
    ],
)
def test_an_unknown_backend_is_reported_with_the_fix(registry, url, error, says):
    with pytest.raises(error, match=says):
        App(Config(backend=url), plugins=Plugins(), registry=registry).new_backend()


def test_without_a_backend_it_is_sqlite_in_the_run_directory(registry, tmp_path, greet):
    app = App(Config(base_dir=tmp_path), plugins=Plugins(), registry=registry)
    set_current_app(app)
    greet.enqueue("a")
    assert (tmp_path / ".jobs" / "jobs.db").is_file()
    assert (tmp_path / ".jobs").stat().st_mode & 0o777 == 0o700
    set_current_app(None)
    app.close()


def test_a_job_can_be_followed_by_its_id_alone(app, registry):
    add = job(registry=registry, name="add", store_result=True)(lambda a: a + 1)
    made = add.enqueue(1)
    again = add.handle(made.id)
    assert (again.id, again.status()) == (made.id, State.READY)
    assert again.cancel() is State.CANCELLED
    assert add.handle("nobody").status() is State.UNKNOWN
    with pytest.raises(ResultNotStored, match="unknown"):
        add.handle("nobody").result(timeout=1)


# -- ids that were chosen --------------------------------------------------------------------------


def test_jobs_with_the_same_chosen_id_are_one_job_and_reported_as_one(app, greet):
    first = greet.using(id="order-5").enqueue("a")
    assert (first.id, first.created) == ("order-5", True)
    for call in (greet.using(id="order-5"), greet.using(id="order-5", unique="key"), greet.using(id="order-5", delay=60)):
        again = call.enqueue("b")
        assert (again.id, again.created) == ("order-5", False)
    raising = greet.using(id="order-5", unique=Unique(key="key", conflict="raise"))
    assert raising.enqueue("b").created is False  # it is the same job, not another that holds its key
    assert len(waiting(app)) == 1
    first.cancel()
    again = greet.using(id="order-5").enqueue("c")
    assert (again.created, again.status()) == (False, State.CANCELLED)


def test_of_several_calls_of_one_id_at_once_the_first_is_the_job(app, greet):
    handles = greet.using(id="order-5").enqueue_many([("a",), ("b",)])
    assert [handle.created for handle in handles] == [True, False]
    mixed = app.enqueue_many([greet.call("x"), greet.using(id="order-5").call("y"), greet.using(id="order-6").call("z")])
    assert [handle.created for handle in mixed] == [True, False, True]


def test_of_many_threads_that_choose_one_id_one_has_made_the_job(app, greet):
    chosen = greet.using(id="webhook-1")
    start = threading.Barrier(16)

    def enqueue(_):
        start.wait()
        return chosen.enqueue("a").created

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(enqueue, range(16))) == 1
    assert len(waiting(app)) == 1


def test_a_hook_that_keeps_the_id_does_not_make_the_backend_look_for_it(app, greet):
    class Tracing:
        @hookimpl
        def jobs_before_enqueue(self, message):
            return msgspec.structs.replace(message, headers={"trace": "1"})

    app.plugins._add(Tracing(), PluginInfo("tracing", "jobs-test", "1"))
    assert [app.prepare(greet.using(**options).call("a"))[0].chosen for options in ({}, {"id": "mine"})] == [False, True]


def test_a_hook_may_choose_the_id(app, greet):
    class Choosing:
        @hookimpl
        def jobs_before_enqueue(self, message):
            return msgspec.structs.replace(message, id="of-the-hook")

    app.plugins._add(Choosing(), PluginInfo("choosing", "jobs-test", "1"))
    assert [greet.enqueue("a").created for _ in range(2)] == [True, False]


def test_a_call_during_which_the_application_is_closed_leaves_no_connection_open(tmp_path, monkeypatch):
    app = App(Config(backend=f"sqlite:///{tmp_path}/jobs.db"))
    closed = []

    def act(backend):
        close = backend.close
        monkeypatch.setattr(backend, "close", lambda: (closed.append(backend), close()))
        app.close()
        assert not closed
        return backend

    assert closed == [app.operate(act)]
    assert app.operate(lambda backend: backend) is not closed[0]
    app.close()
