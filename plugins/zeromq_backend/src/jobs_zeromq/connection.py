"""The client's connection: one request at a time, sent again over a new connection when the old one breaks.

Every request that changes something carries a request id, and the broker executes each id once. So this module repeats a
request whose reply was lost, and only an outage that lasts is reported to the core.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import zmq
from zmq.utils.monitor import parse_monitor_message

from jobs_core.backend_kit import SelfPipe, left
from jobs_core.backend_kit import deadline as of_thread
from jobs_core.errors import BackendError, BackendUnavailable

from . import keys, sockets
from .protocol import (
    DOCUMENTS,
    ERROR,
    FEATURES,
    FLOWS,
    HELLO,
    LIMITS,
    MAX_FRAME,
    NO_ROOM,
    VERSION,
    WAIT,
    WAKE,
    Hello,
    Refusal,
    Verb,
    Wait,
    decode_refusal,
)
from .url import Address

Q = TypeVar("Q")
A = TypeVar("A")

RECONNECT = 1.5
"""Seconds for which a call tries to connect before it reports an outage; longer than a restart of the broker takes."""

AGAIN = 20
"""Milliseconds between two tries to connect; constant, since the tries end after RECONNECT seconds."""

STAGGER = 0.02
"""Longest random pause in seconds before a client reconnects, so that not all clients do so at once."""

LATE = 0.5
"""Seconds by which the answer may be late that ends a wait at its timeout."""

REPLY = 10.0
"""Seconds that a reachable broker may take to answer."""

_SHOWN = {LIMITS: "limits, fair topics and keys", FLOWS: "flows", DOCUMENTS: "documents"}
"""What a release does without that lacks a feature, for errors."""

_EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


class _Gone(Exception):
    """Raised when the connection broke; the request may or may not have been executed."""


class BrokerConnection:
    """A connection to the broker. One thread at a time may use it, but any thread may interrupt it."""

    def __init__(self, address: Address, hello: Callable[[], Hello]) -> None:
        self.address = address
        self.max_frame = MAX_FRAME
        self.features: frozenset[str] = frozenset()  # what the broker knows, see protocol.FEATURES
        self._lacks: frozenset[str] = frozenset()  # of these, what it does not know
        self.remark = b""  # the frame after the body of the last answer
        self._hello = hello
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._pid = 0
        self.sendings = 0
        """Number of times that the last request was sent."""
        self._tags = 0
        self._waiting = False  # the broker may still regard us as waiting
        self._woken = False  # a wake-up arrived after our wait had ended, as may happen on a slow network
        self._interrupts = SelfPipe()

    def close(self) -> None:
        """Disconnect for good."""
        self.drop()
        self._interrupts.close()

    def drop(self) -> None:
        """Close the socket; the next call opens a new one."""
        socket, monitor = self._socket, self._monitor
        self._socket = self._monitor = None
        self._waiting = self._woken = False
        if socket is None:
            return
        if self._pid != os.getpid():
            _inherited.append((socket, monitor))  # kept open: the sockets belong to the parent process, which still uses them
            return
        socket.disable_monitor()
        if monitor is not None:
            monitor.close(0)
        socket.close(0)

    # -- requests --------------------------------------------------------------------------------

    def call(
        self,
        verb: Verb[Q, A],
        request: Q,
        *items: Sequence[Any],
        reply: float = REPLY,
        reconnect: float = RECONNECT,
        needs: Callable[[], Iterable[str]] | None = None,
    ) -> A:
        """Send a request and return the answer. `items` are sent in further frames after the body of a bulk request.

        Raises the broker's errors, and BackendUnavailable if the broker cannot be reached, or does not answer within
        `reply` seconds or the thread's deadline. A broker of a release without limits, say, would ignore them without a
        word: if the broker lacks any feature, `needs` is called, and the request is refused if it names one that is lacking.
        """
        frames = [VERSION, verb.name, b"", verb.encode(request)]
        for part in items:
            frames += self._frames(verb, part)
        begin = time.monotonic()
        give_up, at_last = min(of_thread.at, begin + reconnect), min(of_thread.at, begin + reply)
        self.sendings = 0
        while True:
            try:
                self._connect(give_up)
                if self._lacks and needs is not None:
                    self._require(needs())
                self.sendings += 1
                return verb.decode_answer(self._ask(frames, left(reply)))
            except _Gone as gone:
                self.drop()
                give_up = self._go_on(gone, give_up, left(reconnect), at_last)
                time.sleep(random.uniform(0.0, STAGGER))

    def _require(self, features: Iterable[str]) -> None:
        """Raise BackendError if the broker lacks one of these features."""
        for feature in features:
            if feature in self._lacks:
                raise BackendError(
                    f"the broker at {self.address.shown} is of a release without {_SHOWN[feature]}: "
                    "upgrade jobs-zeromq there, and restart the broker"
                )

    def _go_on(self, gone: _Gone, give_up: float, reconnect: float, at_last: float) -> float:
        """Return the time until which to retry connecting; raise BackendUnavailable if it has passed."""
        now = time.monotonic()
        if not gone.args:  # an established connection broke: allow the full time for a new one
            give_up = min(now + reconnect, at_last)
        if now < give_up:
            return give_up
        raise BackendUnavailable(f"the broker at {self.address.shown} {gone.args[0] if gone.args else 'broke off'}") from None

    def tell(self, verb: Verb[Q, A], request: Q) -> None:
        """Send a message without an answer, if connected. A lost one does no harm: the next hello repeats its content."""
        if self._socket is not None and self._pid == os.getpid():
            try:
                sockets.send(self._socket, [VERSION, verb.name, b"", verb.encode(request)])
            except zmq.ZMQError:
                self.drop()

    def _frames(self, verb: Verb[Any, Any], items: Sequence[Any]) -> list[bytes]:
        """Split items into as many frames as needed; raise for an item that is too large for one."""
        if not items:
            return []
        frame = verb.encode(items)
        if len(frame) <= self.max_frame:
            return [frame]
        if len(items) == 1:
            raise BackendError(f"{len(frame):,} bytes are more than the {self.max_frame:,} that the broker takes at once")
        middle = len(items) // 2
        return self._frames(verb, items[:middle]) + self._frames(verb, items[middle:])

    def _ask(self, frames: list[bytes], timeout: float) -> bytes:
        self._tags += 1
        tag = frames[2] = b"%x" % self._tags
        self._waiting = False
        self._send(frames)
        return self._body(*self._answer(tag, timeout))

    def _body(self, kind: bytes, body: bytes) -> bytes:
        """Return the body of an answer; if the answer is an error, raise it."""
        if kind == ERROR:
            refusal: Refusal = decode_refusal(body)
            if refusal.code == "hello":
                raise _Gone
            raise refusal.error()
        return body

    def _send(self, frames: list[bytes]) -> None:
        assert self._socket is not None
        try:
            sockets.send(self._socket, frames)
        except zmq.Again:
            raise _Gone from None

    def _answer(self, tag: bytes, timeout: float) -> tuple[bytes, bytes]:
        """Return the answer to a tag. Other messages are late wake-ups, or answers to requests that have been given up."""
        deadline = time.monotonic() + timeout
        while True:
            for answer in self._received():
                self._woken = self._woken or answer[1] == WAKE
                if answer[2] == tag:
                    self.remark = answer[4] if len(answer) > 4 else b""
                    return answer[1], answer[3]
            rest = deadline - time.monotonic()
            if rest <= 0:
                self.drop()
                raise BackendUnavailable(f"the broker at {self.address.shown} has not answered for {timeout:.2g} s")
            self._poll(rest)

    def _received(self) -> Iterator[list[bytes]]:
        """Yield well-formed received messages; those not consumed remain in the socket."""
        assert self._socket is not None
        while self._readable():
            answer = sockets.receive(self._socket)
            if len(answer) >= 4 and answer[0] == VERSION:
                yield answer

    def _poll(self, seconds: float, *interrupts: int) -> bool:
        """Sleep until a message or the timeout (False), or an interrupt (True); raise _Gone if the connection breaks."""
        watched: list[tuple[Any, int]] = [(self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN)]
        watched += [(descriptor, zmq.POLLIN) for descriptor in interrupts]
        events = zmq.zmq_poll(watched, max(0, int(seconds * 1000) + 1))
        for socket, _ in events:
            if socket is self._monitor and self._event()[0] != zmq.Event.HANDSHAKE_SUCCEEDED:
                raise _Gone
        return any(socket in interrupts for socket, _ in events if isinstance(socket, int))

    # -- waiting ---------------------------------------------------------------------------------

    def wait(self, topics: Sequence[str], timeout: float) -> bool:
        """Sleep until the broker reports that there may be jobs (True), or an interrupt or the timeout (False)."""
        begin = time.monotonic()
        deadline, give_up = begin + timeout, begin + RECONNECT
        while True:
            try:
                self._connect(give_up)
                return self._wait(topics, deadline)
            except _Gone as gone:
                self.drop()
                if self._interrupts.clear():
                    return False
                give_up = self._go_on(gone, give_up, RECONNECT, max(deadline, begin) + REPLY)
                if self._interrupts.wait(random.uniform(0.0, STAGGER)):
                    return False

    def _wait(self, topics: Sequence[str], deadline: float) -> bool:
        if self._woken:
            self._woken = False
            return True
        self._tags += 1
        tag = b"%x" % self._tags
        self._send(
            [VERSION, WAIT.name, tag, WAIT.encode(Wait(topics=list(topics), timeout=max(0.0, deadline - time.monotonic())))]
        )
        self._waiting = True
        while True:
            for answer in self._received():
                if answer[1] == WAKE:
                    self._waiting = answer[2] != tag
                    return True
                if answer[2] != tag:
                    continue
                self._waiting = False
                self._body(answer[1], answer[3])
            rest = deadline - time.monotonic()
            if self._poll(max(0.0, rest), self._interrupts.fileno()) and self._interrupts.clear():
                self.wait_no_longer()
                return False
            if rest <= 0 and not self._readable():
                return False

    def call_later(self, verb: Verb[Q, A], request: Q, timeout: float) -> A | None:
        """Send a request that the broker answers within `timeout` seconds, and return the answer.

        Return None without an answer: after LATE more seconds, an interrupt, or the end of the connection. The caller then
        has to send another request, which ends this one and tells whether it was executed.
        """
        deadline = time.monotonic() + timeout + LATE
        try:
            self._connect(time.monotonic() + RECONNECT)
            self._tags += 1
            tag = b"%x" % self._tags
            self._send([VERSION, verb.name, tag, verb.encode(request)])
            self._waiting = True
            while True:
                for answer in self._received():
                    if answer[2] == tag:
                        self._waiting, self.remark = False, answer[4] if len(answer) > 4 else b""
                        return verb.decode_answer(self._body(answer[1], answer[3]))
                rest = deadline - time.monotonic()
                if self._poll(max(0.0, rest), self._interrupts.fileno()) and self._interrupts.clear():
                    return None
                if rest <= 0 and not self._readable():
                    return None
        except _Gone:
            self.drop()
            return None

    def _readable(self) -> bool:
        assert self._socket is not None
        return sockets.readable(self._socket)

    def wait_no_longer(self) -> None:
        """Tell the broker that this worker no longer waits, so that it wakes another instead."""
        if self._waiting:
            self._waiting = False
            self.tell(WAIT, Wait())

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` or until an interrupt; messages that arrive meanwhile remain for the next call."""
        self._interrupts.wait(seconds)

    def interrupt(self) -> None:
        """End the current wait or sleep, or the next. From any thread or signal handler."""
        self._interrupts.wake()

    # -- connecting ------------------------------------------------------------------------------

    def _connect(self, give_up: float) -> None:
        """Connect, and exchange hello; raise _Gone with the reason if that fails until `give_up`."""
        if self._socket is not None and self._pid != os.getpid():
            self.drop()
        if self._socket is not None:
            return
        self._open_socket()
        self._handshake(give_up)
        tag = b"hello"
        self._send([VERSION, HELLO.name, tag, HELLO.encode(self._hello())])
        try:
            kind, body = self._answer(tag, left(max(0.5, give_up - time.monotonic())))
        except BackendUnavailable:
            raise _Gone("does not answer") from None
        if kind == ERROR:
            refusal: Refusal = decode_refusal(body)
            raise refusal.error()
        welcome = HELLO.decode_answer(body)
        self.max_frame, self.features = welcome.max_frame, frozenset(welcome.features)
        self._lacks = frozenset(FEATURES) - self.features

    def _open_socket(self) -> None:
        address = self.address
        pair = keys.load_pair(address.key) if address.key else None
        server = keys.load_public(address.broker) if address.broker else None
        try:
            socket = sockets.context().socket(zmq.DEALER)
            self._socket, self._pid = socket, os.getpid()
            self._monitor = socket.get_monitor_socket(_EVENTS)
        except (zmq.ZMQError, OSError) as error:  # no file descriptors are left
            raise _Gone(f"cannot be reached: {error.strerror}") from None
        sockets.beat(socket)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),  # sending fails unless the broker is connected
            (zmq.RECONNECT_IVL, AGAIN),
            (zmq.CONNECT_TIMEOUT, 2000),
            (zmq.HANDSHAKE_IVL, 2000),
            (zmq.SNDHWM, 10_000),
            (zmq.RCVHWM, 10_000),
        ):
            socket.setsockopt(option, value)
        if pair and server:
            socket.curve_publickey, socket.curve_secretkey = pair
            socket.curve_serverkey = server
        if address.endpoint.startswith("tcp://["):
            socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            self.drop()
            raise BackendError(f"{address.shown}: {error}") from None

    def _handshake(self, give_up: float) -> None:
        """Wait until the connection is established."""
        assert self._monitor is not None
        reason = "cannot be reached: is `jobsctl broker` running there?"
        while True:
            rest = give_up - time.monotonic()
            if rest <= 0 or not self._monitor.poll(int(rest * 1000) + 1):
                raise _Gone(reason)
            event, status = self._event()
            if event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL and self.address.broker:
                reason = f"cannot be reached: the other end hangs up: is {self.address.broker} its public key?"
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                return
            if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                self.drop()
                if status == NO_ROOM:  # give up at once: retries would only be a burden to the broker
                    raise BackendUnavailable(
                        f"the broker at {self.address.shown} accepts no more clients: it has no descriptor left"
                    )
                raise BackendError(
                    f"the broker at {self.address.shown} does not accept this client: its public key must be among the "
                    "broker's clients (`jobsctl broker keygen`)"
                )
            if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self.drop()
                raise BackendError(
                    f"{self.address.shown}: one end encrypts and the other does not, or it is not a broker of jobs: compare "
                    "the keys in the URL with the broker's configuration"
                )

    def _event(self) -> tuple[int, int]:
        """Return the next event of the connection, and its status."""
        assert self._monitor is not None
        event = parse_monitor_message(self._monitor.recv_multipart())
        return event["event"], event["value"]


_inherited: list[Any] = []
