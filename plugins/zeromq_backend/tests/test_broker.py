"""The broker by itself: one commit for many requests, credit, its life as a child process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tests.support.project import PATIENCE, until

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.errors import BackendUnavailable
from jobs_core.ids import new_id, new_token
from jobs_zeromq import protocol as p
from jobs_zeromq.backend import ZeromqBackend
from jobs_zeromq.broker import transactions as desk_module
from jobs_zeromq.broker.decoding import read
from jobs_zeromq.broker.peers import Peers
from jobs_zeromq.broker.results import Results
from jobs_zeromq.broker.server import Server, Settings
from jobs_zeromq.broker.store import Store
from jobs_zeromq.broker.transactions import Transactions
from jobs_zeromq.broker.waiting import Waiting
from jobs_zeromq.connection import BrokerConnection

from .raw import Raw


@pytest.fixture
def transactions(tmp_path):
    store = Store("sqlite:///broker.db", BackendOptions(base_dir=tmp_path), min_free=0)
    store.open()
    yield Transactions(store)
    store.close()


def asked(verb, tag=b"tag", **body):
    peer = Peers(time.time).stranger
    return read(peer, b"somebody", tag, verb, [msgspec.msgpack.encode(body)])


def message(job_id):
    return {"id": job_id, "topic": "t", "payload": b"x"}


def push(job_id, request=None, tag=b"tag"):
    return asked(p.PUSH, tag, request=request or new_token(), messages=[message(job_id)])


def kinds(answers):
    return [answer.kind for answer in answers]


# -- group commit ----------------------------------------------------------------------------------


def test_simultaneous_requests_are_one_commit_and_confirmed_after_it(transactions, monkeypatch):
    at_commit = []
    monkeypatch.setattr(desk_module, "failpoint", lambda name: at_commit.append((name, transactions._store.is_there())))
    answers = transactions.serve([push(f"job-{n}") for n in range(200)])
    assert kinds(answers) == [p.OK] * 200
    assert transactions.figures.commits == 1
    assert [name for name, _ in at_commit[:2]] == ["broker.before_commit", "broker.after_commit"]


def test_a_refused_request_fails_no_other_request(transactions):
    lost = asked(p.RESERVE, owner="nobody", request="r", topics=["t"], limit=1)
    answers = transactions.serve([push("a"), lost, push("b")])
    assert kinds(answers) == [p.OK, p.ERROR, p.OK]
    assert p.decode_refusal(answers[1].body).code == "owner_lost"
    assert transactions.figures.commits == 1


def test_a_request_that_fails_is_rolled_back_alone_and_the_others_are_done(transactions, monkeypatch):
    add = desk_module.requests.push

    def fails(tx, pushes):
        conflicts = add(tx, pushes)
        if any(push.messages[0].id == "bad" for push in pushes):
            raise RuntimeError("no")
        return conflicts

    monkeypatch.setattr(desk_module.requests, "push", fails)
    answers = transactions.serve([push("a"), push("b"), push("bad"), push("c")])
    assert kinds(answers) == [p.OK, p.OK, p.ERROR, p.OK]
    assert transactions.figures.pushed == 3
    (counts,) = transactions.serve([asked(p.COUNTS, topics=["t"])])
    assert p.COUNTS.decode_answer(counts.body)["t"].ready == 3


def test_a_request_that_comes_twice_in_one_group_is_done_once(transactions):
    first, again = transactions.serve([push("a", "r"), push("b", "r")])
    assert (first.kind, again.kind) == (p.OK, p.OK)
    (counts,) = transactions.serve([asked(p.COUNTS, topics=["t"])])
    assert p.COUNTS.decode_answer(counts.body)["t"].ready == 1


# -- on the disk -----------------------------------------------------------------------------------


class Disk:
    """A broker's disk, which syncs when permitted, and fails when told to."""

    def __init__(self, monkeypatch):
        self.asked, self.let, self.error = threading.Event(), threading.Event(), None
        monkeypatch.setattr(Store, "sync", lambda store: self.sync())

    def sync(self):
        self.asked.set()
        assert self.let.wait(30)
        if self.error:
            raise self.error


