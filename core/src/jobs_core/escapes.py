"""Make foreign text safe for a terminal and a log line.

Messages, exceptions, ids and file names contain whatever their authors wrote. Characters that could move the cursor, begin a
new line, change the direction of text or be invisible are escaped: control characters (C0, C1), line separators, format
characters (zero-width and bidirectional ones, tags), unpaired surrogates.
"""

from __future__ import annotations

import re

_BUT_LINES = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff"
)
# Not compiled here: few processes need them, and all would wait.
_UNSAFE = f"[\t\n{_BUT_LINES}]"
_UNSAFE_IN_LINES = f"[{_BUT_LINES}]"
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def one_line(text: str) -> str:
    """Return `text` with unsafe characters escaped, newlines and tabs too."""
    return text if text.isprintable() else re.sub(_UNSAFE, _written_out, text)


def in_one_line(text: str) -> str:
    """Join prose of several lines, such as an error, into one line of clauses, escaped as in `one_line`."""
    if text.isprintable():
        return text
    parts = [part.strip() for part in text.splitlines() if part.strip()]
    joined = "".join(
        part if n == 0 else f" {part}" if parts[n - 1][-1] in ":;,." else f"; {part}" for n, part in enumerate(parts)
    )
    return one_line(joined)


def lines(text: str) -> str:
    """Return `text` with unsafe characters escaped, except newlines and tabs."""
    return text if text.isprintable() else re.sub(_UNSAFE_IN_LINES, _written_out, text)


def json(text: str) -> str:
    """Return an equivalent JSON document in which unsafe characters are written as JSON escapes."""
    return text if text.isprintable() else re.sub(_UNSAFE_IN_LINES, _as_json, text)


def word(text: str) -> str:
    """Return `text` as one word of a command that a message shows: users copy commands into their shell."""
    from shlex import quote  # late: few processes need it, and all would wait

    return quote(text)


def _written_out(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _as_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
