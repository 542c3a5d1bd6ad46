"""Faults of the workers of RabbitMQ's queues, of their supervisor, and of messages."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections import Counter

import pika
import pytest

from jobs_core.backends.base import Answer, BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.ids import new_id, new_token
from jobs_rabbitmq import _create

from ..support.project import until
from ..support.proxy import Proxy
from ..support.stopwatch import Stopwatch
from ..support.supervised import Supervised, gone, kill
from ..torture import rabbitmq as rows
from ..torture.stage import endure

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def through(proxy, node, url):
    return url.replace(f":{node.port}/", f":{proxy.port}/")


# -- killed, frozen, stopped -------------------------------------------------------------------------


def test_workers_killed_with_hundreds_of_async_jobs_lose_none(node, tmp_path):
    _, tally = endure(rows.on(node, rows.kill_busy_workers(300), **rows.at_once(1000)), tmp_path, 1500)
    assert tally.acknowledged == 1500
    assert tally.duplicated <= 2 * 1000  # two workers' worth at most


def test_a_job_that_kills_its_workers_is_found_and_its_neighbours_are_done(node, tmp_path):
    endure(rows.on(node, rows.in_turn(rows.poison)), tmp_path, 200)


def test_a_frozen_workers_jobs_run_elsewhere_and_it_settles_none_of_them(rabbit_project, rabbitmq_url, channel):
    project = rabbit_project
    project.configure(backend=f'backend = "{rabbitmq_url}?heartbeat=1"')
    frozen = project.worker()
    project.push("nap", 0.3, "slept")
    project.until(lambda: project.ledger())
    frozen.signal(signal.SIGSTOP)
    other = project.worker()
    project.until_noted("end slept")  # once its silence has cost it its connection
    frozen.signal(signal.SIGCONT)
    project.until(lambda: project.times("end slept") == 2)
    frozen.until_said("as well")
    project.push("note", "after")
    project.until_noted("note after")
    project.until_empty()
    assert (frozen.stop(), other.stop()) == (0, 0)
    assert sum(line.startswith("start") for line in project.ledger()) == 2


@pytest.mark.parametrize("whole_group", [False, True], ids=["supervisor", "supervisor and workers"])
def test_jobs_running_when_a_supervisor_was_killed_rerun_under_the_next(rabbit_project, whole_group):
    project = rabbit_project
    supervised = Supervised(project)
    workers = [(view.header.pid, view.header.start_ticks) for view in supervised.workers()]
    project.push_many([("nap", (0.5, f"n{n}"), {}) for n in range(4)])
    project.until(lambda: project.ledger())
    if whole_group:
        for pid, _ in workers:
            kill(pid)
    watch = Stopwatch()
    supervised.kill()
    until(lambda: all(gone(*worker) for worker in workers))
    assert watch.stop() <= 4.0  # two seconds are promised; the machine may be busy
    again = Supervised(project)
    project.until_noted(*[f"end n{n}" for n in range(4)])
    starts = Counter(line.split()[1] for line in project.ledger() if line.startswith("start"))
    assert max(starts.values()) <= 2
    again.stop()


def test_reloads_under_load_run_every_job_once(rabbit_project, rabbitmq_url):
    project = rabbit_project
    project.configure("pools.default.workers = 2", backend=f'backend = "{rabbitmq_url}"')
    supervised = Supervised(project)
    names = [f"n{number}" for number in range(300)]
    for reload in range(3):
        project.push_many([("note", (name,), {}) for name in names[reload * 100 : (reload + 1) * 100]])
        assert project.run("reload").returncode == 0
    project.until_noted(*[f"note {name}" for name in names])
    assert sorted(project.ledger()) == sorted(f"note {name}" for name in names)
    assert not project.dead()
    supervised.stop()


def test_a_stop_gives_back_the_job_that_would_not_end(rabbit_project, rabbitmq_url):
    project = rabbit_project
    project.configure('pools.default.stop_timeout = "500ms"', backend=f'backend = "{rabbitmq_url}"')
    stuck = project.worker()
    project.push("nap", 4.0, "stuck")
    project.until(lambda: project.ledger())
    stuck.stop()
    assert project.times("end stuck") == 0
    other = project.worker()
    project.until_noted("end stuck")
    assert other.stop() == 0
    assert not project.dead()


def test_a_worker_without_a_free_descriptor_waits_and_continues(project, node, rabbitmq_url):
    with Proxy(node.port) as proxy:
        project.configure(backend=f'backend = "{through(proxy, node, rabbitmq_url)}"')
        worker = project.worker()
        project.push("note", "before")
        project.until_noted("note before")
        limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        proxy.cut()
        worker.until_said("Too many open files")
        before = worker.cpu_seconds()
        time.sleep(2.0)  # the test measures what it does meanwhile
        assert worker.cpu_seconds() - before <= 0.5, "it spins"
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, limits)
        project.push("note", "after")
        project.until_noted("note after")
        assert worker.stop() == 0


@pytest.mark.parametrize("shift", [-3600.0, 3600.0])
def test_a_workers_wrong_clock_harms_nothing(rabbit_project, shift):
    project = rabbit_project
    (project.root / "sitecustomize.py").write_text(
        f"import time\n_time = time.time\ntime.time = lambda: _time() + {shift}\n"
        f"_ns = time.time_ns\ntime.time_ns = lambda: _ns() + {int(shift)} * 10**9\n"
    )
    worker = project.worker(PYTHONPATH=os.pathsep.join([str(project.root), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep))
    project.push("note", "later", delay=0.5)
    project.push("note", "now")
    project.push("fail_twice")
    project.until_noted("note now", "note later", "attempt 3")
    ledger = project.ledger()
    assert ledger.index("note now") < ledger.index("note later")
    assert worker.stop() == 0


# -- connections -----------------------------------------------------------------------------------


def test_a_worker_fails_over_to_the_next_host_and_runs_nothing_twice(project, node, rabbitmq_url):
    with Proxy(node.port) as first, Proxy(node.port) as second:
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        project.configure(backend=f'backend = "{rabbitmq_url.replace(f"127.0.0.1:{node.port}", hosts)}"')
        worker = project.worker()
        project.push("nap", 1.0, "through")
        project.until(lambda: project.ledger())
        assert second.connections == 0
        first.refuse()
        project.push("note", "after")
        project.until_noted("end through", "note after")
        assert second.connections > 0
        assert worker.stop() == 0
        assert sum(line.startswith("start") for line in project.ledger()) == 1


def test_jobs_reserved_before_a_reconnect_are_not_settled_under_their_old_tags(node, rabbitmq_url, channel):
    with Proxy(node.port) as proxy:
        worker = _create(through(proxy, node, rabbitmq_url), BackendOptions())
        worker.open("w")
        first, second = new_id(), new_id()
        worker.push([Outgoing(first, "t", b"{}"), Outgoing(second, "t", b"{}")], new_token())
        (delivery,) = worker.reserve(["t"], 1, new_token())
        assert delivery.id == first
        before = proxy.connections
        proxy.cut()
        until(lambda: worker.heartbeat() and proxy.connections > before)
        ending = Settlement(delivery.id, delivery.token, Outcome.DONE)
        assert worker.settle([ending], new_token()) == [Answer.STALE]
        # No tag of the new channel was acknowledged by mistake: the second message is still there. The first was
        # redelivered to the worker that had finished it, and was settled, not run again.
        assert worker.wait(["t"], 10.0)
        assert [one.id for one in worker.reserve(["t"], 1, new_token())] == [second]
        worker.close()
        method, properties, _ = channel.basic_get("jobs.t:7-9", auto_ack=True)
        assert method is not None
        assert properties.message_id == second
        assert channel.basic_get("jobs.t", auto_ack=True)[0] is None


# -- messages --------------------------------------------------------------------------------------


def test_messages_that_are_not_jobs_become_dead_letters_unchanged(rabbit_project, channel, rabbitmq_url):
    project = rabbit_project
    project.configure('max_message = "10kB"', backend=f'backend = "{rabbitmq_url}"')
    worker = project.worker()
    project.push("note", "before")
    project.until_noted("note before")
    envelope = json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["no"]}).encode()
    bad = [
        b"",
        b"\x00\xff",
        envelope[:-5],
        envelope.replace(b'"v"', b'"w"'),
        envelope.replace(b'"no"', b'"' + b"x" * 20_000 + b'"'),
    ]
    for body in bad:
        channel.basic_publish("", "jobs.default", body, PERSISTENT, mandatory=True)
    project.push("note", "after")
    project.until_noted("note after")
    project.until(lambda: len(project.dead()) == len(bad))
    assert {record.payload for record in project.dead()} == set(bad)
    assert project.ledger() == ["note before", "note after"]
    assert worker.stop() == 0


def test_unsigned_messages_are_not_run_where_keys_are_set(rabbit_project, channel, rabbitmq_url):
    project = rabbit_project
    project.configure('signing_keys = ["k1:' + "ab" * 32 + '"]', backend=f'backend = "{rabbitmq_url}"')
    worker = project.worker()
    project.push("note", "signed")
    project.until_noted("note signed")
    body = json.dumps({"v": 1, "topic": "default", "job": "tasks.note", "args": ["unsigned"]}).encode()
    channel.basic_publish("", "jobs.default", body, PERSISTENT, mandatory=True)
    project.until(lambda: [record.payload for record in project.dead()] == [body])
    assert project.ledger() == ["note signed"]
    assert worker.stop() == 0


# -- results beside --------------------------------------------------------------------------------


def test_results_status_and_cancelling_come_from_the_store_beside(rabbit_project, rabbitmq_url):
    project = rabbit_project
    project.configure('[results]\nurl = "sqlite:///results.db"', backend=f'backend = "{rabbitmq_url}"')
    worker = project.worker()
    app = project.app()
    added = project.push("add", 3, 4, store_result=True)
    cancelled = project.push("note", "never", delay=1.0)
    assert app.cancel(cancelled) is State.CANCELLED
    until(lambda: app.status(added) is State.DONE)
    record = app.find(added)
    assert record is not None
    assert json.loads(record.result) == {"value": 7}
    project.push("note", "later", delay=1.5)
    project.until_noted("note later")
    assert "note never" not in project.ledger()
    assert app.status(cancelled) is State.CANCELLED
    assert worker.stop() == 0


WALK = """

