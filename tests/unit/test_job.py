"""`@job`, its options, and the registry."""

import re
import subprocess
import sys
from datetime import timedelta

import pytest

from jobs_core import Backoff, JobDefinitionError, JobFunction, Unique, current_job, job
from jobs_core.config import Config, Topic
from jobs_core.errors import UnknownJob
from jobs_core.options import policy, unique_key
from jobs_core.registry import Registry


def test_a_job_is_still_a_plain_function(registry):
    @job(registry=registry)
    def double(x: int) -> int:
        """Twice x."""
        return 2 * x

    assert double(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    assert isinstance(double, JobFunction)
    assert double.name == f"{__name__}.test_a_job_is_still_a_plain_function.<locals>.double"


async def _coroutine():
    return 5


def test_an_async_job_is_still_a_coroutine_function(registry):
    import asyncio

    made = job(registry=registry, name="a")(_coroutine)
    assert made.is_async
    assert asyncio.run(made()) == 5


def test_using_changes_a_copy(registry):
    @job(registry=registry, name="a", priority=1)
    def f():
        pass

    other = f.using(priority=9, delay="5m").using(topic="vip")
    assert other.name == "a"
    assert (other.overrides.priority, other.overrides.delay, other.overrides.topic) == (9, 300, "vip")
    assert f.overrides.over(f.options).priority == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retries": -1}, "retries: expected a whole number from 0 to 2147483647, got -1"),
        ({"retries": True}, "retries"),
        ({"priority": 10}, "priority: expected a whole number from 0 to 9, got 10"),
        ({"timeout": "soon"}, "timeout: expected a duration"),
        ({"topic": "a b"}, "topic: invalid topic name 'a b'"),
        ({"acks": "never"}, "acks: expected"),
        ({"unique": 5}, "unique: expected True, a key or Unique"),
        ({"unique": Unique(scope="whenever")}, "unique: expected a duration"),
        ({"unique": Unique(conflict="fight")}, "unique: conflict"),
        ({"unique": Unique.debounce(0)}, "unique: wait: expected a time of more than zero"),
        ({"unique": Unique.debounce("10s"), "expires": "10s"}, "it waits 10s, but expires after 10s, so it would never run"),
        ({"min_time": "2s", "timeout": "1s"}, "min_time: 2s is longer than its timeout, 1s"),
        ({"backoff": Backoff("5s", longest="1s")}, "backoff: longest: expected at least the first wait, 5 s, got 1 s"),
        ({"backoff": Backoff(factor=0)}, "backoff: factor: expected a number from 1"),
        ({"retry_on": {ValueError: Backoff("5s", longest="1s")}}, "retry_on: ValueError: longest: expected at least"),
        ({"name": "with space"}, "invalid job name"),
        ({"name": "x" * 201}, "invalid job name"),
        ({"aliases": [""]}, "invalid job name"),
    ],
)
def test_options_out_of_range_are_refused_by_name(registry, options, says):
    with pytest.raises(JobDefinitionError, match=says):
        job(registry=registry, **{"name": "a", **options})(lambda: None)


def _takes(number: int, to: str = "", *rest: int, **more: int) -> None: ...


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("{nope}", r"names {nope}, which is not a parameter of the function: it may name {number}, {to}, {rest}, {more}"),
        ("mail-{number}-{nope.name}", "names {nope}"),
        ("{number:{nope}}", "names {nope}"),
        ("{}", r"names {}"),
        ("{0}", r"names {0}"),
        ("{Number}", r"names {Number}"),
        ("{number", "is not a template"),
        ("{number}}", "is not a template"),
        ("{number!x}", r"is not a template \(unknown conversion !x\)"),
    ],
)
def test_a_unique_key_that_no_call_could_fill_in_is_refused_when_it_is_written(registry, key, says):
    made = job(registry=registry, name="takes")(_takes)
    for unique in (key, Unique(key=key)):
        with pytest.raises(JobDefinitionError, match=f"^a: unique: the key '{re.escape(key)}' {says}.*stand for braces"):
            job(registry=registry, name="a", unique=unique)(_takes)
        with pytest.raises(JobDefinitionError, match=f"^takes.using: unique: the key '{re.escape(key)}' {says}"):
            made.using(unique=unique)


@pytest.mark.parametrize(
    "key", ["{number}", "{number:>05}", "{to!r}", "{more[x]}", "{rest[0]}", "{{nope}}", "a}b", "{number:{to}}"]
)
def test_a_unique_key_may_name_parameters_and_hold_braces(registry, key):
    made = job(registry=registry, name="a", unique=key)(_takes).using(unique=Unique(key=key))
    assert unique_key(made.overrides.unique, "a", (1,), {}, lambda: {"number": 1, "to": "9", "rest": [1], "more": {"x": 1}})


