"""Browsers: what pages take, what watchers cost, and how fast the API takes jobs."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

from jobs_core import App
from jobs_core.backends.base import Backend, State
from jobs_core.testing.services import free_port

from ..support import ROOT
from . import shop
from .filling import TOPICS
from .stores import Asked

VISITS, PAUSE = 15, 0.2
"""Visits of each page after the first one, and the seconds between two: so some of them come when a reading is due."""

TOKEN = f"jobs_{os.urandom(16).hex()}"

CONFIGURATION = """
backend = "{url}"
modules = ["bench.web.shop"]

[topics.pdf]
keep_done = "1d"

[limits.stripe]
concurrency = 0

[plugins.web.tokens.bench]
role = "admin"
hash = "{hash}"
"""


class Dashboard:
    """`jobsctl web` for an application, and a browser of it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.port = free_port()
        self._cookies: dict[str, str] = {}

    def __enter__(self) -> Dashboard:
        directory = self._app.config.base_dir
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "jobs_core", "-c", str(directory / "jobs.toml"), "web"]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        with (directory / "web.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
        while not self._serves():
            assert self._process.poll() is None, (directory / "web.log").read_text()
            time.sleep(0.02)
        self._log_in()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _serves(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def _log_in(self) -> None:
        page = self.get("/login")
        found = re.search(r'name="token" value="([^"]+)"', page)
        assert found, page
        self.ask("POST", "/login", urlencode({"token": found[1], "key": TOKEN}))

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        """Return the status and the text of an answer, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self._cookies[key] = rest.partition(";")[0]
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def get(self, path: str) -> str:
        """Return a page, which must be there."""
        status, text = self.ask("GET", path)
        assert status == 200, f"{path}: {status}: {text[-2000:]}"
        return text

    @property
    def cookie(self) -> str:
        return "; ".join(f"{key}={value}" for key, value in self._cookies.items())

    @property
    def cpu(self) -> float:
        """Return the seconds of CPU time that the server has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> float:
        """Return the memory of the server in MB."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self._process.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024


def pages_of(app: App) -> dict[str, str]:
    """Return the pages that are measured: names and paths."""

    def some(backend: Backend) -> dict[str, str]:
        dead = backend.browse("mail", State.DEAD, 1)[0]
        group = max(backend.dead_groups(["mail"], 10), key=lambda one: one.letters)
        return {
            "overview": "/",
            "overview, charts of 24 h": "/?since=24h",
            "overview, charts of 30 d": "/?since=30d",
            "topics": "/topics",
            "jobs, ready": "/jobs?topic=mail",
            "jobs, page 100": "/jobs?topic=mail&offset=5000",
            "jobs, scheduled": "/jobs?topic=mail&state=scheduled",
            "jobs, limited": "/jobs?topic=payments&state=limited",
            "jobs, dead": "/jobs?topic=mail&state=dead",
            "jobs, done": "/jobs?topic=pdf&state=done",
            "search, found at once": "/jobs?topic=mail&text=acct_1",
            "search, not found": "/jobs?topic=mail&text=nowhere",
            "one job": f"/job?id={backend.browse('mail', State.READY, 1)[0].id}",
            "one dead letter": f"/job?id={dead.id}",
            "dead letters": "/dead",
            "a group of them": f"/dead/group?id={quote(group.fingerprint.id)}",
            "flows": "/flows",
            "flows, page 20": "/flows?offset=950",
            "a flow": f"/flow?id={backend.flows(1)[0].id}",
            "limits": "/limits",
            "schedule": "/schedule",
            "machines": "/machines",
        }

    return app.operate(some)


class Visits(NamedTuple):
    """What visits of a page took, in milliseconds."""

    first: float
    others: list[float]
    cpu: float  # CPU time of the dashboard a visit

    def __str__(self) -> str:
        return f"{self.first:,.0f} / {statistics.median(self.others):,.0f} / {max(self.others):,.0f} / {self.cpu:,.0f}"


def visit(dashboard: Dashboard, path: str, visits: int = VISITS) -> Visits:
    """Visit a page once, and again."""
    taken: list[float] = []
    cpu = 0.0
    for _ in range(visits + 1):
        before, began = dashboard.cpu, time.perf_counter()
        dashboard.get(path)
        taken.append((time.perf_counter() - began) * 1e3)
        cpu += dashboard.cpu - before
        time.sleep(PAUSE)
    return Visits(taken[0], taken[1:], cpu * 1e3 / len(taken))


class Watchers:
    """Open streams of events, which this process reads."""

    def __init__(self, dashboard: Dashboard, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._streams = [self._open(dashboard) for _ in range(count)]

    def _open(self, dashboard: Dashboard) -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", dashboard.port))
        stream.sendall(f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{dashboard.port}\r\nCookie: {dashboard.cookie}\r\n\r\n".encode())
        said = b""
        while b"retry:" not in said:
            said += stream.recv(65536)
            assert said.startswith(b"HTTP/1.1 200"), said
        self._selector.register(stream, selectors.EVENT_READ)
        return stream

    def read(self, seconds: float) -> None:
        """Read what comes for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.fileobj.recv(65536)  # type: ignore[union-attr]

    def told(self) -> list[float]:
        """Return when each stream was told of a change from now on, in order."""
        waiting, times = set(self._streams), []
        while waiting:
            for key, _ in self._selector.select():
                stream = key.fileobj
                assert isinstance(stream, socket.socket)
                if b"change" in stream.recv(65536) and stream in waiting:
                    waiting.discard(stream)
                    times.append(time.perf_counter())
        return times

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


def _asked_a_second(
    dashboard: Dashboard, asked: Asked | None, watchers: Watchers, seconds: float
) -> tuple[float | None, float]:
    """Return statements a second of the broker, and the share of one CPU that the dashboard uses."""
    watchers.read(2.0)
    before, cpu, began = asked() if asked else 0, dashboard.cpu, time.monotonic()
    watchers.read(seconds)
    took = time.monotonic() - began
    used = (dashboard.cpu - cpu) / took
    return ((asked() - before) / took if asked else None), used


def watch(dashboard: Dashboard, asked: Asked | None, most: int = 200, seconds: float = 10.0) -> Iterator[tuple[str, str]]:
    """Yield what one watcher, and many of them, cost, and how fast they are told of a change."""
    for count in (1, most):
        before = dashboard.memory
        watchers = Watchers(dashboard, count)
        try:
            rate, used = _asked_a_second(dashboard, asked, watchers, seconds)
            streams = f"{count:,} event stream{'s' if count > 1 else ''}"
            if rate is not None:
                yield f"{streams}: statements or scripts on the server a second", f"{rate:.1f}"
            yield f"{streams}: share of one CPU that `jobsctl web` takes", f"{used:.1%}"
            if count > 1:
                yield f"{streams}: memory of `jobsctl web`, before and with them", f"{before:.0f} and {dashboard.memory:.0f} MB"
                delays = sorted(_delays(watchers))
                yield (
                    f"{streams}: from an enqueue to the event in the browsers, median and last",
                    f"{statistics.median(delays):.1f} and {delays[-1]:.1f} s",
                )
                yield (
                    f"the overview for {count} browsers at once: the last one has it after",
                    f"{pictures(dashboard, count):.1f} s",
                )
        finally:
            watchers.close()


def _delays(watchers: Watchers, changes: int = 5) -> Iterator[float]:
    """Yield for some changes how long each stream waited for the news."""
    for _ in range(changes):
        watchers.read(0.7)
        began = time.perf_counter()
        shop.ship.using(topic=TOPICS[0]).enqueue(1, "acct_1")
        yield from (at - began for at in watchers.told())


def pictures(dashboard: Dashboard, count: int) -> float:
    """Return the seconds until so many browsers, which ask at the same time, have the overview."""
    with ThreadPoolExecutor(count) as browsers:
        began = time.perf_counter()
        list(browsers.map(dashboard.get, ["/"] * count))
        return time.perf_counter() - began
