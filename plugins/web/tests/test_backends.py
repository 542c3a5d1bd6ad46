"""Every page on every backend with a server: what a backend cannot do is not shown, or the page says so."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs_core import Flow, job, set_current_app
from jobs_core.backends.limits import Limit
from jobs_core.config import Pool
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.testing.services import PATIENCE
from jobs_core.testing.services.broker import BrokerService
from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.redis import RedisServer, cluster, urls
from jobs_core.worker.main import Worker

from .support import Browser, Rig

LACKS = {
    "flows": ("/flows", "This backend has no flows"),
    "limits": ("/limits", "This backend has no limits"),
    "dead_groups": ("/dead", "This backend does not group its dead letters"),
    "statistics": ("/", "This backend keeps no statistics over time"),
    "history": ("/jobs?topic=default&state=done", "history"),
}
"""Where the dashboard says that a backend lacks a feature."""

STATES = ("ready", "limited", "waiting", "scheduled", "reserved", "dead", "done")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    nodes = cluster(tmp_path_factory.mktemp("cluster"))
    for node in nodes:  # none is down because a busy machine stands still
        assert node.command("CONFIG", "SET", "cluster-node-timeout", "60000") == b"+OK"
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer("-c", "fsync=off") as server:
        yield server


@pytest.fixture
def zeromq_broker(tmp_path: Path) -> Iterator[BrokerService]:
    broker = BrokerService(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(params=["redis", "redis+cluster", "postgresql", "rabbitmq", "zeromq"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty backend on a private server."""
    name, fixture = new_token(6).lower().replace("-", "_"), request.getfixturevalue
    if request.param == "redis":
        return f"redis://127.0.0.1:{fixture('redis_server').port}/0?prefix=test-{name}"
    if request.param == "redis+cluster":
        return f"redis+cluster://{urls(fixture('redis_cluster'))}?prefix=test-{name}"
    if request.param == "postgresql":
        return f"{fixture('postgres_server').url}?schema=test_{name}"
    if request.param == "rabbitmq":
        return str(fixture("rabbitmq_url"))
    return str(fixture("zeromq_broker").url)


