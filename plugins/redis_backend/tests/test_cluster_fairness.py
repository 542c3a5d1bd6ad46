"""Fair topics on a cluster: each is one in its own slot, and workers serve several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs_core.backends.base import Answer, Backend, BackendOptions, Checkpoint, Outcome, Outgoing, Settlement, State
from jobs_core.backends.limits import Lines
from jobs_core.backends.notes import Note
from jobs_core.ids import new_id, new_token
from jobs_core.unfinished import limited
from jobs_redis.cluster import RedisClusterBackend
from jobs_redis.url import parse

TOPICS = ["mail", "pay", "slow"]


@pytest.fixture
def backend(redis_cluster_url: str) -> Iterator[RedisClusterBackend]:
    made = RedisClusterBackend(parse(redis_cluster_url), BackendOptions())
    made.open(new_token())
    made.define_limits({}, {topic: Lines(fair=True, max_per_key=1) for topic in TOPICS})
    yield made
    made.close()


def push(backend: Backend, topic: str, keys: str) -> list[str]:
    messages = [Outgoing(new_id(), topic, b"{}", key=key) for key in keys]
    assert backend.push(messages, new_token()) == {}
    return [message.id for message in messages]


def test_reservations_of_several_fair_topics_are_settled_together(backend: RedisClusterBackend) -> None:
    for topic in TOPICS:
        push(backend, topic, "aab")
    held = backend.reserve(TOPICS, 100, new_token())
    assert sorted((each.topic, each.key) for each in held) == [(topic, key) for topic in TOPICS for key in "ab"]
    backend.checkpoint([Checkpoint(each.id, each.token, b"half") for each in held])
    backend.note([Note(each.id, each.token, b"1", ()) for each in held])
    records = [backend.get(each.id) for each in held]
    assert {(record.cursor, record.notes.progress) for record in records if record is not None} == {(b"half", b"1")}
    ends = [Settlement(each.id, each.token, Outcome.DONE) for each in held]
    assert backend.settle(ends, new_token()) == [Answer.SETTLED] * len(held)
    rest = backend.reserve(TOPICS, 100, new_token())
    assert [(each.topic, each.key) for each in rest] == [(topic, "a") for topic in TOPICS]


def test_a_job_beyond_max_per_key_says_which_job_it_waits_for(backend: RedisClusterBackend) -> None:
    _, waits = push(backend, "mail", "aa")
    (held,) = backend.reserve(TOPICS, 100, new_token())
    record = backend.get(waits)
    assert record is not None
    assert record.state is State.LIMITED
    (why, by) = limited(backend, record)
    assert why.startswith("it waits for max_per_key of topic mail for key a: ")
    assert held.id in by


def test_a_topic_that_nobody_has_used_is_not_made_by_saying_that_it_is_not_fair(backend: RedisClusterBackend) -> None:
    backend.define_limits({}, {"unused": Lines(), "mail": Lines()})
    push(backend, "mail", "aab")
    assert [each.key for each in backend.reserve(["mail"], 100, new_token())] == ["a", "a", "b"]
    assert "unused" not in backend._known()
