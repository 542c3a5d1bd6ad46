"""A configuration file as text: where a key stands, and what a person may have meant where it is no TOML.

Looked at when something is wrong, and never before. No line is quoted: it may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_PART = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")
_LINE = re.compile(r"at line (\d+)")


def line_of(text: str, key: str) -> int | None:
    """The number of the line where a dotted key stands; else of the table or key that it is in, or that is in it."""
    around = inside = None
    length = 0
    for number, found in _keys(text):
        if found == key:
            return number
        if key.startswith(f"{found}.") and len(found) >= length:
            around, length = number, len(found)
        elif inside is None and found.startswith(f"{key}."):
            inside = number
    return inside or around


def _keys(text: str) -> Iterator[tuple[int, str]]:
    """Each line's number that begins a table or a value, with the dotted key; what several lines hold is not looked into."""
    table, within = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if within:
            within = "" if line.count(within) % 2 else within
            continue
        within = next((quotes for quotes in ('"""', "'''") if line.count(quotes) % 2), "")
        if match := _TABLE.match(line):
            table = _plain(match[1])
            yield number, table
        elif match := _KEY.match(line):
            yield number, f"{table}.{_plain(match[1])}" if table else _plain(match[1])


def _plain(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(_PART, dotted))


_SLIPS = (
    (r"(<<<<<<<|=======|>>>>>>>)", "this is the mark of a merge that is not finished: keep one of the two sides"),
    (rf"\s*{_DOTTED}\s*:", "a key and its value are joined by =, not by a colon"),
    (r"[^=]*=\s*(#.*)?$", "the value is missing: write one after the =, or leave the key out for its default"),
    (r"[^=]*=\s*(True|False|yes|no|on|off)\b", "write true or false, in lower case and without quotes"),
    (r"[^=]*=\s*(None|null|nil|undefined)\b", "there is no such value: leave the key out for its default"),
    (r"[^=]*=\s*\d[\d._]*\s+[A-Za-z]", 'a text, a duration or a URL stands in quotes: key = "text"'),
    (r"""[^=]*=\s*[^\s"'\[{#]*[^\s"'\[{#\d.+_-]""", 'a text, a duration or a URL stands in quotes: key = "text"'),
    (r"\s*\[[^\]]*$", "a table's name stands in brackets, and closes with one: [pools.default]"),
    (r"[^=]*=.*\\", "in double quotes a backslash is written twice; in single quotes it stands for itself"),
    (r"""[^=]*=\s*["'][^"']*$""", "the text is not closed: it ends on this line, with the quote that it began with"),
)


def advice(text: str, error: str) -> str:
    """How to fix what the parser complains of."""
    if "overwrite" in error or "twice" in error or "mutate" in error:
        return _twice(text)
    lines = text.splitlines()
    match = _LINE.search(error)
    number = int(match[1]) if match else len(lines)  # at the end of the document
    line = lines[number - 1] if number <= len(lines) else ""
    found = next((says for pattern, says in _SLIPS if re.match(pattern, line)), None)
    if found is None and match is None:
        return "a quote or a bracket that was opened is never closed"
    return (
        found or "each line is a key = value, a [table], or a # comment; the items of a list and of {a = 1, b = 2} have commas"
    )


def _twice(text: str) -> str:
    seen: dict[str, int] = {}
    for number, key in _keys(text):
        if key in seen:
            return f"{key} stands at line {seen[key]} and at line {number}: keep one"
        seen[key] = number
    return "a key or table stands in the file twice: keep one"
