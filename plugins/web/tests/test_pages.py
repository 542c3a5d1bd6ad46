"""Every page and action, through the application, on memory and SQLite."""

from __future__ import annotations

import html
import re
import time

import msgspec
import pytest

from jobs_core import BackendUnavailable, Flow, State, current_job, dead_actions, job
from jobs_core.backends.documents import all_of
from jobs_core.backends.limits import Limit
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.ids import new_token
from jobs_core.machines import COMMAND, STACKS, StacksReport, WorkerStacks
from jobs_core.schedule import Schedule
from jobs_core.statistics import SUMS

NASTY = "<script>alert(1)</script>\"'&amp;{{7*7}}\u202e\u05d0 `x`"
"""Text that does harm wherever it is not escaped: markup, quotes, a template, another direction, a command."""


@pytest.fixture
def jobs(rig):
    return Jobs(rig.app.registry)


class Jobs:
    """Job functions of a small shop."""

    def __init__(self, registry):
        @job(name="shop.charge", registry=registry, retries=0, topic="mail")
        def charge(customer: str, amount: int = 1) -> None:
            if amount < 100:
                raise ValueError(f"no such customer {customer}")

        @job(name="shop.ship", registry=registry)
        def ship(order: int) -> int:
            return order

        @job(name="shop.tell", registry=registry, limits=("stripe",))
        def tell(text: str) -> None:
            return None

        self.charge, self.ship, self.tell = charge, ship, tell


def cells(page):
    """Return the text of a page without tags."""
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def said(browser, response):
    """Return what the page after an action says that it did."""
    assert response.status_code == 303, response.text
    page = browser.text(response.headers["location"])
    return re.search(r'class="finding said.*?class="text">([^<]*)<', page, re.DOTALL)[1]


# -- topics ----------------------------------------------------------------------------------------


def test_a_topic_is_paused_and_resumed(rig, jobs):
    jobs.ship.enqueue(1)
    browser = rig.browser("operate")
    response = browser.submit("/topics/pause", _page="/topics", topic="default", back="/topics?q=def")
    assert response.headers["location"] == "/topics?q=def"
    assert said(browser, response).startswith("Topic default is paused")
    assert rig.app.operate(lambda backend: backend.paused()) == {"default"}
    assert "Resume" in browser.text("/topics")
    said(browser, browser.submit("/topics/resume", _page="/topics", topic="default"))
    assert rig.app.operate(lambda backend: backend.paused()) == frozenset()


def test_users_who_may_only_look_see_no_buttons(rig, jobs):
    jobs.charge.enqueue("x")
    rig.drain()
    (letter,) = rig.app.operate(lambda backend: backend.browse("mail", State.DEAD, 1))
    browser = rig.browser("read")
    for path in ("/topics", "/dead", f"/job?id={letter.id}", "/limits", "/schedule", "/machines"):
        page = browser.text(path)
        assert re.findall(r'<form method="post" action="([^"]+)"', page) == ["/logout"], path


def test_topics_are_filtered_by_name(rig):
    page = rig.browser("read").text("/topics?q=MAI")
    assert "mail" in page
    assert ">default<" not in page
    assert "No topic contains" in rig.browser("read").text("/topics?q=zzz")


# -- jobs ------------------------------------------------------------------------------------------


def test_jobs_are_browsed_page_by_page(rig, jobs):
    for number in range(120):
        jobs.ship.enqueue(number)
    browser = rig.browser("read")
    first = browser.text("/jobs?topic=default")
    assert first.count("<tr><td") == 50
    assert 'rel="prev"' not in first
    third = browser.text("/jobs?topic=default&offset=100")
    assert third.count("<tr><td") == 20
    assert 'rel="next"' not in third


def test_jobs_are_searched(rig, jobs):
    for number in range(7):
        jobs.ship.enqueue(1000 + number)
    browser = rig.browser("read")
    assert browser.text("/jobs?topic=default&text=1003").count("<tr><td") == 1
    assert browser.text("/jobs?topic=default&job=ship").count("<tr><td") == 7
    assert "No job passes these filters" in browser.text("/jobs?topic=default&job=charge")


def test_a_search_says_how_far_it_got_and_goes_on_from_there(rig, jobs, monkeypatch):
    monkeypatch.setattr("jobs_web.pages.jobs.SEARCHES", 0.0)
    monkeypatch.setattr("jobs_core.operating.searching.AT_ONCE", 10)
    jobs.ship.enqueue_many([(1000 + number,) for number in range(25)])
    browser = rig.browser("read")
    path, found = "/jobs?topic=default&text=1023", []
    while path:
        page = browser.text(path)
        found.append((page.count("<tr><td"), cells(page)))
        link = re.search(r'href="([^"]+)" rel="next"', page)
        path = html.unescape(link[1]) if link else ""
    assert [number for number, _ in found] == [0, 0, 1]
    assert "No job among those searched passes these filters" in found[0][1]
    assert "Searched: jobs 1 to 10. There are more." in found[0][1]
    assert "Searched: jobs 21 to 25." in found[2][1]


def test_a_search_shows_each_job_once(rig, jobs):
    jobs.ship.enqueue_many([(number,) for number in range(120)])
    browser = rig.browser("read")
    path, found = "/jobs?topic=default&job=shop.ship", []
    while path:
        page = browser.text(path)
        found += re.findall(r'href="/job\?id=([^"]+)"', page)
        link = re.search(r'href="([^"]+)" rel="next"', page)
        path = html.unescape(link[1]) if link else ""
    assert len(found) == len(set(found)) == 120


