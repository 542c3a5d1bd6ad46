"""CURVE keys: files as pyzmq writes them, and a directory of the clients that the broker accepts.

keys/broker.key_secret      the broker's own, 0600
keys/broker.key             its public half: every client needs it
keys/clients/NAME.key       clients that may connect; after a file is removed, its client's next connection is refused
keys/NAME.key_secret        a client's own, 0600: move it to the client's machine
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import zmq
import zmq.auth

from jobs_core.errors import BackendError

BROKER = "broker"
CLIENTS = "clients"
_WANT = (errno.EMFILE, errno.ENFILE)
_SETTLED = 2 * 10**9
"""Nanoseconds. A directory that changed less than this time ago may change again with the same time stamp."""


def make_broker(directory: Path) -> Path:
    """Make the broker's key pair unless it exists; return the file of the public key."""
    _private(directory)
    _private(directory / CLIENTS)
    public = directory / f"{BROKER}.key"
    if not (directory / f"{BROKER}.key_secret").exists():
        _make(directory, BROKER)
    return public


def make_client(directory: Path, name: str) -> Path:
    """Make a client's key pair and add it to the list; return the secret key's file. Raises BackendError for a used name."""
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum() or name == BROKER or len(name) > 64:
        raise BackendError(f"invalid client name {name[:80]!r}: use up to 64 letters, digits, - and _")
    public, secret = directory / CLIENTS / f"{name}.key", directory / f"{name}.key_secret"
    if public.exists() or secret.exists():
        raise BackendError(f"{public}: a client of that name already exists: remove its files first, or choose another name")
    _make(directory, name)
    (directory / f"{name}.key").rename(public)
    return secret


def _make(directory: Path, name: str) -> None:
    before = os.umask(0o077)
    try:
        zmq.auth.create_certificates(directory, name)
    finally:
        os.umask(before)


def _private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"{directory}: {error.strerror}") from None


def load_public(path: Path) -> bytes:
    """Read a public key; raise BackendError."""
    return _load(path)[0]


def load_pair(path: Path) -> tuple[bytes, bytes]:
    """Read a public key and its secret key; raise BackendError, also if other users may read the file."""
    public, secret = _load(path)
    if secret is None:
        raise BackendError(f"{path}: contains no secret key: use the file that ends in .key_secret")
    if path.stat().st_mode & 0o077:
        raise BackendError(f"{path}: other users may read this secret key: chmod 600 {path}")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    if not path.exists():
        raise BackendError(f"{path}: there is no such file: `jobsctl broker keygen` makes it, on the broker's machine")
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise BackendError(f"{path}: is not a key that `jobsctl broker keygen` made: {error}") from None


class AllowList:
    """The clients that may connect; read again whenever the directory has changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stamp = -1
        self._names: dict[bytes, str] = {}

    def name(self, public: bytes) -> str | None:
        """Return the name of the client with this key; None if it is not on the list."""
        try:
            stamp = self._directory.stat().st_mtime_ns
            if stamp != self._stamp or time.time_ns() - stamp < _SETTLED:
                self._names = self._read()
                self._stamp = stamp
        except OSError as error:
            if error.errno not in _WANT:
                return None
        return self._names.get(public)  # without a free file descriptor, the list as last read still applies

    def _read(self) -> dict[bytes, str]:
        names = {}
        for entry in sorted(os.listdir(self._directory)):
            path = self._directory / entry
            if path.suffix != ".key":
                continue
            try:
                names[zmq.auth.load_certificate(path)[0]] = path.stem
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in _WANT:
                    raise  # a half-written file excludes only its client, but this error would exclude all clients
        return names
