"""The blueprint in Flask applications that do more before a view than the example does."""

from __future__ import annotations

import re
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, abort, redirect, request

from jobs_web.flask import blueprint
from jobs_web.roles import Role, User


@pytest.fixture
def application(rig: Any) -> Flask:
    made = Flask("shop")
    made.register_blueprint(blueprint(lambda: User("anna", Role.ADMIN), app=rig.app), url_prefix="/jobs")
    return made


def fields_of(page: str) -> dict[str, str]:
    form = re.search(r"<form method=\"post\".*?</form>", page, re.DOTALL)
    assert form, page
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))


@pytest.fixture
def topic(rig: Any) -> str:
    rig.app.operate(lambda backend: backend.pause("default"))
    return "default"


def test_a_form_works_that_the_application_has_read_before(application, topic):
    application.before_request(lambda: request.form.get("token") and None)
    client = application.test_client()
    fields = fields_of(client.get("/jobs/topics").text)
    assert client.post("/jobs/topics/resume", data=fields).status_code == 303


def test_authorize_may_answer_by_itself(rig):
    application = Flask("shop")
    application.register_blueprint(blueprint(lambda: abort(redirect("/welcome")), app=rig.app), url_prefix="/jobs")
    assert application.test_client().get("/jobs/").headers["location"] == "/welcome"


def test_nobody_is_refused_and_no_login_is_offered(rig):
    application = Flask("shop")
    application.register_blueprint(blueprint(lambda: None, app=rig.app), url_prefix="/jobs")
    answer = application.test_client().get("/jobs/")
    assert answer.status_code == 401
    assert "does not let you in" in answer.text
    assert application.test_client().get("/jobs/login").status_code == 404


def test_a_form_that_comes_twice_at_once_on_two_threads_is_carried_out_once(application, topic, caplog):
    caplog.set_level("INFO", "jobs.web.audit")
    client = application.test_client()
    fields = fields_of(client.get("/jobs/topics").text)
    cookie = client.get_cookie("jobs_session", path="/jobs")
    statuses: list[int] = []

    def send() -> None:
        other = application.test_client()
        other.set_cookie("jobs_session", cookie.value, path="/jobs")
        statuses.append(other.post("/jobs/topics/resume", data=fields).status_code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [303] * 8
    assert len([record for record in caplog.records if "resume topic=default: done" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    ("module", "asked"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_a_server_without_real_threads_is_told_what_to_do_instead(application, monkeypatch, module, asked):
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asked: lambda name: name.startswith("thread")}))
    answer = application.test_client().get("/jobs/")
    assert answer.status_code == 501
    assert answer.text.startswith(f"{module.partition('.')[0]} has replaced the threads of this process")
    assert "run `jobsctl web` beside the application" in answer.text
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asked: lambda name: False}))
    assert application.test_client().get("/jobs/").status_code == 200


def test_two_dashboards_of_one_application_are_apart(rig, make_rig):
    application = Flask("shop")
    for name, role in (("jobs", Role.ADMIN), ("look", Role.READ)):
        made = blueprint(lambda role=role: User("anna", role), app=rig.app, name=name)
        application.register_blueprint(made, url_prefix=f"/{name}")
    client = application.test_client()
    assert "anna · admin" in client.get("/jobs/").text
    page = client.get("/look/").text
    assert "anna · read" in page
    assert 'href="/look/topics' in page