@pytest.mark.parametrize("query", ["", "&text=nothing"])
def test_a_list_says_that_it_goes_no_further(rig, jobs, monkeypatch, query):
    for place in ("jobs_core.operating.searching.MOST", "jobs_web.pages.jobs.MOST"):
        monkeypatch.setattr(place, 50)
    jobs.ship.enqueue_many([(number,) for number in range(60)])
    page = rig.browser("read").text(f"/jobs?topic=default{query}")
    assert 'rel="next"' not in page
    assert "Only the first 50 jobs of a state can be" in cells(page)


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=x", "offset=99999999999", "state=nonsense", "topic=no%00where", "topic="]
)
def test_a_senseless_query_is_a_page_all_the_same(rig, query):
    assert rig.browser("read").get(f"/jobs?{query}").status_code == 200


def test_a_job_is_found_by_the_beginning_of_its_id(rig, jobs):
    handle = jobs.ship.enqueue(1)
    browser = rig.browser("read")
    assert browser.get(f"/find?id={handle.id[:-3]}").headers["location"] == f"/job?id={handle.id}"
    assert browser.get("/job?id=unknown").status_code == 404


def test_picked_jobs_are_retried_cancelled_and_dropped_without_javascript(rig, jobs):
    dead = [jobs.charge.enqueue(f"x{number}").id for number in range(4)]
    rig.drain()
    ready = [jobs.ship.enqueue(number).id for number in range(3)]
    browser = rig.browser("admin")
    page = browser.text("/jobs?topic=mail&state=dead")
    assert page.count('type="checkbox" name="pick') == 4
    back = "/jobs?topic=mail&state=dead"
    response = browser.submit("/jobs/retry", _page="/", back=back, pick1=dead[0], pick3=dead[2], pick4=dead[2])
    assert response.headers["location"] == back
    assert said(browser, response) == "2 jobs are ready to run."
    assert left_in(rig, "mail") == (2, 2)
    asked = browser.submit("/jobs/drop", _page="/", pick2=dead[1], pick4=dead[3], pick5="gone")
    assert "Delete 3 dead letters for good?" in asked.text
    assert left_in(rig, "mail") == (2, 2)
    again = dict(re.findall(r'name="(pick\d)" value="([^"]+)"', asked.text))
    told = said(browser, browser.submit("/jobs/drop", _page="/", sure="yes", **again))
    assert told == "2 jobs are deleted. 1 other had changed since you saw the page."
    assert left_in(rig, "mail") == (2, 0)
    picked = {f"pick{number}": each for number, each in enumerate(ready)}
    assert "Cancel 3 jobs?" in browser.submit("/jobs/cancel", _page="/", **picked).text
    assert said(browser, browser.submit("/jobs/cancel", _page="/", sure="yes", **picked)).startswith("3 jobs are cancelled")
    assert left_in(rig, "default") == (0, 0)
    assert browser.submit("/jobs/cancel", _page="/").status_code == 400


def test_actions_on_picked_jobs_name_them_in_the_audit_line_and_are_bounded(rig, jobs, caplog):
    caplog.set_level("INFO", "jobs.web.audit")
    picked = {f"pick{number}": f"id-{number}-" + "x" * 100 for number in range(150)}
    rig.browser("operate").submit("/jobs/retry", _page="/", **picked)
    [line] = [record.getMessage() for record in caplog.records if ": retry jobs=" in record.getMessage()]
    assert line.count("id-") == 100
    assert len(line) < 100 * 66 + 200


# -- one job ---------------------------------------------------------------------------------------


def test_a_job_shows_why_it_does_not_run_and_the_command(rig, jobs):
    handle = jobs.ship.enqueue(-1)
    page = cells(rig.browser("read").text(f"/job?id={handle.id}"))
    assert "it is ready and next in line" in page
    assert "jobsctl push -- shop.ship -1" in page
    assert f"jobsctl show {handle.id}" in page


def test_every_job_that_does_not_run_says_why(rig, jobs):
    rig.app.operate(lambda backend: backend.define_limits({"stripe": Limit(0)}, {}))
    dead = jobs.charge.enqueue("x")
    rig.drain()
    rig.app.operate(lambda backend: backend.pause("default"))
    with Flow("order") as flow:
        first = flow.add(jobs.ship.call(1))
        waiting = flow.add(jobs.ship.call(2), after=first)
    scheduled, limited, cancelled = jobs.ship.using(delay=3600).enqueue(3), jobs.tell.enqueue("x"), jobs.ship.enqueue(4)
    cancelled.cancel()
    browser = rig.browser("read")
    for job_id, why in {
        first.id: "paused",
        waiting.id: "shop.ship",
        dead.id: "it has been dead since",
        scheduled.id: "it is scheduled for",
        limited.id: "stripe",
        cancelled.id: "it was cancelled at",
    }.items():
        page = browser.text(f"/job?id={job_id}")
        told = cells(re.search(r'<ul class="why">(.*?)</ul>', page, re.DOTALL)[1])
        assert why in told, told


def test_a_queued_job_is_cancelled(rig, jobs):
    handle = jobs.ship.enqueue(1)
    browser = rig.browser("operate")
    assert said(browser, browser.submit("/job/cancel", _page="/", id=handle.id)) == "The job is cancelled."
    assert handle.status() is State.CANCELLED


@pytest.mark.parametrize("delay", [None, 3600])
def test_a_queued_job_becomes_a_dead_letter_to_be_changed_and_keeps_its_id(rig, jobs, delay):
    handle = jobs.ship.using(delay=delay).enqueue(1)
    browser = rig.browser("operate")
    assert "A queued job cannot be changed" in browser.text(f"/job?id={handle.id}")
    answer = browser.submit("/job/discard", _page="/", id=handle.id)
    assert said(browser, answer) == "The job is a dead letter now: change it below, and run it."
    rig.drain()
    assert handle.status() is State.DEAD, "it does not start meanwhile"
    assert "<textarea" in browser.text(f"/job?id={handle.id}")
    said(browser, browser.submit("/job/edit", _page="/", id=handle.id, call='{"args": [2]}', to="mail"))
    record = rig.app.find(handle.id)
    assert (record.state, record.topic, rig.app.read(record).args) == (State.READY, "mail", [2])
    assert browser.submit("/job/discard", _page="/", id="unknown").status_code == 409


