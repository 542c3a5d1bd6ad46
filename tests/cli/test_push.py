"""`jobsctl push` with points in time."""

from datetime import datetime, timezone

import pytest

from jobs_core import State

MOMENTS = {
    "with an offset": ("2040-01-02T10:00+01:00", "2040-01-02T09:00:00+00:00"),
    "in UTC": ("2040-01-02T10:00Z", "2040-01-02T10:00:00+00:00"),
    "with seconds and a space": ("2030-01-02 10:00:30.5-05:00", "2030-01-02T15:00:30.500000+00:00"),
    "local": ("2030-01-02 10:00 local", datetime(2030, 1, 2, 10).astimezone(timezone.utc).isoformat()),
    "local, without a space": ("2030-07-02T10:00local", datetime(2030, 7, 2, 10).astimezone(timezone.utc).isoformat()),
}


def due(project):
    """Return when the only scheduled job is due."""
    (record,) = project.app().operate(lambda backend: backend.browse("default", State.SCHEDULED, 10))
    return record.due


@pytest.mark.parametrize("way", ["option", "line"])
@pytest.mark.parametrize(("given", "utc"), MOMENTS.values(), ids=MOMENTS)
def test_a_job_is_due_at_the_time_that_push_was_given(project, way, given, utc):
    if way == "option":
        project.here("push", "tasks.note", "--at", given)
    else:
        (project.root / "lines").write_text(f'{{"job": "tasks.note", "at": "{given}", "expires_at": "2045-01-01T00:00Z"}}\n')
        project.here("push", "--json", "lines")
    assert due(project) == pytest.approx(datetime.fromisoformat(utc).timestamp(), abs=60)


REFUSED = {
    "no zone": ("2030-01-02T10:00", "has no time zone: write 2030-01-02T10:00:00+01:00, or 2030-01-02T10:00:00Z for UTC"),
    "only a date": ("2030-01-02", "write 2030-01-02T00:00:00+01:00"),
    "no time": ("tomorrow", "expected a time such as"),
    "a duration": ("5m", "expected a time such as"),
    "empty": ("", "expected a time such as"),
    "no such day": ("2030-02-30T10:00Z", "expected a time such as"),
    "two zones": ("2030-01-02T10:00Z local", "expected a time such as"),
}


@pytest.mark.parametrize(("given", "says"), REFUSED.values(), ids=REFUSED)
def test_push_refuses_a_time_without_a_zone_with_the_fix(project, given, says):
    said = project.here("push", "tasks.note", "--at", given, code=2)
    assert says in said
    assert "local" in said
    (project.root / "lines").write_text(f'{{"job": "tasks.note", "expires_at": "{given}"}}\n')
    said = project.here("push", "--json", "lines", code=2)
    assert "lines, line 1: expires_at: " in said
    assert says in said


def test_push_refuses_two_times_for_one_job(project):
    assert "at and delay both say when" in project.here(
        "push", "tasks.note", "--at", "2030-01-02T10:00Z", "--delay", "5m", code=1
    )
