"""What went wrong in a dead letter, as a fingerprint: dead letters with the same cause have the same one.

It is made from the last error of the dead letter: its type, the place in the application's code, and the message without the
parts that differ from job to job (numbers, ids, quoted text). The line number is not a part of it, so that most changes of the
code do not change it. It is computed when dead letters are read: it costs workers nothing, and works for old dead letters and
on every backend.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import Struct

from ..backends.base import JobRecord

_VARIES = (
    (re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"(?i)\b0x[0-9a-f]+\b"), "<hex>"),
    (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
)
_FRAME = re.compile(r'^ *File "([^"]+)", line \d+, in (.+)$', re.MULTILINE)
_FOREIGN = re.compile(r"[/\\](?:site-packages|dist-packages|jobs_core|lib[/\\]python\d[^/\\]*)[/\\]|^<")
"""Files that are not the application's: installed packages, the standard library, and code without a file."""

LONGEST = 200
"""Characters of a message that count."""


class Fingerprint(Struct, frozen=True):
    """The cause of a dead letter."""

    id: str
    kind: str  # the type of the error, or the reason if the job never ran
    place: str  # the function, and its file with the directory; empty if no code of the application was involved
    message: str  # without what differs from job to job


def fingerprint(record: JobRecord) -> Fingerprint:
    """Return the fingerprint of a dead letter; without errors, of its reason."""
    error: dict[str, Any] = {}
    if record.errors:
        decoded = msgspec.json.decode(record.errors[-1])
        error = decoded if isinstance(decoded, dict) else {}
    kind = str(error.get("type") or record.reason)
    message = normalised(str(error.get("message") or ""))
    place = place_of(str(error.get("traceback") or ""))
    digest = hashlib.sha256("\0".join((kind, place, message)).encode(errors="replace")).hexdigest()
    return Fingerprint(digest[:8], kind, place, message)


def normalised(message: str) -> str:
    """Return the first line of a message without what differs from job to job."""
    first = (message.strip().splitlines() or [""])[0][: 5 * LONGEST]
    for pattern, instead in _VARIES:
        first = pattern.sub(instead, first)
    return first[:LONGEST]


def place_of(traceback: str) -> str:
    """Return the innermost function of the application in a traceback, with its file; else the innermost of all."""
    frames = _FRAME.findall(traceback)
    ours = [frame for frame in frames if not _FOREIGN.search(frame[0])]
    if not frames:
        return ""
    file, function = (ours or frames)[-1]
    return f"{function} in {'/'.join(PurePath(file).parts[-2:])}"
