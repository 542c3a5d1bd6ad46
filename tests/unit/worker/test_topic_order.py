"""The order of a pool's topics: strict, or each its share."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from jobs_core import job
from jobs_core.config import Pool
from jobs_core.worker.main import Worker
from jobs_core.worker.topic_order import topic_order


def test_a_list_is_served_strictly():
    order = topic_order(["b", "a"])
    assert [order() for _ in range(3)] == [["b", "a"]] * 3


def test_each_topic_comes_first_by_its_share_and_none_is_left_out(monkeypatch):
    monkeypatch.setattr(random, "random", random.Random(1).random)
    order = topic_order({"critical": 6, "default": 3, "low": 1})
    drawn = [order() for _ in range(20_000)]
    assert all(sorted(each) == ["critical", "default", "low"] for each in drawn)
    first = Counter(each[0] for each in drawn)
    assert first["critical"] / 20_000 == pytest.approx(0.6, abs=0.02)
    assert first["default"] / 20_000 == pytest.approx(0.3, abs=0.02)
    assert first["low"] / 20_000 == pytest.approx(0.1, abs=0.02)
    second = Counter(each[1] for each in drawn if each[0] == "critical")
    assert second["default"] / first["critical"] == pytest.approx(0.75, abs=0.02), "the rest is shared by weight, too"


def test_jobs_that_take_no_time_are_shared_too(app, registry):
    """A worker reserves short jobs many at a time, perhaps all of one topic; the shares must not become as coarse."""
    done = []

    @job(registry=registry, name="mark")
    def mark(topic: str) -> None:
        done.append(topic)

    for topic in ("critical", "low"):
        mark.using(topic=topic).enqueue_many([(topic,)] * 4000)
    Worker(app, "p", Pool(mode="sync", topics={"critical": 6, "low": 1}), None, drain=True).run()
    assert len(done) == 8000
    first = done[:4000]  # drawn in over 160 reservations: 39 changes of the topic or more, with a standard deviation of 6
    assert sum(topic != before for before, topic in itertools.pairwise(first)) > 12
    assert 0.02 < first.count("low") / 4000 < 0.3