@job(resumable=True)
def walk():
    from jobs_core import current_job

    for row in current_job().steps(range(10**9)):
        record("step", row)
        time.sleep(0.01)  # so that the ledger stays short
        if os.path.exists("enough"):
            break
"""


def test_a_resumable_job_continues_after_a_kill_and_after_a_stop_from_the_cursor_in_the_store(rabbit_project, rabbitmq_url):
    project = rabbit_project
    project.configure('lease = "3s"\n[results]\nurl = "sqlite:///results.db"', backend=f'backend = "{rabbitmq_url}"')
    (project.root / "tasks.py").write_text((project.root / "tasks.py").read_text() + WALK)
    app = project.app()
    job_id = project.push("walk")

    def rows() -> list[int]:
        return [int(line.split()[1]) for line in project.ledger() if line.startswith("step ")]

    def steps_stored() -> int:
        record = app.operate(lambda backend: backend.get(job_id))
        return int(json.loads(record.cursor)["cursor"]) if record and record.cursor else 0

    worker = project.worker()
    stored = project.until(steps_stored)
    worker.kill()
    done = len(rows())
    worker = project.worker()
    project.until(lambda: len(rows()) > done)
    assert stored <= rows()[done] <= done
    assert worker.stop() == 0
    stopped = rows()
    worker = project.worker()
    project.until(lambda: len(rows()) > len(stopped))
    (project.root / "enough").touch()
    project.until(lambda: app.status(job_id) is State.UNKNOWN)
    assert rows()[len(stopped)] == stopped[-1] + 1, "a stop repeats no step"
    assert worker.stop() == 0


def test_delayed_jobs_stuck_without_an_exchange_continue_by_themselves(rabbitmq_url, channel):
    backend = _create(rabbitmq_url, BackendOptions(topics=("t",)))
    backend.open(None)
    backend.setup()
    channel.exchange_delete("jobs:delay.03")  # as it is for a moment after a node's restart
    backend.push([Outgoing(new_id(), "t", b"{}", delay=0.5)], new_token())
    until(lambda: channel.queue_declare("jobs:delay.04", passive=True).method.message_count == 0)
    backend.setup()
    until(lambda: channel.queue_declare("jobs.t", passive=True).method.message_count == 1)
    backend.close()


# -- what RabbitMQ does not know ---------------------------------------------------------------------


def test_limits_by_age_are_refused_and_no_age_is_shown(rabbit_project, rabbitmq_url):
    project = rabbit_project
    project.configure('[topics.default]\nalert_age = "5s"', backend=f'backend = "{rabbitmq_url}"')
    for command, code in (("check", 1), ("start", 2)):
        refused = project.run(command)
        assert "topics.default.alert_age would never alert" in refused.stdout + refused.stderr
        assert refused.returncode == code
    project.configure("[pools.default.workers]\nmin = 1\nmax = 4", backend=f'backend = "{rabbitmq_url}"')
    assert "default can grow by their number alone" in project.run("check").stdout
    project.push("note")
    shown = json.loads(project.run("topics", "--json").stdout)
    assert (shown["default"]["ready"], shown["default"]["oldest_age"]) == (1, None)


def test_why_reports_the_available_facts_without_lookup_of_single_jobs(rabbit_project, rabbitmq_url):
    project = rabbit_project
    project.configure(backend=f'backend = "{rabbitmq_url}"')
    dead = project.push("add", "no number")
    project.run("worker", "--drain")
    waiting = project.push("note")
    text = project.here("why", waiting)
    assert "cannot look up single jobs" in text
    assert "topic default: 1 job ready" in text
    assert "no supervisor is running on this machine" in text
    project.until(lambda: "it has been dead since" in project.here("why", dead))
    assert "expected int, got str" in project.here("dead", "show", dead)
