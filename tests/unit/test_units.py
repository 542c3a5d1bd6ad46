"""Durations and sizes."""

from datetime import timedelta

import pytest

from jobs_core.units import format_duration, format_size, seconds, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s", 30), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("7d", 604800), (90, 90), (0.5, 0.5),
        (timedelta(minutes=2), 120),
    ],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "5 parsecs", "m5", "5m3", "-3s", -1, float("nan"), float("inf"), True, None, []])
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


@pytest.mark.parametrize(("text", "value"), [("1MB", 10**6), ("64KB", 64000), ("2GiB", 2 * 2**30), ("1kB", 1000), (5, 5)])
def test_sizes_are_read_as_people_write_them(text, value):
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "1", "1mb", "x", -1, 1.5, None, True])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="size"):
        size(text)


@pytest.mark.parametrize("text", ["30s", "5m", "1h30m", "250ms", "7d", "0s", "1m30s"])
def test_durations_are_written_as_they_are_read(text):
    assert format_duration(seconds(text)) == text == str(seconds(text))


@pytest.mark.parametrize("text", ["1MB", "64KB", "2GB", "123B", "0B"])
def test_sizes_are_written_as_they_are_read(text):
    assert format_size(size(text)) == text == str(size(text))
