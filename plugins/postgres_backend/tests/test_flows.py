"""Flows while many connections change them at the same time, and what plain jobs pay for them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from jobs_core.backends.base import Answer, BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.flows import After, Member, Part
from jobs_core.ids import new_id, new_token
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

TOPICS = ["a", "b"]
FLOWS, WORKERS, SECONDS = 40, 4, 10.0
ALL = After("*", "all")


def opened(url, owner=None):
    backend = PostgresBackend(parse(url, "jobs"), BackendOptions())
    backend.open(owner)
    return backend


def push_flow(backend, chance, flow_id):
    """Push a flow of random shape."""
    jobs, ids = [], []
    for n in range(chance.randint(3, 12)):
        after = tuple(
            After(job_id, ended=chance.random() < 0.3) for job_id in chance.sample(ids, min(len(ids), chance.randint(0, 2)))
        )
        member = Member(flow_id, f"s{n % 2}" if chance.random() < 0.3 else "", after, chance.choice(["done", "done", "ended"]))
        jobs.append(Outgoing(new_id(), chance.choice(TOPICS), b"{}", member=member))
        ids.append(jobs[-1].id)
    jobs.append(Outgoing(new_id(), "a", b"{}", member=Member(flow_id, "", (ALL,), chance.choice(["done", "ended"]))))
    backend.push_part(Part(flow_id), jobs, new_token())
    return [job.id for job in jobs]


def settle_some(backend, chance):
    """Reserve some jobs and settle them in any way; return how many there were."""
    held = backend.reserve(chance.sample(TOPICS, 2), chance.randint(1, 8), new_token())
    settlements = []
    for each in held:
        outcome = chance.choice([Outcome.DONE] * 8 + [Outcome.DEAD, Outcome.RETRY, Outcome.RELEASE, Outcome.CANCELLED])
        adds = outcome is Outcome.DONE and each.flow and chance.random() < 0.1
        added = Outgoing(new_id(), chance.choice(TOPICS), b"{}", member=Member(each.flow, None)) if adds else None
        settlements.append(Settlement(each.id, each.token, outcome, reason="no", followups=(added,) if added else ()))
    assert set(backend.settle(settlements, new_token())) <= {Answer.SETTLED}
    return len(held)


def operate(backend, chance, flow_ids, job_ids):
    """Do what some operator may do."""
    what = chance.randrange(9)
    job_id, flow_id = chance.choice(job_ids), chance.choice(flow_ids)
    if what == 0:
        backend.cancel(job_id)
    elif what == 1:
        backend.discard([job_id], "not wanted")
    elif what == 2:
        backend.requeue(chance.sample(job_ids, 5))
    elif what == 3 and chance.random() < 0.1:
        backend.cancel_flow(flow_id, finale=chance.random() < 0.5)
    elif what == 4:
        backend.drop([job_id])
    elif what == 5 and chance.random() < 0.1:
        backend.purge(chance.choice(TOPICS), chance.choice([State.READY, State.WAITING, State.DEAD]))
    else:
        backend.retry_flow(flow_id)
        backend.housekeep(100)


@pytest.mark.timeout(300)
def test_whatever_many_do_at_once_nothing_waits_for_each_other_and_every_counter_is_right(
    postgres_url, postgres_server, schema
):
    producer = opened(postgres_url)
    chance = random.Random(7)
    flow_ids = [f"flow-{n}" for n in range(FLOWS)]
    job_ids = [job_id for flow_id in flow_ids for job_id in push_flow(producer, chance, flow_id)]
    with psycopg.connect(postgres_server.url) as connection:
        before = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'").fetchone()
    end = time.monotonic() + SECONDS

    def work(seed):
        luck, backend, dying = random.Random(seed), opened(postgres_url, new_token()), None
        while time.monotonic() < end:
            settle_some(backend, luck)
            operate(backend, luck, flow_ids, job_ids)
            if luck.random() < 0.1:
                dying = opened(postgres_url, new_token())
                dying.reserve(TOPICS, 3, new_token())
                backend.release_owner(dying._owner, [], b"")
                dying.close()
        backend.close()

    with ThreadPoolExecutor(WORKERS) as threads:
        for done in [threads.submit(work, seed) for seed in range(WORKERS)]:
            done.result()
    worker = opened(postgres_url, new_token())
    while True:
        for flow_id in flow_ids:
            worker.retry_flow(flow_id)
        held = worker.reserve(TOPICS, 100, new_token())
        worker.settle([Settlement(each.id, each.token, Outcome.DONE) for each in held], new_token())
        if not worker.housekeep(100).more and not held and all(worker.flow(flow_id).active == 0 for flow_id in flow_ids):
            break
    assert {worker.flow(flow_id).state for flow_id in flow_ids} <= {"done", "cancelled"}
    for status in worker.flows(FLOWS):
        assert (status.waiting, status.active, status.ended_at is None) == (0, 0, False), status
        assert status.done + status.dead + status.cancelled == status.total, status
    assert {(count.ready, count.scheduled, count.reserved) for count in worker.counts(TOPICS).values()} == {(0, 0, 0)}
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute(f'SET search_path = "{schema}"'.encode())
        assert connection.execute("SELECT * FROM flow_work").fetchall() == []
        assert connection.execute("SELECT * FROM flow_edge").fetchall() == []
        assert connection.execute("SELECT * FROM flow_group WHERE label IS NOT NULL AND live <> 0").fetchall() == []
        after = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'").fetchone()
    assert after == before
    producer.close()
    worker.close()


def test_a_store_of_version_1_gets_the_tables_and_keeps_its_jobs(postgres_url, postgres_server, schema):
    backend = opened(postgres_url)
    backend.push([Outgoing(new_id(), "a", b"{}")], new_token())
    backend.close()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        tables = "flow, flow_group, flow_member, flow_edge, flow_work, flow_left, flow_result"
        connection.execute(f'SET search_path = "{schema}"'.encode())
        connection.execute(f"DROP TABLE {tables} CASCADE".encode())
        connection.execute("UPDATE meta SET value = 1 WHERE key = 'schema'")
    worker = opened(postgres_url, new_token())
    flow_id = new_token()
    worker.push_part(Part(flow_id), [Outgoing(new_id(), "a", b"{}", member=Member(flow_id))], new_token())
    assert len(worker.reserve(["a"], 9, new_token())) == 2
    worker.close()
