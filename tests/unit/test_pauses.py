"""The pauses between looks at a backend."""

from __future__ import annotations

import pytest

from jobs_core.pauses import Pace


@pytest.mark.parametrize(
    ("took", "pauses"),
    [
        ([0.5, 0.5, 0.5], [1.0, 25.0, 25.0]),
        ([0.001, 3600.0, 0.001, 0.001], [1.0, 1.0, 1.0, 1.0]),
        ([3600.0, 0.5, 0.5], [1.0, 25.0, 25.0]),
        ([0.5, 1.0, 2.0], [1.0, 25.0, 50.0]),
    ],
    ids=["slow", "a standstill", "a standstill at first", "slower and slower"],
)
def test_slow_looks_are_rare_and_a_standstill_delays_none(took, pauses):
    pace = Pace(0.02)
    assert [pace.pause(each, 1.0) for each in took] == pauses
