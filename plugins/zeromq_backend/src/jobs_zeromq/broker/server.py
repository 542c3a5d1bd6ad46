"""The broker's loop: pass requests from the sockets to the transactions, send the answers, and wake waiting clients."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq
from msgspec import Struct

from jobs_core.backend_kit import SelfPipe, new_token
from jobs_core.backends.base import BackendOptions
from jobs_core.backends.sqlite.engine import flow_views, housekeeping, views
from jobs_core.errors import BackendError, QueueFull

from .. import protocol as p
from .. import sockets
from .clock import Clock
from .decoding import Asked, Malformed, read
from .listener import Listener
from .peers import Peers
from .results import Results
from .store import MIN_FREE, Store
from .transactions import Answered, Transactions, refusal
from .waiting import Waiter, Waiting

logger = logging.getLogger("jobs.broker")

GROUP = 512
"""The most requests in one commit."""

GROUP_BYTES = 32 * 2**20
"""The most bytes of requests in one commit."""

ROUND = 1.0
"""Seconds between checks of all topics with waiting workers: another process may have written to the store."""

SWEEP = 10.0
"""Seconds between searches for dead clients."""

SETTLING = 0.05
"""Seconds from ZeroMQ's report that a connection has ended until sending to it fails.

A worker that was woken and found no job waits for this time, too.
"""


MOST_RESULTS = 100_000
"""The most waits for results at the same time."""


class Settings(Struct, kw_only=True):
    """The settings of a broker."""

    store: str
    listen: list[str]  # ZeroMQ endpoints
    keys: Path | None = None  # the directory that `jobsctl broker keygen` made; None: no encryption
    base_dir: Path = Path()
    min_free: int = MIN_FREE
    clock: Callable[[], float] | None = None  # for tests


class Server:
    """The broker. `run` serves in the calling thread until `stop`, which any thread or signal handler may call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        clock = settings.clock or Clock()
        options = BackendOptions(base_dir=settings.base_dir, clock=clock)
        self._store = Store(settings.store, options, min_free=settings.min_free)
        self._transactions = Transactions(self._store, self._next_takers)
        self._peers = Peers(clock)
        self._waiting = Waiting(self._wake)
        self._takers: list[Asked] = []  # requests of woken workers, for which jobs are reserved next
        self._results = Results()
        self._flow_ends = Results()
        self._listener: Listener | None = None
        self._began = time.monotonic()
        self._next_round = self._next_sweep = 0.0
        self._stopping = False
        self._stop_requests = SelfPipe()
        self.epoch = new_token()

    # -- beginning and end -----------------------------------------------------------------------

    def open(self) -> None:
        """Lock the store and listen; raises BackendError."""
        try:
            self._store.open()
            self._listener = Listener(self._settings.listen, self._settings.keys)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening and close the store; a second call does nothing."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._store.close()
        self._stop_requests.close()

    @property
    def listener(self) -> Listener:
        assert self._listener is not None, "it is closed"
        return self._listener

    def stop(self) -> None:
        """Make `run` return once it has answered the current requests."""
        self._stopping = True
        self._stop_requests.wake()

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until stopped. Raises BackendError if the store's file disappears meanwhile."""
        listener = self.listener
        sources = (listener.socket, listener.monitor, self._stop_requests.fileno())
        watched: list[tuple[Any, int]] = [(source, zmq.POLLIN) for source in sources]
        if listener.authenticator is not None:
            watched.append((listener.authenticator.socket, zmq.POLLIN))
        while not self._stopping:
            self._store.get_ready()
            pause = self._next_moment() - time.monotonic()
            ready = [socket for socket, _ in zmq.zmq_poll(watched, max(0, int(pause * 1000) + 1))]
            if listener.socket in ready:
                self._serve(list(self._come_in()))
            if listener.authenticator is not None and listener.authenticator.socket in ready:
                listener.authenticator.answer()
            if listener.monitor in ready and listener.has_news():
                self._next_sweep = min(self._next_sweep, time.monotonic() + SETTLING)  # then, sending to dead clients fails
            self._pass_time()

    def _next_moment(self) -> float:
        return min(
            self._waiting.next_moment(),
            self._results.next_moment(),
            self._flow_ends.next_moment(),
            self._next_round,
            self._next_sweep,
        )

    def _come_in(self) -> Iterator[Asked]:
        """Receive, parse and yield up to GROUP requests; answer malformed ones with an error, or drop them."""
        socket, size = self.listener.socket, 0
        for n in range(GROUP):
            try:
                sender, *frames = sockets.receive(socket)
            except zmq.Again:
                return
            self._transactions.figures.requests += 1
            asked = self._read(sender, frames)
            if asked is not None:
                yield asked
            size += sum(map(len, frames))
            if size > GROUP_BYTES or (n == 0 and not sockets.readable(socket)):
                return

    def _read(self, sender: bytes, frames: Sequence[bytes]) -> Asked | None:
        if len(frames) < 4 or frames[0] != p.VERSION or len(frames[2]) > p.MAX_TAG:
            self._transactions.figures.refused += 1
            return None  # a client of another protocol would not understand an answer
        tag = frames[2]
        verb = p.VERBS.get(frames[1])
        peer = self._peers.get(sender)
        if verb is None:
            self._turn_away(sender, tag, p.STATUS, "malformed", "there is no such request")
            return None
        if peer is None:
            if verb not in (p.HELLO, p.PUT, p.STATUS):
                self._turn_away(sender, tag, verb, "hello", "say hello first", counts=False)
                return None
            peer = self._peers.stranger
        try:
            asked = read(peer, sender, tag, verb, frames[3:])
        except Malformed as error:
            self._turn_away(sender, tag, verb, "malformed", str(error))
            return None
        if (verb is p.RESERVE or verb is p.NEXT) and not self._comes_from_owner(asked):
            self._turn_away(sender, tag, verb, "hello", "this owner has asked over a later connection", counts=False)
            return None
        return asked

    def _comes_from_owner(self, one: Asked) -> bool:
        """Return whether reserved jobs would reach their owner, because this is its latest connection.

        Jobs sent over an older, broken connection would stay reserved by a worker that never received them.
        """
        owner = one.request.owner
        left = self._peers.follow(owner, one.sender, one.peer)
        if left is not None and self._peers.is_at(owner, one.sender):
            self._waiting.drop(left)
        return self._peers.is_at(owner, one.sender)

    def _turn_away(
        self, sender: bytes, tag: bytes, verb: p.Verb[Any, Any], code: p.Code, why: str, *, counts: bool = True
    ) -> None:
        self._transactions.figures.refused += counts
        self._send([sender, p.VERSION, p.ERROR, tag, verb.encode_error(code, why)])

    def _serve(self, asked: Sequence[Asked]) -> None:
        """Execute the requests, answer them, and wake waiting clients."""
        if not asked:
            return
        neglected: list[str] = []
        last: dict[bytes, Asked] = {}
        for one in asked:
            if one.verb is not p.RETAIN:
                neglected += self._waiting.heard_of(one.sender, reserves=one.verb in (p.RESERVE, p.NEXT))
                last[one.sender] = one
            if one.verb in (p.RESERVE, p.NEXT):
                self._waiting.drop_owner(one.request.owner)
        for one in asked:
            if one.verb is p.HELLO or one.verb is p.RETAIN:
                self._note(one)
        work = [one for one in asked if one.verb.name not in _OURS]
        self._transactions.heeds_ends, self._transactions.heeds_flows = bool(self._results), bool(self._flow_ends)
        answers = self._transactions.serve(work)
        self._reply_takers()
        lasting = [answer for answer in answers if answer.to.verb.durable]
        for answer in answers:
            if not answer.to.verb.durable:
                self._reply(answer)
        if lasting:
            self._confirm(lasting)
        for one in asked:
            self._serve_later(one, is_last=last.get(one.sender) is one)
        if any(one.verb is p.HOUSEKEEP for one in work):
            self._shrink_store()
        self._transactions.news.update(neglected)
        self._tell_news()

    def _confirm(self, answers: Sequence[Answered]) -> None:
        """Sync the changes of these answers to the disk, then send them."""
        if not self._store.is_there():
            raise BackendError(
                f"{self._store.path} was removed while the broker was running: jobs would be lost, so the broker stops"
            )
        for answer in self._transactions.synced(answers):
            self._reply(answer)

    def _note(self, one: Asked) -> None:
        if one.verb is p.RETAIN:
            one.peer.retain(one.request.retention, one.request.done_max)
            return
        self._peers.greet(one.sender, one.request)
        welcome = p.Welcome(epoch=self.epoch, pid=os.getpid(), features=list(p.FEATURES))
        self._reply(Answered(one, p.OK, p.HELLO.encode(welcome)))

    def _serve_later(self, one: Asked, *, is_last: bool) -> None:
        """Accept a request that is answered later; ignore a wait if its client has already sent another request."""
        if one.verb is p.STATUS:
            self._reply(Answered(one, p.OK, p.STATUS.encode(self._status())))
        elif (one.verb is p.WAIT or one.verb is p.NEXT) and one.request.topics and is_last:
            if one.verb is p.WAIT or self._peers.is_at(one.request.owner, one.sender):
                self._wait(one)
        elif one.verb is p.RESULT or one.verb is p.WAIT_FLOW:
            if len(self._results) + len(self._flow_ends) >= MOST_RESULTS:
                self._reply(refusal(one, QueueFull(f"{MOST_RESULTS:,} results are already being waited for: ask again later")))
            elif one.verb is p.RESULT:
                self._results.add(one.request.id, one)
                self._transactions.touched.add(one.request.id)
            else:
                self._flow_ends.add(one.request.flow, one)
                self._transactions.rested.add(one.request.flow)

    def _wait(self, one: Asked, *, got_nothing: bool = False) -> None:
        """Let a worker wait unless a job is ready. One that has just got nothing waits for a moment even then."""
        try:
            with self._store.reading() as db:
                ready, due = views.look(db, one.request.topics, self._store.now())
        except BackendError as error:
            self._reply(refusal(one, error))
            return
        takes = one.verb is p.NEXT
        if got_nothing and (ready or due <= 0):
            ready, due = False, SETTLING
        if not ready and due > 0:
            self._waiting.add(one.sender, one.tag, one.request.topics, one.request.timeout, due, one if takes else None)
        elif takes:
            self._takers.append(one)
        else:
            self._send([one.sender, p.VERSION, p.WAKE, one.tag, b""])

    def _next_takers(self, topics: Collection[str]) -> list[Asked]:
        return [_as_reserve(one) for one in self._waiting.takers(topics)]

    def _reply_takers(self) -> None:
        """Answer workers for which jobs were reserved while they waited; those that got none keep waiting."""
        answers, self._transactions.reserved_for_waiting = self._transactions.reserved_for_waiting, []
        for answer in answers:
            if not _is_nothing(answer):
                self._waiting.drop(answer.to.sender)
                self._send_reserved(answer)

    def _reserve_for_waiting(self) -> None:
        """Reserve jobs for the workers that asked for some; those that get none keep waiting."""
        takers, self._takers = self._takers, []
        for one, answer in zip(
            takers, self._transactions.serve([*map(_as_reserve, takers)], serves_waiting=False), strict=True
        ):
            if _is_nothing(answer):
                self._wait(one, got_nothing=True)
            else:
                self._send_reserved(answer)

    def _send_reserved(self, answer: Answered) -> None:
        """Send reserved jobs; if their worker is gone, release them at once, because no other request would return them."""
        if not self._reply(answer) and answer.kind is p.OK:
            self._transactions.release_reserved(answer)

    def _shrink_store(self) -> None:
        try:
            with self._store.reading() as db:
                housekeeping.shrink(db)
        except BackendError as error:
            logger.warning("%s", error)

    # -- news ------------------------------------------------------------------------------------

    def _tell_news(self) -> None:
        """Wake workers that wait for topics with jobs, and answer clients that wait for jobs that have ended."""
        share = 1
        while self._transactions.news or self._takers:
            news, self._transactions.news = self._transactions.news, set()
            self._store.wake(news)
            for topic in self._with_work(self._waiting.waited_for(news)):
                for _ in range(share):
                    self._waiting.wake(topic)
            self._reserve_for_waiting()
            share *= 2  # workers that reserved up to their limit may have left jobs: wake twice as many in the next round
        touched, self._transactions.touched = self._transactions.touched, set()
        if self._results:
            self._tell_ends(self._results.to_look_at(touched))
        rested, self._transactions.rested = self._transactions.rested, set()
        if self._flow_ends:
            self._tell_flow_ends(self._flow_ends.to_look_at(rested))

    def _tell_ends(self, job_ids: Sequence[str]) -> None:
        if not job_ids:
            return
        try:
            with self._store.reading() as db:
                found = [(job_id, views.ended(db, job_id, self._store.now())) for job_id in job_ids]
        except BackendError as error:
            logger.warning("%s", error)
            return
        for job_id, record in found:
            if record is not None:
                body = p.RESULT.encode(record)
                for one in self._results.take(job_id):
                    self._reply(Answered(one, p.OK, body))

    def _tell_flow_ends(self, flow_ids: Sequence[str]) -> None:
        if not flow_ids:
            return
        try:
            with self._store.reading() as db:
                found = [(flow_id, flow_views.at_rest(db, flow_id, self._store.now())) for flow_id in flow_ids]
        except BackendError as error:
            logger.warning("%s", error)
            return
        for flow_id, answer in found:
            if answer[0]:
                body = p.WAIT_FLOW.encode(answer)
                for one in self._flow_ends.take(flow_id):
                    self._reply(Answered(one, p.OK, body))

    def _pass_time(self) -> None:
        """Handle timeouts and periodic checks that are due."""
        now = time.monotonic()
        self._transactions.news.update(self._waiting.pass_time())
        for one in self._waiting.over():
            self._reply(Answered(one, p.OK, _NOTHING))
        for one in self._results.overdue():
            self._reply(Answered(one, p.OK, p.RESULT.encode(None)))
        for one in self._flow_ends.overdue():
            self._reply(Answered(one, p.OK, p.WAIT_FLOW.encode((False, None))))
        if now >= self._next_round:
            self._next_round = now + ROUND
            self._transactions.news.update(topic for waiter in self._waiting for topic in waiter.topics)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP
            self._sweep()
            self.listener.has_room()
        if self._transactions.news or self._takers or self._results or self._flow_ends:
            self._tell_news()

    def _with_work(self, topics: Sequence[str]) -> list[str]:
        """Return the topics that have ready or due jobs now: news may be outdated by a reserve of the same group."""
        if not topics:
            return []
        try:
            with self._store.reading() as db:
                now = self._store.now()
                looks = {topic: views.look(db, [topic], now) for topic in topics}
        except BackendError as error:
            logger.warning("%s", error)
            return []
        for topic, (ready, due) in looks.items():
            if not ready and due > 0:
                self._waiting.remind(topic, due)
        return [topic for topic, (ready, due) in looks.items() if ready or due <= 0]

    def _sweep(self) -> None:
        """Remove waiting clients that are dead: no message can be sent to them."""
        for waiter in self._waiting:
            if not self._send([waiter.peer, p.VERSION, p.BEAT, b"", b""]):
                self._waiting.drop(waiter.peer)
                self._peers.forget(waiter.peer)
        self._peers.forget_silent()

    # -- sending ------------------------------------------------------------------------------------

    def _wake(self, waiter: Waiter) -> bool:
        if waiter.asked is not None:
            self._takers.append(waiter.asked)
            return True
        return self._send([waiter.peer, p.VERSION, p.WAKE, waiter.tag, b""])

    def _reply(self, answer: Answered) -> bool:
        one = answer.to
        if answer.kind is p.ERROR:
            self._transactions.figures.refused += 1
        frames = [one.sender, p.VERSION, answer.kind, one.tag, answer.body]
        return self._send([*frames, answer.remark] if answer.remark else frames)

    def _send(self, frames: Sequence[bytes]) -> bool:
        """Send a message; return False if the client has disconnected or does not read: it will send its request again."""
        try:
            sockets.send(self.listener.socket, frames)
        except zmq.ZMQError:
            return False
        return True

    def _status(self) -> p.Status:
        figures = self._transactions.figures
        refused = figures.refused + (self.listener.authenticator.refused if self.listener.authenticator else 0)
        return p.Status(
            pid=os.getpid(),
            epoch=self.epoch,
            uptime=time.monotonic() - self._began,
            store=str(self._store.path),
            listen=self.listener.endpoints,
            encrypted=self._settings.keys is not None,
            clients=self._peers.heard_from(60.0),
            waiting=len(self._waiting),
            pushed=figures.pushed,
            reserved=figures.reserved,
            settled=figures.settled,
            requests=figures.requests,
            commits=figures.commits,
            refused=refused,
        )


_OURS = frozenset(verb.name for verb in (p.HELLO, p.RETAIN, p.STATUS, p.WAIT, p.NEXT, p.RESULT, p.WAIT_FLOW))
_NOTHING = p.RESERVE.encode([])


def _as_reserve(one: Asked) -> Asked:
    return Asked(one.peer, one.sender, one.tag, p.RESERVE, one.request)


def _is_nothing(answer: Answered) -> bool:
    """Return whether no job was reserved, and the worker need not know why."""
    return answer.kind is p.OK and answer.body == _NOTHING and not answer.remark
