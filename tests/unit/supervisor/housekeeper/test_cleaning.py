"""The housekeeper cleans the payload store once an hour, without waiting for it."""

from __future__ import annotations

import os
import threading
import time

from jobs_core import App
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Payloads
from jobs_core.ids import new_token
from jobs_core.payloads.store import FileStore, blob_name
from jobs_core.plugins import Plugins
from jobs_core.supervisor.housekeeper import housekeeper


class Silent:
    def send(self, message):
        pass


def test_left_over_blobs_are_deleted_once_an_hour(tmp_path, registry, caplog):
    blobs = tmp_path / "blobs"
    url = f"memory://{new_token()}"
    app = App(Config(backend=url, payloads=Payloads(url=f"file://{blobs}")), plugins=Plugins(), registry=registry)
    keeper = housekeeper.Housekeeper(app, Silent(), tmp_path)
    began = keeper._next_cleaning - housekeeper.CLEANING_INTERVAL

    def leave():
        name = blob_name("gone")
        FileStore(blobs, syncs=False).put(name, b"x")
        os.utime(blobs / name, (time.time() - 2 * 86400,) * 2)

    def work(now):
        keeper._work(now)
        for thread in threading.enumerate():
            if thread.name == "jobs-payloads-cleaning":
                thread.join(30)
        return len(list(blobs.iterdir()))

    leave()
    assert [work(began + seconds) for seconds in (1, 3599, 3601)] == [1, 1, 0]
    leave()
    assert [work(began + seconds) for seconds in (3602, 7200, 7202)] == [1, 1, 0]
    blobs.rmdir()
    blobs.write_text("a file")
    app._clean_payloads_or_log()
    assert "the payload store was not cleaned" in caplog.text
    keeper._backend.close()
    app.close()
    forget(url)
