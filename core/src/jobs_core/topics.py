"""Topics: named queues."""

from __future__ import annotations

import re

_TOPIC = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def topic_error(name: str) -> str | None:
    """Return why `name` cannot be a topic, or None: it has to be valid as a file name, a key and a queue name."""
    if _TOPIC.fullmatch(name) and not name.startswith("."):
        return None
    return f"invalid topic name {name[:130]!r}: use 1 to 128 letters, digits, _ . - and no leading dot"
