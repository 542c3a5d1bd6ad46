"""The pages "Coming from …" beside the systems themselves: both sides of each side-by-side run, and do the same.

`make coming-from` runs this. It installs the newest release of each system from PyPI into an environment of its own, which
takes a minute or two the first time; so it is no part of `make test`, which only parses the code of other systems.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
from bench.peers.venvs import made

from jobs_core.schedule.times import by_cron
from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.redis import RedisServer

from ..support.project import Process, Project, until
from ..support.reader import BLOCK, FILE
from ..support.terminal import ROOT

PAGES = ROOT / "docs" / "coming-from"

SHORTER = {
    "countdown=60,": "countdown=1,",
    "delay=60)": "delay=1)",
    "delay=60_000": "delay=1_000",
    'delay="1m"': 'delay="1s"',
    "minutes=1)": "seconds=1)",
    "retries=5": "retries=2",
    "retry_backoff=2": "retry_backoff=1",
    "min_backoff=2_000": "min_backoff=200",
    'backoff="2s"': 'backoff="200ms"',
    "interval=10": "interval=1",
    "retry_delay=10": "retry_delay=1",
    "defer=10": "defer=1",
    'backoff="10s"': 'backoff="1s"',
}
"""Waits and numbers of the pages that would make this take minutes, on both sides alike."""

WATCHED = """\
import os, time

def watched(to, subject):
    with open(os.environ["RUNS"], "a") as file:
        print(time.time(), to, subject, file=file)
    if to.startswith("lookup@"):
        raise LookupError(to)
    if to.startswith("connection@"):
        raise ConnectionError(to)
"""

SIGNED_UP = """
import {module}
for who in ("ada", "lookup", "connection"):
    {module}.signed_up(f"{{who}}@example.com")
"""


@dataclass(frozen=True)
class System:
    """Another system: how it is installed, started and asked, in the terms of its page."""

    packages: tuple[str, ...]
    worker: str
    pending: str  # Python that prints how many jobs are left, as "Move a live system" tells to count
    runs: dict[str, int]  # of each address
    send: str = SIGNED_UP.format(module="old_tasks")
    nightly: str = ""  # Python that enqueues what the schedule would
    due: str = ""  # Python that prints whether the schedule is due at `when`, which it has to assign to `due`
    subject: str = "Report"
    more: str = ""  # at the end of the module: what a page leaves to defaults, such as the port
    ours: str = SIGNED_UP.format(module="tasks")
    answer: bool = False  # whether both print the result of the first
    stop: int = signal.SIGTERM  # ends the worker after its running jobs, as the page says


_REDIS = "import redis; r = redis.Redis(port=6379)\n"
_ASK = """
import asyncio, datetime
{setup}
async def main():
{connect}
    sent = [await {send} for who in ("ada", "lookup", "connection")]
    print(await sent[0].{result})
{close}
asyncio.run(main())
"""
_OURS_ASKED = """
import tasks
sent = [tasks.send_mail.enqueue(f"{who}@example.com", "Welcome") for who in ("ada", "lookup", "connection")]
print(sent[0].result(timeout=60))
"""
ONCE_OR_THRICE = {"ada": 1, "lookup": 1, "connection": 3}

SYSTEMS = {
    "celery": System(
        ("celery[redis]",),
        "python -m celery -A old_tasks worker -Q mail,celery -c 2 -l INFO",
        _REDIS + "print(r.llen('celery') + r.llen('mail') + r.hlen('unacked'))",
        ONCE_OR_THRICE,
        nightly="from old_tasks import app; e = app.conf.beat_schedule['digest']; app.send_task(e['task'], e['args'])",
        due="from old_tasks import app\ns = app.conf.beat_schedule['digest']['schedule']\n"
        "due = lambda when: when.minute in s.minute and when.hour in s.hour",
        subject="Digest",
    ),
    "rq": System(
        ("rq",),
        "rq worker mail --with-scheduler -u redis://127.0.0.1:6379",
        "from old_tasks import queue as q\nprint(q.count + q.scheduled_job_registry.count + q.deferred_job_registry.count"
        " + q.started_job_registry.count)",
        {"ada": 1, "lookup": 4, "connection": 4},
    ),
    "dramatiq": System(
        ("dramatiq[redis]",),
        "dramatiq -p 2 -t 8 old_tasks",
        _REDIS + "print(r.llen('dramatiq:mail') + r.llen('dramatiq:mail.DQ'))",
        ONCE_OR_THRICE,
    ),
    "huey": System(
        ("huey", "redis"),
        "huey_consumer old_tasks.huey -w 4 -k process",
        "from old_tasks import huey\nprint(huey.pending_count() + huey.scheduled_count())",
        {"ada": 1, "lookup": 4, "connection": 4},
        stop=signal.SIGINT,
        nightly="import old_tasks; old_tasks.nightly()",
        due="from huey import crontab\nfrom old_tasks import nightly\ndue = nightly.task_class().validate_datetime",
    ),
    "arq": System(
        ("arq",),
        "arq old_tasks.WorkerSettings",
        _REDIS + "print(r.zcard('arq:queue'))",
        {"ada": 1, "lookup": 1, "connection": 4},
        send=_ASK.format(
            setup="from arq import create_pool\nfrom arq.connections import RedisSettings",
            connect="    redis = await create_pool(RedisSettings(port=6379))",
            send='redis.enqueue_job("send_mail", f"{who}@example.com", "Welcome")',
            result="result(timeout=60)",
            close="    await redis.aclose()",
        ),
        nightly="""
