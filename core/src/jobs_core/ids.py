"""Identifiers: UUIDs of version 7 (RFC 9562), whose order is the order of their making."""

from __future__ import annotations

import os
import random
import time

_random = random.Random()  # identifiers name, they do not authorise: no system call for each
_RANDOM_BITS = (1 << 74) - 1


def new_id() -> str:
    """A UUIDv7 as text; sorts by millisecond of creation. Safe from any thread, and after a fork."""
    bits = _random.getrandbits(74)
    value = (int(time.time() * 1000) & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0x2 << 62 | bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_token(bytes_: int = 8) -> str:
    """A short random hexadecimal name, for requests and owners."""
    return f"{_random.getrandbits(bytes_ * 8):0{bytes_ * 2}x}"


os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))