def test_a_job_is_handed_out_before_the_disk_has_it_and_its_push_confirmed_after(start_in_process, monkeypatch):
    broker = start_in_process()
    disk = Disk(monkeypatch)
    with Raw(broker.url) as worker, Raw(broker.url) as producer:
        worker.ask(b"open", {"owner": "w"})
        wait = {"owner": "w", "request": "r", "topics": ["t"], "limit": 1, "timeout": 60.0}
        worker.send(p.VERSION, b"next", b"n", msgspec.msgpack.encode(wait))
        while not producer.ask(b"status", {})[1]["waiting"]:
            pass
        producer.send(p.VERSION, b"push", b"p", msgspec.msgpack.encode({"request": "1", "messages": [message("a")]}))
        _, kind, _, body = worker.receive()
        (handed,) = p.NEXT.decode_answer(body)
        assert (kind, handed.id) == (p.OK, "a")
        assert disk.asked.wait(30)
        assert not producer.socket.poll(50), "it is confirmed, and not on the disk"
        disk.let.set()
        assert producer.receive()[1:3] == [p.OK, b"p"]
        settled = {"owner": "w", "request": "s", "settlements": [{"id": "a", "token": handed.token, "outcome": "done"}]}
        assert worker.ask(b"settle", settled) == (p.OK, ["settled"])


def test_requests_that_need_no_sync_are_answered_first(tmp_path, monkeypatch):
    done = []
    server = Server(Settings(store="sqlite:///broker.db", listen=["tcp://127.0.0.1:*"], base_dir=tmp_path, min_free=0))
    monkeypatch.setattr(server, "_send", lambda frames: done.append(frames[3]) or True)
    server.open()
    monkeypatch.setattr(Store, "sync", lambda store: done.append("synced"))
    try:
        server._serve([push("a", tag=b"push"), asked(p.OPEN, owner="w", tag=b"open"), push("b", tag=b"another")])
        server._serve([asked(p.COUNTS, topics=["t"], tag=b"counts")])
    finally:
        server.close()
    assert done == [b"open", "synced", b"push", b"another", b"counts"]


def test_a_push_that_cannot_be_synced_is_not_confirmed_and_its_repetition_is_done_once(start_in_process, monkeypatch):
    broker = start_in_process()
    disk = Disk(monkeypatch)
    disk.let.set()
    disk.error = BackendUnavailable("no")
    with Raw(broker.url) as client:
        push = {"request": "1", "messages": [message("a")]}
        kind, refusal = client.ask(b"push", push)
        assert (kind, refusal["code"]) == (p.ERROR, "unavailable")
        disk.error = None
        assert client.ask(b"push", push) == (p.OK, {})
        assert client.ask(b"counts", {"topics": ["t"]})[1]["t"]["ready"] == 1


# -- credit ----------------------------------------------------------------------------------------


def test_no_more_jobs_are_delivered_than_requested_or_than_can_be_sent_in_time(start_in_process):
    backend = ZeromqBackend(start_in_process().url, BackendOptions())
    backend.open("worker")
    try:
        large = [Outgoing(f"large-{n}", "t", bytes(3 * 2**20)) for n in range(4)]
        backend.push([*large, Outgoing("giant", "t", bytes(p.MAX_FRAME - 1000)), Outgoing("small", "t", b"x")], new_token())
        assert len(backend.reserve(["t"], 1, "one")) == 1
        assert [one.id for one in backend.reserve(["t"], 100, "two")] == ["large-1", "large-2"]
        assert [one.id for one in backend.reserve(["t"], 100, "two")] == ["large-1", "large-2"]  # the same again
        assert [one.id for one in backend.reserve(["t"], 100, "three")] == ["large-3"]
        assert [one.id for one in backend.reserve(["t"], 100, "four")] == ["giant", "small"]
        assert backend.counts(["t"])["t"].reserved == 6
    finally:
        backend.close()


