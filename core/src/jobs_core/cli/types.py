"""Types of options and arguments: an invalid value ends the command before it begins, with its name and exit code 2."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Any

import click

from .. import config_rules as rules
from ..units import plain_number, seconds


class Checked(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A string that passes a rule of the configuration."""

    def __init__(self, name: str, rule: rules.Rule) -> None:
        self.name = name
        self._rule = rule

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if reason := self._rule(str(value)):
            self.fail(reason.replace(rules.LEAVE_OUT, "leave the option out"), param, ctx)
        return str(value)


class Several(Checked):
    """Several such strings, separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        parts = [part.strip() for part in str(value).split(",")]
        for part in parts:
            super().convert(part, param, ctx)
        if reason := rules.no_repeats(parts):
            self.fail(reason, param, ctx)
        return ",".join(parts)


class DurationType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Seconds, or a string such as "5m"."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = seconds(plain_number(value) if isinstance(value, str) else value)
        except (ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)
        if reason := rules.seconds()(found):
            self.fail(reason, param, ctx)
        return found


class MomentType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A point in time in ISO format, with its time zone, or with "local" for the zone of this machine."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def moment(text: str) -> datetime:
    """Return a point in time with its zone; raise ValueError, for a time without a zone too."""
    plain = text.strip()
    zoneless = plain.removesuffix("local").rstrip()
    try:
        found = datetime.fromisoformat(zoneless[:-1] + "+00:00" if zoneless[-1:] in ("Z", "z") else zoneless)
        if zoneless != plain:
            if found.tzinfo is not None:
                raise ValueError("two zones")
            found = found.astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"expected a time such as {MOMENT_EXAMPLE}, got {text[:80]!r}") from None
    if found.tzinfo is None:
        naive = found.isoformat()
        raise ValueError(
            f"{text[:80]!r} has no time zone: write {naive}+01:00, or {naive}Z for UTC, or "
            f'"{naive} local" for the zone of this machine'
        )
    return found


MOMENT_EXAMPLE = '2026-11-27T18:00+01:00, 2026-11-27T17:00Z, or "2026-11-27 18:00 local" for the zone of this machine'


class PastType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A point in time of a search: ISO format, in this machine's zone if it has none; "today"; or how long ago, as "1h"."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return past(str(value).strip(), datetime.now().astimezone())
        except (ValueError, OverflowError, OSError):
            self.fail(f"expected a time such as {PAST_EXAMPLE}, got {str(value)[:80]!r}", param, ctx)


def past(text: str, now: datetime) -> datetime:
    """Return the time that a search means; raise ValueError, OverflowError or OSError."""
    if text == "today":
        return now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None).astimezone()
    if text[-1:] in ("s", "h", "d", "m"):
        return now - timedelta(seconds=seconds(text))
    if text.removesuffix("local") == text and datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is None:
        text += " local"
    return moment(text)


PAST_EXAMPLE = '1h (an hour ago), today, "2026-11-27 08:44:07" in the zone of this machine, or 2026-11-27T18:00Z'


class Number(click.FloatRange):
    """A number within bounds. click's own range accepts NaN, which is not less than anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return found


def _job_id(value: str) -> str | None:
    """Accept any id that a foreign producer may have chosen, because an operator may have to cancel that job."""
    if not value or len(value) > 512:
        return "expected the id of a job, of 1 to 512 characters"
    if any(each == "\0" or 0xD800 <= ord(each) < 0xE000 for each in value):
        return "expected a job id without NUL characters or unpaired surrogates"
    return None


def _matches(pattern: str, expected: str) -> rules.Rule:
    return lambda value: None if re.fullmatch(pattern, value) else f"expected {expected}, got {value[:80]!r}"


USER = Checked("user", _matches(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "the name of a user: letters, digits, _ . -"))
UNIT_NAME = Checked("unit", _matches(r"[A-Za-z0-9_][A-Za-z0-9:_.-]{0,199}", "the name of a unit: letters, digits, : _ . -"))
TOPIC = Checked("topic", rules.topic)
TOPICS = Several("topics", rules.topic)
JOB_ID = Checked("id", _job_id)
TEXT = Checked("text", rules.text)
FILE = Checked("file", rules.path)
URL = Checked("url", rules.url)
MODULE = Checked("module", rules.module)
DURATION = DurationType()
MOMENT = MomentType()
PAST = PastType()
LIMIT = click.IntRange(1, 1_000_000)
