"""The times at which an entry ticks, in real time zones."""

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_core.schedule import times

UTC = timezone.utc


def ms(moment):
    return round(moment.timestamp() * 1000)


def runs(expression, tz, start, count):
    """Return the next ticks after a local time, in that zone, as texts."""
    after, at, found = (
        times.by_cron(expression, times.zone(tz)),
        ms(datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(tz))),
        [],
    )
    for _ in range(count):
        at = after(at)
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo(tz)).strftime("%m-%d %H:%M %z"))
    return found


# -- daylight saving -------------------------------------------------------------------------------


def test_a_fixed_time_that_spring_skips_runs_when_the_clock_has_jumped():
    assert runs("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 2) == ["03-29 03:00 +0200", "03-30 02:30 +0200"]
    assert runs("30 2 * * *", "America/New_York", "2026-03-07 12:00", 2) == ["03-08 03:00 -0400", "03-09 02:30 -0400"]


def test_two_fixed_times_that_spring_skips_are_one_run():
    assert runs("15,45 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 2) == ["03-29 03:00 +0200", "03-30 02:15 +0200"]


def test_a_fixed_time_that_autumn_has_twice_runs_the_first_time():
    assert runs("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", 2) == ["10-25 02:30 +0200", "10-26 02:30 +0100"]


def test_between_the_two_a_fixed_time_is_over():
    between = ms(datetime(2026, 10, 25, 0, 45, tzinfo=UTC))  # 02:45, the first time
    tick = times.by_cron("30 2 * * *", ZoneInfo("Europe/Berlin"))(between)
    assert datetime.fromtimestamp(tick / 1000, UTC) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_every_hour_runs_in_each_hour_that_passes():
    spring = runs("30 * * * *", "Europe/Berlin", "2026-03-29 00:45", 3)
    assert spring == ["03-29 01:30 +0100", "03-29 03:30 +0200", "03-29 04:30 +0200"]
    autumn = runs("30 * * * *", "Europe/Berlin", "2026-10-25 01:45", 3)
    assert autumn == ["10-25 02:30 +0200", "10-25 02:30 +0100", "10-25 03:30 +0100"]


def test_half_an_hour_of_daylight_saving_is_seen_too():
    autumn = runs("15,45 * * * *", "Australia/Lord_Howe", "2026-04-05 01:00", 4)
    assert autumn == ["04-05 01:15 +1100", "04-05 01:45 +1100", "04-05 01:45 +1030", "04-05 02:15 +1030"]


def test_with_six_fields_the_clock_is_taken_as_it_is():
    assert runs("0 30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 1) == ["03-30 02:30 +0200"]
    assert runs("0 30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", 2) == ["10-25 02:30 +0200", "10-25 02:30 +0100"]


def test_utc_has_none_of_it():
    assert runs("30 2 * * *", "UTC", "2026-03-28 12:00", 2) == ["03-29 02:30 +0000", "03-30 02:30 +0000"]


ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu", "UTC")
MINUTE = st.one_of(st.just("*"), st.just("*/7"), st.integers(0, 59).map(str), st.just("5,35"))
HOUR = st.one_of(st.just("*"), st.just("*/2"), st.integers(0, 23).map(str), st.just("1-3"))
# Days on which some of these zones change their clocks.
DAYS = st.sampled_from(
    [datetime(2026, month, day, tzinfo=UTC) for month, day in ((3, 7), (3, 28), (4, 4), (10, 3), (10, 24), (10, 31))]
)


@settings(deadline=None)
@given(MINUTE, HOUR, st.sampled_from(ZONES), DAYS, st.lists(st.integers(0, 72 * 3600), min_size=2, max_size=8))
def test_the_next_tick_lies_ahead_and_never_steps_back(minute, hour, tz, day, offsets):
    after = times.by_cron(f"{minute} {hour} * * *", times.zone(tz))
    ticks = []
    for offset in sorted(offsets):
        at = ms(day + timedelta(seconds=offset))
        ticks.append(after(at))
        assert ticks[-1] > at
    assert ticks == sorted(ticks)


# Not Lord Howe, the only place with half an hour of daylight saving time: with restricted hours, cronsim skips the half
# hour after its change in autumn.
@settings(deadline=None)
@given(MINUTE, HOUR, st.sampled_from([zone for zone in ZONES if zone != "Australia/Lord_Howe"]), DAYS)
def test_ticks_are_the_minutes_whose_clock_matches(minute, hour, tz, day):
    """Compared with every minute of three days; skipped and repeated hours are left to the tests above."""
    clock, after = ZoneInfo(tz), times.by_cron(f"{minute} {hour} * * *", times.zone(tz))
    start, end = ms(day), ms(day + timedelta(days=3))
    ticks, at = set(), start
    while (at := after(at)) <= end:
        ticks.add(at)
    minutes, hours = matching(minute, 60), matching(hour, 24)
    fixed = not (minute.startswith("*") or hour.startswith("*"))
    for at in range(start + 60_000, end + 1, 60_000):
        local = datetime.fromtimestamp(at / 1000, clock)
        wanted = local.minute in minutes and local.hour in hours
        if fixed and local.fold:
            wanted = False  # the second time round
        if wanted:
            assert at in ticks, local
        elif at in ticks:
            before = datetime.fromtimestamp(at / 1000 - 1, clock)
            assert fixed
            assert local.utcoffset() > before.utcoffset(), local  # moved to the time after the jump


def matching(field, size):
    if field.startswith("*/"):
        return set(range(0, size, int(field[2:])))
    if field == "*":
        return set(range(size))
    if "-" in field:
        first, last = field.split("-")
        return set(range(int(first), int(last) + 1))
    return {int(part) for part in field.split(",")}


# -- intervals -------------------------------------------------------------------------------------


@given(st.floats(1, 10**6), st.integers(0, 2 * 10**12))
def test_an_interval_ticks_at_its_multiples(every, at):
    step, tick = round(every * 1000), times.by_interval(every)(at)
    assert tick % step == 0
    assert at < tick <= at + step


@given(st.floats(1, 10**4), st.integers(10**12, 2 * 10**12), st.integers(0, 10**8))
def test_the_latest_of_an_interval(every, since, length):
    after, now = times.by_interval(every), since + length
    multiple = now // round(every * 1000) * round(every * 1000)
    assert times.latest(after, since, now) == (multiple if multiple > since else None)


@settings(deadline=None)
@given(MINUTE, HOUR, st.sampled_from(ZONES), DAYS, st.integers(0, 10**6), st.integers(0, 4 * 86400 * 1000))
def test_the_latest_is_the_last_of_all(minute, hour, tz, day, offset, length):
    after, since = times.by_cron(f"{minute} {hour} * * *", times.zone(tz)), ms(day) + offset
    last, tick = None, since
    while (tick := after(tick)) <= since + length:
        last = tick
    assert times.latest(after, since, since + length) == last


def test_the_latest_after_years_is_found_at_once():
    calls = 0
    real = times.by_interval(1)

    def counted(at):
        nonlocal calls
        calls += 1
        return real(at)

    assert times.latest(counted, 0, 1_800_000_000_500) == 1_800_000_000_000
    assert calls < 60


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "wrong number of fields"),
        ("* * *", "wrong number of fields"),
        ("61 * * * *", "bad minute"),
        ("* 25 * * *", "bad hour"),
        ("* * * * BUG", "bad day-of-week"),
        ("* * 31 2 *", "bad day-of-month"),
        ("every day", 'write minute, hour, day of month, month and day of week, such as "*/5 * * * *"'),
    ],
)
def test_a_bad_expression_is_reported_with_the_fix(expression, says):
    with pytest.raises(ValueError, match=".") as caught:
        times.by_cron(expression, UTC)
    assert says in str(caught.value)


def test_nicknames_are_known():
    assert runs("@daily", "UTC", "2026-03-28 12:00", 1) == ["03-29 00:00 +0000"]


def test_a_bad_zone_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean Europe/Berlin"):
        times.zone("Europe/Berln")
    with pytest.raises(ValueError, match="is not a time zone"):
        times.zone("../../etc/passwd")


def test_too_short_an_interval_is_refused():
    with pytest.raises(ValueError, match="the shortest is 1s"):
        times.by_interval(0.5)


def test_without_a_time_zone_database_utc_works_and_others_name_the_package():
    script = (
        "import sys; sys.modules['tzdata'] = None\n"
        "from jobs_core.schedule import times\n"
        "assert times.by_cron('0 0 * * *', times.zone('utc'))(0) == 86_400_000\n"
        "try: times.zone('Europe/Berlin')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONTZPATH": ""}, capture_output=True, text=True, check=True)
    assert "pip install tzdata" in done.stdout


def test_a_clock_beyond_the_calendar_has_no_next_tick():
    assert times.by_cron("* * * * *", UTC)(10**16) is None