@pytest.fixture
def rig(url: str, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(url, tmp_path, plugins=Plugins.discover(()))
    set_current_app(made.app)
    made.app.operate(lambda backend: backend.setup())
    yield made
    set_current_app(None)
    made.close()


def filled(rig: Rig) -> dict[str, str]:
    """Fill the store with some of all that the backend can keep; return the ids of jobs, and of a flow if there is one."""

    @job(name="shop.charge", registry=rig.app.registry, retries=0, topic="mail")
    def charge(customer: str) -> None:
        raise ValueError(f"no such customer {customer}")

    @job(name="shop.ship", registry=rig.app.registry)
    def ship(order: int) -> None: ...

    @job(name="shop.tell", registry=rig.app.registry, limits=("stripe",))
    def tell(text: str) -> None: ...

    found = {"dead": charge.enqueue("acct_1").id}
    rig.drain()
    found |= {"ready": ship.enqueue(1).id, "scheduled": ship.using(delay=3600).enqueue(2).id}
    features = rig.app.operate(lambda backend: backend.features)
    if "limits" in features:
        rig.app.operate(lambda backend: backend.define_limits({"stripe": Limit(concurrency=0)}, {}))
        found["limited"] = tell.enqueue("x").id
    if "flows" in features:
        with Flow("order") as flow:
            flow.add(ship.call(4), after=flow.add(ship.call(3)))
        found["flow"] = flow.handle.id
    return found


def opened(browser: Browser, path: str) -> str:
    """Return the text of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", browser.text(path)))


def test_every_page_opens_and_says_what_the_backend_lacks(rig):
    found = filled(rig)
    features = rig.app.operate(lambda backend: backend.features)
    browser = rig.browser("admin")
    assert found["dead"] in opened(browser, "/jobs?topic=mail&state=dead")
    for state in STATES:
        opened(browser, f"/jobs?topic=default&state={state}")
    for query in ("", "&text=1"):
        page = opened(browser, f"/jobs?topic=default{query}")
        assert (found["ready"] if "browse" in features else "does not support browse") in page
    for path in ("/", "/topics", "/dead", "/flows", "/limits", "/schedule", "/machines"):
        opened(browser, path)
    for feature, (path, text) in LACKS.items():
        assert (text in opened(browser, path)) == (feature not in features), (feature, path)


def test_a_job_a_group_and_a_flow_open_or_the_page_says_why_not(rig):
    found = filled(rig)
    features = rig.app.operate(lambda backend: backend.features)
    browser = rig.browser("admin")
    assert "no such customer" in opened(browser, f"/job?id={found['dead']}")
    for state in {"ready", "scheduled", "limited"} & found.keys():
        if "lookup" in features:
            opened(browser, f"/job?id={found[state]}")
        else:
            response = browser.get(f"/job?id={found[state]}")
            assert response.status_code == 404
            assert "cannot be looked up" in response.text
    if "flow" in found:
        assert "order" in opened(browser, f"/flow?id={found['flow']}")
    else:
        assert browser.get(f"/flow?id={new_token()}").status_code in (404, 501)
    for group in re.findall(r"/dead/group\?id=([0-9a-f]+)", browser.text("/dead")):
        assert "no such customer" in opened(browser, f"/dead/group?id={group}")


def test_a_dead_letter_runs_again_from_its_page_which_leads_to_one_that_is_there(rig):
    found = filled(rig)
    browser = rig.browser("operate")
    page = browser.text(f"/job?id={found['dead']}")
    assert 'action="/job/retry"' in page
    seen = html.unescape(re.findall(r'name="seen" value="([^"]+)"', page)[0])
    response = browser.submit("/job/retry", _page="/", id=found["dead"], seen=seen)
    assert response.status_code == 303, response.text
    assert "The job is ready to run." in opened(browser, response.headers["location"])
    deadline = time.monotonic() + PATIENCE
    while (counts := rig.app.operate(lambda backend: backend.counts(["mail"]))["mail"]) and (counts.ready, counts.dead) != (
        1,
        0,
    ):
        assert time.monotonic() < deadline, counts
        time.sleep(0.02)  # RabbitMQ counts a moment later


def test_dead_letters_are_picked_from_the_list_to_run_again_and_to_be_deleted(rig):
    found = filled(rig)
    browser = rig.browser("admin")
    for action in ("retry", "drop"):
        page = browser.text("/jobs?topic=mail&state=dead")
        assert f'formaction="/jobs/{action}"' in page
        assert f'name="pick1" value="{found["dead"]}"' in page
        told = browser.submit(f"/jobs/{action}", _page="/", pick1=found["dead"], sure="yes", back="/jobs?topic=mail&state=dead")
        assert told.status_code == 303, told.text
        assert {"retry": "1 job is ready to run.", "drop": "1 job is deleted."}[action] in opened(
            browser, told.headers["location"]
        )
        if action == "retry":
            Worker(rig.app, "default", Pool(topics=["mail"]), None, owner=f"web-{new_token()}", drain=True).run()


def test_an_entry_of_the_code_is_enqueued_from_the_schedule(rig):
    @job(name="shop.sweep", registry=rig.app.registry, cron="0 6 1 1 *")
    def sweep() -> None: ...

    browser = rig.browser("operate")
    assert 'action="/schedule/run"' in browser.text("/schedule")
    told = browser.submit("/schedule/run", _page="/", name="shop.sweep")
    assert told.status_code == 303, told.text
    assert "shop.sweep is enqueued." in opened(browser, told.headers["location"])
    refused = browser.submit("/schedule/run", _page="/", name="shop.nothing")
    assert "shop.nothing was not enqueued" in opened(browser, refused.headers["location"])
