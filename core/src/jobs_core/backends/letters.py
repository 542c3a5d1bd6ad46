"""Dead letters with the same cause: what went wrong is a fingerprint, by which backends count their dead letters.

A fingerprint is made from the last error of a job: its type, the place in the application's code, and the message without the
parts that differ from job to job (numbers, ids, quoted text). The line number is not a part of it, so that most changes of the
code do not change it. A worker makes it when a job dies, and only then. Backends with the feature `dead_groups` keep it with
the dead letter, and a count for each topic and fingerprint, which goes down when a letter is retried, dropped or trimmed.

Letters without a fingerprint, buried by an earlier release, are counted under UNNAMED until housekeeping has given them one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Final

import msgspec
from msgspec import Struct

from ..errors import BackendError

LONGEST: Final = 200
"""Characters of each part of a fingerprint that count."""

UNNAMED: Final = ""
"""The id of the group of letters that have no fingerprint yet."""

DISCARDED: Final = "discarded by "
"""How the reason of a letter begins that an operator has made: earlier errors are not what it died of."""


EXPIRED: Final = "expired"
"""The reason that workers give of a dead letter that was not started in time."""

GIVE_UP_EXPIRED: Final = (
    "a retry does not extend its time, so it would expire again at once: enqueue the job anew, and drop the dead letter"
)
"""What to do about such a dead letter, whose `expires` may be signed."""


class Fingerprint(Struct, frozen=True, gc=False):
    """The cause of a dead letter."""

    id: str
    kind: str = ""  # the type of the error, or the reason if the job never ran
    place: str = ""  # the function, and its file with the directory; empty if no code of the application was involved
    message: str = ""  # without what differs from job to job


class DeadGroup(Struct, frozen=True):
    """The dead letters of one topic with the same fingerprint."""

    topic: str
    fingerprint: Fingerprint
    letters: int
    first: float = 0.0  # when the oldest and the newest of them died, by the broker's clock
    last: float = 0.0
    example: str = ""  # the id of the newest one


def not_movable(job_id: str) -> BackendError:
    """Return the error for a member of a flow that is to be moved to another topic."""
    return BackendError(f"{job_id} is a member of a flow, which stays in its topic: retry it there, or enqueue the job anew")


def fingerprint(reason: str, error: bytes = b"") -> Fingerprint:
    """Return the fingerprint of a dead letter from its last error, a JSON document; without one, from its reason."""
    found = _facts(error)
    kind = str(found.get("type") or "")[:LONGEST] or normalised(reason)
    message = normalised(str(found.get("message") or ""))
    place = place_of(str(found.get("traceback") or ""))
    import hashlib  # late: it loads OpenSSL, and most processes see no job die

    digest = hashlib.sha256("\0".join((kind, place, message)).encode(errors="replace")).hexdigest()
    return Fingerprint(digest[:8], *(_storable(part) for part in (kind, place, message)))


def last_of(reason: str, errors: Sequence[bytes]) -> Fingerprint:
    """Return the fingerprint of a dead letter from its history of errors, oldest first."""
    return fingerprint(reason, errors[-1] if errors and not reason.startswith(DISCARDED) else b"")


def normalised(message: str) -> str:
    """Return the first line of a message without what differs from job to job."""
    first = (message.strip().splitlines() or [""])[0][: 5 * LONGEST]
    for pattern, instead in _varies():
        first = pattern.sub(instead, first)
    return first[:LONGEST]


def place_of(traceback: str) -> str:
    """Return the innermost function of the application in a traceback, with its file; else the innermost of all."""
    frame, foreign = _frames()
    frames = frame.findall(traceback)
    ours = [each for each in frames if not foreign.search(each[0])]
    if not frames:
        return ""
    file, function = (ours or frames)[-1]
    return f"{function} in {'/'.join(PurePath(file).parts[-2:])}"[:LONGEST]


@functools.cache
def _varies() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return patterns of what differs from job to job, compiled at the first use, since most processes have none."""
    return (
        (re.compile(r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
        (re.compile(r"(?i)\b0x[0-9a-f]+\b"), "<hex>"),
        (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
        (re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"), "<hex>"),
        (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    )


@functools.cache
def _frames() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a frame in a traceback, and of files that are not the application's.

    These are installed packages, the standard library, and code without a file.
    """
    return (
        re.compile(r'^ *File "([^"]+)", line \d+, in (.+)$', re.MULTILINE),
        re.compile(r"[/\\](?:site-packages|dist-packages|jobs_core|lib[/\\]python\d[^/\\]*)[/\\]|^<"),
    )


def _facts(error: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(error) if error else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # written by another program
        decoded = None
    return decoded if isinstance(decoded, dict) else {}


def _storable(text: str) -> str:
    """Return a text without what some stores refuse: lone surrogates and NUL."""
    return text.encode(errors="replace").decode().replace("\0", "�")
