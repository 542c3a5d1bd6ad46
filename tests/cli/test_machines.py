"""`jobsctl machines`: what it lists, and which commands it gives; the machines are documents that the test wrote."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from jobs_core import App
from jobs_core.backends.documents import all_of
from jobs_core.cli import machines
from jobs_core.config import Config
from jobs_core.ids import new_token
from jobs_core.machines import COMMAND, GONE, MACHINE, MachineReport, Order, PoolReport, RunReport
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.sealed import unseal

from ..support.board import FakeBoard
from .test_commands import said


@pytest.fixture
def backend(project):
    app = App(Config(backend=f"sqlite:///{project.root}/queue.db"), plugins=Plugins(), registry=Registry())
    backend = app.new_backend()
    backend.open(None)
    yield backend
    backend.close()
    app.close()


def report(backend, name, **changes):
    pools = [PoolReport("mail", ["mail"], 3, 2, 4), PoolReport("rest", ["default"], 1, 1, 1, quiet=True)]
    longest = [RunReport("id-1", "shop.pay", "mail", 61.0, 4711)]
    facts = {"state": "serving", "pools": pools, "running": 1, "longest": longest, "memory": 5_000_000, "done": 7} | changes
    made = MachineReport(
        name=name, host=name, run_dir=f"/srv/{name}", pid=1, version="1.2", started_at=time.time(), generation=4, failed=2,
        crashed=1, **facts,
    )  # fmt: skip
    backend.put_document(MACHINE, name, msgspec.json.encode(made), new_token(), ttl=GONE)


def given(backend):
    """Return target and order of each command in the backend."""
    app = App(Config(backend="memory://"), plugins=Plugins(), registry=Registry())
    sealed = [unseal(app.signer, document) for document in all_of(backend, COMMAND)]
    orders = [(one.target, msgspec.json.decode(one.body, type=Order)) for one in sealed]
    assert all(order.by for _, order in orders)
    return [(target, msgspec.structs.replace(order, by="")) for target, order in orders]


def test_machines_are_listed_and_one_is_shown(project, backend):
    report(backend, "web1.aaaaaa")
    report(backend, "web2.bbbbbb", state="quiet")
    rows = [line.split("\t") for line in said(project.run("machines")).splitlines()]
    assert [row[:6] for row in rows] == [
        ["web1.aaaaaa", "serving", "1.2", "4", "3/4", "1"], ["web2.bbbbbb", "quiet", "1.2", "4", "3/4", "1"]
    ]  # fmt: skip
    assert rows[0][7:10] == ["7", "2", "1"]
    shown = said(project.run("machines", "show", "web1"))
    for part in ("web1.aaaaaa: serving, run directory /srv/web1.aaaaaa", "mail\tmail\t2/3", "shop.pay\tid-1\tmail\t1m1s\t4711"):
        assert part in shown
    (one, _) = json.loads(said(project.run("machines", "list", "--json")))
    assert one["pools"][1]["quiet"]


def test_status_of_all_shows_the_machines_too_whether_or_not_one_runs_here(project, backend):
    report(backend, "web1.aaaaaa")
    text = project.here("status", "--all", code=3)
    assert "not running in" in text
    assert project.here("machines").split("\t")[:-1] == text.partition("Machines\n")[2].split("\t")[:-1], "the same table"
    found = json.loads(said(project.run("status", "--all", "--json"), 3))
    assert (found["running"], [one["name"] for one in found["machines"]]) == (False, ["web1.aaaaaa"])
    board = FakeBoard(project.root / ".jobs")
    with board.held():
        assert "web1.aaaaaa\tserving" in project.here("status", "--all")
        found = json.loads(said(project.run("status", "--all", "--json")))
        assert "web1.aaaaaa" not in project.here("status")
        assert "machines" not in json.loads(project.here("status", "--json"))
    board.close()
    assert (found["running"], found["machines"][0]["pools"][0]["name"]) == (True, "mail")


@pytest.mark.parametrize("url", ["sqlite:////nowhere/queue.db", "memory://"])
def test_status_of_all_says_that_the_machines_are_unknown_and_ends_as_without(project, url):
    board = FakeBoard(project.root / ".jobs")
    with board.held():
        text = project.here("status", "--all", JOBS_BACKEND=url)
        found = json.loads(said(project.run("status", "--all", "--json", JOBS_BACKEND=url)))
    board.close()
    assert "is serving" in text
    assert "Machines\n! they are unknown: " in text
    assert (found["running"], found["machines"]) == (True, None)
    assert found["machines_error"]


def test_a_host_alone_shows_all_supervisors_on_it(project, backend):
    report(backend, "web1.aaaaaa")
    report(backend, "web1.bbbbbb", state="quiet")
    shown = said(project.run("machines", "show", "web1"))
    assert "web1.aaaaaa: serving" in shown
    assert "web1.bbbbbb: quiet" in shown
    assert [one["name"] for one in json.loads(said(project.run("machines", "show", "web1", "--json")))] == [
        "web1.aaaaaa", "web1.bbbbbb"
    ]  # fmt: skip
    assert json.loads(said(project.run("machines", "show", "web1.bbbbbb", "--json")))["name"] == "web1.bbbbbb"


def test_without_machines_nothing_is_listed_and_no_command_is_given(project, backend):
    assert said(project.run("machines")) == ""
    for arguments in (["quiet", "web1"], ["quiet", "--all"], ["reload", "--all"], ["show", "web1"]):
        done = project.run("machines", *arguments)
        assert done.returncode == 1
        assert "has reported within 30 s" in done.stderr
        assert "`jobsctl status` on the machine" in done.stderr
    assert given(backend) == []


@pytest.mark.parametrize(
    "arguments", [["quiet"], ["quiet", "web1", "--all"], ["scale", "mail", "-1", "--all"], ["reload", "--x"]]
)
def test_a_command_without_a_clear_target_is_a_usage_error(project, backend, arguments):
    report(backend, "web1.aaaaaa")
    assert project.run("machines", *arguments).returncode == 2
    assert given(backend) == []


@pytest.mark.parametrize(
    ("arguments", "target", "order"),
    [
        (["quiet", "web1"], "web1.aaaaaa", Order("quiet")),
        (["resume", "--all"], "*", Order("resume")),
        (["quiet", "web1.aaaaaa", "--pool", "mail"], "web1.aaaaaa", Order("quiet", "mail")),
        (["scale", "mail", "4", "--all"], "*", Order("scale", "mail", 4)),
        (["scale", "mail", "40", "--all", "--force"], "*", Order("scale", "mail", 40)),
        (["auto", "mail", "web1"], "web1.aaaaaa", Order("scale", "mail")),
        (["reload", "--all"], "*", Order("reload")),
        (["stacks", "web1"], "web1.aaaaaa", Order("stacks")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_is_given_and_a_machine_that_does_not_answer_is_named(
    project, backend, monkeypatch, arguments, target, order
):
    report(backend, "web1.aaaaaa")
    monkeypatch.setattr(machines, "PATIENCE", 0.1)
    output = project.here("machines", *arguments, code=1)
    assert "web1.aaaaaa: no answer within" in output
    assert given(backend) == [(target, order)]


def test_more_workers_than_configured_need_a_confirmation(project, backend):
    report(backend, "web1.aaaaaa")
    done = project.run("machines", "scale", "mail", "5", "--all")
    assert done.returncode == 2
    assert "Set pool mail to 5, above the configured maximum of 4?" in done.stderr
    assert given(backend) == []


def test_a_pool_that_no_machine_has_is_named(project, backend):
    report(backend, "web1.aaaaaa")
    done = project.run("machines", "quiet", "--all", "--pool", "nope")
    assert done.returncode == 1
    assert "no machine with a pool nope" in done.stderr


@pytest.mark.parametrize(("keys", "fix"), [("", True), ('signing_keys = ["a:0123456789012345678901234567890123"]\n', False)])
def test_a_command_that_a_machine_refuses_says_why_and_where_to_give_it(project, backend, monkeypatch, keys, fix):
    project.configure(keys)
    refused = "refused: the document is not signed, but signing_keys are configured"

    def refuses(backend, waited):
        for name, command in waited.items():
            report(backend, name, commands={command: refused})
        return ended(backend, waited)

    ended = machines.ended_on
    monkeypatch.setattr(machines, "ended_on", refuses)
    report(backend, "web1.aaaaaa")
    output = project.here("machines", "quiet", "web1", code=1)
    assert f"web1.aaaaaa: not carried out: {refused}" in output
    assert ("this configuration has none: give the command where they are configured" in output) is fix
