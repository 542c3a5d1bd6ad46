"""The example of transactional enqueue: a real web process and a supervisor on a private PostgreSQL."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jobs_core.testing.services import free_port
from jobs_core.testing.services.postgres import PostgresServer

from ..support.project import Project, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_orders"


@pytest.fixture(scope="module")
def server():
    with PostgresServer("-c", "fsync=off") as server:
        yield server


def ask(url, body=None):
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def shop(tmp_path, server):
    """A web process and a supervisor, and the address of the shop."""
    project = Project(tmp_path / "project", tasks="")
    shutil.copytree(EXAMPLE, project.root, dirs_exist_ok=True)
    port = free_port()
    environment = {"JOBS_BACKEND": server.url, "SHOP_PASSWORD": "open sesame"}
    try:
        web = project.start_program(
            sys.executable, "-m", "uvicorn", "orders.main:app", "--port", str(port), **environment
        )  # fmt: skip
        web.until_said("Uvicorn running")
        project.start("start", **environment).until_said(" ready: ")
        yield project, f"http://127.0.0.1:{port}", environment
    finally:
        project.close()


def order(card):
    return {"product": "teapot", "email": "ada@example.com", "card": card}


def test_orders_and_their_flows_are_committed_together_and_a_refused_card_puts_the_product_back(shop):
    project, address, environment = shop
    orders = f"{address}/orders"
    taken = [ask(orders, order(card)) for card in ("4111-1111", "4111-0000", "4111-2222")]
    assert [status for status, _ in taken] == [202, 202, 409]
    assert taken[2][1] == {"detail": "teapot is sold out"}
    until(lambda: ask(f"{orders}/{taken[0][1]['id']}")[1] == {
        "id": taken[0][1]["id"], "state": "sent", "jobs": {"total": 4, "done": 3, "dead": 0},
    })  # fmt: skip
    until(lambda: ask(f"{orders}/{taken[1][1]['id']}")[1]["state"] == "refused")
    assert ask(f"{orders}/4711")[0] == 404
    status, again = ask(orders, order("4111-2222"))  # of the teapot that was put back
    assert status == 202
    until(lambda: ask(f"{orders}/{again['id']}")[1]["state"] == "sent")
    listed = json.loads(project.run("topics", "--json", **environment).stdout)
    assert {name: listed[name]["dead"] for name in ("bank", "default", "mail")} == {"bank": 1, "default": 0, "mail": 0}
    assert "Refused: the bank refuses the card …0000" in project.run("dead", "list", **environment).stdout
    assert project.run("schedule", "run", "orders.jobs.report", **environment).returncode == 0
    until(lambda: "orders.jobs.report" in project.run("list", "default", "--state", "done", **environment).stdout)


def test_the_staff_logs_in_to_the_dashboard_and_nobody_else_does(shop):
    _, address, _ = shop
    client = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.open(f"{address}/jobs/", timeout=30)
    assert refused.value.code == 401
    refused.value.close()
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.open(f"{address}/staff", b"password=guess", timeout=30)
    assert refused.value.code == 403
    refused.value.close()
    with client.open(f"{address}/staff", b"password=open+sesame", timeout=30) as page:
        assert page.url == f"{address}/jobs/"
        assert "<h1" in page.read().decode()
