"""An application served by a real server enqueues with its own configuration."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from tests.support.project import Project

SHOP = """
import asyncio, os
from contextlib import asynccontextmanager
from pathlib import Path
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from jobs_core import job
from jobs_fastapi import BackgroundJobs, JobsDep, JobsFastAPI

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

class Settings(BaseModel):
    backend: str | None = os.environ.get("SHOP_BACKEND")
    prefix: str = "shop"

@asynccontextmanager
async def lifespan(app):
    record("open", tied.app._producer._backend)
    yield {"opened": 1}
    record("closed")

app = FastAPI(lifespan=lifespan)
tied = JobsFastAPI(app, settings=Settings())

@job(name="note")
def note(text: str):
    record("note", text)

@app.post("/plain")
def plain(text: str):
    return note.enqueue(text).id

@app.post("/async")
async def asynchronous(text: str, jobs: JobsDep):
    record("connected", tied.app._producer._backend is not None)
    return (await jobs.aenqueue(note.call(text))).id

@app.post("/background")
def background(text: str, background: BackgroundJobs, fails: bool = False):
    background.add(note, text)
    background.add(note, text + "!")
    if fails:
        raise HTTPException(409)

@app.post("/unfit")
def unfit(background: BackgroundJobs):
    background.add(note)
"""


class Shop(Project):
    """A FastAPI application, its server and its workers."""

    def serve(self, **environment):
        """Start uvicorn on a free port."""
        server = self.start_python("-m", "uvicorn", "shop:app", "--port", "0", **environment)
        self.address = server.until_said("Uvicorn running on ").split("running on ")[1].split()[0]
        return server

    def post(self, path):
        """Return the status and the JSON answer of a POST."""
        request = urllib.request.Request(f"{self.address}{path}", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, None


@pytest.fixture
def shop(tmp_path):
    project = Shop(tmp_path / "project", tasks="")
    (project.root / "shop.py").write_text(SHOP)
    toml = 'backend = "sqlite:///queue.db"\nframework = "fastapi"\nprefix = "shop"\n[fastapi]\napp = "shop:app"\n'
    (project.root / "jobs.toml").write_text(toml)
    yield project
    project.close()


def test_endpoints_enqueue_and_a_worker_runs_their_jobs(shop):
    server = shop.serve()
    assert shop.post("/plain?text=plain")[0] == 200
    status, job_id = shop.post("/async?text=async")
    assert status == 200
    assert shop.app().find(job_id) is not None
    assert shop.post("/background?text=later")[0] == 200
    assert shop.post("/background?text=never&fails=true")[0] == 409
    done = shop.run("worker", "--drain")
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in shop.ledger() if line.startswith("note")) == [
        "note async", "note later", "note later!", "note plain",
    ]  # fmt: skip
    assert "connected True" in shop.ledger(), "the connection was opened when the application started"
    server.stop()
    assert shop.times("closed") == 2, "the server's lifespan, and the worker's"


def test_a_request_fails_if_its_jobs_cannot_be_stored(shop):
    shop.serve(SHOP_BACKEND="redis://127.0.0.1:1", JOBS_ENQUEUE_TIMEOUT="0.3")
    assert shop.post("/background?text=lost")[0] == 500
    assert shop.post("/async?text=lost")[0] == 500


def test_arguments_that_do_not_fit_fail_the_request_at_once(shop):
    server = shop.serve()
    assert shop.post("/unfit")[0] == 500
    server.until_said("ArgumentError")


def test_a_worker_that_would_listen_to_another_queue_does_not_start(shop):
    done = shop.run("worker", "--drain", SHOP_BACKEND="sqlite:///other.db")
    assert done.returncode != 0
    assert "sets backend, which this process was started without" in done.stderr
    assert "python -m jobs_fastapi APP start" in done.stderr


def test_the_command_line_of_the_application_has_its_settings(shop):
    server = shop.serve(SHOP_BACKEND="sqlite:///other.db")
    assert shop.post("/plain?text=there")[0] == 200
    worker = shop.start_python("-m", "jobs_fastapi", "shop:app", "worker", "--drain", SHOP_BACKEND="sqlite:///other.db")
    assert worker.wait() == 0, worker.output
    assert shop.times("note there") == 1
    assert (shop.root / "other.db").exists()
    server.stop()
