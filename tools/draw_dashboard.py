"""Take pictures of the dashboard with Chromium, wide and narrow, light and dark: python tools/draw_dashboard.py [DIR].

Without DIR, it writes those that docs/dashboard.md shows. With DIR, it writes all of them there, to be looked at.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import linecache
import socket
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import uvicorn
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from jobs_core import App, Flow, current_job, job, set_current_app
from jobs_core.backends.base import Outgoing
from jobs_core.backends.limits import Limit
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.config import Config, Pool
from jobs_core.ids import new_id, new_token
from jobs_core.machines import GONE, MACHINE, MachineReport, PoolReport, RunReport
from jobs_core.operating.dead import counted
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.schedule import Schedule
from jobs_core.statistics import SUMS
from jobs_core.worker.main import Worker
from jobs_web.serving import Server
from jobs_web.settings import Settings
from jobs_web.site import Site, asgi
from jobs_web.tokens import new_token as new_key

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
SHOWN = {
    "overview-wide-light": "dashboard", "job-wide-dark": "dashboard-job", "dead-narrow-light": "dashboard-narrow",
    "album-wide-light": "dashboard-flow",
    **{f"{page}-wide-light": f"dashboard-{page}" for page in ("topics", "jobs", "group", "flows", "limits", "schedule")},
    **{f"{page}-wide-dark": f"dashboard-{page}" for page in ("stats", "machines")},
}  # fmt: skip
SIZES = {"wide": (1440, 1000), "narrow": (360, 740)}
NASTY = "<script>alert(1)</script>\"'&amp;{{7*7}}\u202e\u05d0 `x`\x00\x1b[31m"
HOSTILE = "<img src=x onerror=alert(1)>'\"&amp;; reboot"
RIGHT_TO_LEFT = "مرحبا بالعالم هذا نص 42 طويل جدا من اليمين إلى اليسار"
TOPICS = ["billing", "default", "mail", "reports", "thumbnails"]


def shop(registry: Registry) -> dict[str, Any]:
    """Return the job functions of a shop."""

    @job(name="shop.billing.charge", registry=registry, retries=0, topic="billing")
    def charge(order: int, customer: str) -> None:
        current_job().progress(1, 3, f"asked the bank of {customer}")
        current_job().log("the bank answered after 204 ms")
        raise ConnectionError(f"bank.example refused order {order}: card expired")

    @job(name="shop.mail.send", registry=registry, retries=0, topic="mail")
    def send(to: str, text: str) -> None:
        raise ValueError(f"no such mailbox {to!r}")

    @job(name="shop.thumbnails.resize", registry=registry, topic="thumbnails", limits=("images",))
    def resize(photo: str) -> None: ...

    @job(name="shop.reports.monthly", registry=registry, topic="reports", cron="0 6 1 * *")
    def monthly() -> None: ...

    @job(name="shop.orders.pack", registry=registry)
    def pack(order: int) -> int:
        return order

    _place(charge.function, "/srv/shop/billing.py")
    _place(send.function, "/srv/shop/mail.py")
    return {"charge": charge, "send": send, "resize": resize, "monthly": monthly, "pack": pack}


def _place(function: Any, file: str) -> None:
    """Let tracebacks name this file in place of ours, whose path is that of the machine on which the pictures are taken."""
    lines = ["\n"] * 11 + textwrap.dedent(inspect.getsource(function)).splitlines(keepends=True)
    linecache.cache[file] = len(lines), None, lines, file
    function.__code__ = function.__code__.replace(co_filename=file, co_firstlineno=12)


class Shop:
    """An application with some of everything."""

    def __init__(self, directory: Path, topics: int = 0) -> None:
        names = [*TOPICS, *(f"tenant-{number:03}" for number in range(topics))]
        url = f"sqlite:///{directory}/jobs.db"
        pools = {"default": Pool(topics=names)}
        self.app = App(Config(backend=url, base_dir=directory, pools=pools), plugins=Plugins(), registry=Registry())
        set_current_app(self.app)
        self.jobs = shop(self.app.registry)
        self.dead = self.flow = self.album = ""

    def fill(self) -> None:
        """Put jobs, letters, flows, limits, statistics and machines into the backend."""
        jobs, operate = self.jobs, self.app.operate
        self.dead = jobs["charge"].using(key="acme").enqueue(4711, "Łukasz Żółć").id
        for number in range(23):
            jobs["charge"].enqueue(5000 + number, "مريم")
        for number in range(4):
            jobs["send"].enqueue(f"nobody{number}@example.com", "Grüße")
        with Flow("order 4711") as flow:
            packed = flow.add(jobs["pack"].call(4711))
            paid = flow.add(jobs["charge"].call(4711, "Łukasz"), after=packed)
            flow.add(jobs["send"].call("l@example.com", "sent"), after=paid)
            flow.add(jobs["resize"].call("label.png"), after=packed)
        self.flow = flow.handle.id
        self.album = self._album()
        Worker(self.app, "default", Pool(topics=TOPICS), None, owner=f"web1-{new_token()}", drain=True).run()
        for number in range(130):
            jobs["pack"].using(key=f"tenant {number % 7}").enqueue(number)
        for number in range(6):
            jobs["resize"].enqueue(f"a-very-long-name-of-a-photo-without-any-space-{number:040}.jpeg")
            jobs["send"].using(delay=600.0 * number + 60).enqueue("later@example.com", "")
        operate(lambda backend: backend.define_limits({"images": Limit(4), "stripe": Limit(None, 0.1)}, {}))
        operate(lambda backend: backend.override_limit("stripe:acct_42", Limit(2)))
        operate(lambda backend: backend.pause("reports"))
        Schedule(self.app).add("ship acme", jobs["pack"].call(7), cron="30 6 * * MON-FRI", tz="Europe/Berlin")
        Schedule(self.app).add("sweep", jobs["pack"].call(0), every="15m")
        Schedule(self.app).pause("sweep")
        self._statistics()
        self.refresh()

    def _album(self) -> str:
        """Return the id of a flow with a stage, members that fail, and a finale."""
        jobs = self.jobs
        with Flow("album of 40 photos") as flow:
            fetched = [flow.add(jobs["pack"].call(number)) for number in (1, 2)]
            for number in range(40):
                flow.add(jobs["resize"].call(f"photo-{number}.jpeg"), after=fetched, stage="thumbnails")
            cover = flow.add(jobs["resize"].call("cover.jpeg"), after=fetched[0])
            for number in range(9):
                flow.add(jobs["pack"].call(number), after=fetched[1])
            page = flow.add(jobs["pack"].call(12), after=["thumbnails", cover])
            paid = flow.add(jobs["charge"].call(12, "مريم"), after=fetched[1])
            flow.add(jobs["pack"].call(13), after=[page, paid])
            flow.add(jobs["send"].call("anna@example.com", "it failed"), after=flow.all, when="failed")
        return flow.handle.id

    def mischief(self) -> list[str]:
        """Put hostile, long and foreign texts into everything that has a text; return the ids of the jobs."""
        texts = [NASTY, RIGHT_TO_LEFT, "x" * 300]
        ids = [self.jobs["charge"].using(key=text[:200]).enqueue(1, text).id for text in texts]
        ids.append(self.jobs["charge"].enqueue(1, "B" * 900_000).id)
        with Flow(RIGHT_TO_LEFT) as flow:
            flow.add(self.jobs["charge"].call(2, NASTY), stage=HOSTILE)
        self.flow = flow.handle.id
        Worker(self.app, "default", Pool(topics=TOPICS), None, owner=f"web1-{new_token()}", drain=True).run()
        names = [("<script>alert(2)</script>", "01-<b>id</b>; reboot"), (RIGHT_TO_LEFT, RIGHT_TO_LEFT), ("a" * 200, "i" * 200)]
        for job_name, job_id in names:
            ids += [job_id, self._push(job_name, new_id(), topic="mail"), self._push(job_name, job_id, topic=job_name[:120])]
        for value in (HOSTILE, RIGHT_TO_LEFT, "v" * 120):
            self.jobs["resize"].using(limits=(f"images:{value}",)).enqueue("x")
            self.app.operate(lambda backend, value=value: backend.override_limit(f"images:{value}", Limit(0)))
        self.report(HOSTILE, 5, NASTY)
        return list(dict.fromkeys(ids))

    def _push(self, job_name: str, job_id: str, topic: str) -> str:
        """Enqueue what another program could have written: its name and id follow no rule of ours."""
        message = {"v": 1, "id": job_id, "job": job_name, "topic": topic, "args": [NASTY], "enqueued_at": 1e9}
        self.app.operate(lambda backend: backend.push([Outgoing(job_id, topic, msgspec.json.encode(message))], new_token()))
        return job_id

    def refresh(self) -> None:
        """Let the machines report again: what they have said is forgotten after 30 s."""
        self.report("web1.3f2a9c", 5, "serving")
        self.report("web2.77b01d", 3, "quiet")

    def _statistics(self) -> None:
        until = int(time.time()) // 60 * 60
        rows = []
        for minute in range(60):
            failed = 12 if 20 < minute < 30 else 2
            run, wait = [0] * 17, [0] * 17
            done = 180 + 60 * ((minute * 7) % 5)
            run[4 + minute % 3], wait[3 + (minute // 9) % 4] = done, done
            sums = [0] * len(SUMS)
            sums[SUMS.index("reports")], sums[SUMS.index("done")], sums[SUMS.index("dead")] = 1, done, failed
            if not 40 < minute < 44:
                numbers = (*sums, *run[:16], *wait[:16])
                at = until - 60 * (60 - minute)
                rows += [StatisticsRow(at, topic, sums=numbers) for topic in ("", "billing", "default")]
                if at % 300 == 0:
                    names = ("shop.billing.charge", "shop.billing.refund", "shop.billing.remind")
                    rows += [StatisticsRow(at, "billing", name, numbers, span=300) for name in names]
        for begin in range(0, len(rows), 100):
            self.app.operate(lambda backend, begin=begin: backend.add_statistics(rows[begin : begin + 100], new_token()))

    def report(self, name: str, workers: int, state: str) -> None:
        report = MachineReport(
            name, name.partition(".")[0], "/srv/shop", 812, "0.1.0", state, time.time() - 90_000, 4,
            [PoolReport("default", TOPICS, workers, workers, 8, scaled=state == "quiet")], workers,
            [RunReport("01a2", "shop.orders.pack", "default", 3.2, 815)], 412_000_000, 91_234, 311, 2,
        )  # fmt: skip
        self.app.operate(
            lambda backend: backend.put_document(MACHINE, name, msgspec.json.encode(report), new_token(), ttl=GONE)
        )

    def pages(self) -> dict[str, str]:
        """Return the path of each page by its name."""
        found = {
            "overview": "/", "topics": "/topics", "jobs": "/jobs?topic=default", "dead-jobs": "/jobs?topic=billing&state=dead",
            "dead": "/dead", "flows": "/flows", "limits": "/limits", "schedule": "/schedule", "machines": "/machines",
            "stacks": "/machines/stacks?machine=web1.3f2a9c", "login": "/login", "missing": "/job?id=unknown",
            "stats": "/stats", "stats-topic": "/stats?topic=billing",
            "stats-job": "/stats?topic=billing&job=shop.billing.charge",
        }  # fmt: skip
        found |= {"job": f"/job?id={quote(self.dead)}"} if self.dead else {}
        found |= {"flow": f"/flow?id={quote(self.flow)}"} if self.flow else {}
        found |= {"album": f"/flow?id={quote(self.album)}"} if self.album else {}
        for group in self.app.operate(lambda backend: counted(self.app, backend, TOPICS)[0])[:1]:
            found["group"] = f"/dead/group?id={group.of.id}"
        return found


@contextlib.contextmanager
def served(app: App) -> Iterator[tuple[str, str]]:
    """Serve the dashboard on a thread; yield its address, and the path that logs in."""
    key = new_key()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        site = Site(app, Settings(), key=key)
        server = Server(uvicorn.Config(asgi(site), log_config=None, lifespan="off"), site, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", f"/login?key={key}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[webdriver.Chrome]:
    """Start Debian's Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        *arguments,
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def look(driver: webdriver.Chrome, size: str, scheme: str) -> None:
    """Set the width of the page, and light or dark."""
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "narrow"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def picture(driver: webdriver.Chrome, most: int = 2400) -> Image.Image:
    """Return a picture of the whole page, up to a height."""
    height = min(most, int(driver.execute_script("return document.documentElement.scrollHeight")))
    width = int(driver.execute_script("return innerWidth"))
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def shops(directory: Path) -> Iterator[tuple[str, Shop, dict[str, str]]]:
    """Yield shops with some of everything, with hostile texts, with nothing, and with 300 topics: name, shop and pages."""
    for name, topics in (("", 0), ("hostile-", 0), ("empty-", 0), ("many-", 300)):
        (directory / (name or "usual")).mkdir()
        made = Shop(directory / (name or "usual"), topics)
        if not name:
            made.fill()
        ids = made.mischief() if name == "hostile-" else []
        pages = made.pages() | {f"job-{number}": f"/job?id={quote(job_id)}" for number, job_id in enumerate(ids)}
        yield name, made, {each: pages[each] for each in ("overview", "topics")} if topics else pages
        made.app.close()
        set_current_app(None)


def main(directory: Path | None) -> None:
    with tempfile.TemporaryDirectory() as temporary, chromium() as driver:
        for kind, made, pages in shops(Path(temporary)):
            with served(made.app) as (address, login):
                driver.get(address + login)
                for name, size, scheme in itertools.product(pages, SIZES, ("light", "dark")):
                    full = f"{kind}{name}-{size}-{scheme}"
                    if directory is None and full not in SHOWN:
                        continue
                    if not kind:
                        made.refresh()
                    look(driver, size, scheme)
                    driver.get(address + pages[name])
                    target = directory / f"{full}.png" if directory else PICTURES / f"{SHOWN[full]}.webp"
                    picture(driver, 2400 if directory else 1100).save(
                        target, **({} if directory else {"quality": 80, "method": 6})
                    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
