"""The inlet: convert entries that a producer in any language has pushed to a plain list into messages.

Nothing in an entry is trusted. An entry that is not an envelope within the limits, or not signed although signatures are
required, is stored unchanged under a new id, without any effect on other jobs; the worker that reserves it moves it to the
dead letters with the reason. An entry that exceeds the size limit of a message is moved there by the server, see
`Store.admit`.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from jobs_core.backend_kit import new_id, peek, unsigned
from jobs_core.backends.base import Outgoing
from jobs_core.backends.limits import line_of_foreign

Verify = Callable[[bytes], bytes]


def outgoing(topic: str, payload: bytes, verify: Verify | None = None) -> Outgoing:
    """Return the message for an entry of a topic's inlet; never raise."""
    try:
        envelope = peek(verify(payload) if verify is not None else unsigned(payload))
    except Exception:  # an entry from an unknown author must not block the inlet, whatever is wrong with it
        envelope = None
    if envelope is None or (verify is not None and envelope.topic != topic):  # or signed for another topic
        return Outgoing(new_id(), topic, payload)
    unique = envelope.unique
    if unique is not None:
        unique = replace(unique, key=own_key(topic, unique.key))
    chosen = bool(envelope.id)
    job_id, delay = envelope.id or new_id(), envelope.delay or 0.0
    key, limits = line_of_foreign(envelope.key, envelope.limits)
    return Outgoing(job_id, topic, payload, envelope.priority, delay, unique, chosen, key, limits)


def own_key(topic: str, key: str) -> str:
    """Prefix a foreign producer's unique key with its inlet, so that it cannot conflict with the application's keys.

    The application's own keys begin with the name of a job, which contains no space.
    """
    return f"inlet {topic} {key}"
