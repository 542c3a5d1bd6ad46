"""Jobs whose arguments are packed (envelopes of version 2), on any backend: encrypted, compressed, beside the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs_core import App, job
from jobs_core.config import Config, Payloads
from jobs_core.registry import Registry
from jobs_core.units import Size
from jobs_core.worker.main import Worker, prepare

SECRET = "the patient's name is Ada; "
LONG = SECRET * 400
KEYS = ["k1:0123456789abcdefghijklmnopqrstuvwxyz"]

FORMS: dict[str, dict[str, Any]] = {
    "encrypted": {"encryption_keys": KEYS},
    "compressed": {"payloads": {"compress": "zstd", "compress_above": Size(1000)}},
    "beside the queue": {"payloads": {"above": Size(1000)}},
    "all of it": {"encryption_keys": KEYS, "payloads": {"compress": "zstd", "compress_above": Size(100), "above": Size(100)}},
}


def require_packed_jobs_to_run(url: str, form: str, directory: Path) -> None:
    """Enqueue jobs of one form, look at their messages, run them, and run one that fails again from the dead letters."""
    registry, took = Registry(), list[str]()

    @job(registry=registry, name="treat", retries=0)
    def treat(text: str, fails: bool = False) -> None:
        took.append(text)
        if fails and len(took) == 1:
            raise ValueError("once")

    chosen = dict(FORMS[form])
    payloads = dict(chosen.pop("payloads", {}))
    if "above" in payloads:
        payloads["url"] = f"file://{directory}/blobs?durability=process"
    app = App(Config(backend=url, payloads=Payloads(**payloads), **chosen), registry=registry)

    def drain() -> None:
        Worker(app, "w", app.config.pools["default"], prepare(app), drain=True).run()

    sent = [app.outgoing(app.message(treat.call(LONG, fails))) for fails in (True, False)]
    for each in sent:
        assert b'"v":2' in each.payload
        assert len(each.payload) < len(LONG) or form == "encrypted"
        assert SECRET.encode() not in each.payload
    app._producer.push(sent[:1], 10.0)
    drain()
    assert took == [LONG]
    assert app.operate(lambda backend: backend.counts(["default"]))["default"].dead == 1
    if "browse" in app.new_backend().features:
        app.operate(lambda backend: backend.requeue([sent[0].id]))
        drain()
        assert took == [LONG, LONG]
    app._producer.push(sent[1:], 10.0)
    drain()
    assert took[-1] == LONG
    assert app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 0
    app.close()