def test_a_waiting_worker_that_was_woken_for_nothing_gets_the_next_job_at_once(start_in_process):
    """What woke it was due, and gone: the wait goes on, and its request is no repetition when it is executed again."""
    url = start_in_process().url
    worker, producer = (ZeromqBackend(url, BackendOptions()) for _ in range(2))
    worker.open("worker")
    producer.open(None)
    try:
        later = Outgoing(new_id(), "t", b"", delay=0.3)
        producer.push([later], new_token())
        found = []
        thread = threading.Thread(target=lambda: found.append(worker.reserve_next(["t"], 1, new_token(), 30.0)))
        thread.start()
        until(lambda: producer.status().waiting == 1)
        producer.cancel(later.id)
        commits = producer.status().commits
        until(lambda: producer.status().commits > commits)  # it has looked, and found nothing
        job = Outgoing(new_id(), "t", b"")
        producer.push([job], new_token())
        thread.join(PATIENCE)
        assert [[one.id for one in deliveries] for deliveries in found] == [[job.id]]
    finally:
        worker.close()
        producer.close()


def test_one_job_wakes_only_one_waiting_worker(start_in_process):
    broker = start_in_process()
    waiting = [ZeromqBackend(broker.url, BackendOptions()) for _ in range(2)]
    producer = ZeromqBackend(broker.url, BackendOptions())
    producer.open(None)
    for backend in waiting:
        backend.open(new_token())
    try:
        woken = []
        threads = [threading.Thread(target=lambda one=one: woken.append((one, one.wait(["t"], 20.0)))) for one in waiting]
        for number, thread in enumerate(threads, 1):
            thread.start()
            while producer.status().waiting < number:
                time.sleep(0.001)  # until the broker knows
        producer.push([Outgoing(new_id(), "t", b"x")], new_token())
        while not woken:
            time.sleep(0.001)
        first, found = woken[0]
        assert found
        assert len(first.reserve(["t"], 1, new_token())) == 1  # and so the other need not come
        assert producer.status().waiting == 1
        waiting[1 - waiting.index(first)].interrupt()
        for thread in threads:
            thread.join(30)
        assert [found for _, found in woken] == [True, False]
    finally:
        for backend in (*waiting, producer):
            backend.close()


def test_jobs_delivered_to_an_ended_wait_are_returned_to_its_request(start_in_process, monkeypatch):
    broker = start_in_process()
    worker, producer = (ZeromqBackend(broker.url, BackendOptions()) for _ in range(2))
    worker.open("worker")
    producer.open(None)
    answered = BrokerConnection.call_later
    # As if the wake-up had come a moment sooner:
    monkeypatch.setattr(BrokerConnection, "call_later", lambda *args: answered(*args) and None)
    try:
        producer.push([Outgoing(str(n), "t", b"x") for n in range(3)], new_token())
        assert [one.id for one in worker.reserve_next(["t"], 2, "request", 20.0)] == ["0", "1"]
        assert producer.counts(["t"])["t"].reserved == 2
    finally:
        worker.close()
        producer.close()


def test_a_wait_on_an_old_connection_gets_nothing_once_its_owner_has_asked_on_a_new_one(start_in_process):
    broker = start_in_process()
    old, new, producer = (ZeromqBackend(broker.url, BackendOptions()) for _ in range(3))
    for backend, owner in ((old, "worker"), (new, "worker"), (producer, None)):
        backend.open(owner)
    try:
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(old.reserve_next, ["t"], 1, "one", 30.0)
            while producer.status().waiting < 1:
                time.sleep(0.001)  # until the broker knows
            assert new.reserve(["t"], 1, "two") == []
            assert producer.status().waiting == 0
            producer.push([Outgoing("a", "t", b"x")], new_token())
            assert [one.id for one in new.reserve(["t"], 1, "three")] == ["a"]
            old.interrupt()
            assert waits.result(30) == []
    finally:
        for backend in (old, new, producer):
            backend.close()


def test_jobs_delivered_to_a_client_that_has_gone_return_at_once(transactions):
    transactions.serve([asked(p.OPEN, owner="gone"), push("a")])
    (handed,) = transactions.serve([asked(p.RESERVE, owner="gone", request="r", topics=["t"], limit=1)])
    transactions.news.clear()
    transactions.release_reserved(handed)
    assert transactions.news == {"t"}
    again, counts = transactions.serve(
        [asked(p.RESERVE, owner="gone", request="r", topics=["t"], limit=1), asked(p.COUNTS, topics=["t"])]
    )
    assert p.RESERVE.decode_answer(again.body) == []
    assert p.COUNTS.decode_answer(counts.body)["t"].ready == 1


