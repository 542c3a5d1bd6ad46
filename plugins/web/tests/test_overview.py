"""The first page: what needs attention comes first, and what the backend lacks is said."""

from __future__ import annotations

import html
import threading
import time

import pytest

from jobs_core import job
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.ids import new_token
from jobs_core.operating.attention import Finding
from jobs_core.statistics import SUMS
from jobs_web import risks
from jobs_web.risks import Risks


@pytest.fixture
def jobs(rig):
    @job(name="shop.charge", registry=rig.app.registry, retries=0, topic="mail")
    def charge(customer: str) -> None:
        raise ValueError(f"no such customer <{customer}>")

    @job(name="shop.ship", registry=rig.app.registry)
    def ship(order: int) -> int:
        return order

    return charge, ship


def test_nothing_needs_attention_in_an_empty_installation_but_a_machine(rig):
    page = rig.browser("read").text("/")
    assert "no machine reports" in page
    assert "dead letters" in page


def test_jobs_that_wait_without_a_machine_are_the_first_finding(rig, jobs):
    _, ship = jobs
    ship.enqueue(1)
    page = rig.browser("read").text("/")
    assert "no supervisor is running, 1 job is ready" in page
    assert "jobsctl start" in page


def test_dead_letters_are_grouped_by_what_went_wrong(rig, jobs):
    charge, _ = jobs
    for number in range(3):
        charge.enqueue(str(number))
    rig.drain()
    page = rig.browser("read").text("/")
    assert "3 dead letters: ValueError: no such customer &lt;" in page


def test_a_paused_topic_is_a_finding(rig, jobs):
    _, ship = jobs
    ship.enqueue(1)
    rig.app.operate(lambda backend: backend.pause("default"))
    page = rig.browser("read").text("/")
    assert "topic default is paused, 1 job is ready" in page
    assert "jobsctl resume default" in page


def test_charts_show_what_ran(rig):
    minute = int(time.time()) // 60 * 60 - 120
    sums = [0] * len(SUMS)
    sums[0], sums[1] = 1, 120

    def add(backend):
        backend.add_statistics([StatisticsRow(minute, sums=(*sums, 120))], new_token())

    rig.app.operate(add)
    page = rig.browser("read").text("/")
    assert "Runs a minute" in page
    assert "highest 120" in page
    assert "<svg" in page


def test_a_backend_that_does_not_answer_is_the_only_finding(rig, monkeypatch):
    from jobs_core import BackendUnavailable

    def refuse(*args):
        raise BackendUnavailable("connection refused")

    monkeypatch.setattr(rig.app, "operate", refuse)
    page = rig.browser("read").text("/")
    assert "the backend does not answer: connection refused" in page


def test_many_visits_read_the_backend_once(rig, monkeypatch):
    browser = rig.browser("read")
    calls = []
    rig.site.risks = Risks(list)  # they are read by themselves, and rarely
    operate = rig.app.operate
    monkeypatch.setattr(rig.app, "operate", lambda action: calls.append(1) or operate(action))
    monkeypatch.setattr("jobs_web.reading.FRESH", 3600.0)
    monkeypatch.setattr("jobs_web.site.KEPT", 3600.0)
    for _ in range(5):
        browser.text("/")
    assert len(calls) == 2


def test_a_page_that_does_not_exist_says_so(rig):
    response = rig.browser("read").get("/nowhere")
    assert response.status_code == 404
    assert "there is no such page" in response.text


