"""`[plugins.web] show_arguments = false`: no page and no call shows a reader what jobs were given, said and returned."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from jobs_core import current_job, job
from jobs_web.routes import ROUTES, Kind

from .support import Rig

SECRET = "hunter2"


@pytest.fixture
def hidden(make_rig: Callable[..., Rig]) -> Rig:
    """Return a rig with a dead job, a done one and a queued one, all of which know a secret."""
    rig: Rig = make_rig(show_arguments=False)

    @job(name="charge", registry=rig.app.registry, retries=0, topic="mail")
    def charge(number: str) -> None:
        current_job().progress(1, 2, f"asked for {number}")
        current_job().log(f"the bank knows {number}")
        raise ValueError(f"no account {number}")

    @job(name="answer", registry=rig.app.registry, store_result=True)
    def answer(number: str) -> str:
        return number

    @job(name="later", registry=rig.app.registry, topic="parked")
    def later(number: str) -> None: ...

    charge.enqueue(SECRET)
    answer.using(headers={"secret": SECRET}).enqueue(SECRET)
    rig.drain()
    later.enqueue(SECRET)
    return rig


def test_no_page_and_no_call_shows_a_reader_what_is_hidden(hidden: Rig):
    browser = hidden.browser("read")
    client = hidden.browser()
    client.headers["Authorization"] = f"Bearer {hidden.tokens['read']}"
    ids = re.findall(r'job\?id=([^"&]+)"', "".join(browser.text(f"/jobs?topic={name}&state={state}") for name, state in QUEUES))
    group = re.search(r"group\?id=([0-9a-f]{8})", browser.text("/dead"))
    assert ids
    assert group
    seen = 0
    for route in ROUTES:
        if route.method != "GET" or route.path == "/live" or route.path.endswith("/events"):  # streams of queued jobs last
            continue
        for query in ("", "?state=dead", *(f"?id={each}" for each in (*ids, group[1]))):
            for name in (*ids, "mail", "parked") if "{" in route.path else ("",):
                path = re.sub(r"\{[a-z]+\}", name, route.path) + query
                found = (client if route.kind is Kind.API else browser).get(path)
                assert SECRET not in found.text, path
                assert SECRET not in found.headers.get("location", ""), path
                seen += found.status_code == 200
    assert seen > 20


QUEUES = (("mail", "dead"), ("default", "done"), ("parked", "ready"))


def test_a_reader_cannot_find_out_by_searching_what_is_hidden(hidden: Rig):
    browser = hidden.browser("read")
    for query in (f"text={SECRET}", f"error={SECRET}"):
        assert browser.get(f"/jobs?topic=mail&state=dead&{query}").status_code == 403
        assert "charge" in hidden.browser("operate").text(f"/jobs?topic=mail&state=dead&{query}")
    page = browser.text("/jobs?topic=mail&state=dead")
    assert 'name="text"' not in page
    assert "charge" in browser.text("/jobs?topic=mail&state=dead&job=charge")


def test_a_reader_reads_the_rest_of_a_job_that_is_hidden(hidden: Rig):
    page = hidden.browser("read").text("/jobs?topic=mail&state=dead")
    found = re.search(r'job\?id=([^"&]+)"', page)
    assert found
    page = hidden.browser("read").text(f"/job?id={found[1]}")
    assert "ValueError" in page
    assert "Your role may not see arguments" in page
    assert SECRET in hidden.browser("operate").text(f"/job?id={found[1]}")