def test_a_scheduled_job_runs_now(rig, jobs):
    handle = jobs.ship.using(delay=3600).enqueue(1)
    browser = rig.browser("operate")
    assert "Run now" in browser.text(f"/job?id={handle.id}")
    assert said(browser, browser.submit("/job/retry", _page="/", id=handle.id)) == "The job is ready to run."
    assert handle.status() is State.READY


def test_a_dead_job_shows_its_error_and_runs_again(rig, jobs):
    handle = jobs.charge.enqueue("Ärger")
    rig.drain()
    browser = rig.browser("operate")
    page = cells(browser.text(f"/job?id={handle.id}"))
    assert "no such customer Ärger" in page
    assert "Traceback" in page
    assert said(browser, browser.submit("/job/retry", _page="/", id=handle.id)) == "The job is ready to run."
    assert handle.status() is State.READY
    refused = browser.submit("/job/retry", _page="/", id="unknown")
    assert refused.status_code == 409


def test_a_dead_job_runs_again_with_other_arguments(rig, jobs):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("operate")
    new = '{"args": ["x"],\r\n "kwargs": {"amount": 100}}'
    said(browser, browser.submit("/job/edit", _page="/", id=handle.id, call=new))
    rig.drain()
    assert handle.status() is not State.DEAD


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ('{"args": ["x", "many"], "kwargs": {}}', "amount"),
        ('{"args": []}', "customer"),
        ('{"arguments": []}', "unknown field"),
        ("no json", "invalid arguments: "),
        ("[" * 5000, "invalid arguments: "),
    ],
)
def test_arguments_that_do_not_fit_are_shown_again_with_the_problem(rig, jobs, call, problem):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    response = rig.browser("operate").submit("/job/edit", _page="/", id=handle.id, call=call)
    assert response.status_code == 422
    assert problem in html.unescape(response.text)
    assert html.escape(call, quote=False)[:200].replace('"', "&#34;") in response.text
    assert handle.status() is State.DEAD


def test_a_dead_job_moves_to_another_topic(rig, jobs):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("operate")
    said(browser, browser.submit("/job/edit", _page="/", id=handle.id, call="", to="default"))
    record = rig.app.find(handle.id)
    assert (record.state, record.topic) == (State.READY, "default")
    refused = browser.submit("/job/edit", _page="/", id=handle.id, to="no topic")
    assert refused.status_code in (409, 422)


def test_a_dead_letter_is_deleted_only_after_a_question(rig, jobs):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("admin")
    asked = browser.submit("/job/drop", _page="/", id=handle.id)
    assert asked.status_code == 200
    assert "Delete this dead letter for good?" in asked.text
    assert handle.status() is State.DEAD
    assert said(browser, browser.submit("/job/drop", _page="/", id=handle.id, sure="yes")) == "The dead letter is deleted."
    assert handle.status() is State.UNKNOWN


def test_progress_and_log_lines_are_shown(rig):
    @job(name="shop.long", registry=rig.app.registry, retries=0)
    def long() -> None:
        current_job().progress(3, 10, "page 3")
        current_job().log("halfway")
        raise ValueError("page 4")

    handle = long.enqueue()
    rig.drain()
    page = cells(rig.browser("read").text(f"/job?id={handle.id}"))
    assert "3 of 10 (30 %) page 3" in page
    assert "halfway" in page


# -- dead letters ----------------------------------------------------------------------------------


def test_dead_letters_are_grouped_retried_and_dropped(rig, jobs):
    for number in range(3):
        jobs.charge.enqueue(f"customer {number}")
    rig.drain()
    browser = rig.browser("admin")
    page = browser.text("/dead")
    (group,) = set(re.findall(r"/dead/group\?id=([0-9a-f]+)", page))
    one = browser.text(f"/dead/group?id={group}")
    assert "Run 3 dead letters again" in one
    assert one.count("<tr><td") == 3
    response = browser.submit("/dead/retry", _page="/", group=group, rate="10/s", to="default")
    assert said(browser, response).startswith("3 dead letters will be retried by the supervisors, in default")
    assert "admin in the dashboard" in browser.text("/dead")
    (action,) = re.findall(r'action="/dead/stop".*?name="id" value="([^"]+)"', browser.text("/dead"), re.DOTALL)
    assert said(browser, browser.submit("/dead/stop", _page="/", id=action)) == "The action is cancelled."
    asked = browser.submit("/dead/drop", _page="/", group=group)
    assert "Delete 3 dead letters for good?" in asked.text
    assert said(browser, browser.submit("/dead/drop", _page="/", group=group, sure="yes")).startswith(
        "3 dead letters will be dropped"
    )


def test_a_group_of_several_topics_shows_each_dead_letter_once(rig, jobs):
    sent = [jobs.charge.using(topic=topic).enqueue(str(number)).id for topic in ("default", "mail") for number in range(55)]
    rig.drain()
    browser = rig.browser("read")
    path, found = f"/dead/group?id={group_of(browser)}", []
    while path:
        page = browser.text(path)
        found += re.findall(r'href="/job\?id=([^"]+)"', page)
        link = re.search(r'href="([^"]+)" rel="next"', page)
        path = html.unescape(link[1]) if link else ""
    assert sorted(found) == sorted(sent)


