"""Real workers run jobs of a Flask application: each in its own context, torn down however the run ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest
from tests.support.project import Project

SHOP = '''
import asyncio, os, time
from pathlib import Path
from flask import Flask, current_app, g, has_app_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from jobs_core import job
from jobs_flask import JobsFlask

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

class Base(DeclarativeBase):
    pass

db = SQLAlchemy(model_class=Base)

class Row(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{Path(__file__).parent}/shop.db"
    db.init_app(app)
    JobsFlask(app)

    @app.teardown_appcontext
    def torn_down(error):
        record("torn down", g.pop("who", "?"), type(error).__name__)

    with app.app_context():
        g.who = "setup"
        db.create_all()
    return app

def begin(who):
    assert "who" not in g, g.who
    g.who = who
    record("in", who, current_app.name)

@job
def good():
    begin("good")

@job(retries=0)
def bad():
    begin("bad")
    raise ValueError

@job(timeout=1.5, retries=0)
def slow():
    begin("slow")
    while True:
        time.sleep(0.01)

@job
async def agood():
    begin("agood")
    await asyncio.sleep(0.01)
    assert g.who == "agood"

@job(retries=0)
async def abad():
    begin("abad")
    await asyncio.sleep(0.01)
    raise ValueError

@job(timeout=1.5, retries=0)
async def aslow():
    begin("aslow")
    await asyncio.sleep(60)

@job(retries=0)
def store(text: str):
    """Leaves an object in its session without a commit: nobody else may find it there."""
    begin(text)
    assert not db.session.new and not db.session.dirty
    record("seen", len(db.session.scalars(db.select(Row)).all()))
    db.session.add(Row(text=text))
    db.session.flush()
    db.session.rollback()
    db.session.add(Row(text=text))

@job
def follow():
    good.enqueue()
'''


class Shop(Project):
    """A project whose code can also run outside a worker."""

    def script(self, source):
        """Return the JSON that a program prints."""
        done = subprocess.run(
            [sys.executable, "-c", source], cwd=self.root, env=self.environment(), text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shop(tmp_path):
    project = Shop(tmp_path / "project", tasks="")
    (project.root / "shop.py").write_text(SHOP)
    (project.root / "jobs.toml").write_text('backend = "sqlite:///queue.db"\nframework = "flask"\n[flask]\napp = "shop"\n')
    yield project
    project.close()


ENDINGS = {"good": "NoneType", "bad": "ValueError", "agood": "NoneType", "abad": "ValueError"}
OVERDUE = {"sync": {"slow": "JobTimeout", "aslow": "CancelledError"}, "threads": {}, "async": {"aslow": "CancelledError"}}


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_every_run_has_a_context_of_its_own_that_is_torn_down_however_it_ends(shop, mode):
    endings = ENDINGS | OVERDUE[mode]
    lines = "".join(json.dumps({"job": f"shop.{name}"}) + "\n" for name in [*endings, *ENDINGS])
    assert shop.run("push", "--json", "-", input=lines).returncode == 0
    done = shop.run("worker", "--mode", mode, "--concurrency", "4", "--drain")
    assert done.returncode == 0, done.stderr
    ledger = Counter(shop.ledger())
    for name, error in endings.items():
        runs = 2 if name in ENDINGS else 1
        assert ledger[f"in {name} shop"] == runs, done.stderr
        assert ledger[f"torn down {name} {error}"] == runs, ledger


def test_sessions_of_flask_sqlalchemy_are_not_shared_between_jobs(shop):
    lines = "".join(json.dumps({"job": "shop.store", "args": [f"row-{n}"]}) + "\n" for n in range(6))
    assert shop.run("push", "--json", "-", input=lines).returncode == 0
    done = shop.run("worker", "--mode", "threads", "--concurrency", "2", "--drain")
    assert shop.times("seen 0") == 6, done.stderr


def test_a_job_enqueues_with_the_workers_application(shop):
    lines = json.dumps({"job": "shop.follow"})
    shop.run("push", "--json", "-", input=lines)
    done = shop.run("worker", "--drain")
    assert shop.times("in good shop") == 1, done.stderr


def test_no_connection_of_flask_sqlalchemy_is_carried_over_the_fork(shop):
    """The factory creates the tables, and so connects, before the workers are forked."""
    said = shop.script(
        """
import json, os
from jobs_core import App, load_config
from jobs_core.worker.main import prepare
bootstrapper = prepare(App(load_config()))
import shop
app = bootstrapper._app
with app.app_context():
    pool = shop.db.engine.pool
    seen = [pool.checkedin(), pool.checkedout()]
    shop.db.session.scalars(shop.db.select(shop.Row)).all()
    shop.db.session.remove()
    kept = pool.checkedin()
read, write = os.pipe()
if os.fork() == 0:
    bootstrapper.after_fork()
    with app.app_context():
        fresh = shop.db.engine.pool
        os.write(write, json.dumps([fresh is not pool, fresh.checkedin()]).encode())
    os._exit(0)
os.wait()
print(json.dumps([*seen, kept, *json.loads(os.read(read, 100)), pool.checkedin()]))
"""
    )
    assert said == [0, 0, 1, True, 0, 1]
