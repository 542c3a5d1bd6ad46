"""Encrypted jobs on Redis: they run, and nothing of them can be read in any key of the server."""

from __future__ import annotations

import redis

from jobs_core import App, job
from jobs_core.config import Config
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker, prepare

SECRET = "the patient's name is Ada"


def test_nothing_of_an_encrypted_job_is_readable_in_redis(redis_url):
    registry = Registry()

    @job(registry=registry, name="treat", unique="{patient}", store_result=True)
    def treat(patient: str) -> str:
        return f"treated: {patient}"

    keys = ["k1:0123456789abcdefghijklmnopqrstuvwxyz"]
    app = App(Config(backend=redis_url, encryption_keys=keys), registry=registry)
    handle = app.enqueue(treat.call(SECRET))
    assert not app.enqueue(treat.call(SECRET)).created

    def stored() -> bytes:
        with redis.Redis.from_url(redis_url.partition("?")[0]) as server:
            return b"".join(server.dump(key) or b"" for key in server.scan_iter())

    assert b"treat" in stored()
    assert SECRET.encode() not in stored()
    Worker(app, "w", app.config.pools["default"], prepare(app), keeps_house=False, drain=True).run()
    assert handle.result(5) == f"treated: {SECRET}"
    assert SECRET.encode() not in stored()
    app.close()
