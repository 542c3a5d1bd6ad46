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


def test_an_order_and_its_job_are_committed_together_or_not_at_all(tmp_path, server):
    project = Project(tmp_path / "project", tasks="")
    shutil.copytree(EXAMPLE, project.root, dirs_exist_ok=True)
    port = free_port()
    environment = {"JOBS_BACKEND": server.url}
    try:
        web = project.start_program(
            sys.executable, "-m", "uvicorn", "orders.main:app", "--port", str(port), **environment
        )  # fmt: skip
        web.until_said("Uvicorn running")
        project.start("start", **environment).until_said(" ready: ")
        orders = f"http://127.0.0.1:{port}/orders"
        taken = [ask(orders, {"product": "teapot"}) for _ in range(3)]
        assert [status for status, _ in taken] == [202, 202, 409]
        assert taken[2][1] == {"detail": "teapot is sold out"}
        for _, order in taken[:2]:
            until(lambda order=order: ask(f"{orders}/{order['id']}")[1]["state"] == "confirmed")
        assert ask(f"{orders}/3")[0] == 404
        listed = json.loads(project.run("topics", "--json", **environment).stdout)
        assert (listed["default"]["ready"], listed["default"]["dead"]) == (0, 0)
    finally:
        project.close()
