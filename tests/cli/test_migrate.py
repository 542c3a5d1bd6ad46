"""`jobsctl migrate celery`, with Celery itself: what it prints is configuration and code of ours that hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_core.config_sources import load

APPLICATION = """
from datetime import timedelta
from celery import Celery
from celery.schedules import crontab

app = Celery(
    "shop", broker="redis://:hunter2@queue.example/3", backend="redis://:hunter2@queue.example/4",
    include=["shop.mail", "shop.orders"],
)
app.conf.update(
    task_routes={"shop.mail.*": {"queue": "mail"}}, task_soft_time_limit=300, task_time_limit=360, worker_concurrency=8,
    worker_max_tasks_per_child=1000, worker_max_memory_per_child=200_000, timezone="Europe/Berlin",
    result_expires=timedelta(hours=2),
    beat_schedule={
        "nightly report": {"task": "shop.orders.report", "schedule": crontab(minute=30, hour=2), "kwargs": {"days": 7}},
        "poll": {"task": "shop.orders.poll", "schedule": 30.0, "options": {"queue": "polls", "expires": 20}},
        "13th": {
            "task": "shop.orders.poll", "args": (None,),
            "schedule": crontab(minute="*/15", hour={8, 9}, day_of_month="13", day_of_week="fri"),
        },
        "gone": {"task": "shop.orders.gone", "schedule": timedelta(minutes=5)},
    },
)


@app.on_after_finalize.connect
def more(sender, **_):
    sender.add_periodic_task(90, sender.tasks["shop.orders.report"].s(1), name="added")
"""
MAIL = """
import smtplib
from celery import shared_task


class BankError(Exception): ...


@shared_task(bind=True, max_retries=5, default_retry_delay=60)
def send(self, to: str, subject: str = "hello") -> None:
    try:
        print(self.request.id, self.request.retries, to)
    except smtplib.SMTPException as error:
        raise self.retry(exc=error, countdown=2 ** self.request.retries)
    self.update_state(state="PROGRESS", meta={"done": 1})


@shared_task(
    autoretry_for=(smtplib.SMTPException, BankError, OSError), retry_backoff=5, retry_backoff_max=300, max_retries=None,
    dont_autoretry_for=(KeyError,), rate_limit="10/m", ignore_result=True, acks_late=True,
)
def newsletter(address, *, html=False): ...
"""
ORDERS = """
from celery import Task, chain
from .celery import app
from .mail import newsletter, send


class Base(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo): ...


@app.task(
    base=Base, name="shop.orders.charge", priority=3, time_limit=20, soft_time_limit=10, serializer="pickle", expires=3600
)
def charge(order, amount=1): ...


@app.task
def report(days): ...


@app.task(queue="polls")
def poll(x=None): ...


def view(order):
    charge.delay(order.id, amount=2)
    send.apply_async(("a@b",), {"subject": "x"}, countdown=10, queue="fast", expires=60, link=report.s())
    send.apply_async(args=[order.to], kwargs=order.kw, eta=order.when, task_id=order.id)
    chain(charge.s(1), report.si(2))()
    app.send_task("shop.orders.report", args=[1])
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a Celery application."""
    directory = tmp_path_factory.mktemp("celery")
    package = directory / "shop"
    package.mkdir()
    for name, text in {"__init__": "", "celery": APPLICATION, "mail": MAIL, "orders": ORDERS}.items():
        (package / f"{name}.py").write_text(text)
    elsewhere = directory / "venv" / "lib"
    elsewhere.mkdir(parents=True)
    (directory / "venv" / "pyvenv.cfg").write_text("")
    (elsewhere / "library.py").write_text("charge.delay(1)")
    return directory


def run(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, since Celery keeps its tasks for as long as a process lives."""
    command = [sys.executable, "-m", "jobs_core", *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, env={**os.environ, **environment})