def test_only_the_largest_groups_are_shown_and_the_others_counted(rig, jobs, monkeypatch):
    monkeypatch.setattr("jobs_web.pages.dead.MOST", 1)
    jobs.charge.enqueue("a")

    @job(name="shop.pay", registry=rig.app.registry, retries=0)
    def pay() -> None:
        raise KeyError("b")

    pay.enqueue_many([(), ()])
    rig.drain()
    page = rig.browser("read").text("/dead")
    assert "KeyError" in page
    assert "ValueError" not in page
    assert "and 1 smaller group:" in page


@pytest.mark.parametrize(("field", "value"), [("rate", "fast"), ("rate", "0/s"), ("to", "no topic"), ("group", "unknown")])
def test_a_senseless_action_on_a_group_is_refused(rig, jobs, field, value):
    jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("admin")
    (group,) = set(re.findall(r"/dead/group\?id=([0-9a-f]+)", browser.text("/dead")))
    response = browser.submit("/dead/retry", _page="/", **{"group": group, field: value})
    assert response.status_code in (404, 422), response.text


def group_of(browser):
    (group,) = set(re.findall(r"/dead/group\?id=([0-9a-f]+)", browser.text("/dead")))
    return group


def test_a_group_runs_again_with_other_arguments_after_an_example(rig, jobs):
    for number in range(3):
        jobs.charge.enqueue(f"customer {number}")
    rig.drain()
    browser = rig.browser("operate")
    group = group_of(browser)
    page = browser.text(f"/dead/group?id={group}")
    assert 'name="value-amount"' in page
    assert "int = 1" in page
    fields = {"group": group, "rate": "100/s", "value-amount": "100", "value-customer": ""}
    asked = browser.submit("/dead/retry", _page="/", **fields)
    shown = cells(asked.text)
    assert "Change 3 dead letters and run them again?" in shown
    assert "fit the signature in 3 of 3 letters checked" in shown
    assert '"customer 0", amount=100' in shown
    assert rig.app.operate(lambda backend: backend.counts(["mail"]))["mail"].dead == 3
    response = browser.submit("/dead/retry", _page="/", **fields, sure="yes")
    assert said(browser, response).startswith("3 dead letters will be changed and retried by the supervisors")
    assert "change and retry" in browser.text("/dead")
    carry_out(rig)
    rig.refresh()
    assert "3 of 3" in browser.text("/dead")
    rig.drain()
    assert left_in(rig, "mail") == (0, 0)


def left_in(rig, topic):
    """Return the numbers of ready and dead jobs."""
    counts = rig.app.operate(lambda backend: backend.counts([topic]))[topic]
    return counts.ready, counts.dead


def carry_out(rig):
    """Carry out the actions on dead letters, as a supervisor's housekeeper does."""

    def work(backend):
        machine = dead_actions.DeadActions(rig.app, "machine")
        machine.look(backend, 1)
        while machine.next() != float("inf"):
            machine.work(backend)

    rig.app.operate(work)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [("amount", "many", "expected int"), ("nonsense", "1", "nonsense"), ("amount", "[" * 5000, "amount")],
)
def test_arguments_of_a_group_that_do_not_fit_are_shown_again_with_the_problem(rig, jobs, name, value, problem):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("operate")
    response = browser.submit("/dead/retry", _page="/", sure="yes", group=group_of(browser), **{f"value-{name}": value})
    assert response.status_code == 422
    assert problem in html.unescape(response.text)
    assert handle.status() is State.DEAD
    assert rig.app.operate(lambda backend: dead_actions.listed(rig.app, backend)) == []


def test_arguments_that_are_encrypted_are_changed_in_the_request(make_rig):
    rig = make_rig(app={"encryption_keys": ["one:" + "x" * 32]})
    jobs = Jobs(rig.app.registry)
    jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("operate")
    fields = {"group": group_of(browser), "value-amount": "100", "sure": "yes"}
    assert said(browser, browser.submit("/dead/retry", _page="/", **fields)) == "1 dead letter changed and retried."
    rig.drain()
    assert left_in(rig, "mail") == (0, 0)


# -- flows, limits, schedule, machines -------------------------------------------------------------


def test_a_flow_is_shown_as_a_tree_retried_and_cancelled(rig, jobs):
    with Flow("order 7") as flow:
        paid = flow.add(jobs.charge.call("x"))
        flow.add(jobs.ship.call(1), after=paid)
    rig.drain()
    browser = rig.browser("operate")
    assert "order 7" in browser.text("/flows")
    name = flow.handle.id
    page = browser.text(f"/flow?id={name}")
    tree = page[page.index('class="tree"') :]
    assert tree.index("shop.charge") < tree.index("shop.ship")
    assert "is dead" in cells(page)
    assert said(browser, browser.submit("/flow/retry", _page="/", id=name)) == "1 member of the flow will run again."
    assert browser.submit("/flow/cancel", _page="/", id=name).status_code == 200
    assert said(browser, browser.submit("/flow/cancel", _page="/", id=name, sure="yes")) == "The flow is cancelled."
    assert browser.get("/flow?id=unknown").status_code == 404


def test_a_limit_is_overridden_and_reset(rig, jobs):
    rig.app.operate(lambda backend: backend.define_limits({"stripe": Limit(5)}, {}))
    browser = rig.browser("admin")
    assert "5 at once" in browser.text("/limits")
    response = browser.submit("/limits/override", _page="/", limit="stripe", concurrency="2", rate="10/s")
    assert said(browser, response) == "Limit stripe: 2 at once, 10/s, until it is reset."
    assert "overridden" in browser.text("/limits")
    assert said(browser, browser.submit("/limits/reset", _page="/", limit="stripe")) == "Limit stripe is as it is defined."
    for wrong in ({}, {"rate": "fast"}, {"concurrency": "-1"}, {"burst": "0"}, {"concurrency": "1e9"}, {"limit": "no limit"}):
        assert browser.submit("/limits/override", _page="/", **{"limit": "stripe", **wrong}).status_code == 422, wrong


