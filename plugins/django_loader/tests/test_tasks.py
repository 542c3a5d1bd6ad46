"""Tasks of Django's own framework on real workers, on SQLite and on Redis."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from jobs_core.ids import new_token
from jobs_core.testing.services.redis import RedisServer

TASKS = """
import asyncio, os
from pathlib import Path
from django.tasks import task

LEDGER = os.open(Path(__file__).parent.parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

@task
def add(a, b=2):
    record("add", a, b)
    return {"sum": a + b}

@task(priority=50, queue_name="mail")
async def aadd(a, b=2):
    await asyncio.sleep(0)
    return a + b

@task(takes_context=True)
def who(context, text):
    record("attempt", context.attempt, text)
    return context.task_result.id

@task
def fail():
    record("fail")
    raise LookupError("nothing there")

@task(backend="immediate")
def elsewhere(text):
    record("elsewhere", text)
"""
MORE = """
@task(retries=2, backoff=0.01, takes_context=True)
def third_time(context):
    record("attempt", context.attempt)
    if context.attempt < 3:
        raise ConnectionError
    return "at last"

@task(unique=True)
def once(text):
    record("once", text)

@task(cron="* * * * *", timeout=5)
def nightly():
    record("nightly")

@task(timeout=0.3)
def slow():
    while True:
        pass
"""
EXAMPLE = Path(__file__).parents[3] / "examples" / "django_shop"
WITH_OPTIONS = django.VERSION >= (6, 1)  # from then on, @task accepts the options of other backends
SETTINGS = """
TASKS = {
    "default": {"BACKEND": "jobs_django.TasksBackend", "QUEUES": ["default", "mail"]},
    "immediate": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
}
JOBS = {"backend": "%s", "pools": {"default": {"topics": ["mail", "default"]}}}
"""
HEAD = """
from crm import tasks
from django.tasks import TaskResultStatus, default_task_backend
seen = []
"""


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def crm(request, make_site):
    url = "sqlite:///queue.db"
    if request.param == "redis":
        url = f"redis://127.0.0.1:{request.getfixturevalue('redis_server').port}/0?prefix={new_token()}"
    site = make_site(settings=SETTINGS % url)
    Path(site.root / "crm" / "tasks.py").write_text(TASKS + (MORE if WITH_OPTIONS else ""))
    return site


def tell(site, code):
    return site.script(f"{HEAD}{code}\nprint(json.dumps(seen))")


def test_tasks_run_on_workers_and_their_results_are_read_by_another_process(crm):
    ids = tell(
        crm,
        """
import asyncio
results = [tasks.add.enqueue(1, b=5), asyncio.run(tasks.aadd.aenqueue(3)), tasks.who.using(queue_name="mail").enqueue("me"),
           tasks.fail.enqueue()]
assert [result.status for result in results] == ["READY"] * 4
seen = [result.id for result in results]
""",
    )
    crm.drain()
    assert tell(
        crm,
        f"""
import asyncio
added, aadded, who, failed = [default_task_backend.get_result(id) for id in {ids!r}]
assert added == tasks.add.get_result(added.id) == asyncio.run(tasks.add.aget_result(added.id))
assert added.started_at >= added.enqueued_at and added.finished_at >= added.started_at and added.attempts == 1
assert aadded.task == tasks.aadd and (aadded.task.priority, aadded.task.queue_name) == (50, "mail")
assert who.return_value == who.id and who.task.queue_name == "mail" and who.args == ["me"]
seen = [added.return_value, aadded.return_value, failed.status, failed.errors[0].exception_class.__name__,
        "nothing there" in failed.errors[0].traceback, failed.attempts, failed.is_finished]
""",
    ) == [{"sum": 6}, 5, "FAILED", "LookupError", True, 1, True]
    assert crm.times("fail") == 1  # to Django, a task that raised has failed


def test_a_task_for_later_waits_and_higher_priorities_come_first(crm):
    (later,) = tell(
        crm,
        """
from datetime import timedelta
from django.utils import timezone
later = tasks.add.using(run_after=timezone.now() + timedelta(seconds=2)).enqueue(1000)
assert default_task_backend.get_result(later.id).task.run_after == later.task.run_after
assert default_task_backend.get_result(later.id).status == "READY"
tasks.add.using(run_after=timezone.now() - timedelta(days=1)).enqueue(7)
for priority in (-100, 0, 100, -50, 50):
    assert tasks.add.using(priority=priority).enqueue(priority).refresh() is None
seen = [later.id]
""",
    )
    crm.drain()  # waits for scheduled jobs
    order = [int(line.split()[1]) for line in crm.ledger()]
    assert [number for number in order if number != 1000] == [100, 50, 7, 0, -50, -100]
    assert order.count(1000) == 1
    assert tell(
        crm,
        f"later = default_task_backend.get_result({later!r}); seen = [later.started_at >= later.task.run_after]",
    ) == [True]


def test_the_order_of_priorities_is_kept_in_ten_steps(crm):
    steps = tell(crm, "from jobs_django.tasks.definition import ten_steps\nseen = [ten_steps(n) for n in range(-100, 101)]")
    assert steps == sorted(steps)
    assert (steps[0], steps[100], steps[-1]) == (0, 4, 9)


def test_a_task_of_another_backend_can_be_sent_to_ours(crm):
    tell(crm, "tasks.elsewhere.using(backend='default').enqueue('here')")
    assert crm.ledger() == []
    crm.drain()
    assert crm.ledger() == ["elsewhere here"]


def test_a_result_of_another_application_does_not_exist(crm):
    assert tell(
        crm,
        """
from django.tasks.exceptions import TaskResultDoesNotExist
from jobs_core import current_app
from shop.jobs import note
cancelled = tasks.add.enqueue(1)
current_app().cancel(cancelled.id)
for id in ("nobody", note.enqueue("no task").id, cancelled.id):
    try:
        default_task_backend.get_result(id)
    except TaskResultDoesNotExist:
        seen.append(True)
""",
    ) == [True, True, True]


def test_a_message_never_has_anything_imported(crm):
    tell(
        crm,
        """
from jobs_core import current_app
from jobs_core.message import new_message
app = current_app()
app._producer.push([app.outgoing(new_message("subprocess.run", "default", ["touch bad"], {}))], 5.0)
""",
    )
    assert "no job named 'subprocess.run' is registered here" in crm.manage("jobs", "check").stdout


def test_tasks_wait_for_the_commit_where_the_backend_is_told_so(crm):
    settings = crm.root / "settings.py"
    settings.write_text(settings.read_text() + 'TASKS["default"]["OPTIONS"] = {"on_commit": True}\n')
    assert tell(
        crm,
        """
from django.db import transaction
from django.tasks.exceptions import TaskResultDoesNotExist
with transaction.atomic():
    result = tasks.add.enqueue(1)
    try:
        result.refresh()
    except TaskResultDoesNotExist:
        seen.append("not yet")
result.refresh()
seen.append(result.status)
""",
    ) == ["not yet", "READY"]


def test_signals_and_logs_report_the_run(crm):
    with (crm.root / "crm" / "tasks.py").open("a") as module:
        module.write(
            """
from django.dispatch import receiver
from django.tasks.signals import task_finished, task_started
@receiver([task_started, task_finished])
def heard(sender, task_result, **more):
    record(sender.__name__, task_result.status, task_result.task.name)
"""
        )
    tell(crm, "tasks.add.enqueue(1); tasks.fail.enqueue(); tasks.aadd.enqueue(1)")
    crm.drain()
    for line in ("RUNNING add", "SUCCESSFUL add", "RUNNING fail", "FAILED fail", "RUNNING aadd", "SUCCESSFUL aadd"):
        assert crm.times(f"TasksBackend {line}") == 1


def test_task_finished_is_sent_for_a_task_that_is_cancelled_while_it_runs(crm):
    with (crm.root / "crm" / "tasks.py").open("a") as module:
        module.write(
            """
from django.dispatch import receiver
from django.tasks.signals import task_finished
from jobs_core import current_app, current_job
@task
async def endless():
    await asyncio.to_thread(current_app().cancel, current_job().id)
    await asyncio.sleep(60)
@receiver(task_finished)
def heard(sender, task_result, **more):
    record(task_result.status, task_result.task.name)
"""
        )
    tell(crm, "tasks.endless.enqueue()")
    crm.drain()
    assert crm.times("FAILED endless") == 1


def test_the_newsletter_of_the_example_is_sent(make_site):
    site = make_site()
    shop = shutil.copytree(EXAMPLE, site.root / "example", ignore=shutil.ignore_patterns(".jobs", "*.db", "__pycache__"))

    def shell(code):
        done = subprocess.run(
            [sys.executable, "manage.py", *code], cwd=shop, text=True, capture_output=True, timeout=60, env=site.environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    send = "from newsletter.tasks import send; print(send.enqueue('New pears', to=['ada@x', 'bob@x']).id)"
    job_id = shell(["shell", "-v", "0", "-c", send]).split()[-1]
    shell(["jobs", "worker", "--drain"])
    ask = f"from newsletter.tasks import send; print(send.get_result('{job_id}').return_value)"
    assert shell(["shell", "-v", "0", "-c", ask]).split()[-1] == "2"


if WITH_OPTIONS:

    def test_further_job_options_are_set_in_the_decorator(crm):
        ids = tell(
            crm,
            """
seen = [tasks.third_time.enqueue().id, tasks.once.enqueue("x").id, tasks.once.enqueue("x").id, tasks.slow.enqueue().id]
from jobs_core.registry import default_registry
assert default_registry.get("crm.tasks.nightly").cron == "* * * * *"
""",
        )
        assert ids[1] == ids[2]
        crm.drain()
        assert [crm.times(f"attempt {n}") for n in (1, 2, 3)] == [1, 1, 1]
        assert crm.times("once x") == 1
        said = tell(
            crm,
            f"""
third, slow = [default_task_backend.get_result(id) for id in ({ids[0]!r}, {ids[3]!r})]
seen = [third.return_value, third.attempts, slow.status, slow.errors[0].exception_class.__name__]
""",
        )
        assert said == ["at last", 3, "FAILED", "JobTimeout"]

    def test_an_option_that_makes_no_sense_is_an_error_where_it_is_written(crm):
        (crm.root / "crm" / "tasks.py").write_text(f"{TASKS}\n@task(retries='many')\ndef odd(): pass\n")
        done = crm.manage("jobs", "check")
        assert done.returncode == 2
        assert "crm.tasks.odd: retries: expected a whole number" in done.stdout