def test_a_function_without_parameters_is_reported_as_such(registry):
    with pytest.raises(JobDefinitionError, match="it may name nothing, because it has no parameters"):
        job(registry=registry, name="a", unique="{x}")(lambda: None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"tz": "Europe/Paris"},
            r'tz: it belongs to cron, but this job has none: .*@job\(cron="0 3 \* \* \*", tz="Europe/Paris"',
        ),
        ({"tz": "UTC"}, "tz: it belongs to cron"),
        ({"missed": "once"}, "missed: it belongs to cron"),
        ({"missed": "never", "cron": "@daily"}, 'missed: expected "skip" or "once", got \'never\''),
        ({"cron": 5}, "cron: expected a string, got 5"),
        ({"cron": "@daily", "tz": None}, "tz: expected a string, got None"),
        ({"cron": "@daily", "tz": 5}, "tz: expected a string, got 5"),
    ],
)
def test_impossible_times_are_refused_at_definition(registry, options, says):
    with pytest.raises(JobDefinitionError, match=f"^a: {says}"):
        job(registry=registry, name="a", **options)(lambda: None)
    assert job(registry=registry, name="a", cron="@daily", tz="Europe/Paris", missed="skip")(lambda: None).missed == "skip"


def test_unknown_options_are_refused(registry):
    with pytest.raises(TypeError, match="retrys"):
        job(registry=registry, retrys=3)(lambda: None)


@pytest.mark.parametrize("thing", [int, "text", 5, Config])
def test_only_functions_are_jobs(registry, thing):
    with pytest.raises(JobDefinitionError, match="takes a function"):
        job(registry=registry)(thing)


def test_generators_are_not_jobs(registry):
    def f():
        yield

    with pytest.raises(JobDefinitionError, match="generator"):
        job(registry=registry)(f)


def test_durations_are_seconds_timedeltas_or_text(registry):
    for value in (90, "1m30s", timedelta(seconds=90)):
        assert job(registry=Registry(), name="a", timeout=value)(lambda: None).options.timeout == 90


# -- options resolve: using > @job > topic > default ----------------------------------------------


def test_options_resolve_in_order():
    registry = Registry()
    config = Config(topics={"t": Topic(retries=7, timeout=5.0, backoff=3.0, store_result=True, acks="early")})

    def resolved(topic, **options):
        return policy(job(registry=registry, name=f"j{len(registry)}", **options)(lambda: None).options, topic, config)

    assert resolved("other").retries == 3
    assert resolved("t").retries == 7
    assert resolved("t", retries=0).retries == 0
    assert (resolved("t").timeout, resolved("t", timeout=None).timeout, resolved("other").timeout) == (5, None, None)
    assert (resolved("t").backoff.first, resolved("t", backoff=1).backoff.first) == (3, 1)
    assert resolved("t", backoff=Backoff(1, 10)).backoff.longest == 10
    assert (resolved("t").store_result, resolved("t", store_result=False).store_result) == (True, False)
    assert (resolved("t").acks, resolved("t", acks="late").acks, resolved("other").acks) == ("early", "late", "late")


def test_backoff_doubles_up_to_its_limit():
    backoff = Backoff(first=2, longest=60)
    assert [backoff.ceiling(attempt) for attempt in (1, 2, 3, 6, 5000)] == [2, 4, 8, 60, 60]


# -- the registry ----------------------------------------------------------------------------------


def test_two_functions_under_one_name_are_refused(registry):
    def one():
        pass

    def two():
        pass

    job(registry=registry, name="a")(one)
    with pytest.raises(JobDefinitionError, match=r"'a'.*one.*two.*@job\(name="):
        job(registry=registry, name="a")(two)
    with pytest.raises(JobDefinitionError, match="'a'"):
        job(registry=registry, name="b", aliases=["a"])(two)
    assert registry.get("b") is None


def test_a_second_definition_in_one_module_is_refused(tmp_path):
    (tmp_path / "twice.py").write_text("from jobs_core import job\n@job\ndef f(): pass\n\n@job\ndef f(): pass\n")
    done = subprocess.run([sys.executable, "-c", "import twice"], cwd=tmp_path, capture_output=True, text=True)
    assert "two functions are registered as job 'twice.f'" in done.stderr


def test_a_module_may_be_reloaded(tmp_path, monkeypatch):
    import importlib

    (tmp_path / "reloaded_jobs.py").write_text("from jobs_core import job\n@job\ndef f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import reloaded_jobs  # type: ignore[import-not-found]

    importlib.reload(reloaded_jobs)
    assert reloaded_jobs.f() == 1


def test_aliases_keep_old_names_working(registry):
    f = job(registry=registry, name="new", aliases=["old", "older"])(lambda: None)
    assert registry.get("old") is registry.get("older") is registry.get("new") is f
    assert list(registry) == [f]
    assert len(registry) == 1


def test_an_unknown_name_is_reported_with_the_nearest(registry):
    job(registry=registry, name="shop.send_mail")(lambda: None)
    with pytest.raises(
        UnknownJob, match=r"'shop.send_email' is registered here; the nearest names are shop.send_mail"
    ) as caught:
        registry.find("shop.send_email")
    assert caught.value.nearest == ("shop.send_mail",)


def test_outside_a_job_there_is_no_current_job():
    with pytest.raises(RuntimeError, match="outside a job"):
        current_job()
