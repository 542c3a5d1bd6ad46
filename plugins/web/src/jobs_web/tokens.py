"""Tokens: random texts of 256 bits, of which only a hash is stored; and what we sign ourselves, such as sessions.

A plain SHA-256 is enough for a token, because nobody can guess 256 random bits; a password would need a slow hash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs_core import ConfigError

PREFIX = "jobs_"
"""Tokens begin with this, so that programs that search for secrets find them."""

HASH = re.compile(r"sha256:[0-9a-f]{64}")

KEY_FILE = "web.key"


def new_token() -> str:
    """Return a new token."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """Return what is stored of a token."""
    return f"sha256:{hashlib.sha256(token.encode(errors='replace')).hexdigest()}"


def find(token: str, hashes: Iterable[tuple[str, str]]) -> str | None:
    """Return the name whose hash is that of a token. Every hash is compared, each in constant time."""
    mine, found = hash_of(token), None
    for name, stored in hashes:
        if hmac.compare_digest(mine, stored):
            found = name
    return found


class Seal:
    """Signs small values that a browser keeps for us. Each value has a purpose, and is valid for no other one."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mac(self, purpose: str, value: str) -> str:
        """Return the signature of a value."""
        mine = hmac.new(self._key, f"{purpose}\0{value}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mine).decode().rstrip("=")

    def is_mac(self, purpose: str, value: str, mac: str) -> bool:
        """Return whether this is the signature of a value, compared in constant time."""
        return hmac.compare_digest(self.mac(purpose, value).encode(), mac.encode(errors="replace"))

    def seal(self, purpose: str, value: Any, seconds: float) -> str:
        """Return a value as text that only we can have written, and that expires."""
        body = json.dumps([round(time.time() + seconds), value], separators=(",", ":")).encode()
        text = base64.urlsafe_b64encode(body).decode().rstrip("=")
        return f"{text}.{self.mac(purpose, text)}"

    def open(self, purpose: str, sealed: str) -> Any:
        """Return a value that we have sealed; None if it is not ours, or has expired."""
        text, _, mac = sealed.rpartition(".")
        if not self.is_mac(purpose, text, mac):
            return None
        expires, value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return value if expires > time.time() else None


def key_in(run_dir: Path) -> bytes:
    """Return the key of this installation, from a file that only this user can read; it is made at the first use.

    So sessions outlive a restart, and several processes know them. Delete the file to end all sessions.
    """
    path = run_dir / KEY_FILE
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: the dashboard keeps there the key that signs its sessions") from None
    if len(key) < 32:
        raise ConfigError(f"{path}: it is shorter than 32 bytes: delete it, and start again")
    return key


def _make(path: Path) -> None:
    """Write the file in one step, unless there is one."""
    if path.exists():
        return
    temporary = path.with_name(f"{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(32))
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:  # another process was faster
        pass
    finally:
        os.unlink(temporary)