import asyncio
from arq import create_pool
from arq.connections import RedisSettings
async def main():
    await (await create_pool(RedisSettings(port=6379))).enqueue_job("nightly")
asyncio.run(main())
""",
        due="""
from old_tasks import WorkerSettings
(entry,) = WorkerSettings.cron_jobs
def due(when):
    entry.calculate_next(when - datetime.timedelta(seconds=1))
    return entry.next_run.replace(microsecond=0) == when
""",
        more="""
from arq.connections import RedisSettings
WorkerSettings.redis_settings = RedisSettings(port=6379)
WorkerSettings.functions = [*WorkerSettings.functions, nightly]
""",
        ours=_OURS_ASKED,
        answer=True,
    ),
    "taskiq": System(
        ("taskiq", "taskiq-redis"),
        "taskiq worker old_tasks:broker --workers 2",
        _REDIS + "print(r.llen('taskiq'))",
        {"ada": 1, "lookup": 3, "connection": 3},
        send=_ASK.format(
            setup="import old_tasks",
            connect="    await old_tasks.broker.startup()",
            send='old_tasks.send_mail.kiq(f"{who}@example.com", "Welcome")',
            result="wait_result(timeout=60)",
            close="    await old_tasks.broker.shutdown()",
        ).replace(
            "print(await sent[0].wait_result(timeout=60))", "print((await sent[0].wait_result(timeout=60)).return_value)"
        ),
        nightly="""
import asyncio, old_tasks
async def main():
    await old_tasks.broker.startup()
    await old_tasks.nightly.kiq()
    await old_tasks.broker.shutdown()
asyncio.run(main())
""",
        due="""