def test_a_full_limit_leads_to_the_form_that_changes_it_or_says_what_does(rig, jobs):
    rig.app.operate(lambda backend: backend.define_limits({"stripe": Limit(0)}, {}))
    jobs.tell.enqueue("x")

    def found(role):
        browser = rig.browser(role)
        row = re.search(r'<li class="finding (?:(?!</li>).)*limit stripe: (?:(?!</li>).)*</li>', browser.text("/"), re.DOTALL)[
            0
        ]
        assert "jobsctl limits set stripe --concurrency N" in row
        link, says = re.search(r'<a href="([^"]+)">([^<]+)<', row).groups()
        assert link == "/limits?limit=stripe#override"
        return says, browser.text(link)

    says, page = found("admin")
    assert says == "fix it"
    assert re.search(r'id="limit" name="limit" [^>]*value="stripe"', page)
    assert "<bdi>stripe</bdi> allows now: closed." in page
    says, page = found("operate")
    assert says == "look"
    assert 'id="override"' in page
    assert (
        "only users with the role admin change limits; in a terminal, jobsctl limits set stripe --concurrency N does it"
        in " ".join(cells(page).split())
    )


def test_the_schedule_is_shown_run_paused_and_resumed(rig):
    @job(name="shop.report", registry=rig.app.registry, cron="0 6 * * *")
    def report() -> None: ...

    browser = rig.browser("admin")
    page = browser.text("/schedule")
    assert "shop.report" in page
    assert "0 6 * * *" in page
    assert said(browser, browser.submit("/schedule/pause", _page="/", name="shop.report")).startswith("shop.report is paused")
    assert "paused" in browser.text("/schedule")
    assert said(browser, browser.submit("/schedule/resume", _page="/", name="shop.report")).startswith("shop.report is resumed")
    assert said(browser, browser.submit("/schedule/run", _page="/", name="shop.report")) == "shop.report is enqueued."
    assert browser.submit("/schedule/pause", _page="/", name="unknown").status_code == 409


def test_an_entry_is_added_changed_paused_and_removed_at_run_time(rig, jobs):
    browser = rig.browser("admin")
    entry = {"name": "ship-7", "job": "shop.ship", "call": '{"args": [7]}', "cron": "0 6 * * MON", "tz": "Europe/Berlin"}
    assert said(browser, browser.submit("/schedule/save", _page="/", **entry)).startswith("ship-7 is added")
    page = browser.text("/schedule")
    assert "made at run time" in page
    assert "Europe/Berlin" in page
    form = browser.text("/schedule?edit=ship-7")
    assert "Change ship-7" in form
    assert html.unescape(re.search(r'<textarea id="call"[^>]*>([^<]*)<', form)[1]) == '{"args":[7],"kwargs":{}}'
    change = {"name": "ship-7", "job": "shop.ship", "call": '{"args": [8]}', "every": "5m", "replace": "yes", "missed": "skip"}
    assert said(browser, browser.submit("/schedule/save", _page="/", **change)).startswith("ship-7 is changed")
    [stored] = Schedule(rig.app).stored()
    assert (list(stored.entry.args), stored.entry.every, stored.entry.missed) == ([8], 300, "skip")
    assert stored.said.by == "admin in the dashboard"
    said(browser, browser.submit("/schedule/pause", _page="/", name="ship-7"))
    assert Schedule(rig.app).stored()[0].said.paused
    assert "Remove ship-7 from the schedule?" in browser.submit("/schedule/remove", _page="/", name="ship-7").text
    assert said(browser, browser.submit("/schedule/remove", _page="/", name="ship-7", sure="yes")).startswith(
        "ship-7 is removed"
    )
    assert Schedule(rig.app).stored() == []
    assert browser.get("/schedule?edit=ship-7").status_code == 404


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cron": "61 * * * *"}, "minute"),
        ({"cron": "0 6 * * *", "tz": "Mars/Olympus"}, "Mars/Olympus"),
        ({"cron": "0 6 * * *", "every": "5m"}, "either cron or every"),
        ({}, "either cron or every"),
        ({"every": "often"}, "every"),
        ({"every": "5m", "tz": "UTC"}, "tz belongs to cron"),
        ({"every": "5m", "call": '{"args": ["many"]}'}, "order"),
        ({"every": "5m", "call": "no json"}, "invalid arguments: "),
        ({"every": "5m", "job": "shop.nothing"}, "shop.nothing"),
        ({"every": "5m", "topic": "no topic"}, "topic"),
        ({"every": "5m", "name": "shop.daily"}, "in the code or the configuration"),
    ],
)
def test_an_entry_with_a_problem_is_shown_again_and_not_stored(rig, jobs, fields, problem):
    @job(name="shop.daily", registry=rig.app.registry, cron="0 6 * * *")
    def daily() -> None: ...

    entry = {"name": "ship", "job": "shop.ship", "call": '{"args": [7]}', **fields}
    response = rig.browser("admin").submit("/schedule/save", _page="/", **entry)
    assert response.status_code == 422
    assert problem in html.unescape(response.text)
    assert html.escape(entry["call"]).replace("&quot;", "&#34;") in response.text
    assert Schedule(rig.app).stored() == []


def report_of(rig, name="web1.abc123", **changes):
    import msgspec

    from jobs_core.machines import GONE, MACHINE, MachineReport, PoolReport, RunReport

    facts = {
        "name": name, "host": "web1", "run_dir": "/srv", "pid": 7, "version": "1", "state": "serving", "started_at": 1e9,
        "generation": 1, "pools": [PoolReport("default", ["default", "mail"], 2, 2, 2)], "running": 1,
        "longest": [RunReport("id", "shop.ship", "default", 5.0, 8)], "memory": 10**8, "done": 5, "failed": 1, "crashed": 0,
    }  # fmt: skip
    report = MachineReport(**{**facts, **changes})
    rig.app.operate(lambda backend: backend.put_document(MACHINE, name, msgspec.json.encode(report), new_token(), ttl=GONE))