def test_a_fault_of_ours_shows_no_details_but_a_number_of_the_log(rig, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("secret-detail")

    monkeypatch.setattr(rig.site, "snapshot", fail)
    response = rig.browser("read").get("/")
    assert response.status_code == 500
    assert "secret-detail" not in response.text
    assert "the log has it under" in response.text
    assert "secret-detail" in caplog.text


@pytest.mark.parametrize("prefix", ["/jobs", "/a/b"])
def test_it_works_under_a_prefix_with_every_link_inside(rig, prefix):
    import re

    from starlette.applications import Starlette
    from starlette.routing import Mount

    browser = rig.browser()
    browser._transport.app = Starlette(routes=[Mount(prefix, app=rig.asgi)])
    assert browser.get(f"{prefix}/").headers["location"].startswith(f"{prefix}/login")
    response = browser.post(f"{prefix}/login", data={"token": browser.token_of(f"{prefix}/login"), "key": rig.tokens["admin"]})
    assert response.headers["location"] == f"{prefix}/"
    assert f"Path={prefix}" in response.headers["set-cookie"]
    page = browser.text(f"{prefix}/")
    links = re.findall(r'(?:href|src|action)="([^"]+)"', page)
    assert [link for link in links if not link.startswith((f"{prefix}/", "#"))] == []
    style = next(link for link in links if "style" in link)
    assert browser.get(style).status_code == 200


@pytest.mark.parametrize("passed_on", ["/jobs/login", "/login"])
def test_a_proxy_may_pass_the_prefix_on_or_not(rig, passed_on):
    from jobs_web.serving import Prefixed

    browser = rig.browser()
    browser._transport.app = Prefixed(rig.asgi, "/jobs")
    response = browser.get(passed_on)
    assert response.status_code == 200
    assert 'action="/jobs/login"' in response.text
    assert "Path=/jobs" in response.headers["set-cookie"]


@pytest.mark.parametrize("passed_on", ["/shop/jobs", "/jobs"])
def test_a_proxy_may_pass_the_prefix_of_the_application_on_or_not(rig, passed_on):
    from starlette.applications import Starlette
    from starlette.routing import Mount

    inner = Starlette(routes=[Mount("/jobs", app=rig.asgi)])

    async def application(scope, receive, send):  # as FastAPI(root_path="/shop") does
        await inner({**scope, "root_path": "/shop"} if scope["type"] == "http" else scope, receive, send)

    browser = rig.browser()
    browser._transport.app = application
    assert browser.get(f"{passed_on}/topics").headers["location"] == "/shop/jobs/login?next=%2Fshop%2Fjobs%2Ftopics"
    response = browser.get(f"{passed_on}/login")
    assert 'action="/shop/jobs/login"' in response.text
    assert "Path=/shop/jobs" in response.headers["set-cookie"]
    assert browser.get(f"{passed_on}/nowhere").status_code == 404


def until(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_what_check_finds_needs_attention_too(rig, monkeypatch):
    @job(name="shop.pay", registry=rig.app.registry, limits=("stripe",), topic="nowhere")
    def pay() -> None: ...

    backend = rig.app.operate(lambda backend: type(backend))
    monkeypatch.setattr(backend, "advice", lambda self: ["fsync is off & it loses jobs: set fsync = on"])
    browser = rig.browser("read")
    page = until(lambda: "fsync" in (found := html.unescape(browser.text("/"))) and found)
    assert "the backend works, but fsync is off & it loses jobs" in page
    assert "jobsctl check" in page
    assert "shop.pay uses the limit stripe, which limits nothing" in page
    assert "topic nowhere" in page


def test_risks_are_checked_beside_the_requests_and_rarely(monkeypatch):
    gate, checks = threading.Event(), []

    def check():
        checks.append(1)
        gate.wait(60)
        return [Finding("warning", "slow", "backend")]

    made = Risks(check)
    monkeypatch.setattr(risks, "PATIENCE", 0.01)
    for _ in range(20):
        assert made.get() == ()  # no page waits for it
    gate.set()
    until(made.get)
    assert (len(made.get()), len(checks)) == (1, 1)
    made.forget()
    made.get()
    until(lambda: len(checks) == 2)


def test_a_check_that_fails_leaves_what_was_found(caplog):
    made = Risks(lambda: 1 // 0)
    until(lambda: made.get() == () and "cannot be checked for risks" in caplog.text)


def test_numbers_that_are_old_have_their_age(rig, monkeypatch):
    from jobs_core.operating.snapshot import Snapshot

    monkeypatch.setattr(rig.site, "snapshot", lambda: Snapshot(time.time() - 3660))
    browser = rig.browser("read")
    assert "Numbers of jobs are from 1 h 1 m ago" in browser.text("/")
    monkeypatch.setattr(rig.site, "snapshot", lambda: Snapshot(time.time()))
    assert "Numbers of jobs" not in browser.text("/")