from pycron import is_now
from old_tasks import nightly
(entry,) = nightly.labels["schedule"]
due = lambda when: is_now(entry["cron"], when)
""",
        ours=_OURS_ASKED,
        answer=True,
    ),
}


def programs(name: str) -> Path:
    """Return the programs of an environment with the newest release of a system, and ours beside it, as during a move."""
    ours = (ROOT / "core", ROOT / "plugins" / "redis_backend")
    return made(f"from-{name}", (*SYSTEMS[name].packages, *(f"--editable={path}" for path in ours)))


class Side:
    """One side of a page: its files in a directory, and what its jobs have done."""

    def __init__(self, place: Path, page: str, language: str, port: int, python: Path) -> None:
        self.project = Project(place, "")
        self.runs = place / "runs"
        self._python = python
        self._port = str(port)
        (place / "watching.py").write_text(WATCHED)
        for found, block in BLOCK.findall(page):
            name = FILE.match(block) or re.match(r"# ([\w./]+\.py), ", block)
            if found in (language, "toml") and name and not name[1].startswith("test_"):
                (place / name[1]).write_text(self.here(self._watched(block) if name[1].endswith(".py") else block))

    @staticmethod
    def _watched(text: str) -> str:
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        text, number = re.subn(r'(?m)^( +)(?:print\(|return f"\{to\}: \{subject\}")', r"\1watched(to, subject)\n\g<0>", text)
        assert number == 1, text
        return "from watching import watched\n" + text

    def here(self, text: str) -> str:
        return text.replace("6379", self._port)

    @property
    def environment(self) -> dict[str, str]:
        return {"RUNS": str(self.runs), "PYTHONWARNINGS": "default", "PATH": f"{self._python.parent}:/usr/bin:/bin"}

    def start(self, command: str) -> Process:
        program, *arguments = self.here(command).split()
        return self.project.start_program(str(self._python.parent / program), *arguments, **self.environment)

    def stop(self, worker: Process, number: int) -> None:
        """End a worker gracefully, and then whatever is left of its processes: some leave children."""
        worker.signal(number)
        worker.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)

    def ask(self, code: str) -> str:
        """Run Python in the directory; return what it prints."""
        done = subprocess.run(
            [self._python, "-c", self.here(code)],
            cwd=self.project.root,
            env=self.project.environment(**self.environment),
            text=True,
            capture_output=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def done(self) -> list[tuple[float, str, str]]:
        lines = self.runs.read_text().splitlines() if self.runs.exists() else []
        return [(float(at), to.partition("@")[0], subject) for at, to, subject in (line.split() for line in lines)]

    def until_done(self, runs: dict[str, int]) -> None:
        """Wait until each address has had its runs."""
        try:
            until(lambda: self.counts() == runs)
        except AssertionError:
            pytest.fail(
                f"expected {runs}, got {self.counts()}:\n" + "\n".join(worker.output for worker in self.project._processes)
            )

    def counts(self) -> Counter[str]:
        return Counter(to for _, to, subject in self.done() if subject == "Welcome")


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as started:
        yield started


@pytest.fixture
def sides(request, server, tmp_path) -> Iterator[tuple[System, Side, Side]]:
    name = request.param
    system = SYSTEMS[name]
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    old = Side(tmp_path / "old", page, "py", server.port, programs(name) / "python")
    module = old.project.root / "old_tasks.py"
    module.write_text(module.read_text() + old.here(system.more))
    new = Side(tmp_path / "new", page, "python", server.port, Path(sys.executable))
    configuration = new.project.root / "jobs.toml"
    shown = configuration.read_text() if "[pools" in configuration.read_text() else 'modules = ["tasks"]\n' + POOL
    backend = f'backend = "redis://127.0.0.1:{server.port}/0"\ndefaults.backoff = "200ms"\n'
    configuration.write_text(backend + shown)
    workers = {old: old.start(system.worker), new: new.start("python -m jobs_core start")}
    try:
        workers[new].until_said(" ready: ")
        yield system, old, new
        for side, number in ((old, system.stop), (new, signal.SIGTERM)):
            side.stop(workers[side], number)
    finally:
        for side, worker in workers.items():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            side.project.close()


POOL = '[pools.default]\ntopics = ["mail", "default"]\nworkers = 2\n'


@pytest.mark.parametrize("sides", SYSTEMS, indirect=True)
def test_both_sides_of_a_page_do_the_same(sides):
    system, old, new = sides
    sender = {old: system.send, new: system.ours}
    answers = {}
    for side, code in sender.items():
        answers[side] = side.ask(code)
    for side in sender:
        side.until_done(system.runs)
    until(lambda: old.ask(system.pending) == "0")
    new.project.until_empty("mail", "default")
    assert old.counts() == new.counts() == system.runs
    if system.answer:
        assert answers[old] == answers[new] == "ada@example.com: Welcome"


@pytest.mark.parametrize("sides", [name for name, each in SYSTEMS.items() if "signed_up" in each.send], indirect=True)
def test_both_sides_of_a_page_wait_as_long(sides):
    _, old, new = sides
    for side, module in ((old, "old_tasks"), (new, "tasks")):
        sent = float(side.ask(f"import time, {module}; print(time.time()); {module}.signed_up('ada@example.com')"))
        until(side.done)
        assert side.done()[0][0] >= sent + 1.0


@pytest.mark.parametrize("sides", [name for name, each in SYSTEMS.items() if each.due], indirect=True)
def test_both_sides_of_a_page_have_the_same_schedule(sides):
    system, old, new = sides
    code = (
        "import datetime\n"
        + textwrap.dedent(system.due)
        + (
            "\nday = datetime.datetime(2030, 1, 2)\nminutes = [day + datetime.timedelta(minutes=n) for n in range(1440)]\n"
            "print(*[f'{m:%H:%M}' for m in minutes if due(m)])"
        )
    )
    (ours,) = re.findall(r'cron="(.*)"', (new.project.root / "tasks.py").read_text())
    next_tick, ticks, at = (
        by_cron(ours, timezone.utc),
        [],
        int(datetime(2030, 1, 2, tzinfo=timezone.utc).timestamp() * 1000) - 1,
    )
    while (at := next_tick(at) or 0) < datetime(2030, 1, 3, tzinfo=timezone.utc).timestamp() * 1000:
        ticks.append(f"{datetime.fromtimestamp(at / 1000, timezone.utc):%H:%M}")
    assert old.ask(code).split() == ticks


@pytest.mark.parametrize("sides", [name for name, each in SYSTEMS.items() if each.nightly], indirect=True)
def test_what_the_schedule_of_a_page_starts_does_the_same(sides):
    system, old, new = sides
    old.ask(system.nightly)
    new.ask(f"import tasks; tasks.{'digest' if system.subject == 'Digest' else 'nightly'}.enqueue()")
    for side in (old, new):
        until(side.done)
    assert [run[1:] for run in old.done()] == [run[1:] for run in new.done()] == [("ada", system.subject)]


# -- "Move a live system" ---------------------------------------------------------------------------

MOVED = {
    "celery": (
        "from celery import Celery\napp = Celery('shop', broker='redis://127.0.0.1:6379/0')\n",
        "old_remind = app.task(remind)\ndef later(customer):\n    old_remind.apply_async((customer,), countdown=2)\n",
        "old_remind.delay(customer)",
        "python -m celery -A reminders worker -c 2 -l INFO",
    ),
    "rq": (
        "from datetime import timedelta\nimport redis, rq\nqueue = rq.Queue(connection=redis.Redis(port=6379))\n",
        "def later(customer):\n    queue.enqueue_in(timedelta(seconds=2), remind, customer)\n",
        "queue.enqueue(remind, customer)",
        "rq worker default --with-scheduler -u redis://127.0.0.1:6379",
    ),
}
"""What a reader writes into the modules of the page "Coming from another system": imports, the second registration, the old
enqueue; and the old worker."""


@pytest.mark.parametrize("name", MOVED)
def test_a_live_system_moves_and_each_job_runs_once(name, server, tmp_path):
    imports, registration, enqueue, worker = MOVED[name]
    page = (PAGES / "index.md").read_text(encoding="utf-8")
    blocks = {found[1]: block for _, block in BLOCK.findall(page) if (found := FILE.match(block))}
    side = Side(tmp_path / "app", "", "python", server.port, programs(name) / "python")
    record = "    with open(os.environ['RUNS'], 'a') as file:\n        print(time.time(), customer, 'Welcome', file=file)"
    reminders = blocks["reminders.py"].replace("    sent.append(customer)", record)
    shop = "from reminders import *\n" + blocks["shop.py"].replace("...  # old_remind.delay(customer)", enqueue)
    assert enqueue in shop
    assert record in reminders
    side.project.configure(POOL, backend=f'backend = "redis://127.0.0.1:{server.port}/0"', modules="reminders")
    (side.project.root / "reminders.py").write_text("import os, time\n" + side.here(imports) + reminders + registration)
    (side.project.root / "shop.py").write_text(shop)
    sends = "import shop\nfor n in range({}, {}):\n    shop.customer_waits(n)"
    side.ask("import os; os.environ['REMIND_WITH'] = 'old'\n" + sends.format(0, 50))  # nothing works yet: it waits
    old, new = side.start(worker), side.start("python -m jobs_core start")
    try:
        new.until_said(" ready: ")
        side.ask("import os; os.environ['REMIND_WITH'] = 'old'\n" + sends.format(50, 100))
        side.ask("import reminders\nfor n in range(100, 110):\n    reminders.later(n)")
        side.ask(sends.format(110, 200))  # the producer is switched
        pending = SYSTEMS[name].pending.replace("old_tasks", "reminders")
        until(lambda: side.ask(pending) == "0")
        side.stop(old, SYSTEMS[name].stop)
        side.ask(sends.format(200, 210))  # the old system is gone
        everyone = Counter({str(n): 1 for n in range(210)})
        side.until_done(everyone)
        side.project.until_empty("mail")
        assert side.counts() == everyone
    finally:
        for process in (old, new):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        side.project.close()


# -- django-tasks -----------------------------------------------------------------------------------

SETTINGS = """
SECRET_KEY = "of a test"
USE_TZ = True
HERE = {{"NAME": "shop", "USER": "shop", "HOST": "127.0.0.1", "PORT": {port}}}
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", **HERE}}}}
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
DJANGO = ("django>=6", "django-tasks-db", "psycopg[binary]")
OURS_ON_DJANGO = ("core", "plugins/django_loader", "plugins/postgres_backend")
SIGN_UP = "import django; django.setup()\nimport {module}; {module}.signed_up('{who}@example.com')"