def test_machines_are_shown_and_get_commands(rig):
    report_of(rig)
    browser = rig.browser("admin")
    page = browser.text("/machines")
    assert "web1.abc123" in page
    assert "2 of 2" in page
    for do in ("quiet", "resume", "reload"):
        assert said(browser, browser.submit(f"/machines/{do}", _page="/", machine="web1.abc123")).startswith(
            "The command is sent"
        )
    asked = browser.submit("/machines/scale", _page="/", machine="web1.abc123", pool="default", workers="4")
    assert "The configuration allows up to 2 workers." in asked.text
    response = browser.submit("/machines/scale", _page="/", machine="web1.abc123", pool="default", workers="4", sure="yes")
    assert said(browser, response).startswith("Pool default of web1.abc123 is set to 4")
    response = browser.submit("/machines/scale", _page="/", machine="web1.abc123", pool="default", workers="")
    assert said(browser, response).startswith("Pool default of web1.abc123 is set to its configured size")
    wrong = browser.submit("/machines/scale", _page="/", machine="web1.abc123", pool="default", workers="many")
    assert wrong.status_code == 422


def test_commands_to_a_pool_and_to_all_machines_show_what_became_of_them(rig):
    report_of(rig)
    report_of(rig, "web2.def456", host="web2")
    browser = rig.browser("admin")
    asked = browser.submit("/machines/quiet", _page="/", machine="*", pool="default")
    assert "Take no new jobs in pool default of all machines?" in html.unescape(asked.text)
    assert rig.app.operate(lambda backend: list(all_of(backend, COMMAND))) == []
    browser.submit("/machines/quiet", _page="/", machine="*", pool="default", sure="yes")
    browser.submit("/machines/reload", _page="/", machine="web2.def456")
    page = cells(browser.text("/machines"))
    assert page.count("no answer yet") == 3
    assert "admin in the dashboard" in page
    quiet, reload = sorted(rig.app.operate(lambda backend: all_of(backend, COMMAND)), key=lambda each: each.version)
    report_of(rig, commands={quiet.name: ""})
    report_of(rig, "web2.def456", host="web2", commands={quiet.name: "", reload.name: "SyntaxError: " + NASTY})
    page = browser.text("/machines")
    assert "no answer yet" not in page
    assert "<script>alert" not in page
    assert cells(page).count("not carried out") == 1
    assert browser.submit("/machines/quiet", _page="/", machine="web9").status_code == 404
    assert browser.submit("/machines/quiet", _page="/", machine="web1", pool="none").status_code == 404


def test_stacks_of_a_machine_are_taken_and_shown(rig):
    report_of(rig)
    browser = rig.browser("admin")
    path = "/machines/stacks?machine=web1.abc123"
    assert "has reported no stacks" in browser.text(path)
    response = browser.submit("/machines/stacks", _page="/", machine="web1.abc123")
    assert response.headers["location"] == path
    assert said(browser, response).startswith("The command is sent: web1.abc123 takes the stacks")
    text = 'Current thread 0x1 (most recent call first):\n  File "/srv/shop.py", line 7 in <script>alert(1)\n'
    found = StacksReport("id", 1e9, [WorkerStacks(8, "default", text, False, ["shop.ship some-id"])], left_out=2)
    rig.app.operate(
        lambda backend: backend.put_document(STACKS, "web1.abc123", msgspec.json.encode(found), new_token(), ttl=60)
    )
    page = browser.text(path)
    assert "<script>alert" not in page
    assert 'href="/job?id=some-id"' in page
    shown = cells(page)
    assert 'File "/srv/shop.py", line 7' in shown
    assert "those of 2 more workers" in shown
    assert "did not answer within a second" in shown
    assert browser.get("/machines/stacks?machine=").status_code == 404
    assert browser.get("/machines/stacks?machine=%0a").status_code == 404


def test_a_machine_that_is_in_trouble_is_a_finding(rig):
    from jobs_core.machines import PoolReport

    pools = [PoolReport("default", ["default"], 2, 0, 2, last_error="ImportError: no module shop")]
    report_of(rig, pools=pools, last_refusal="SyntaxError")
    page = cells(rig.browser("read").text("/"))
    assert "pool default of web1.abc123: 0 of 2 workers serve: ImportError: no module shop" in page
    assert "machine web1.abc123 refused its last reload: SyntaxError" in page


# -- statistics ------------------------------------------------------------------------------------


def count_runs(rig, topic, job_name, done, dead):
    """Let a machine report runs of the last minutes."""
    now = int(time.time())
    minute, five = now // 60 * 60 - 120, now // 300 * 300 - 300
    run = [0] * 16
    run[6] = done + dead
    numbers = [0] * len(SUMS)
    numbers[SUMS.index("reports")], numbers[SUMS.index("done")], numbers[SUMS.index("dead")] = 1, done, dead
    sums = (*numbers, *run, *run)
    rows = [StatisticsRow(minute, "", sums=sums), StatisticsRow(five, "", sums=(1,)), StatisticsRow(minute, topic, sums=sums)]
    rows.append(StatisticsRow(five, topic, job_name, sums, span=300))
    rig.app.operate(lambda backend: backend.add_statistics(rows, new_token()))


