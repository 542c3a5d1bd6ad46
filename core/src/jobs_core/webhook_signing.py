"""Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body, with a secret that both sides know."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, as the specification wants them."""


def keys(text: str) -> tuple[bytes, ...]:
    """Return the keys in a text that has one or several secrets, separated by white space; raise ValueError, which shows none.

    Each key signs, so that a receiver may change from the old to the new one in its own time.
    """
    found = tuple(_key(secret) for secret in text.split())
    if not found:
        raise ValueError("it is empty")
    return found


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(
            f"expected {PREFIX} and {SHORTEST} to {LONGEST} random bytes in base64: "
            f'echo "{PREFIX}$(openssl rand -base64 32)" prints one'
        )
    return key


def headers(keys: Sequence[bytes], id: str, now: int, body: bytes) -> dict[str, str]:
    """Return the headers that prove to a receiver who sent a body, and when (`now` is Unix time)."""
    import hmac  # late: the configuration imports this module, and most processes sign nothing

    signed = f"{id}.{now}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": id,
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
