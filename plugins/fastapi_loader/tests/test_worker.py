"""Real workers run jobs inside the lifespan of an application; it is one of Starlette, which imports faster."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from tests.support.project import Project

SHOP = '''
import asyncio, os, sys, threading
from contextlib import asynccontextmanager
from pathlib import Path
from starlette.applications import Starlette
from jobs_core import job
from jobs_fastapi import JobsFastAPI

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
BROKEN = os.environ.get("SHOP_BROKEN")

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

class Client:
    """A client that belongs to the event loop that made it."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.open = True

@asynccontextmanager
async def lifespan(app):
    task = asyncio.current_task()
    if BROKEN == "start":
        raise RuntimeError("no database")
    if BROKEN == "exit":
        sys.exit(3)
    if BROKEN == "hang":
        record("entering")
        try:
            await asyncio.sleep(3600)
        finally:
            record("given up")
    if BROKEN == "block":
        record("entering")
        threading.Event().wait(3600)
    app.state.client = client = Client()
    record("open", os.getpid())
    try:
        yield
    finally:
        assert asyncio.current_task() is task, "left in another task"
        client.open = False
        record("closed")
        if BROKEN == "block at end":
            record("leaving")
            threading.Event().wait(3600)
        if BROKEN == "exit at end":
            sys.exit(3)
        if BROKEN == "end":
            raise RuntimeError("cannot close")

app = Starlette(lifespan=lifespan)
JobsFastAPI(app)

@job
def plain():
    record("plain", app.state.client.open)

@job
async def asynchronous():
    client = app.state.client
    record("async", client.open, client.loop is asyncio.get_running_loop())

@job
async def cancels_all():
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.sleep(0.05)
    record("cancelled", app.state.client.open)
