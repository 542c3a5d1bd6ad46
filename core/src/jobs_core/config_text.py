"""A configuration file as text: find the line of a key, and advise on invalid TOML.

Used only after an error. No line is quoted, because it may contain a secret.
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
    """Return the line number of a dotted key, else of the nearest table around it or key inside it; None if not found."""
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
    """Yield (line number, dotted key) for each line that begins a table or a value; skip lines inside a long string."""
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
    (r"(<<<<<<<|=======|>>>>>>>)", "this is a merge conflict marker: keep one of the two sides"),
    (rf"\s*{_DOTTED}\s*:", "a key and its value are separated by =, not by a colon"),
    (r"[^=]*=\s*(#.*)?$", "the value is missing: write one after the =, or leave the key out to use its default"),
    (r"[^=]*=\s*(True|False|yes|no|on|off)\b", "write true or false, in lower case and without quotes"),
    (r"[^=]*=\s*(None|null|nil|undefined)\b", "TOML has no such value: leave the key out to use its default"),
    (r"[^=]*=\s*\d[\d._]*\s+[A-Za-z]", 'a string, a duration or a URL needs quotes: key = "value"'),
    (r"""[^=]*=\s*[^\s"'\[{#]*[^\s"'\[{#\d.+_-]""", 'a string, a duration or a URL needs quotes: key = "value"'),
    (r"\s*\[[^\]]*$", "a table name needs an opening and a closing bracket: [pools.default]"),
    (r"[^=]*=.*\\", "in double quotes, write a backslash twice; in single quotes, write it once"),
    (r"""[^=]*=\s*["'][^"']*$""", "the string is not closed: it must end on this line, with the same kind of quote"),
)


def advice(text: str, error: str) -> str:
    """Return how to fix an error of the parser."""
    if "overwrite" in error or "twice" in error or "mutate" in error:
        return _twice(text)
    lines = text.splitlines()
    match = _LINE.search(error)
    number = int(match[1]) if match else len(lines)  # at the end of the document
    line = lines[number - 1] if number <= len(lines) else ""
    found = next((says for pattern, says in _SLIPS if re.match(pattern, line)), None)
    if found is None and match is None:
        return "an opening quote or bracket is never closed"
    return found or (
        "each line is a key = value, a [table], or a # comment; separate the items of a list and of {a = 1, b = 2} with commas"
    )


def _twice(text: str) -> str:
    seen: dict[str, int] = {}
    for number, key in _keys(text):
        if key in seen:
            return f"{key} is set on line {seen[key]} and again on line {number}: keep one"
        seen[key] = number
    return "a key or table appears twice in the file: keep one"
