"""A pool with weights serves every topic, each by its share."""

from __future__ import annotations

from ..support.project import Project

POOL = '[pools.default]\nmode = "{mode}"\ntopics = {{ critical = 6, low = 2 }}\n'


def test_no_topic_waits_for_another_to_be_empty(tmp_path):
    """The jobs take a while, so that few are reserved at once, as where one topic starves another."""
    project = Project(tmp_path / "project")
    project.configure(POOL.format(mode="sync"))
    calls = [("nap", (0.005, f"{topic}-{n}"), {"topic": topic}) for topic in ("critical", "low") for n in range(400)]
    project.push_many(calls)
    worker = project.worker()
    project.until(lambda: len(project.ledger()) >= 800)
    worker.stop()
    done = [line.split()[1].partition("-")[0] for line in project.ledger() if line.startswith("end")][:400]
    share = done.count("low") / len(done)
    assert 0.08 < share < 0.5, "a quarter is its share; with a strict order it would be none"
    project.close()


def test_check_shows_a_pool_with_weights_and_refuses_invalid_ones(tmp_path):
    project = Project(tmp_path / "project")
    project.configure(POOL.format(mode="sync"))
    assert "critical, low" in project.here("check")
    project.configure("[pools.default]\ntopics = { critical = 0 }\n")
    assert "pools.default.topics.critical: expected int >= 1, got 0" in project.here("check", code=2)
    project.configure('[pools.default]\ntopics = { "a b" = 1 }\n')
    assert "invalid topic name 'a b'" in project.here("check", code=2)


def test_weights_can_come_from_the_environment(tmp_path):
    project = Project(tmp_path / "project")
    told = project.here("check", "--show", JOBS_POOLS__DEFAULT__TOPICS__CRITICAL="7", JOBS_POOLS__DEFAULT__TOPICS__LOW="1")
    assert "critical" in told
    assert "7" in told
