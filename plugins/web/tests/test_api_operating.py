"""The calls with which programs operate: schedule, machines, dead letters, limits; and what an enqueue takes from a request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.project import Project, until
from tests.support.supervised import Supervised

from jobs_core import JobsError, hookimpl, job, set_current_app
from jobs_core.backends.base import State
from jobs_core.dead_actions import DeadActions
from jobs_core.plugins import PluginInfo
from jobs_web.settings import Token, read
from jobs_web.tokens import hash_of, new_token

from .support import Rig
from .test_api import Client, problem


@pytest.fixture
def shop(rig: Rig) -> Rig:
    registry = rig.app.registry

    @job(name="add", registry=registry, retries=0)
    def add(a: int, b: int = 2) -> int:
        if a < 0:
            raise ValueError("no negative numbers")
        return a + b

    return rig


# -- the schedule --------------------------------------------------------------------------------------


def test_an_entry_of_the_schedule_is_added_changed_run_paused_and_removed(shop: Rig):
    client = Client(shop)
    entry = {"job": "add", "args": [1], "kwargs": {"b": 5}, "cron": "0 6 * * MON", "tz": "Europe/Berlin", "topic": "mail"}
    told = client.put("/schedule/acme weekly", json=entry).json()
    assert (told["name"], told["expression"], told["tz"], told["topic"]) == (
        "acme weekly",
        "0 6 * * MON",
        "Europe/Berlin",
        "mail",
    )
    assert (told["args"], told["kwargs"], told["at_run_time"], len(told["next"])) == ([1], {"b": 5}, True, 3)
    assert told["by"] == "admin through the API"
    assert client.post("/schedule/acme weekly/pause").json()["paused"] is True
    changed = client.put("/schedule/acme weekly", json={"job": "add", "args": [2], "every": "1h"}).json()
    assert (changed["expression"], changed["paused"], changed["next"]) == ("every 1h", True, [])
    assert client.post("/schedule/acme weekly/resume").json()["paused"] is False
    assert client.get("/schedule/acme weekly").json() == client.get("/schedule").json()["items"][0]
    first = client.post("/schedule/acme weekly/run", headers={"Idempotency-Key": "k"})
    assert first.status_code == 201
    assert client.post("/schedule/acme weekly/run", headers={"Idempotency-Key": "k"}).json() == first.json()
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 1
    message = client.get(first.headers["location"].removeprefix("/api/v1")).json()["message"]
    assert (message["args"], message["headers"]["schedule"]) == ([2], "acme weekly")
    assert client.delete("/schedule/acme weekly").json() == {"changed": 1}
    assert problem(client.delete("/schedule/acme weekly"), 404)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"job": "nope", "every": "1h"}, "no job named"),
        ({"job": "add", "args": [1]}, "either cron or every"),
        ({"job": "add", "args": [1], "every": "1h", "cron": "* * * * *"}, "either cron or every"),
        ({"job": "add", "args": [1], "cron": "61 * * * *"}, "cron"),
        ({"job": "add", "args": [1], "cron": "* * * * *", "tz": "Mars/North"}, "Mars/North"),
        ({"job": "add", "args": [1], "every": "1h", "tz": "UTC"}, "tz belongs to cron"),
        ({"job": "add", "args": ["x"], "every": "1h"}, "expected int"),
        ({"job": "add", "args": [1], "every": "1h", "topic": "no good"}, "topic"),
        ({"job": "add", "args": [1], "every": "1h", "retries": 3}, "unknown field retries"),
    ],
    ids=["job", "no time", "two times", "cron", "zone", "zone of every", "argument", "topic", "field"],
)
def test_an_entry_that_cannot_be_used_is_refused_with_the_reason(shop: Rig, entry: dict[str, Any], why: str):
    client = Client(shop)
    assert why in problem(client.put("/schedule/x", json=entry), 422)
    assert client.get("/schedule").json() == {"items": []}


def test_an_entry_of_the_code_is_paused_and_run_but_neither_replaced_nor_removed(rig: Rig):
    @job(name="nightly", registry=rig.app.registry, cron="0 3 * * *")
    def nightly() -> None: ...

    client = Client(rig)
    assert "in the code" in problem(client.put("/schedule/nightly", json={"job": "nightly", "every": "1h"}), 409)
    assert "in the code" in problem(client.delete("/schedule/nightly"), 409)
    assert client.post("/schedule/nightly/pause").json()["paused"] is True
    assert Client(rig, "operate").post("/schedule/nightly/run").status_code == 201
    assert problem(Client(rig, "operate").post("/schedule/nightly/resume"), 403)


# -- machines ------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Rig, Supervised]]:
    """A dashboard beside a real supervisor."""
    project = Project(tmp_path / "project")
    rig = Rig(f"sqlite:///{project.root}/queue.db", project.root)
    set_current_app(rig.app)
    yield rig, Supervised(project)
    project.close()
    set_current_app(None)
    rig.close()


def test_commands_reach_machines_and_their_outcomes_are_told(running: tuple[Rig, Supervised]):
    client = Client(running[0])
    machine = until(lambda: client.get("/machines").json()["items"])[0]["name"]  # once it has reported
    host = machine.rpartition(".")[0]

    def report() -> Any:
        return client.get(f"/machines/{machine}").json()

    def tell(do: str, where: str = machine, **body: Any) -> Any:
        answer = client.post(f"/machines/{where}/{do}?wait=60", json=body)
        assert answer.status_code == 200, answer.text
        [outcome] = answer.json()["items"]
        assert outcome["machine"] == machine
        return outcome

    assert tell("quiet")["state"] == "done"
    until(lambda: report()["state"] == "quiet")
    assert tell("resume", host)["state"] == "done"
    assert tell("stacks", "*")["state"] == "done"
    until(lambda: list(running[1].run_dir.glob("**/*.stacks")))
    assert tell("scale", pool="default", workers=0)["state"] == "done"
    until(lambda: report()["pools"][0]["wanted"] == 0)
    assert tell("scale", pool="default")["state"] == "done"
    until(lambda: not report()["pools"][0]["scaled"])
    (running[1].project.root / "tasks.py").write_text("this is no Python")
    refused = tell("reload")
    assert refused["state"] == "refused"
    assert refused["why"]
    first = client.post(f"/machines/{machine}/quiet", headers={"Idempotency-Key": "k"}).json()
    assert first["items"][0]["state"] == "waiting"
    again = client.post(f"/machines/{machine}/quiet?wait=60", headers={"Idempotency-Key": "k"}).json()
    assert again["items"][0] == {**first["items"][0], "state": "done"}
    assert report()["commands"][first["items"][0]["command"]] == ""


def test_a_command_to_no_machine_is_refused(shop: Rig):
    client = Client(shop)
    assert "GET /machines" in problem(client.get("/machines/web1.0a1b2c"), 404)
    assert "GET /machines" in problem(client.post("/machines/*/quiet"), 404)
    assert "1" in problem(client.post("/machines/*/scale", json={"pool": "default", "workers": 10_001}), 422)
    assert "as a whole" in problem(client.post("/machines/*/reload", json={"pool": "default"}), 422)
    assert problem(Client(shop, "operate").post("/machines/*/quiet"), 403)


# -- dead letters ----------------------------------------------------------------------------------------


def dead(shop: Rig, *numbers: int) -> list[str]:
    client = Client(shop)
    ids = [client.push(args=[number])["id"] for number in numbers]
    shop.drain()
    return ids


def test_an_action_on_dead_letters_is_started_followed_and_cancelled(shop: Rig):
    client = Client(shop, "operate")
    dead(shop, *range(-250, 0))
    [group] = client.get("/topics/default/dead-groups").json()["items"]
    body = {"topics": ["default"], "group": group["fingerprint"]["id"]}
    slow = client.post("/dead-actions/retry", json={**body, "rate": "1/m"}, headers={"Idempotency-Key": "k"})
    assert slow.status_code == 202
    again = client.post("/dead-actions/retry", json={**body, "rate": "1/m"}, headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == slow.json()["id"]
    told = client.get(slow.headers["location"].removeprefix("/api/v1")).json()
    assert (told["state"], told["total"], told["done"], told["rate"]) == ("waiting", 250, 0, pytest.approx(1 / 60))
    assert told["by"] == "operate through the API"
    assert client.delete(f"/dead-actions/{told['id']}").json() == {"changed": 1}
    assert problem(client.get("/dead-actions/none"), 404)
    fast = client.post("/dead-actions/retry", json=body).json()
    work(shop)
    ended = client.get(f"/dead-actions/{fast['id']}").json()
    assert (ended["state"], ended["done"], ended["kept"]) == ("done", 250, 0)
    assert [one["id"] for one in client.get("/dead-actions").json()["items"]] == [fast["id"]]
    assert "is done" in problem(client.delete(f"/dead-actions/{fast['id']}"), 409)
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 250


def work(shop: Rig) -> None:
    """Carry out all actions, as the housekeeper of a supervisor does."""
    actions = DeadActions(shop.app, "here")

    def look(backend: Any) -> None:
        actions.look(backend, 1)
        while actions.next() < float("inf"):
            actions.work(backend)

    shop.app.operate(look)


def test_an_action_runs_letters_again_with_other_arguments_that_fit(shop: Rig):
    client = Client(shop)
    dead(shop, -1, -2)
    refused = client.post("/dead-actions/retry", json={"topics": ["default"], "set": {"a": "x"}})
    assert "expected int" in problem(refused, 422)
    told = client.post("/dead-actions/retry", json={"topics": ["default"], "set": {"a": 7}, "to": "mail"}).json()
    assert (told["do"], told["total"]) == ("edit", 2)
    work(shop)
    jobs = client.get("/topics/mail/jobs?state=ready").json()["items"]
    assert [one["message"]["args"] for one in jobs] == [[7], [7]]


def test_dead_letters_are_deleted_by_an_action_of_an_administrator(shop: Rig):
    dead(shop, -1, -2)
    assert problem(Client(shop, "operate").post("/dead-actions/drop", json={"topics": ["default"]}), 403)
    told = Client(shop).post("/dead-actions/drop", json={"topics": ["default"]})
    work(shop)
    assert Client(shop).get(f"/dead-actions/{told.json()['id']}").json()["done"] == 2
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].dead == 0


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"topics": []}, 422, "topics"),
        ({"topics": ["no good"]}, 422, "topic"),
        ({"topics": ["default"], "to": ".x"}, 422, "topic"),
        ({"topics": ["default"], "rate": "fast"}, 422, "rate"),
        ({"topics": ["default"], "group": "x"}, 422, "group"),
        ({"topics": ["default"]}, 404, "no such dead letters"),
    ],
    ids=["no topic", "topic", "target", "rate", "group", "none"],
)
def test_an_action_that_cannot_be_carried_out_is_refused(shop: Rig, body: dict[str, Any], status: int, why: str):
    assert why in problem(Client(shop).post("/dead-actions/retry", json=body), status)


def test_a_dead_letter_gets_other_arguments_and_another_topic_and_runs(shop: Rig):
    client = Client(shop, "operate")
    [job_id] = dead(shop, -1)
    assert "expected int" in problem(client.patch(f"/jobs/{job_id}", json={"args": ["x"]}), 422)
    assert "nothing to change" in problem(client.patch(f"/jobs/{job_id}", json={}), 422)
    assert "topic" in problem(client.patch(f"/jobs/{job_id}", json={"topic": "no good"}), 422)
    assert client.patch(f"/jobs/{job_id}", json={"set": {"a": 7}, "topic": "mail"}).json()["message"]["args"] == [7]
    told = client.patch(f"/jobs/{job_id}", json={"args": [], "kwargs": {"a": 8, "b": 1}}).json()
    assert (told["topic"], told["message"].get("args"), told["message"]["kwargs"]) == ("mail", None, {"a": 8, "b": 1})
    assert client.post(f"/jobs/{job_id}/retry").json()["state"] == "ready"
    told = problem(client.patch(f"/jobs/{job_id}", json={"args": [1]}), 409)
    assert (
        told == f"job {job_id} is ready, and only dead letters can be changed: its call discard makes it one, under the same id"
    )
    shop.drain()
    assert shop.app.find(job_id) is None, "it ran"


def test_a_queued_job_is_discarded_and_can_run_again(shop: Rig):
    client = Client(shop, "operate")
    queued = client.push(delay=60)["id"]
    assert problem(client.post(f"/jobs/{queued}/discard", json={"reason": "x\ny"}), 422)
    assert client.post(f"/jobs/{queued}/discard", json={"reason": "a mistake"}).json() == {"id": queued, "state": "dead"}
    assert client.get(f"/jobs/{queued}").json()["reason"] == "discarded by operate through the API: a mistake"
    assert "only queued" in problem(client.post(f"/jobs/{queued}/discard"), 409)
    assert client.patch(f"/jobs/{queued}", json={"args": [7]}).json()["message"]["args"] == [7]
    assert client.post(f"/jobs/{queued}/retry").json()["state"] == "ready"


# -- limits ------------------------------------------------------------------------------------------------


def test_an_override_has_the_usual_burst_and_a_name_that_can_be_one(shop: Rig):
    client = Client(shop)
    assert client.put("/limits/stripe", json={"rate": "500/s"}).json()["burst"] == 10
    assert client.put("/limits/stripe:acme", json={"rate": "500/s", "burst": 1}).json()["burst"] == 1
    assert "does not name a limit" in problem(client.put("/limits/no good", json={"rate": "1/s"}), 422)
    assert "does not name a limit" in problem(client.delete("/limits/no good"), 422)
    assert problem(client.put("/limits/stripe", json={"rate": "1/s", "burst": 0}), 422)


# -- scopes --------------------------------------------------------------------------------------------------


def test_a_token_for_a_topic_enqueues_to_it_and_looks_at_it_alone(make_rig: Callable[..., Rig]):
    tokens = {name: new_token() for name in ("shop", "watch")}
    rig = make_rig(
        tokens={
            "shop": Token("operate", hash_of(tokens["shop"]), ["mail"]),
            "watch": Token("read", hash_of(tokens["watch"]), ["mail"]),
        }
    )
    rig.tokens.update(tokens)
    shop, watch = Client(rig, "shop"), Client(rig, "watch")
    mine = shop.push(topic="mail")["id"]
    assert watch.get("/topics/mail").json()["counts"]["ready"] == 1
    assert [one["id"] for one in watch.get("/topics/mail/jobs?state=ready").json()["items"]] == [mine]
    assert watch.get("/topics/mail/dead-groups").json() == {"items": []}
    for path in ("/topics/default", "/topics/default/jobs?state=ready", "/topics/default/dead-groups"):
        assert "only look at mail" in problem(shop.get(path), 403)
    assert problem(watch.post("/jobs", json={"job": "add", "topic": "mail"}), 403)
    assert problem(watch.get("/topics"), 403)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"role": "admin", "topics": ["mail"]}, "leave out role admin"),
        ({"role": "read", "topics": ["no good"]}, "invalid topic"),
    ],
    ids=["admin", "topic"],
)
def test_topics_that_a_token_cannot_have_are_refused(table: dict[str, Any], why: str):
    with pytest.raises(JobsError, match=why):
        read({"tokens": {"x": {"hash": hash_of("x"), **table}}})


# -- traces ----------------------------------------------------------------------------------------------------

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def headers_of(rig: Rig, job_id: str) -> Any:
    return Client(rig).get(f"/jobs/{job_id}").json()["message"].get("headers", {})


def test_the_trace_of_a_request_is_that_of_its_jobs(shop: Rig):
    client = Client(shop)
    client.headers.update({"traceparent": PARENT, "tracestate": "vendor=1"})
    wanted = {"traceparent": PARENT, "tracestate": "vendor=1"}
    assert headers_of(shop, client.push()["id"]) == wanted
    assert headers_of(shop, client.push(key="k", headers={"x": 1})["id"]) == {**wanted, "x": 1}
    assert headers_of(shop, client.lines({"job": "add", "args": [1]})["ids"][0]) == wanted
    own = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
    assert headers_of(shop, client.push(headers={"traceparent": own})["id"]) == {"traceparent": own}


@pytest.mark.parametrize(
    "parent",
    ["", "x", "ff" + PARENT[2:], "00-" + "0" * 32 + PARENT[35:], PARENT[:36] + "0" * 16 + "-01", PARENT.upper(), PARENT + "-x"],
)
def test_a_trace_in_another_form_is_left_out(shop: Rig, parent: str):
    client = Client(shop)
    client.headers.update({"traceparent": parent, "tracestate": "vendor=1"})
    assert headers_of(shop, client.push()["id"]) == {}


class Around:
    """A plugin that notes what it is told of enqueues."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @hookimpl
    def jobs_enqueue_context(self, what: str, job: str | None, topic: str | None) -> Any:
        return self._around(f"{what} {job} {topic}")

    @contextlib.contextmanager
    def _around(self, what: str) -> Iterator[None]:
        self.steps.append(f"begin {what}")
        try:
            yield
        finally:
            self.steps.append(f"end {what}")

    @hookimpl
    def jobs_before_enqueue(self, message: Any) -> None:
        self.steps.append(f"made {message.job}")


@pytest.fixture
def around(rig: Rig) -> Around:
    made = Around()
    rig.app.plugins._add(made, PluginInfo("around", "jobs-test", "1"))
    return made


@pytest.mark.parametrize("key", ["", "k"], ids=["no key", "key"])
def test_plugins_are_around_every_enqueue_through_the_api(shop: Rig, around: Around, key: str):
    client = Client(shop)
    client.push(key=key)
    assert around.steps == ["begin job add default", "made add", "end job add default"]
    around.steps.clear()
    client.lines({"job": "add", "args": [1]}, {"job": "add", "args": [2]}, key=key and "other")
    assert around.steps == ["begin batch None None", "made add", "made add", "end batch None None"]


@pytest.mark.parametrize("key", ["", "k"], ids=["no key", "key"])
def test_plugins_are_around_the_enqueue_of_a_job_that_is_not_known_here(rig: Rig, around: Around, key: str):
    Client(rig).push(job="far.away", topic="mail", key=key)
    assert around.steps == ["begin job far.away mail", "made far.away", "end job far.away mail"]
    assert rig.app.operate(lambda backend: backend.browse("mail", State.READY, 1))