'''


class Shop(Project):
    """A project whose jobs need what its lifespan opens."""

    def configure(self, text="", **options):
        (self.root / "jobs.toml").write_text(
            f'backend = "sqlite:///queue.db"\nframework = "fastapi"\n[fastapi]\napp = "tasks"\n{text}'
        )

    def drain(self, mode, **environment):
        return self.run("worker", "--mode", mode, "--concurrency", "2", "--drain", **environment)


@pytest.fixture
def shop(tmp_path):
    project = Shop(tmp_path / "project", tasks=SHOP)
    yield project
    project.close()


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_the_lifespan_is_open_while_jobs_run_and_on_their_loop_in_an_async_pool(shop, mode):
    for name in ("plain", "asynchronous", "plain"):
        shop.push(name)
    done = shop.drain(mode)
    assert done.returncode == 0, done.stderr
    ledger = shop.ledger()
    assert ledger[0].startswith("open"), ledger
    assert ledger[-1] == "closed", ledger
    assert sorted(ledger[1:-1]) == [f"async True {mode == 'async'}", "plain True", "plain True"]


def test_each_supervised_worker_opens_the_lifespan_and_closes_it_when_it_stops(shop):
    shop.configure('[pools.default]\nworkers = 2\nmode = "async"\n')
    process = shop.start("start")
    shop.until(lambda: len([line for line in shop.ledger() if line.startswith("open")]) == 2)
    shop.push("asynchronous")
    shop.until_noted("async True True")
    assert process.stop() == 0, process.output
    assert len({line for line in shop.ledger() if line.startswith("open")}) == 2
    assert shop.times("closed") == 2


def test_a_lifespan_that_cannot_start_is_reported_and_no_job_is_touched(shop):
    shop.push("plain")
    done = shop.drain("async", SHOP_BROKEN="start")
    assert done.returncode != 0
    assert "no database" in done.stderr
    assert "lifespan" in done.stderr
    assert shop.ledger() == []
    assert shop.drain("sync").returncode == 0
    assert shop.times("plain True") == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_lifespan_that_fails_at_its_end_fails_no_job(shop, mode):
    shop.push("plain")
    done = shop.drain(mode, SHOP_BROKEN="end")
    assert done.returncode == 0, done.stderr
    assert "the application's lifespan failed at its end" in done.stderr
    assert "cannot close" in done.stderr
    assert shop.dead() == []


def test_a_job_that_cancels_every_task_leaves_the_lifespan_open(shop):
    shop.push("cancels_all")
    done = shop.drain("async")
    assert shop.times("cancelled True") == 1, done.stderr
    assert "a job cancelled the task that keeps the application's lifespan open" in done.stderr
    shop.push("asynchronous")
    shop.drain("async")
    assert shop.times("async True True") == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_stop_gives_up_a_lifespan_that_is_not_open_yet(shop, mode):
    shop.push("plain")
    worker = shop.start("worker", "--mode", mode, SHOP_BROKEN="hang")
    shop.until_noted("entering")
    assert worker.stop() == 0, worker.output
    assert shop.ledger() == ["entering", "given up"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_supervised_worker_gives_up_a_lifespan_that_is_not_open_yet(shop, mode):
    shop.configure(f'[pools.default]\nworkers = 1\nmode = "{mode}"\nstop_timeout = "1h"\n')
    process = shop.start("start", SHOP_BROKEN="hang")
    shop.until_noted("entering")
    assert process.stop() == 0, process.output
    assert shop.ledger() == ["entering", "given up"]
    assert "told to stop while the application's lifespan begins: it is cancelled" in process.output
    assert "kill" not in process.output


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_sys_exit_in_a_lifespan_is_told_as_what_it_is(shop, mode):
    shop.push("plain")
    done = shop.drain(mode, SHOP_BROKEN="exit")
    assert done.returncode != 0
    assert "the application's lifespan raised SystemExit: 3" in done.stderr
    assert "sys.exit(3)" in done.stderr  # the line
    assert "imported" not in done.stderr
    assert shop.ledger() == []
    done = shop.drain(mode, SHOP_BROKEN="exit at end")
    assert done.returncode == 0, done.stderr
    assert "the application's lifespan failed at its end" in done.stderr
    assert "raised SystemExit: 3" in done.stderr
    assert shop.times("plain True") == 1


@pytest.mark.parametrize(("broken", "noted"), [("block", "entering"), ("block at end", "leaving")])
def test_a_second_signal_ends_a_worker_whose_lifespan_blocks_its_thread(shop, broken, noted):
    shop.push("plain")
    worker = shop.start("worker", "--mode", "async", "--drain", SHOP_BROKEN=broken)
    shop.until_noted(noted)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)
    worker.until_said("told to stop again: the application's lifespan is cut off")
    assert worker.wait() == 1


def test_the_lifespan_can_be_left_to_the_web(shop):
    shop.configure("lifespan = false\n")
    (shop.root / "tasks.py").write_text(SHOP.replace("app.state.client.open", "hasattr(app.state, 'client')"))
    shop.push("plain")
    shop.drain("sync")
    assert shop.ledger() == ["plain False"]


CONNECTED = """
from pathlib import Path
from sqlalchemy import create_engine
from starlette.applications import Starlette
engine = create_engine(f"sqlite:///{Path(__file__).parent}/shop.db")
with engine.connect():
    pass
app = Starlette()
"""


def test_no_connection_of_sqlalchemy_is_carried_over_the_fork(shop):
    """The module connects when it is imported, before the workers are forked."""
    (shop.root / "tasks.py").write_text(CONNECTED)
    script = """
import json, os
from jobs_core import App, load_config
from jobs_core.worker.main import prepare
bootstrapper = prepare(App(load_config()))
import tasks
seen = [tasks.engine.pool.checkedin()]
pool = tasks.engine.pool
with tasks.engine.connect():
    pass
kept = pool.checkedin()
read, write = os.pipe()
if os.fork() == 0:
    bootstrapper.after_fork()
    os.write(write, json.dumps([tasks.engine.pool is not pool, tasks.engine.pool.checkedin()]).encode())
    os._exit(0)
os.wait()
print(json.dumps([*seen, kept, *json.loads(os.read(read, 100)), pool.checkedin()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=shop.root, env=shop.environment(), text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 1, True, 0, 1]