def test_djangos_tasks_move_to_other_workers_with_one_setting_and_each_runs_once(tmp_path):
    page = (PAGES / "django-tasks.md").read_text(encoding="utf-8")
    before, old_tasks = (block for language, block in BLOCK.findall(page) if language == "py")
    (after,) = (block for language, block in BLOCK.findall(page) if language == "text")
    assert "# the settings before" in before
    assert "# the settings after" in after
    python = made("from-django-tasks", (*DJANGO, *(f"--editable={ROOT / each}" for each in OURS_ON_DJANGO)), "3.12") / "python"
    side = Side(tmp_path / "shop", page, "python", 0, python)  # with the @job of the page as tasks.py
    root = side.project.root
    (root / "jobs.toml").unlink()
    (root / "manage.py").write_text(MANAGE)
    (root / "mails.py").write_text(side._watched(old_tasks))  # the name tasks.py is taken
    workers = []
    with PostgresServer(user="shop") as server:
        server.run("createdb", "-h", str(server.directory), "-p", str(server.port), "-U", "shop", "shop")
        common = SETTINGS.format(port=server.port)
        (root / "before.py").write_text(common + 'INSTALLED_APPS = ["django_tasks_db"]\n' + before)
        url = f'"{server.url_of("shop", "shop")}"'
        here = after.replace('"postgresql://shop@localhost/shop"', url).replace(
            '["jobs_django", ...]', '["jobs_django", "django_tasks_db"]'
        )
        assert here.count(url) == 1
        (root / "after.py").write_text(common + here.replace('"pools"', '"modules": ["mails", "tasks"], "pools"'))
        environment = {name: {**side.environment, "DJANGO_SETTINGS_MODULE": name} for name in ("before", "after")}

        def run(settings: str, *arguments: str) -> None:
            subprocess.run([python, *arguments], cwd=root, env=side.project.environment(**environment[settings]), check=True)

        def start(settings: str, *arguments: str) -> Process:
            workers.append(side.project.start_program(str(python), "manage.py", *arguments, **environment[settings]))
            return workers[-1]

        try:
            run("before", "manage.py", "migrate", "-v0")
            run("before", "-c", SIGN_UP.format(module="mails", who="old"))
            old = start("before", "db_worker", "--queue-name", "*")
            start("after", "jobs", "start").until_said(" ready: ")
            run("after", "-c", SIGN_UP.format(module="mails", who="new"))  # the same code, another setting
            run("after", "-c", SIGN_UP.format(module="tasks", who="job"))
            side.until_done({"old": 1, "new": 1, "job": 1})
            assert old.stop() == 0
            run("after", "manage.py", "jobs", "stop")
            assert side.counts() == {"old": 1, "new": 1, "job": 1}
        finally:
            for process in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            side.project.close()
