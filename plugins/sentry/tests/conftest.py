"""An application on memory whose events stay in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from jobs_core import App, set_current_app
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Pool
from jobs_core.ids import new_token
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker
from jobs_sentry.reporting import Reporting
from jobs_sentry.settings import read


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.items += [(item.type, item.payload.json) for item in envelope.items]


class Rig:
    """An application, and what it reports."""

    def __init__(self, app: App, kept: Kept) -> None:
        self.app = app
        self.registry = app.registry
        self._kept = kept

    def plug(self, **table: Any) -> None:
        self.app.plugins._add(Reporting(read(table), self.app.config), PluginInfo("sentry", "jobs-sentry", "1"))

    def work(self, mode: str = "threads") -> None:
        worker = Worker(self.app, "mail", Pool(mode=mode, concurrency=2), None, owner="web1-1", drain=True)  # type: ignore[arg-type]
        thread = threading.Thread(target=worker.run)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()

    def sent(self, kind: str) -> list[Any]:
        """Return the items of this kind: "event", "transaction" or "check_in"."""
        return [payload for found, payload in self._kept.items if found == kind]


@pytest.fixture
def rig() -> Iterator[Rig]:
    url, kept = f"memory://{new_token()}", Kept()
    app = App(Config(backend=url, encryption_keys=["k1:" + "0123456789" * 5]), plugins=Plugins(), registry=Registry())
    set_current_app(app)
    sentry_sdk.init("http://public@127.0.0.1:9/1", transport=kept, traces_sample_rate=1.0)
    yield Rig(app, kept)
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)
    set_current_app(None)
    app.close()
    forget(url)
