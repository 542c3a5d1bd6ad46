"""The connection: replies in pieces, silence, and refusals, on a pair of sockets."""

from __future__ import annotations

import signal
import socket

import pytest
import redis.crc
from hypothesis import given
from hypothesis import strategies as st

from jobs_redis.transport.connection import ServerConnection
from jobs_redis.transport.failures import NotRedis, Redirected, Refused, ScriptMissing
from jobs_redis.transport.own import OwnProtocol
from jobs_redis.transport.slots import key_slot


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_command_goes_out_as_redis_wants_it(ends):
    ours, theirs = ends
    OwnProtocol(ours, 1.0).send((b"SET", "key", 1))
    assert theirs.recv(100) == b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\n1\r\n"


def test_a_reply_may_come_in_pieces_and_two_at_once(ends):
    ours, theirs = ends
    protocol = OwnProtocol(ours, 1.0)
    theirs.sendall(b"*2\r\n:1\r\n$2\r\n")
    assert protocol.readable(1.0)
    theirs.sendall(b"ab\r\n+OK\r\n")
    assert protocol.read() == [1, b"ab"]
    assert protocol.read() == b"OK"


def test_a_silent_server_is_given_up_by_the_kernels_clock(ends):
    ours, _theirs = ends
    protocol = OwnProtocol(ours, 0.05)
    assert ours.gettimeout() is None
    with pytest.raises(TimeoutError):
        protocol.read()
    with pytest.raises(TimeoutError):
        protocol.send((b"SET", "key", bytes(10_000_000)))  # no code reads it
    assert not protocol.readable(0.0)


def test_a_closed_connection_is_distinguished_from_silence(ends):
    ours, theirs = ends
    protocol = OwnProtocol(ours, 1.0)
    theirs.close()
    with pytest.raises(ConnectionError):
        protocol.read()
    with pytest.raises(OSError):
        protocol.send((b"PING",))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"-NOSCRIPT No matching script\r\n", ScriptMissing),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", Redirected),
        (b"-ASK 3999 127.0.0.1:6381\r\n", Redirected),
        (b"-OOM command not allowed\r\n", Refused),
    ],
)
def test_a_refusal_is_raised_as_its_own_error(ends, answer, kind):
    ours, theirs = ends
    protocol = OwnProtocol(ours, 1.0)
    theirs.sendall(answer)
    with pytest.raises(kind) as raised:
        protocol.read()
    if kind is Redirected:
        assert (raised.value.host, raised.value.port) == ("127.0.0.1", 6381)
    theirs.sendall(b"!nonsense\r\n")
    with pytest.raises(NotRedis):
        protocol.read()


class Connection:
    """The parts of redis-py's connection that ours needs."""

    def __init__(self, ours: socket.socket) -> None:
        self._sock = ours

    def connect(self) -> None: ...

    def disconnect(self) -> None:
        self._sock.close()


class Interrupted(BaseException):
    """The interruption by a job's timeout."""


def test_a_late_answer_is_not_given_to_another_request():
    pairs = [socket.socketpair() for _ in range(2)]
    free = iter(pairs)
    connection = ServerConnection(lambda: Connection(next(free)[0]), "here")

    def interrupt(*_):
        pairs[0][1].sendall(b"+late\r\n")
        pairs[1][1].sendall(b"+right\r\n")
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            connection.call("PING")
        assert connection.call("PING") == b"right"
    finally:
        signal.signal(signal.SIGALRM, before)
        connection.disconnect()
        for pair in pairs:
            for end in pair:
                end.close()


@given(st.binary() | st.lists(st.sampled_from([b"{", b"}", b"jobs", b"."])).map(b"".join))
def test_a_key_belongs_to_the_slot_that_redis_computes(key):
    assert key_slot(key) == redis.crc.key_slot(key)
