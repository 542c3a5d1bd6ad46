"""A connection between two processes of an installation that carries JSON documents, and file descriptors if needed.

It is a unix socket pair with sequenced packets: a message arrives whole or not at all, and if the other process dies, the
reader sees the end of the channel.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

LARGEST = 128 * 1024
"""Largest message in bytes; senders clip texts that could be longer."""

MOST_DESCRIPTORS = 8

Received = TypeVar("Received")


class Channel(Generic[Received]):
    """One end, which receives messages of one type. One thread reads, any thread may send."""

    def __init__(self, connection: socket.socket, received: Any = dict[str, Any]) -> None:
        self._socket = connection
        self._decoder: msgspec.json.Decoder[Received] = msgspec.json.Decoder(received)

    @classmethod
    def pair(cls, received: Any) -> tuple[Channel[Received], int]:
        """Return one end, and the descriptor of the other; neither is inherited across an exec."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours, received), theirs.detach()

    @classmethod
    def of(cls, descriptor: int, received: Any = dict[str, Any]) -> Channel[Received]:
        """Return the end that has this descriptor."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptor), received)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any, descriptors: Sequence[int] = ()) -> bool:
        """Send a message; return False if the other side is gone, or its buffer is full."""
        payload = msgspec.json.encode(message)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([payload], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def receive(self, *, wait: bool = True) -> tuple[Received | None, list[int]]:
        """Return the next message and the descriptors that came with it; None at the end.

        Raises BlockingIOError if there is none and `wait` is false, and ValueError for a message of another type.
        """
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            payload, ancillary, _, _ = self._socket.recvmsg(LARGEST, socket.CMSG_SPACE(4 * MOST_DESCRIPTORS), flags)
        except ConnectionResetError:
            return None, []
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if not payload:
            return None, list(descriptors)
        return self._decoder.decode(payload), list(descriptors)

    def close(self) -> None:
        self._socket.close()
