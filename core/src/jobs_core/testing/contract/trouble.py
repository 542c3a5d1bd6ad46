"""A full store, an unreachable broker, a process that forks, and connections that are closed with their block."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from ...backends.base import Answer, Outcome, Settlement
from ...errors import BackendError, BackendUnavailable, QueueFull
from ...ids import new_token
from .rig import PATIENCE, Outage, Rig, RigCase, T

R = TypeVar("R")

_DESCRIPTORS = Path("/proc/self/fd")


class Trouble(RigCase):
    """Failures outside the queue raise errors of the core, and affect nothing else."""

    def test_a_full_store_refuses_a_push_with_queue_full(self, rig: Rig, small_url: str) -> None:
        if not small_url:
            return
        small = Rig(small_url, None)
        try:
            producer, worker = small.producer(), small.worker()
            payload = b"x" * 1000
            with pytest.raises(QueueFull):  # noqa: PT012  # which of the pushes is refused is the store's affair
                for _ in range(200):
                    small.push(producer, *[small.job(payload) for _ in range(100)])
            taken = small.take(worker, 10)
            assert taken, "a full store hands out no job: it can never be emptied"
            small.done(worker, *taken)
        finally:
            small.close()

    def test_a_broker_that_is_away_is_told_as_backend_unavailable(self, rig: Rig, unreachable_url: str) -> None:
        if not unreachable_url:
            return
        away = Rig(unreachable_url, None)
        try:
            with pytest.raises(BackendUnavailable):
                away.push(away.producer(), away.job())
            with pytest.raises(BackendUnavailable):
                away.worker().reserve([T], 1, away.request())
        finally:
            away.close()

    def test_an_outage_in_the_middle_is_told_and_loses_nothing(self, rig: Rig, outage: Outage | None) -> None:
        """During an outage, calls raise BackendUnavailable in time; afterwards, the repeated requests are answered."""
        if outage is None:
            return
        cut = Rig(outage.url, rig.clock)
        cut.lease = 60.0  # no lease expires meanwhile
        try:
            producer, worker = cut.producer(), cut.worker()
            pushed = cut.push_many(producer, 3)
            held = cut.take_one(worker)
            job, push, settle = cut.job(), cut.request(), cut.request()
            settlement = Settlement(held.id, held.token, Outcome.DONE)
            outage.begin()
            for call in (
                lambda: producer.push([job], push),
                lambda: worker.settle([settlement], settle),
                lambda: worker.reserve([T], 1, cut.request()),
            ):
                with pytest.raises(BackendUnavailable):
                    call()
            with contextlib.suppress(BackendUnavailable):
                worker.wait([T], 0.1)
            outage.end()
            answer = _answered(lambda: worker.settle([settlement], settle))[0]
            _answered(lambda: producer.push([job], push))
            ran = [held.id]  # if the lease ends with the connection, it may run again, or be settled late
            expected, deadline = {*pushed, job.id}, time.monotonic() + PATIENCE
            while not expected.issubset(ran) and time.monotonic() < deadline:
                taken = _answered(lambda: cut.take(worker, 10))
                ran += [delivery.id for delivery in taken]
                endings, ended = [Settlement(each.id, each.token, Outcome.DONE) for each in taken], cut.request()
                _answered(functools.partial(worker.settle, endings, ended))
            ran += cut.drain(worker)
            assert set(ran) == expected
            if cut.has("exact_redelivery"):
                assert len(ran) == len(expected), "jobs that had been reserved or pushed came twice"
                assert answer is Answer.SETTLED
        finally:
            outage.end()
            cut.close()

    def test_what_the_client_library_raises_is_never_seen(self, rig: Rig) -> None:
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        worker.close()
        for call in (
            lambda: worker.reserve([T], 1, rig.request()),
            lambda: worker.push([rig.job(topic="other")], rig.request()),
            lambda: worker.heartbeat(),
        ):
            with contextlib.suppress(BackendError):  # a closed connection raises an error of the core, or opens again
                call()
        worker.close()
        assert rig.take_one(rig.worker())

    def test_prefixes_keep_applications_apart(self, rig: Rig, shared_url: str) -> None:
        if not rig.has("prefix"):
            return
        rig.url = shared_url
        one, two = f"one-{rig.name}", f"two-{rig.name}"
        rig.push_many(rig.producer(prefix=one), 2)
        assert rig.take(rig.worker(prefix=two), 1) == []
        assert len(rig.take(rig.worker(prefix=one), 2)) == 2

    def test_a_process_may_fork_while_a_connection_is_open(self, rig: Rig) -> None:
        if not rig.has("multiprocess"):
            return
        producer, worker = rig.producer(), rig.worker()
        (before,) = rig.push_many(producer, 1)
        held = rig.take_one(worker)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads, which client libraries have
            child = os.fork()
        if child == 0:
            code = 1
            try:
                mine = rig.unopened()
                mine.open(None)
                rig.push(mine, rig.job(b"of the child"))
                mine.close()
                del producer, worker  # the objects copied by the fork belong to the parent: their end here must not disturb it
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert held.id == before
        rig.push(producer, rig.job(b"of the parent"))
        rig.done(worker, held)
        payloads = {rig.take_one(worker).payload for _ in range(2)}
        assert payloads == {b"of the child", b"of the parent"}

    def test_close_leaves_no_descriptor_and_no_thread(self, rig: Rig) -> None:
        if not _DESCRIPTORS.exists():
            return

        def open_and_close() -> None:
            for owner in (None, new_token()):
                backend = rig.unopened()
                backend.open(owner)
                rig.push(backend, rig.job(topic="other"))
                backend.close()

        open_and_close()  # creates everything that a process creates only once
        before = len(list(_DESCRIPTORS.iterdir())), threading.active_count()
        for _ in range(3):
            open_and_close()
        deadline = time.monotonic() + PATIENCE
        while (left := (len(list(_DESCRIPTORS.iterdir())), threading.active_count())) > before:
            assert time.monotonic() < deadline, f"descriptors and threads: {before} before, {left} after"
            gc.collect()
            time.sleep(0.05)  # poll, because a thread does not report its end


def _answered(call: Callable[[], R]) -> R:
    """Repeat a call until the backend answers again, as couriers and producers do."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except BackendUnavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)  # poll, because no event tells that a server is reachable again
