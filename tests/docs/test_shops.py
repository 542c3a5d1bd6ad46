"""The shops on PostgreSQL, in three frameworks: a real web process and a supervisor of each on a private server."""

from __future__ import annotations

import json
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Struct

from jobs_core.testing.services import free_port
from jobs_core.testing.services.postgres import PostgresServer

from ..support.project import Project, until

EXAMPLES = Path(__file__).parents[2] / "examples"
PASSWORD = "open sesame"


class Framework(Struct, frozen=True):
    """How a shop is started, and how its staff logs in. Commands follow `python`; {port} is that of the web process."""

    web: str
    ready: str  # what the web process says once it serves
    jobs: str  # `jobsctl` in this framework
    login: Callable[[urllib.request.OpenerDirector, str], None]
    before: tuple[str, ...] = ()


def by_password(client: urllib.request.OpenerDirector, address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.open(f"{address}/staff", b"password=guess", timeout=60)
    assert refused.value.code == 403
    refused.value.close()
    client.open(f"{address}/staff", urllib.parse.urlencode({"password": PASSWORD}).encode(), timeout=60).close()


def by_user_of_django(client: urllib.request.OpenerDirector, address: str) -> None:
    with client.open(f"{address}/jobs/", timeout=60) as page:  # which sends those to the login who are nobody
        form, place = page.read().decode(), page.url
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token, form
    given = {"username": "ada", "password": PASSWORD, "csrfmiddlewaretoken": token[1], "next": "/jobs/"}
    client.open(place, urllib.parse.urlencode(given).encode(), timeout=60).close()


FRAMEWORKS = {
    "fastapi": Framework("-m uvicorn orders.main:app --port {port}", "Uvicorn running", "-m jobs_core", by_password),
    "flask": Framework("-m flask --app orders run --port {port}", "Running on", "-m flask --app orders jobs", by_password),
    "django": Framework(
        "manage.py runserver --noreload {port}", "Quit the server", "manage.py jobs", by_user_of_django,
        ("manage.py migrate", "manage.py createsuperuser --noinput --username ada --email ada@example.com"),
    ),
}  # fmt: skip


class Shop:
    """A shop that runs."""

    def __init__(self, project: Project, framework: Framework, url: str) -> None:
        self.framework = framework
        self._project = project
        self._environment = {"JOBS_BACKEND": url, "SHOP_PASSWORD": PASSWORD, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
        for command in framework.before:
            self.run(command)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._start(framework.web.format(port=port)).until_said(framework.ready)
        self._start(f"{framework.jobs} start").until_said(" ready: ")

    def _start(self, command: str):
        return self._project.start_program(sys.executable, *command.split(), **self._environment)

    def run(self, command: str) -> str:
        process = self._start(command)
        assert process.wait() == 0, process.output
        return process.output

    def jobsctl(self, command: str) -> str:
        return self.run(f"{self.framework.jobs} {command}")

    def ask(self, path: str, body: object = None) -> tuple[int, object]:
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def order(self, card: str) -> tuple[int, object]:
        return self.ask("/orders", {"product": "teapot", "email": "ada@example.com", "card": card})


@pytest.fixture(params=FRAMEWORKS)
def shop(request, tmp_path):
    project = Project(tmp_path / "project", tasks="")
    for file in project.root.iterdir():
        file.unlink()
    shutil.copytree(EXAMPLES / f"{request.param}_orders", project.root, dirs_exist_ok=True)
    with PostgresServer("-c", "fsync=off") as server:
        try:
            yield Shop(project, FRAMEWORKS[request.param], server.url)
        finally:
            project.close()


def test_a_shop_keeps_what_it_promises(shop):
    (status, first), (_, refused), (last, sold_out) = [shop.order(card) for card in ("4111-1111", "4111-0000", "4111-2222")]
    assert (status, last, sold_out) == (202, 409, {"detail": "teapot is sold out"})  # and no order, no flow is left of it
    sent = {"id": first["id"], "state": "sent", "jobs": {"total": 4, "done": 3, "dead": 0}}
    until(lambda: shop.ask(f"/orders/{first['id']}")[1] == sent)
    until(lambda: shop.ask(f"/orders/{refused['id']}")[1]["state"] == "refused")
    status, again = shop.order("4111-2222")  # of the teapot that was put back
    assert status == 202
    until(lambda: shop.ask(f"/orders/{again['id']}")[1]["state"] == "sent")
    flows, _ = json.JSONDecoder().raw_decode(shop.jobsctl("flows --json"))  # warnings of the framework may follow
    assert sorted(flow["name"] for flow in flows) == [f"order {order['id']}" for order in (first, refused, again)]
    assert "Refused: the bank refuses the card …0000" in shop.jobsctl("dead list")
    shop.jobsctl("schedule run orders.jobs.report")
    until(lambda: "orders.jobs.report" in shop.jobsctl("list default --state done"))
    client = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    shop.framework.login(client, shop.address)
    with client.open(f"{shop.address}/jobs/", timeout=60) as page:
        assert (page.url, "Overview" in page.read().decode()) == (f"{shop.address}/jobs/", True)
