"""Numbers, times and durations as the pages show them, as filters of the templates."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone

import jinja2
from markupsafe import Markup, escape

from jobs_core.escapes import json, lines, one_line, word
from jobs_core.operating.formatting import age, size
from jobs_core.units import count, shown_time

_LEFTWARD = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_LEFTWARD_RUN = re.compile(rf"[{_LEFTWARD}](?:[\W\d_]*[{_LEFTWARD}])*")


def seconds(value: float) -> str:
    """Format a duration in few characters: `0 s`, `12 ms`, `1.2 s`, `4 m`."""
    if not value:
        return "0 s"
    if value < 0.9995:
        return f"{max(1, round(value * 1000))} ms"
    return f"{value:.1f} s" if value < 10 else age(value)


def duration(value: float | None) -> str:
    """Format a duration that may not be known."""
    return "–" if value is None else seconds(value)


def number(value: float) -> str:
    """Format a number: `12,345`."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Format a large number in few characters: `1,234`, `12.3k`, `4.5M`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale * (10 if unit == "k" else 1):
            return f"{value / scale:,.1f}{unit}".replace(".0", "")
    return f"{value:,.0f}"


def iso(at: float) -> str:
    """Format a Unix time for machines, for the attribute of a `time` element."""
    try:
        return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return ""


def percent(share: float) -> str:
    """Format a share: `0 %`, `1.2 %`, `45 %`."""
    value = share * 100
    return f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"


def rate(value: float) -> str:
    """Format a number of events a second: `10/s`, `6/m`."""
    for unit, scale in (("s", 1), ("m", 60), ("h", 3600)):
        if value * scale >= 1:
            return f"{value * scale:,.4g}/{unit}"
    return f"{value * 86_400:,.3g}/d"


def printable(value: object) -> object:
    """Return what a template shows of a value: text in one line, with characters that nobody sees written out.

    Every expression of every template goes through here, before it is escaped; `lines` keeps line breaks.
    """
    return _joined(one_line, value) if type(value) is str else value


_JOINER = re.compile(
    "(?<=[\U0001f000-\U0001faff\u2194\u2195\u2600-\u27bf\u2b1b\ufe0f])\u200d(?=[\U0001f000-\U0001faff\u2194\u2195\u2600-\u27bf\u2b1b])"
)
"""What makes one picture of two, such as a family of people. Between letters, it is written out as nobody would see it."""


def _joined(show: Callable[[str], str], text: str) -> str:
    """Return text as `show` shows it, with pictures that are made of several left whole."""
    return "\u200d".join(map(show, _JOINER.split(text))) if "\u200d" in text else show(text)


def pretty(text: str) -> str:
    """Return an equivalent JSON document in which characters that nobody sees are written as JSON escapes."""
    return _joined(json, text)


def in_lines(text: str) -> Markup:
    """Show text of several lines, such as a traceback, with characters that nobody sees written out."""
    return escape(_joined(lines, text.replace("\r\n", "\n")))


def sentence(text: str) -> Markup:
    """Show a sentence in which names may be written from right to left: they must not reorder the words beside them."""
    shown, end, parts = _joined(one_line, text), 0, []
    for found in _LEFTWARD_RUN.finditer(shown):
        parts += [escape(shown[end : found.start()]), Markup("<bdi>{}</bdi>").format(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(shown[end:])])


def ticks(text: str) -> Markup:
    """Show a sentence with its commands, which stand between backticks, as code."""
    parts = _joined(one_line, text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return sentence(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else sentence(part) for number, part in enumerate(parts)
    )


def add_filters(templates: jinja2.Environment) -> None:
    """Add these functions as filters."""
    templates.filters |= {
        "age": age, "seconds": seconds, "number": number, "compact": compact, "moment": shown_time, "iso": iso,
        "size": size, "count": count, "percent": percent, "rate": rate, "duration": duration, "ticks": ticks, "lines": in_lines,
        "sentence": sentence, "word": word,
    }  # fmt: skip
