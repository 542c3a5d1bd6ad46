"""Database connections: old or broken ones are closed around each job, and none is carried over a fork or shared."""

from __future__ import annotations

import pytest

PERSISTENT = 'DATABASES["default"].update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)'
LOOK = {"job": "shop.jobs.look"}


def pids(site):
    return [line.split()[1] for line in site.ledger() if line.startswith("pid ")]


@pytest.mark.parametrize("mode", ["sync", "threads"])
def test_a_connection_that_is_to_be_closed_after_each_request_is_closed_after_each_job(on_database, mode):
    site = on_database()
    site.enqueue(*[LOOK] * 4)
    site.drain("--mode", mode, "--concurrency", "2")
    assert site.times("open at start False atomic False") == 4


def test_a_persistent_connection_is_kept_from_job_to_job(on_postgres, postgres, postgres_name):
    site = on_postgres(settings=PERSISTENT)
    site.enqueue(*[LOOK] * 3)
    site.drain()
    assert len(set(pids(site))) == 1
    assert site.times("open at start True atomic False") == 2


@pytest.mark.parametrize("checks", ["True", "False"])
def test_a_connection_that_broke_between_two_jobs_is_replaced(on_postgres, postgres, postgres_name, checks):
    settings = PERSISTENT.replace("HEALTH_CHECKS=True", f"HEALTH_CHECKS={checks}")
    site = on_postgres(settings=settings)
    worker = site.start_manage("jobs", "worker")
    site.enqueue(LOOK)
    site.until(lambda: len(pids(site)) == 1)
    postgres.query(f"SELECT pg_terminate_backend({pids(site)[0]})")
    site.until(lambda: postgres.connections(postgres_name) == [])
    site.enqueue(LOOK)
    site.until(lambda: len(pids(site)) == 2)
    assert pids(site)[0] != pids(site)[1]
    assert worker.stop() == 0
    failed = 0 if checks == "True" else 1  # without Django's check, the job would find out
    assert f"stopped: 2 jobs done, {failed} failed attempt" in worker.output


def test_a_job_interrupted_inside_a_transaction_leaves_none_behind(on_database):
    site = on_database()
    site.enqueue({"job": "shop.jobs.interrupted"}, LOOK)
    site.drain()
    assert site.times("open at start False atomic False") == 1
    assert site.script("from shop.models import Row; print(json.dumps(Row.objects.count()))") == 0


def test_async_jobs_do_not_close_each_others_connections(on_database):
    site = on_database()
    site.script("from shop.models import Row; [Row.objects.create(text=str(n)) for n in range(5)]; print(1)")
    names = [f"job-{n}" for n in range(4)]
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        site.enqueue({"job": "shop.jobs.alook", "args": [name, other]})
    said = site.drain("--mode", "async", "--concurrency", "10")
    for name in names:
        assert site.times(f"read {name} 5") == 1, said


def test_async_jobs_leave_no_connection_behind(on_postgres, postgres, postgres_name):
    site = on_postgres(settings=PERSISTENT)
    site.script("from shop.models import Row; Row.objects.create(text='x'); print(1)")
    worker = site.start_manage("jobs", "worker", "--mode", "async", "--concurrency", "10")
    site.enqueue(*[{"job": "shop.jobs.alook", "args": ["same", "same"]}] * 5)
    site.until(lambda: site.times("read same 1") == 5)
    site.until(lambda: postgres.connections(postgres_name) == [])
    assert worker.stop() == 0


def test_workers_of_one_supervisor_share_no_connection(on_postgres, postgres, postgres_name):
    site = on_postgres(settings=f'{PERSISTENT}\nJOBS["pools"] = {{"default": {{"workers": 3}}}}')
    with (site.root / "shop" / "jobs.py").open("a") as module:
        module.write("\nAT_IMPORT = Row.objects.count(), backend_pid()\n")
    supervisor = site.start_manage("jobs", "start", serves="ready: 3 workers")
    site.until(lambda: postgres.connections(postgres_name) == [])  # the server notices the end of one a moment later
    site.enqueue(*[LOOK] * 30)
    site.until(lambda: len(pids(site)) == 30)
    assert len(set(pids(site))) == len(postgres.connections(postgres_name)) <= 3
    assert supervisor.stop() == 0
    assert "attempt" not in supervisor.output.replace("0 failed attempts", "")
    site.until(lambda: postgres.connections(postgres_name) == [])


def test_nothing_is_connected_when_a_worker_is_forked(on_postgres, postgres, postgres_name):
    site = on_postgres(settings=PERSISTENT)
    with (site.root / "shop" / "jobs.py").open("a") as module:
        module.write("\nAT_IMPORT = Row.objects.count(), backend_pid()\n")  # a query while modules are imported
    said = site.script(
        """
import os, sys
from django.db import connection
from jobs_core import App
from jobs_core.worker.main import prepare
from jobs_django import settings
bootstrapper = prepare(App(settings.load(settings.complete())))
from shop.jobs import AT_IMPORT, Row, backend_pid
seen = [AT_IMPORT[1], connection.connection is None]
read, write = os.pipe()
if os.fork() == 0:
    bootstrapper.after_fork()
    Row.objects.count()
    os.write(write, str(backend_pid()).encode())
    connection.close()
    os._exit(0)
os.wait()
Row.objects.count()
print(json.dumps([*seen, int(os.read(read, 100)), backend_pid()]))
"""
    )
    assert said[1] is True
    assert len({said[0], said[2], said[3]}) == 3
