"""`on_done` and `on_dead` enqueue a job in one step with the end of another, however that end comes about."""

from typing import Annotated

import pytest
from msgspec.structs import replace

from jobs_core import Discard, JobDefinitionError, Retry, current_job, job, provided_by
from jobs_core.backends.base import Outgoing
from jobs_core.config import Defaults, Pool, Topic
from jobs_core.errors import LoadError
from jobs_core.ids import new_id
from jobs_core.message import encode, new_message
from jobs_core.units import Duration
from jobs_core.worker import on_end
from jobs_core.worker.main import Worker, prepare

MODES = ["sync", "threads", "async"]


def drain(app, mode="sync"):
    worker = Worker(app, "p", Pool(mode=mode), None, drain=True)
    worker.run()
    assert worker.courier.failure is None


def push(app, **fields):
    """Push a message as a producer of other code would."""
    message = new_message(topic="default", **{"job": "lost", "args": [], "kwargs": {}, **fields})
    app.operate(lambda backend: backend.push([Outgoing(message.id, "default", encode(message))], new_id()))
    return message.id


@pytest.fixture
def told(registry):
    """Return what the job "tell" was told, one dict for each run."""
    ends = []

    @job(registry=registry, name="tell", retries=0)
    def tell(**facts: object) -> None:
        ends.append(facts)

    return ends


@pytest.fixture
def strict(app):
    """Give the application no patience for unknown jobs."""
    app.config = replace(app.config, unknown_grace=Duration(0))
    return app


@pytest.mark.parametrize("mode", MODES)
def test_the_job_for_an_end_is_told_how_it_came_about(app, registry, told, mode):
    @job(registry=registry, name="first", on_done="tell", on_dead="tell", retries=0)
    def first(how: str, numbers: list[int] | None = None) -> object:
        if numbers:
            numbers.clear()  # changes to its arguments are not logged
        if how == "raise":
            raise ValueError("no")
        if how == "discard":
            raise Discard("unwanted")
        return {"sum": 3} if how == "done" else object() if how == "no JSON" else None

    ids = [
        first.enqueue("done", [1, 2]).id, first.enqueue("raise", [3]).id, first.enqueue("discard").id,
        first.using(store_result=True).enqueue("done").id, first.enqueue("no JSON").id,
    ]  # fmt: skip
    drain(app, mode)
    facts = {end["id"]: end for end in told}
    common = {"job": "first", "topic": "default", "attempt": 1, "kwargs": {}}
    good = {**common, "reason": "", "error": ""}
    bad = {**common, "result": None}
    assert [facts[job_id] for job_id in ids] == [
        {"id": ids[0], **good, "result": {"sum": 3}, "args": ["done", [1, 2]]},
        {"id": ids[1], **bad, "reason": "failed", "error": "ValueError: no", "args": ["raise", [3]]},
        {
            "id": ids[2],
            **bad,
            "reason": "discarded: unwanted",
            "error": "jobs_core.errors.Discard: unwanted",
            "args": ["discard"],
        },
        {"id": ids[3], **good, "result": {"sum": 3}, "args": ["done"]},
        {"id": ids[4], **good, "result": None, "args": ["no JSON"]},
    ]


def test_a_function_gets_the_facts_for_which_it_has_parameters(app, registry):
    seen = []

    @job(registry=registry, name="short")
    def short(id: str, reason: str, more: int = 5) -> None:
        seen.append((id, reason, more))

    @job(registry=registry, name="first", on_dead=short, retries=0)
    def first() -> None:
        raise ValueError

    handle = first.enqueue()
    drain(app)
    assert seen == [(handle.id, "failed", 5)]


def test_a_job_that_is_retried_has_not_ended(app, registry, told):
    attempts = []

    @job(registry=registry, name="first", on_done="tell", on_dead="tell", retries=2, backoff=0)
    def first() -> None:
        attempts.append(current_job().attempt)
        if len(attempts) == 1:
            raise ValueError
        if len(attempts) == 2:
            raise Retry(delay=0)

    first.enqueue()
    drain(app)
    assert (attempts, [end["attempt"] for end in told]) == ([1, 2, 3], [3])


def test_a_job_that_follows_may_have_injected_parameters(app, registry):
    seen = []

    def mailer() -> str:
        return "mailer"

    @job(registry=registry, name="follow")
    def follow(result: int, *, job: Annotated[str, provided_by(mailer)]) -> None:  # here no fact
        seen.append((result, job))

    @job(registry=registry, name="first", on_done="follow")
    def first() -> int:
        return 3

    assert on_end.problems(app) == []
    first.enqueue()
    drain(app)
    assert seen == [(3, "mailer")]


def test_options_of_using_hold_for_the_job_that_follows(app, registry):
    seen = []

    @job(registry=registry, name="follow")
    def follow() -> None:
        seen.append((current_job().topic, current_job().headers["tenant"]))

    @job(registry=registry, name="first", on_done=follow.using(topic="other", headers={"tenant": "acme"}))
    def first() -> None: ...

    first.enqueue()
    worker = Worker(app, "p", Pool(topics=["default", "other"]), None, drain=True)
    worker.run()
    assert seen == [("other", "acme")]