def test_a_burst_is_delivered_once_among_all_waiting_workers(start_in_process):
    broker = start_in_process()
    workers = [ZeromqBackend(broker.url, BackendOptions()) for _ in range(5)]
    producer = ZeromqBackend(broker.url, BackendOptions())
    producer.open(None)
    for backend in workers:
        backend.open(new_token())
    try:
        with ThreadPoolExecutor(5) as pool:
            taken = [pool.submit(one.reserve_next, ["t"], 2, new_token(), 30.0) for one in workers]
            while producer.status().waiting < 5:
                time.sleep(0.001)  # until the broker knows
            producer.push([Outgoing(str(n), "t", b"x") for n in range(7)], new_token())
            while sum(one.done() for one in taken) < 4:
                time.sleep(0.001)
            assert producer.status().waiting == 1  # for which nothing is left
            for backend in workers:
                backend.interrupt()
            assert sorted(one.id for future in taken for one in future.result(30)) == [str(n) for n in range(7)]
    finally:
        for backend in (*workers, producer):
            backend.close()


def test_waits_that_are_over_are_not_remembered():
    waits, ends = Waiting(lambda waiter: True), Results()
    for number in range(10_000):
        waits.add(b"peer", b"%d" % number, ["t"], 1000.0, float("inf"))
        ends.add(f"job-{number}", asked(p.RESULT, id=f"job-{number}", timeout=1000.0))
        ends.take(f"job-{number}")
    assert (len(waits), len(ends)) == (1, 0)
    assert len(waits._timers) < 2000
    assert len(ends._timers) < 2000


# -- as a child ------------------------------------------------------------------------------------

PARENT = """
import os, subprocess, sys, time
read, write = os.pipe()
environment = {**os.environ, "JOBS_READY_FD": str(write)}
child = subprocess.Popen([sys.executable, "-m", "jobs_zeromq.broker"], env=environment, pass_fds=[write])
assert os.read(read, 1) == b"\\n"
print(child.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_its_parent_however_that_dies(service):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=service.directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout
        watch = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    try:
        assert select.select([watch], [], [], 30)[0], "it outlived its parent"
    finally:
        os.close(watch)


def test_it_exits_when_no_process_reads_its_ready_message(service):
    ready, told = os.pipe()
    os.close(ready)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs_zeromq.broker"],
        cwd=service.directory,
        env={**environment, "JOBS_READY_FD": str(told)},
        pass_fds=[told],
        capture_output=True,
        timeout=60,
    )
    os.close(told)
    assert done.returncode == 0


def test_term_answers_open_requests_and_exits_with_0(service):
    service.start()
    backend = ZeromqBackend(service.url, BackendOptions())
    backend.open(None)
    backend.push([Outgoing(new_id(), "t", b"x")], new_token())
    backend.close()
    assert service.stop() == 0
    assert "stopped" in service.log


def test_nothing_is_handed_out_over_a_connection_that_its_owner_has_left(start_in_process):
    """A client whose connection breaks says hello over another; its earlier requests may still wait, or arrive late."""
    url = start_in_process().url
    with Raw(url) as old, Raw(url) as new:
        new.ask(b"open", {"owner": "w"})
        asked = {"owner": "w", "topics": ["t"], "limit": 9}
        waits = msgspec.msgpack.encode({**asked, "request": "r1", "timeout": 60.0})
        old.send(p.VERSION, b"next", b"1", waits)
        assert old.ask(b"counts", {"topics": ["t"]})[0] == p.OK  # it has come
        old.send(p.VERSION, b"next", b"1", waits)
        assert new.ask(b"reserve", {**asked, "request": "r1", "limit": 0}) == (p.OK, [])
        new.send(p.VERSION, b"next", b"2", msgspec.msgpack.encode({**asked, "request": "r2", "timeout": 60.0}))
        late = old.ask(b"reserve", {**asked, "request": "r0"}, tag=b"late")
        assert (late[0], late[1]["code"]) == (p.ERROR, "hello")
        with Raw(url) as producer:
            for job_id in ("a", "b"):
                producer.ask(b"push", {"request": job_id, "messages": [{"id": job_id, "topic": "t", "payload": b"x"}]})
        assert [one["id"] for one in msgspec.msgpack.decode(new.receive()[3])] == ["a"]
        assert [one["id"] for one in new.ask(b"reserve", {**asked, "request": "r3"})[1]] == ["b"]