def test_statistics_of_a_topic_and_a_job_function_are_charts_over_a_chosen_time(rig, jobs):
    count_runs(rig, "mail", "shop.charge", 90, 10)
    browser = rig.browser("read")
    everything = browser.text("/stats")
    assert "/stats?topic=mail" in everything
    assert "10 %" in cells(everything)
    topic = browser.text("/stats?topic=mail&since=24h")
    assert topic.count("<svg") >= 4
    assert "/stats?topic=mail&amp;job=shop.charge" in topic
    one = browser.text("/stats?topic=mail&job=shop.charge")
    assert one.count('class="card chart"') == 4
    assert "100" in cells(one)
    assert "since=7d" not in one
    assert "has not run in topic mail within a day" in browser.text("/stats?topic=mail&job=shop.ship")
    assert browser.get("/stats?topic=unknown").status_code == 404
    assert browser.get("/stats?job=shop.charge").status_code == 404
    assert browser.text("/stats?topic=mail&since=nonsense")
    assert "/stats?topic=mail" in browser.text("/topics")


def test_statistics_that_nobody_has_reported_say_so(rig, jobs):
    jobs.ship.enqueue(1)
    assert "No machine has reported" in rig.browser("read").text("/stats?topic=default")


def test_what_is_shared_for_seconds_is_bounded(rig):
    for number in range(1000):
        rig.site.kept(f"stats 1h topic-{number}", lambda: 0)
    assert len(rig.site._kept) <= 200


# -- hostile text ----------------------------------------------------------------------------------


def test_no_text_of_a_job_is_ever_markup(rig):
    """Hostile text in everything that a job carries, on every page that may show it."""

    @job(name="shop.nasty", registry=rig.app.registry, retries=0, topic="mail")
    def nasty(text: str) -> None:
        current_job().progress(1, 2, text)
        current_job().log(text)
        raise type(text[:20], (ValueError,), {})(text)

    handle = nasty.using(key=NASTY, headers={NASTY: NASTY}, unique=None).enqueue(NASTY)
    label = NASTY.replace("\u202e", "")
    with Flow(label) as flow:
        member = flow.add(nasty.call(NASTY), stage=label)
        flow.add(nasty.call(NASTY), after=member)
    rig.drain()
    report_of(rig, name=label, last_refusal=NASTY, state=NASTY, version=NASTY)
    browser = rig.browser("admin")
    (group,) = set(re.findall(r"/dead/group\?id=([0-9a-f]+)", browser.text("/dead")))
    paths = [
        "/", "/topics", "/jobs?topic=mail&state=dead", f"/job?id={handle.id}", "/dead", f"/dead/group?id={group}", "/flows",
        f"/flow?id={flow.handle.id}", "/limits", "/schedule", "/machines",
    ]  # fmt: skip
    from urllib.parse import quote

    evil = quote(NASTY)
    paths += [f"/topics?q={evil}", f"/jobs?topic={evil}&text={evil}&job={evil}&key={evil}&error={evil}", f"/login?next={evil}"]
    paths += [
        f"/job?id={evil}",
        f"/flow?id={evil}",
        f"/dead/group?id={evil}",
        f"/stats?topic={evil}",
        f"/stats?topic=mail&job={evil}",
        f"/machines/stacks?machine={evil}",
        f"/find?id={evil}",
    ]
    shown = 0
    for path in paths:
        page = browser.get(path, follow_redirects=True).text
        assert "<script>alert" not in page, path
        assert "49" not in re.findall(r"\{\{.{0,9}|alert\(1\)&lt;/script&gt;.{0,40}", page), path
        assert "%3Cscript" in path or "\u202e" not in page, path  # fields keep what the user has typed
        shown += "&lt;script&gt;alert(1)" in page
    assert shown > 8


def test_an_action_with_hostile_fields_says_so_and_does_not_fail(rig, caplog):
    browser = rig.browser("admin")
    from jobs_web.routes import ROUTES, Kind

    fields = (
        "id",
        "topic",
        "to",
        "group",
        "rate",
        "limit",
        "concurrency",
        "burst",
        "name",
        "machine",
        "pool",
        "workers",
        "call",
        "pick1",
        "job",
        "cron",
        "every",
        "tz",
        "missed",
        "replace",
    )
    for route in ROUTES:
        if route.changes and route.kind is Kind.PAGE:
            response = browser.submit(route.path, _page="/", sure="yes", **dict.fromkeys(fields, NASTY))
            assert response.status_code < 500, (route.path, response.text)
            assert "<script>alert" not in response.text
            empty = browser.submit(route.path, _page="/", sure="yes")
            assert empty.status_code == 400, route.path
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


def test_actions_leave_audit_lines(rig, jobs, caplog):
    import logging

    caplog.set_level(logging.INFO, "jobs.web.audit")
    handle = jobs.ship.enqueue(1)
    rig.browser("operate").submit("/job/cancel", _page="/", id=handle.id)
    rig.browser("read").submit("/topics/pause", _page="/", topic="default")
    lines = [record.getMessage() for record in caplog.records if "logged in" not in record.getMessage()]
    assert lines == [
        f"operate from testclient: cancel id={handle.id}: done",
        "read from testclient: pause: refused: this needs the role operate, and read has read",
    ]


def test_only_what_was_done_is_in_the_audit_log(rig, jobs, caplog):
    import logging

    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("admin")
    caplog.clear()
    caplog.set_level(logging.INFO, "jobs.web.audit")
    browser.submit("/job/drop", _page="/", id=handle.id)  # asks first
    browser.submit("/job/cancel", _page="/", id=handle.id)
    browser.submit("/job/drop", _page="/", id=handle.id, sure="yes")
    lines = [record.getMessage() for record in caplog.records if record.name == "jobs.web.audit"]
    assert lines == [
        f"admin from testclient: cancel id={handle.id}: not done: The job is dead already.",
        f"admin from testclient: drop id={handle.id}: done",
    ]