@pytest.mark.parametrize("end", ["expired", "bad arguments", "late bad arguments", "crashed"])
def test_a_job_that_dies_without_a_run_is_followed_too(strict, registry, told, end):
    class Custom:
        @classmethod
        def model_validate(cls, value: object) -> "Custom":
            raise ValueError("not that")

    Custom.model_dump = lambda self, mode: 5  # type: ignore[attr-defined]

    @job(registry=registry, name="first", on_dead="tell")
    def first(number: int = 0) -> None:
        raise AssertionError("it does not run")

    @job(registry=registry, name="late", on_dead="tell")
    def late(custom: Custom) -> None:
        raise AssertionError("it does not run")

    if end == "expired":
        job_id = first.using(expires=0).enqueue().id
    elif end == "bad arguments":
        job_id = push(strict, job="first", args=["x"])
    elif end == "late bad arguments":
        job_id = push(strict, job="late", args=[5])
    else:
        strict.config = replace(strict.config, max_redeliveries=1)
        job_id = first.enqueue().id
        dead = strict.new_backend()
        dead.open("dead")
        dead.reserve(["default"], 1, new_id())
        strict.operate(lambda backend: backend.release_owner("dead", [job_id], b"{}"))
        dead.close()
    drain(strict)
    assert [(each["id"], each["reason"], each["attempt"]) for each in told] == [(job_id, end.removeprefix("late "), 0)]
    assert told[0]["error"]


@pytest.mark.parametrize("where", ["defaults", "topic"])
def test_the_configuration_names_a_job_for_all_dead_letters_of_unknown_jobs_too(strict, registry, told, where):
    names = {"defaults": Defaults(on_dead="tell")} if where == "defaults" else {"topics": {"default": Topic(on_dead="tell")}}
    strict.config = replace(strict.config, **names)

    @job(registry=registry, name="own", retries=0)
    def own(reason: str) -> None:
        told.append({"own": reason})
        raise ValueError  # the end of a job that follows an end is not told again

    @job(registry=registry, name="plain", retries=0)
    def plain(how: str) -> None:
        raise ValueError(how)

    @job(registry=registry, name="special", retries=0, on_dead="own")
    def special() -> None:
        raise ValueError

    plain.enqueue("failed")
    special.enqueue()
    unknown = push(strict, job="shop.unknown")
    strict.operate(lambda backend: backend.push([Outgoing("garbage", "default", b"{")], new_id()))
    drain(strict)
    reasons = sorted(end.get("own") or end["reason"] for end in told)
    assert reasons == ["bad message", "failed", "failed", "unknown job"]
    assert {end["id"]: end["job"] for end in told if "id" in end}.items() >= {unknown: "shop.unknown", "garbage": None}.items()


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_that_is_acknowledged_before_it_runs_is_followed_after_it(app, registry, told, fails):
    @job(registry=registry, name="first", acks="early", on_done="tell", on_dead="tell")
    def first() -> None:
        current_job().enqueue(registry.find("tell"), by="itself")
        if fails:
            raise ValueError("once")

    first.enqueue()
    drain(app)
    assert [end["reason"] for end in told if "reason" in end] == (["failed"] if fails else [""])
    assert [end for end in told if "by" in end] == ([] if fails else [{"by": "itself"}])


def test_a_failed_follow_up_is_logged_and_the_end_is_recorded(app, registry, caplog):
    @job(registry=registry, name="narrow")
    def narrow(error: int) -> None: ...

    @job(registry=registry, name="first", on_dead=narrow, retries=0)
    def first() -> None:
        raise ValueError("no")

    handle = first.enqueue()
    drain(app)
    assert handle.status().value == "dead"
    assert any("narrow could not be enqueued for it: ArgumentError" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("option", ["on_done", "on_dead"])
@pytest.mark.parametrize(
    ("value", "part"),
    [
        (5, "expected a job function, or its registered name, got 5"),
        ("", "expected a job function"),
        (print, "expected a job function"),
        ("first", "a job cannot follow itself"),
        ("older", "a job cannot follow itself"),
    ],
)
def test_invalid_follow_ups_are_refused_at_definition(registry, option, value, part):
    with pytest.raises(JobDefinitionError, match=f"^first: {option}: ") as raised:
        job(registry=registry, name="first", aliases=["older"], **{option: value})(lambda: None)
    assert part in str(raised.value)


def test_invalid_follow_ups_are_found_before_a_worker_starts(app, registry, told):
    job(registry=registry, name="one", on_dead="tel")(lambda: None)
    job(registry=registry, name="two", on_done="needs")(lambda: None)
    job(registry=registry, name="needs")(lambda reason, customer: None)
    app.config = replace(app.config, defaults=Defaults(on_dead="nobody"))
    with pytest.raises(LoadError) as raised:
        prepare(app)
    assert str(raised.value).splitlines() == [
        "one: on_dead: no job named 'tel' is registered here; the nearest names are tell",
        "two: on_done: needs has a parameter 'customer', which would get no value: it may take " + ", ".join(on_end.FACTS),
        "defaults.on_dead: no job named 'nobody' is registered here",
    ]


def test_circles_are_found_before_a_worker_starts(app, registry, told):
    for name, on_done, on_dead in ("a", "b", None), ("b", None, "c"), ("c", "a", "tell"), ("d", "a", None):
        job(registry=registry, name=name, on_done=on_done, on_dead=on_dead)(lambda: None)
    with pytest.raises(LoadError) as raised:
        prepare(app)
    (line,) = str(raised.value).splitlines()
    assert line.startswith("a: on_done and on_dead run in a circle, perhaps forever: a → b → c → a")


def test_a_circle_that_only_shows_while_jobs_run_ends(app, registry, caplog):
    """Other workers may have other code: their circles are cut by counting."""
    runs = []

    @job(registry=registry, name="a", on_done="b")
    def a() -> None:
        runs.append("a")

    @job(registry=registry, name="b", on_done="a")
    def b() -> None:
        runs.append("b")

    a.enqueue()
    drain(app)
    assert len(runs) == on_end.MAX_DEPTH + 1
    assert any("run in a circle" in record.getMessage() for record in caplog.records)
