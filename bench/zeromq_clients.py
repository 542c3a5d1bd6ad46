"""Clients of a ZeroMQ broker that keep several requests in flight: `python -m bench.zeromq_clients`.

A producer sends pushes without waiting for earlier confirmations, up to a window. A worker process simulates as many
workers as its window; each reserves, settles what it got, and reserves again. Each process is one connection, and matches
answers to requests by their tags. Lines on standard input and output tell it to begin, and report that all is confirmed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import zmq

from jobs_core.backends.base import Outcome, Outgoing, Settlement
from jobs_core.ids import new_id, new_token
from jobs_zeromq import protocol as p
from jobs_zeromq import sockets

TOPIC = "bench"
PAYLOAD = (
    b'{"v":1,"id":"01920000-0000-7000-8000-000000000000","job":"shop.send_email","topic":"email","args":["a@b.c","hello"]}'
)
_PATIENCE = 60_000  # milliseconds


class Client:
    """One connection, and what to do with the answer to each request."""

    def __init__(self, endpoint: str) -> None:
        self._socket = sockets.context().socket(zmq.DEALER)
        sockets.beat(self._socket)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 10_000)
        self._socket.setsockopt(zmq.RCVHWM, 10_000)
        self._socket.connect(endpoint)
        self._asked: dict[bytes, tuple[p.Verb[Any, Any], Callable[[Any], None]]] = {}
        self._tags = 0
        welcome: list[p.Welcome] = []
        self.ask(p.HELLO, p.Hello(), welcome.append)
        self.until(lambda: bool(welcome))

    def ask(self, verb: p.Verb[Any, Any], request: Any, then: Callable[[Any], None], *items: Any) -> None:
        self._tags += 1
        tag = b"%x" % self._tags
        self._asked[tag] = verb, then
        sockets.send(self._socket, [p.VERSION, verb.name, tag, verb.encode(request), *map(verb.encode, items)])

    def until(self, done: Callable[[], bool]) -> None:
        """Take answers until the condition holds, or a line can be read."""
        while not done():
            events = zmq.zmq_poll([(self._socket, zmq.POLLIN), (sys.stdin.fileno(), zmq.POLLIN)], _PATIENCE)
            assert events, "the broker does not answer"
            if events[0][0] is not self._socket:
                return
            while True:
                try:
                    answer = sockets.receive(self._socket)
                except zmq.Again:
                    break
                _, kind, tag, body = answer
                if kind == p.BEAT:
                    continue
                assert kind in (p.OK, p.WAKE), body
                verb, then = self._asked.pop(tag)
                then(None if kind == p.WAKE else verb.decode_answer(body))


class ProducerClient:
    """Push `count` jobs, `batch` a request, `window` requests at a time."""

    def __init__(self, client: Client, batch: int, window: int, count: int) -> None:
        self._client, self._window, self._in_flight = client, window, 0
        self._batches = [[Outgoing(new_id(), TOPIC, PAYLOAD) for _ in range(batch)] for _ in range(count // batch)]

    def run(self) -> None:
        for batch in self._batches:
            self._in_flight += 1
            self._client.ask(p.PUSH, p.Push(request=new_id()), self._confirmed, batch)
            if self._in_flight >= self._window:
                self._client.until(lambda: self._in_flight < self._window)
        self._client.until(lambda: not self._in_flight)

    def _confirmed(self, conflicts: Any) -> None:
        self._in_flight -= 1


class WorkerClients:
    """Simulate `window` workers, each of which reserves and settles `batch` jobs at a time, until told to stop."""

    def __init__(self, client: Client, batch: int, window: int, _: int) -> None:
        self._client, self._batch = client, batch
        self._owners = {new_token() for _ in range(window)}
        self._idle: set[str] = set()
        opened: list[None] = []
        for owner in self._owners:
            client.ask(p.OPEN, p.Owner(owner=owner), opened.append)
        client.until(lambda: len(opened) == window)

    def run(self) -> None:
        self._rouse(self._owners)
        self._client.until(lambda: False)

    def _rouse(self, owners: set[str]) -> None:
        self._idle -= owners
        for owner in owners:
            self._reserve(owner)

    def _reserve(self, owner: str) -> None:
        request = p.Reserve(owner=owner, request=new_token(), topics=[TOPIC], limit=self._batch)
        self._client.ask(p.RESERVE, request, lambda deliveries: self._run(owner, deliveries))

    def _run(self, owner: str, deliveries: Any) -> None:
        if deliveries:
            settlements = [Settlement(one.id, one.token, Outcome.DONE) for one in deliveries]
            request = p.Settle(owner=owner, request=new_token())
            self._client.ask(p.SETTLE, request, lambda answers: self._settled(owner), settlements)
            return
        self._idle.add(owner)
        if self._idle == self._owners:
            self._client.ask(p.WAIT, p.Wait(topics=[TOPIC], timeout=60.0), lambda wake: self._rouse(self._owners))

    def _settled(self, owner: str) -> None:
        self._reserve(owner)
        if self._idle:
            self._reserve(self._idle.pop())


def main() -> None:
    kind, endpoint, batch, window, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    role = {"producer": ProducerClient, "workers": WorkerClients}[kind](Client(endpoint), batch, window, count)
    print("ready", flush=True)
    sys.stdin.readline()
    role.run()
    print("done", flush=True)


if __name__ == "__main__":
    main()
