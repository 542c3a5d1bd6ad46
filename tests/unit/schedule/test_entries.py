"""Schedule entries, and the errors in invalid ones."""

import pytest

from jobs_core import App, job
from jobs_core.config import Config, Duration, ScheduleEntry
from jobs_core.errors import ConfigError
from jobs_core.plugins import Plugins
from jobs_core.schedule import entries


@pytest.fixture
def registry(registry):
    @job(name="shop.report", cron="0 6 * * MON", tz="Europe/Berlin", missed="skip", registry=registry)
    def report(kind: str = "sales"): ...

    @job(name="shop.clean", aliases=["shop.tidy"], registry=registry)
    def clean(days: int): ...

    return registry


@pytest.fixture
def scheduled(registry):
    def scheduled(**schedule):
        config = Config(backend="memory://", schedule={name: ScheduleEntry(**entry) for name, entry in schedule.items()})
        return entries(App(config, plugins=Plugins(), registry=registry))

    return scheduled


def problems(scheduled, **schedule):
    with pytest.raises(ConfigError) as caught:
        scheduled(**schedule)
    return str(caught.value).splitlines()


def test_jobs_and_configuration_are_one_list(scheduled):
    found = scheduled(nightly={"job": "shop.clean", "every": Duration(3600), "args": [3]})
    assert [(entry.name, entry.job, entry.expression) for entry in found] == [
        ("nightly", "shop.clean", "every 1h"),
        ("shop.report", "shop.report", "0 6 * * MON"),
    ]
    assert (found[1].tz, found[1].missed) == ("Europe/Berlin", "skip")


def test_an_alias_means_the_job(scheduled):
    (found, _) = scheduled(nightly={"job": "shop.tidy", "cron": "* * * * *", "kwargs": {"days": 1}})
    assert found.job == "shop.clean"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"cron": "61 * * * *"}, 'schedule.nightly: invalid cron expression "61 * * * *" (bad minute)'),
        ({"cron": "* * * * *", "tz": "Europe/Berln"}, 'schedule.nightly: "Europe/Berln" is not a time zone'),
        (
            {"cron": "* * * * *", "job": "shop.claen"},
            "schedule.nightly: job: no job named 'shop.claen' is registered here; the nearest names are shop.clean",
        ),
        ({"cron": "* * * * *", "args": []}, "schedule.nightly: "),
        ({"cron": "* * * * *", "args": ["many"]}, "schedule.nightly: "),
        ({"cron": "* * * * *", "topic": "a b"}, "schedule.nightly: topic: "),
        ({"every": Duration(0.1)}, "schedule.nightly: every 0.1 s is too often, the shortest is 1s"),
    ],
)
def test_errors_are_named_with_key_and_fix(scheduled, entry, says):
    (problem,) = problems(scheduled, nightly={"job": "shop.clean", "args": [3], **entry})
    assert problem.startswith(says)


def test_all_errors_are_reported_at_once(scheduled, registry):
    @job(name="shop.bad", cron="bad", registry=registry)
    def bad(): ...

    found = problems(scheduled, a={"job": "nope", "every": Duration(5)})
    assert len(found) == 2
    assert found[0].startswith('@job shop.bad: cron: invalid cron expression "bad"')
    assert found[1].startswith("schedule.a: job: no job named 'nope' is registered here")


def test_a_job_that_needs_arguments_cannot_have_cron_alone(scheduled, registry):
    @job(name="shop.needy", cron="* * * * *", registry=registry)
    def needy(what): ...

    (problem,) = problems(scheduled)
    assert problem.startswith("@job shop.needy: cron: ")
    assert problem.endswith("give it a default, or set it in [schedule]")


def test_two_entries_of_one_name_are_refused(scheduled):
    (problem,) = problems(scheduled, **{"shop.report": {"job": "shop.clean", "args": [1], "every": Duration(5)}})
    assert problem.startswith("schedule.shop.report: @job shop.report: cron is also an entry of this name")
