"""A process that died once restarts at once; one that keeps dying waits longer each time."""

from __future__ import annotations

import pytest

from jobs_core.supervisor.processes import backoff
from jobs_core.supervisor.processes.backoff import FIRST, LONGEST, QUICK, RestartBackoff


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(backoff, "time", made)
    return made


def pauses(lives: list[float | None], clock: Clock) -> list[float]:
    """Return the pause after each of these lifetimes, one child after the other."""
    made, found = RestartBackoff(), []
    for lived in lives:
        started_at = clock.now
        clock.now += 0.01 + (lived or 0.0)
        made.died(lived, started_at=started_at)
        found.append(round(made.left(), 6))
        clock.now += made.left()
    return found


YOUNG, GOOD = QUICK / 2, QUICK * 2


@pytest.mark.parametrize(
    ("lives", "expected"),
    [
        ([GOOD], [0]),
        ([YOUNG], [0]),
        ([0.0], [0]),
        ([GOOD, YOUNG], [0, 0]),
        ([YOUNG] * 4, [0, FIRST, 2 * FIRST, 4 * FIRST]),
        ([YOUNG, YOUNG, GOOD, YOUNG, YOUNG], [0, FIRST, 0, 0, FIRST]),
        ([None] * 3, [FIRST, 2 * FIRST, 4 * FIRST]),
        ([YOUNG, None], [0, 2 * FIRST]),
        ([None, YOUNG], [FIRST, FIRST]),
    ],
    ids=str,
)
def test_the_first_quick_death_waits_for_nothing_and_a_loop_backs_off(lives, expected, clock):
    assert pauses(lives, clock) == pytest.approx(expected)


@pytest.mark.parametrize("lived", [YOUNG, None], ids=["crashes", "never ready"])
def test_no_pause_is_longer_than_the_longest(lived, clock):
    assert max(pauses([lived] * 40, clock)) == LONGEST


@pytest.mark.parametrize("workers", [1, 2, 8, 100])
def test_a_wholly_killed_pool_restarts_at_once_and_one_that_keeps_crashing_counts_rounds(workers, clock):
    made = RestartBackoff()
    for expected in (0, FIRST, 2 * FIRST, 4 * FIRST):
        started_at = clock.now
        clock.now += YOUNG
        died = clock.now
        for _ in range(workers):
            made.died(YOUNG, started_at=started_at)
            assert made.until - died == pytest.approx(expected)
            clock.now += 0.0001
        clock.now = max(clock.now, made.until) + 0.001
    assert made.failures == 4
