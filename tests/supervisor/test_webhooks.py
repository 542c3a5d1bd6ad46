"""Webhooks under a real supervisor: a kill loses no event, flows and backlogs are told once, and commands say what is wrong."""

from __future__ import annotations

import os
import signal

import pytest

from jobs_core import Flow, set_current_app

from ..cli.test_commands import said
from ..support.project import Project, until
from ..support.receiver import Receiver
from ..support.supervised import Supervised
from ..support.webhooked import TASKS
from ..unit.test_webhooks import SECRET, verified

SETTINGS = """
pools.default = {{ topics = ["default", "webhooks"] }}
alerts = {{ after = "0s", repeat = "1h" }}
topics.behind = {{ alert_above = 2, serve = false }}
[webhooks.crm]
url = "{url}/hook"
secret_file = "secret"
networks = ["127.0.0.0/8"]
events = ["done", "dead", "flow", "backlog"]
topics = ["default", "behind"]
"""


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def shop(project: Project, receiver: Receiver) -> Project:
    (project.root / "tasks.py").write_text(TASKS)
    (project.root / "secret").write_text(SECRET + "\n")
    project.configure(SETTINGS.format(url=receiver.url))
    return project


def told(receiver: Receiver, kind: str) -> list[dict]:
    return [body["data"] for body in receiver.bodies if body["type"] == kind]


def test_a_worker_that_is_killed_loses_no_event(shop: Project, receiver: Receiver):
    supervised = Supervised(shop)
    ids = [shop.push("note", str(number)) for number in range(30)]
    until(lambda: len(receiver.bodies) >= 3)
    for worker in supervised.pids():
        os.kill(worker, signal.SIGKILL)
    until(lambda: {data["id"] for data in told(receiver, "job.done")} == set(ids))
    received = list(zip(receiver.headers, receiver.raw, strict=False))  # one may be told again at any time
    assert all(verified(SECRET, headers, raw) for headers, raw in received)
    supervised.stop()


def test_the_end_of_a_flow_is_told_once_whatever_housekeeper_sees_it(shop: Project, receiver: Receiver):
    supervised = Supervised(shop)
    app = shop.app()
    set_current_app(app)
    good, bad = (shop_flow(app, fails) for fails in (False, True))
    until(lambda: told(receiver, "flow.done") and told(receiver, "flow.failed"))
    assert told(receiver, "flow.done")[0]["id"] == good
    assert {key: told(receiver, "flow.failed")[0][key] for key in ("id", "dead", "done", "waiting")} == {
        "id": bad, "dead": 1, "done": 1, "waiting": 0,
    }  # fmt: skip
    supervised.stop()
    again = Supervised(shop)
    third = shop_flow(app, False)
    until(lambda: len(told(receiver, "flow.done")) == 2)
    assert [data["id"] for data in told(receiver, "flow.done")] == [good, third]
    assert len(told(receiver, "flow.failed")) == 1
    again.stop()


def shop_flow(app, fails: bool) -> str:
    from jobs_core import job
    from jobs_core.registry import Registry

    note = job(name="tasks.note", registry=Registry())(lambda text="x", fails=False: None)
    with Flow("order") as flow:
        flow.add(note.call())
        flow.add(note.call(fails=fails))
    return flow.id


def test_a_backlog_and_its_end_are_told(shop: Project, receiver: Receiver):
    for _ in range(3):
        shop.push("note", topic="behind")
    supervised = Supervised(shop)
    until(lambda: told(receiver, "topic.backlog"))
    assert told(receiver, "topic.backlog")[0]["ready"] == 3
    shop.here("purge", "behind", "--yes")
    until(lambda: told(receiver, "topic.caught_up"))
    assert len(told(receiver, "topic.backlog")) == 1
    supervised.stop()


def test_check_and_the_test_command_say_what_is_wrong(shop: Project, receiver: Receiver):
    assert "events go to crm" in said(shop.run("check"))
    assert said(shop.run("webhooks", "test")).splitlines() == ["✓ crm: sent"]
    assert receiver.bodies[0]["type"] == "test"
    assert verified(SECRET, receiver.headers[0], receiver.raw[0])
    receiver.status, receiver.answer = 401, b"bad signature"
    assert "✗ crm: answered 401: bad signature" in said(shop.run("webhooks", "test", "crm"), 1)
    assert "there is no webhook 'cmr': the configuration has crm" in said(shop.run("webhooks", "test", "cmr"), 2)
    shop.configure(SETTINGS.format(url=receiver.url).replace('networks = ["127.0.0.0/8"]', ""))
    assert "addresses that are not public" in said(shop.run("webhooks", "test"), 1)
    (shop.root / "secret").write_text("hunter2hunter2")
    wrong = said(shop.run("check"), 2)
    assert "jobs.toml: webhooks.crm.secret_file: expected whsec_" in wrong
    assert "hunter2" not in wrong
    shop.configure()
    assert "no webhook is configured" in said(shop.run("webhooks", "test"), 2)
