"""System calls that keep the interpreter lock, on sockets and pipes that do not block.

Python releases the lock around each call of its own. Beside a job that holds the interpreter, it gets the lock back when
that job pauses, perhaps after a second. The calls here return at once anyway, so they delay no other thread; and a
connection that waits for the lock once per turn, instead of five times, keeps its heartbeats.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading

_libc = ctypes.PyDLL(None, use_errno=True)
_send, _recv, _read = _libc.send, _libc.recv, _libc.read
_send.argtypes = _recv.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_read.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_send.restype = _recv.restype = _read.restype = ctypes.c_ssize_t

_MOST = 1 << 16
_SENDING, _RECEIVING = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0), socket.MSG_DONTWAIT


class _Buffer(threading.local):
    """The receive buffer; each thread has its own."""

    def __init__(self) -> None:
        self.bytes = ctypes.create_string_buffer(_MOST)
        self.view = memoryview(self.bytes)


_buffer = _Buffer()


def send(descriptor: int, data: bytes) -> int:
    """Send data and return the number of bytes taken; raise BlockingIOError if there is room for none, or OSError.

    Thread-safe.
    """
    sent: int = _send(descriptor, data, len(data), _SENDING)
    if sent < 0:
        raise _error()
    return sent


def receive(descriptor: int, most: int) -> bytes:
    """Receive up to `most` bytes, or 64 KiB; none at the end of the stream.

    Raises BlockingIOError if nothing has arrived, OSError.
    """
    return _received(_recv(descriptor, _buffer.bytes, min(most, _MOST), _RECEIVING))


def read(descriptor: int, most: int) -> bytes:
    """Read in the same way from a pipe that does not block."""
    return _received(_read(descriptor, _buffer.bytes, min(most, _MOST)))


def _received(length: int) -> bytes:
    if length < 0:
        raise _error()
    return bytes(_buffer.view[:length])


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))  # of the class that belongs to the error number
