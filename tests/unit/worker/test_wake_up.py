"""The courier's sleep: a table of situations, with the time and the place of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_core.worker.wake_up import LONGEST_DRAIN_SLEEP, LONGEST_SLEEP, NEVER, Situation, Sleep, next_wake_up

NOW = 100.0
TIMES = ["heartbeat", "interruption", "start", "housekeeping", "poll", "stop", "collect"]


def situation(**facts):
    """Return the situation of an idle worker, changed by `facts`."""
    return Situation(**{"now": NOW, "heartbeat": NEVER, "can_reserve": True, **facts})


@pytest.mark.parametrize(
    ("facts", "sleep", "seconds"),
    [
        ({}, Sleep.RESERVE, LONGEST_SLEEP),
        ({"heartbeat": NOW + 2}, Sleep.RESERVE, 2),
        ({"heartbeat": NOW - 2}, Sleep.RESERVE, 0),
        ({"can_reserve": False}, Sleep.WAIT, LONGEST_SLEEP),
        ({"can_reserve": False, "stop": NOW}, Sleep.WAIT, 0),
        ({"more": True}, Sleep.WAIT, LONGEST_SLEEP),
        ({"more": True, "ahead": 0.02}, Sleep.WAIT, 0.02),
        ({"drains": True}, Sleep.DRAIN, LONGEST_DRAIN_SLEEP),
        ({"drains": True, "heartbeat": NOW + 0.1}, Sleep.DRAIN, 0.1),
        ({"drains": True, "more": True}, Sleep.WAIT, LONGEST_SLEEP),
        ({"full": True}, Sleep.RESERVE, LONGEST_SLEEP),
        ({"full": True, "collect": NOW + 0.01}, Sleep.WAIT, 0.01),
        ({"full": True, "collect": NOW - 0.01}, Sleep.RESERVE, 0),
        ({"full": False, "collect": NOW + 0.01}, Sleep.RESERVE, 0.01),
    ],
    ids=str,
)
def test_the_courier_sleeps_where_new_work_can_reach_it(facts, sleep, seconds):
    how, timeout = next_wake_up(situation(**facts))
    assert how is sleep
    assert timeout == pytest.approx(seconds)


@given(
    st.dictionaries(st.sampled_from(TIMES), st.floats(NOW - 10, NOW + 10)),
    st.floats(0, 10) | st.just(NEVER),
    st.fixed_dictionaries({name: st.booleans() for name in ("full", "more", "can_reserve", "drains")}),
)
def test_no_sleep_outlasts_the_first_thing_to_do(times, ahead, facts):
    how, timeout = next_wake_up(situation(**times, ahead=ahead, **facts))
    first = max(0.0, min([LONGEST_SLEEP, ahead, *(time - NOW for time in times.values())]))
    assert timeout == pytest.approx(min(first, LONGEST_DRAIN_SLEEP) if how is Sleep.DRAIN else first)
    if how is not Sleep.WAIT:
        assert (facts["can_reserve"], facts["more"]) == (True, False), "it reserves only what it has room for"