def test_arguments_longer_than_the_page_shows_are_not_edited_there_but_move(rig, jobs):
    handle = jobs.charge.enqueue("x" * 200_000)
    rig.drain()
    browser = rig.browser("operate")
    page = browser.text(f"/job?id={handle.id}")
    assert "<textarea" not in page
    assert f"jobsctl dead retry {handle.id} --edit" in page
    said(browser, browser.submit("/job/edit", _page="/", id=handle.id, to="default"))
    record = rig.app.find(handle.id)
    assert (record.state, record.topic) == (State.READY, "default")


def test_commands_with_hostile_names_can_be_copied_into_a_shell(rig, jobs):
    evil = "stripe:x; reboot"
    rig.app.operate(lambda backend: backend.override_limit(evil, Limit(0)))
    jobs.tell.using(limits=(evil,)).enqueue("x")
    assert "jobsctl limits set 'stripe:x; reboot' --concurrency N" in cells(rig.browser("read").text("/"))


def test_sentences_are_escaped_around_names_from_right_to_left():
    from jobs_web.shown import sentence, ticks

    for show in (sentence, ticks):
        assert show("<b>") == "&lt;b&gt;"
        assert show("<b> שלום <b>") == "&lt;b&gt; <bdi>שלום</bdi> &lt;b&gt;"


def test_pictures_made_of_several_are_shown_whole_and_a_joiner_that_nobody_sees_is_written_out():
    from jobs_web.shown import in_lines, pretty, printable, sentence

    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \u2764\ufe0f\u200d\U0001f525"
    for show in (printable, in_lines, sentence, pretty):
        assert show(family) == family
        assert show("a\u200db\u200d") == "a\\u200db\\u200d"
        assert show("\u202e\U0001f469\u200d\U0001f467\u200d") == "\\u202e\U0001f469\u200d\U0001f467\\u200d"


def test_names_from_right_to_left_do_not_reorder_a_sentence(rig, jobs):
    name = "stripe:שלום 1 עולם"
    rig.app.operate(lambda backend: backend.override_limit(name, Limit(0)))
    jobs.tell.using(limits=(name,)).enqueue("x")
    assert "limit stripe:<bdi>שלום 1 עולם</bdi>: closed, 1 job is waiting for it" in rig.browser("read").text("/")


@pytest.mark.parametrize("path", ["/topics", "/machines", "/limits", "/dead"])
def test_a_page_without_its_backend_says_so_and_can_be_tried_again(rig, monkeypatch, path):
    from jobs_core import BackendUnavailable

    def refuse(*args):
        raise BackendUnavailable("connection refused")

    browser = rig.browser("read")
    monkeypatch.setattr(rig.app, "operate", refuse)
    response = browser.get(path)
    assert response.status_code == 503
    assert "The backend does not answer" in response.text
    assert f'href="{path}">Try again</a>' in response.text


def test_a_form_that_is_sent_twice_runs_a_job_once(rig, jobs):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("operate")
    fields = {"_page": "/", "id": handle.id, "once": "number-of-a-page"}
    assert said(browser, browser.submit("/job/retry", **fields)) == "The job is ready to run."
    rig.drain()
    assert handle.status() is State.DEAD
    assert said(browser, browser.submit("/job/retry", **fields)) == "The job is ready to run."
    assert handle.status() is State.DEAD
    browser.submit("/job/retry", **{**fields, "once": "another"})
    assert handle.status() is State.READY


@pytest.mark.parametrize("path", ["/job/retry", "/job/edit", "/job/drop", "/job/discard"])
def test_nothing_is_done_with_a_job_that_has_run_since_the_page_was_shown(rig, jobs, path):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("admin")
    (seen,) = set(re.findall(r'name="seen" value="([^"]+)"', browser.text(f"/job?id={handle.id}")))
    rig.app.operate(lambda backend: backend.requeue([handle.id]))
    rig.drain()
    answer = browser.submit(path, _page="/", id=handle.id, seen=html.unescape(seen), sure="yes", to="default")
    page = answer.text if answer.status_code == 422 else said(browser, answer)
    assert "othing was done: the job has changed since you saw it, and is dead now" in page
    assert handle.status() is State.DEAD


def test_answers_to_forms_are_forgotten_after_a_minute():
    import asyncio

    from starlette.responses import Response

    from jobs_web.doubles import KEPT, Doubles

    now, calls = [0.0], []

    async def act():
        calls.append(now[0])
        return Response()

    async def main():
        doubles = Doubles(lambda: now[0])
        for at in (0.0, 1.0, KEPT + 1, KEPT + 2):
            now[0] = at
            await doubles.once("anna", "/job/retry", {"once": "1"}, act)
        await doubles.once("anna", "/job/retry", {"once": "2"}, act)
        await doubles.once("anna", "/job/drop", {"once": "1"}, act)
        await doubles.once("eve", "/job/retry", {"once": "1"}, act)

    asyncio.run(main())
    assert calls == [0.0, KEPT + 1, KEPT + 2, KEPT + 2, KEPT + 2]


def test_a_form_that_failed_in_an_outage_is_carried_out_when_it_is_sent_again(rig, jobs, monkeypatch):
    handle = jobs.charge.enqueue("x")
    rig.drain()
    browser = rig.browser("operate")
    fields = {"_page": "/", "id": handle.id, "once": "number-of-a-page"}
    with monkeypatch.context() as outage:
        outage.setattr(rig.app, "operate", failing)
        assert browser.post("/job/retry", data={"token": browser.token_of("/login"), **fields}).status_code == 503
    assert handle.status() is State.DEAD
    browser.post("/job/retry", data={"token": browser.token_of("/login"), **fields})
    assert handle.status() is State.READY


def failing(action):
    raise BackendUnavailable("the broker is away")
