"""Housekeeping corrects the groups of dead letters: releases that do not know them bury, retry and delete without counting."""

import json
import re

import pytest
import redis

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.letters import UNNAMED, Fingerprint, last_of
from jobs_core.ids import new_id, new_token
from jobs_core.plugins import Plugins

CAUSE = Fingerprint("abcd1234", "ValueError", "", "no")
ERROR = json.dumps({"type": "ValueError", "message": "no 7", "traceback": ""}).encode()


@pytest.fixture
def backend(redis_url):
    backend = Plugins.discover().choose("jobs_queue_backends", "redis", "backend")(redis_url, BackendOptions())
    backend.open("owner")
    yield backend
    backend.close()


@pytest.fixture
def server(redis_url):
    with redis.Redis.from_url(redis_url.partition("?")[0]) as server:
        yield server


def bury(backend, count):
    ids = [new_id() for _ in range(count)]
    backend.push([Outgoing(each, "t", b"{}") for each in ids], new_token())
    while held := backend.reserve(["t"], 500, new_token()):
        letter = {"outcome": Outcome.DEAD, "reason": "failed", "error": ERROR, "fingerprint": CAUSE}
        backend.settle([Settlement(one.id, one.token, **letter) for one in held], new_token())
    return ids


def groups(backend):
    return {group.fingerprint.id: group.letters for group in backend.dead_groups(["t"], 100)}


def base(redis_url):
    return "{" + re.search(r"prefix=([^&]+)", redis_url)[1] + "}"


def test_letters_that_an_earlier_release_buried_are_found_and_named(backend, server, redis_url):
    bury(backend, 1200)
    keys = [key for key in server.scan_iter(f"{base(redis_url)}:dead-*:t*") if b":dead-" in key]
    assert len(keys) == 3
    server.delete(*keys)
    assert groups(backend) == {}
    named = last_of("failed", (ERROR,)).id
    for _ in range(10):
        backend.housekeep(1000)
        if groups(backend) == {named: 1200}:
            break
    assert groups(backend) == {named: 1200}
    assert UNNAMED not in groups(backend)


def test_letters_that_an_earlier_release_deleted_are_forgotten(backend, server, redis_url):
    gone, stays = bury(backend, 2)
    server.zrem(f"{base(redis_url)}:dead:t", gone)
    server.hdel(f"{base(redis_url)}:job", gone)
    for _ in range(3):
        backend.housekeep(100)
    [group] = backend.dead_groups(["t"], 10)
    assert (group.letters, group.example) == (1, stays)


def test_nothing_is_left_of_the_groups_when_all_letters_are_gone(backend, server, redis_url):
    ids = bury(backend, 5)
    assert backend.drop(ids) == 5
    assert list(server.scan_iter(f"{base(redis_url)}:dead-*")) == []
