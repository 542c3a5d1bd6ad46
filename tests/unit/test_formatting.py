"""Figures as a person reads them."""

from __future__ import annotations

import pytest

from jobs_core.operating.formatting import age, count, rate, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"), (0.4, "0 s"), (12.4, "12 s"), (59.6, "1 m"), (190, "3 m"), (3599, "59 m"), (3600, "1 h"),
        (7500, "2 h 5 m"), (86400, "1 d"), (3 * 86400 + 4 * 3600 + 59, "3 d 4 h"), (400 * 86400, "400 d"),
    ],
)  # fmt: skip
def test_ages(seconds, text):
    assert age(seconds) == text


def test_sizes_counts_and_rates():
    assert [size(number) for number in (0, 1, 45_400_000, 1_200_000_000)] == ["", "1 MB", "45 MB", "1.2 GB"]
    assert [count(number, "job") for number in (0, 1, 5000)] == ["0 jobs", "1 job", "5,000 jobs"]
    assert [rate(number) for number in (0, 0.25, 9.9, 12.3, 1234.5)] == ["0", "0.2", "9.9", "12", "1,234"]
