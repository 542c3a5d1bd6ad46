"""The example of a client that obeys its partner's limits: what it promises is counted by the partner."""

from __future__ import annotations

import importlib
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from jobs_core import App, set_current_app
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config_sources import load
from jobs_core.worker.main import Worker

ROOT = Path(__file__).parents[2]


@contextmanager
def fresh(*names):
    """Import modules of an example, and forget them afterwards."""
    try:
        yield tuple(importlib.import_module(name) for name in names)
    finally:
        for name in names:
            sys.modules.pop(name, None)


def test_the_partner_client_never_calls_more_often_than_its_limit_allows(monkeypatch):
    example = ROOT / "examples" / "partner_client"
    monkeypatch.syspath_prepend(str(example))
    config = replace(load(example / "jobs.toml", environ={}).config, backend="memory://partner-client")
    with fresh("client", "partner") as (client, partner), partner.Partner(("127.0.0.1", 0)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(client, "URL", f"http://127.0.0.1:{server.server_address[1]}")
        app = App(config)
        monkeypatch.setattr(app, "_make_backend", lambda clock: MemoryBackend(config.backend, app.backend_options(clock)))
        set_current_app(app)
        try:
            handles = client.fetch.enqueue_many((account, page) for account in ("acme", "umbrella") for page in range(10))
            Worker(app, "default", config.pools["default"], None, drain=True).run()
            assert [handle.result(timeout=5) for handle in handles] == [
                f"page /{account}/{page}" for account in ("acme", "umbrella") for page in range(10)
            ]
        finally:
            set_current_app(None)
            app.close()
            forget("memory://partner-client")
        server.shutdown()
        assert (server.most, server.refused) == ({"acme": 2, "umbrella": 2}, 0)
