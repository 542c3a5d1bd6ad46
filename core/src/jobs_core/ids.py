"""Identifiers: UUIDs of version 7 (RFC 9562), which sort in the order of their creation."""

from __future__ import annotations

import os
import random
import time

_random = random.Random()  # ids are not secret, so they need no system call for secure random bits
_AT_ONCE = 256
_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_COUNTED = [f"{n:02x}" for n in reversed(range(_AT_ONCE))]
_tails: list[str] = []  # ends of ids, made 256 at a time and taken from the end of the list
_head = 0, ""  # the millisecond of the last id, and the text with which all ids of that millisecond begin


def new_id(now: float | None = None) -> str:
    """Return a UUIDv7 as a string, for jobs and pushes. Safe from any thread, and after a fork.

    It sorts by the millisecond of its creation, so that a store appends to its index: SQLite writes half as much as with
    random ids.
    """
    global _head
    milliseconds = int((now or time.time()) * 1000)
    known, text = _head
    if known != milliseconds:
        text = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
        text = f"{text[:8]}-{text[8:]}-"
        _head = milliseconds, text
    try:
        return text + _tails.pop()
    except IndexError:
        return text + _more()


def _more() -> str:
    """Return the last 74 bits of a UUIDv7 as text, and refill the stock of them.

    Each has 66 random bits, and a count that sorts the ids of one millisecond in the order of their creation.
    """
    made = f"{_random.getrandbits(68):017x}"
    begin = f"7{made[:3]}-{_VARIANTS[made[3]]}{made[4:7]}-{made[7:]}"
    *others, first = [begin + count for count in _COUNTED]
    _tails.extend(others)
    return first


def new_token(bytes_: int = 8) -> str:
    """Return a short random hexadecimal name: for owners, and for requests that only have to differ from the previous one."""
    return f"{_random.getrandbits(bytes_ * 8):0{bytes_ * 2}x}"


def _begin_anew() -> None:
    """Discard the stock in the child of a fork, because the parent will use those ids."""
    _random.seed(os.urandom(32))
    _tails.clear()


os.register_at_fork(after_in_child=_begin_anew)