def migrate(shop: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(shop, "migrate", "celery", *words, **environment)


@pytest.fixture(scope="module")
def printed(shop: Path) -> str:
    done = migrate(shop, "shop")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def said(printed: str) -> str:
    """What is printed, on one line, without the breaks of long remarks."""
    return " ".join(re.sub(r"\n *#   ", " ", printed).split())


def part(text: str, title: str) -> str:
    """Return what stands under a title."""
    found = re.search(rf"^# ---- {re.escape(title)} -+$(.*?)(?=^# ---- |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, text
    return found[1]


def test_the_printed_settings_and_schedule_hold(shop: Path, tmp_path: Path):
    done = migrate(shop, "shop", "--settings")
    (tmp_path / "jobs.toml").write_text(done.stdout)
    config = load(tmp_path / "jobs.toml", environ={}).config
    assert config.modules == ["shop.mail", "shop.orders"]
    assert (config.defaults.timeout, config.defaults.store_result) == (300.0, True)
    pool = config.pools["default"]
    assert (pool.topics, pool.workers, pool.max_jobs) == ({"default": 1, "mail": 1, "polls": 1}, 8, 1000)
    assert config.topics["mail"].result_ttl == 7200
    assert config.limits["newsletter"].rate == "10/m"
    entries = {name: (entry.job, entry.cron or entry.every) for name, entry in config.schedule.items()}
    assert entries == {
        "nightly report": ("shop.orders.report", "30 2 * * *"), "poll": ("shop.orders.poll", 30.0),
        "13th": ("shop.orders.poll", "*/15 8,9 13 * fri"), "gone": ("shop.orders.gone", 300.0),
        "added": ("shop.orders.report", 90.0),
    }  # fmt: skip
    assert config.schedule["nightly report"].tz == "Europe/Berlin"
    assert config.schedule["poll"].topic == "polls"


def test_the_printed_jobs_are_jobs_that_the_printed_schedule_fits(printed: str, tmp_path: Path):
    moved = tmp_path / "shop"
    moved.mkdir()
    (moved / "__init__.py").write_text("")
    (moved / "mail.py").write_text("class BankError(Exception): ...\n" + part(printed, "shop/mail.py"))
    (moved / "orders.py").write_text(part(printed, "shop/orders.py"))
    settings = re.sub(r"\[schedule\.gone\][^\[]*", "", part(printed, "jobs.toml"))  # its task is missing in Celery, too
    (tmp_path / "jobs.toml").write_text(settings)
    done = run(tmp_path, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "5 jobs: shop.mail.newsletter, shop.mail.send, shop.orders.charge, shop.orders.poll, shop.orders.report" in done.stdout
    )
    done = run(tmp_path, "run", "shop.mail.send", "ann@example.com")
    assert (done.returncode, done.stdout.strip()) == (0, "null"), done.stderr


def test_each_job_is_retried_as_celery_did(printed: str):
    charge = 'name="shop.orders.charge", priority=3, retries=0, timeout=10, expires=3600'  # Celery retries nothing unasked
    send = 'name="shop.mail.send", topic="mail", retries=5, backoff=Backoff(first=60, factor=1), retry_on=()'
    assert f"@job({charge})\ndef charge(order, amount=1):" in printed
    assert f"@job({send})\ndef send(to: str, " in printed
    for option in (
        "backoff=Backoff(first=5, longest=300)",
        "retry_on=(SMTPException, BankError, OSError)",
        "discard_on=(KeyError,)",
    ):
        assert f"    {option},\n" in printed


def test_lines_to_change_are_named_with_what_stands_for_them(said: str):
    for line in (
        "line 12: self.request.id -> current_job().id",
        "line 12: self.request.retries -> current_job().attempt - 1",
        "raise self.retry(exc=error, countdown=2 ** self.request.retries) "
        "-> raise Retry(delay=2 ** self.request.retries) from error",
        "-> current_job().progress(done, total, message)",
        "charge.delay(order.id, amount=2) -> charge.enqueue(order.id, amount=2)",
        "-> send.using(delay=10, topic='fast', expires=60).enqueue('a@b', subject='x'), "
        'and see "From Celery\'s canvas" for link',
        "-> send.using(at=order.when, id=order.id).enqueue(order.to, **order.kw)",
        "report.si(2) -> report.call(2)",
        "app.send_task('shop.orders.report', args=[1]) -> import the job function, and enqueue it",
    ):
        assert line in said


def test_what_behaves_otherwise_is_said(said: str):
    for remark in (
        "in Celery both must match, here either is enough",
        "TOML cannot hold [None]",
        "the application has no such task",
        "Celery acknowledges 4 jobs of these before the run",
        "on_failure of its class",
        "its arguments were pickle",
        "on Redis, Celery runs 0 first; here 9 is first",
        "Celery's rate limit is one worker's",
        "Celery retries it without end",
    ):
        assert remark in said


def test_no_password_is_printed_and_no_environment_is_searched(printed: str):
    assert "hunter2" not in printed
    assert "library.py" not in printed


def test_an_application_that_is_not_there_or_ends_the_process_is_an_error(shop: Path):
    done = migrate(shop, "nowhere")
    assert done.returncode == 2
    assert "ModuleNotFoundError: No module named 'nowhere'" in done.stderr
    (shop / "broken.py").write_text("import sys\nsys.exit(0)\n")
    done = migrate(shop, "broken")
    assert done.returncode == 2
    assert 'the Celery application "broken" cannot be imported' in done.stderr


def test_without_celery_the_command_says_where_to_run_it(shop: Path, tmp_path: Path):
    (tmp_path / "celery.py").write_text("raise ImportError('not installed')\n")
    done = migrate(shop, "shop", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "run this command in the environment of the Celery application" in done.stderr


def test_a_slow_import_is_reported(shop: Path):
    os.mkfifo(shop / "door")
    (shop / "slow.py").write_text("open('door').read()\nfrom shop.celery import app\n")
    words = [sys.executable, "-m", "jobs_core", "migrate", "celery", "slow"]
    with subprocess.Popen(words, cwd=shop, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "waiting for the application to be imported" in process.stderr.readline()
        (shop / "door").write_text("open")
        text, _ = process.communicate()
    assert process.returncode == 0
    assert "[schedule.poll]" in text
