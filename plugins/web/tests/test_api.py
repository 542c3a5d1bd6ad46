"""The HTTP API: enqueue, ask and act; errors, pages, waiting, and keys that hold over processes."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.support.project import until

from jobs_core import current_job, job
from jobs_core.backends.base import Operable, State
from jobs_web.api import things, waiting
from jobs_web.api.operation import NDJSON
from jobs_web.api.operations import OPERATIONS
from jobs_web.settings import Token
from jobs_web.site import asgi
from jobs_web.tokens import hash_of, new_token

from .support import BASE, Rig


class Client(TestClient):
    """A program that uses the API with a token."""

    def __init__(self, rig: Rig, role: str = "admin", app: Any = None) -> None:
        headers = {"Authorization": f"Bearer {rig.tokens[role]}"} if role else {}
        super().__init__(app or rig.asgi, base_url=f"{BASE}/api/v1", headers=headers)

    def push(self, *, code: int = 201, key: str = "", **body: Any) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        answer = self.post("/jobs", json={"job": "add", "args": [1, 2], **body}, headers=headers)
        assert answer.status_code == code, answer.text
        return answer.json()

    def lines(self, *lines: Any, code: int = 200, key: str = "") -> Any:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        headers = {"Content-Type": NDJSON, **({"Idempotency-Key": key} if key else {})}
        answer = self.post("/jobs", content=text, headers=headers)
        assert answer.status_code == code, answer.text
        return answer.json()


@pytest.fixture
def shop(rig: Rig) -> Rig:
    registry = rig.app.registry

    @job(name="add", store_result=True, registry=registry, retries=0)
    def add(a: int, b: int = 2) -> int:
        if a < 0:
            raise ValueError("no negative numbers")
        current_job().progress(1, 2, "half")
        return a + b

    @job(name="once", registry=registry, unique=True)
    def single(text: str) -> None: ...

    return rig


def problem(answer: Any, status: int) -> str:
    """Return the detail of an error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    return str(body["detail"])


# -- enqueue -----------------------------------------------------------------------------------------


def test_a_job_is_enqueued_runs_and_shows_its_result(shop: Rig):
    client = Client(shop, "operate")
    answer = client.post("/jobs", json={"job": "add", "args": [1], "kwargs": {"b": 5}, "topic": "mail", "priority": 3})
    assert answer.status_code == 201
    told = answer.json()
    assert told["topic"] == "mail"
    assert answer.headers["location"] == f"/api/v1/jobs/{told['id']}"
    assert client.get(f"/jobs/{told['id']}").json()["state"] == "ready"
    shop.drain()
    found = client.get(f"/jobs/{told['id']}").json()
    assert (found["state"], found["result"]) == ("done", 6)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"args": [1, 2, 3]}, "add"),
        ({"args": ["x"]}, "expected int"),
        ({"job": "ad"}, "nearest names are add"),
        ({"delay": "soon"}, "delay"),
        ({"priority": 10}, "priority"),
        ({"typo": 1}, "unknown field typo"),
        ({"args": 1}, "array"),
        ({"topic": "no good"}, "topic"),
        ({"job": "jobs.webhook"}, "made by jobs itself"),
    ],
    ids=["too many", "type", "name", "delay", "priority", "field", "list", "topic", "reserved"],
)
def test_a_job_that_does_not_fit_is_refused_with_the_reason(shop: Rig, body: dict[str, Any], why: str):
    assert why in problem(Client(shop).post("/jobs", json={"job": "add", "args": [1], **body}), 422)
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 0


def test_nothing_is_imported_because_a_request_names_it(rig: Rig):
    """A process without the application's jobs enqueues any name, as a producer in another language does."""
    import sys

    client = Client(rig)
    told = client.push(job="wave.open", args=["x"], topic="mail", delay=60)
    assert "wave" not in sys.modules
    assert client.get(f"/jobs/{told['id']}").json()["state"] == "scheduled"
    assert "has not the application's jobs" in problem(client.post("/jobs", json={"job": "x", "unique": True}), 422)


def test_a_duplicate_is_told_with_the_job_that_there_is(shop: Rig):
    client = Client(shop)
    first = client.push(job="once", args=["x"])
    assert client.push(job="once", args=["x"], code=200) == {**first, "created": False}
    told = client.lines({"job": "once", "args": ["y"]}, {"job": "once", "args": ["x"]})
    assert (told["created"], told["duplicates"], told["ids"][1]) == (1, [2], first["id"])


def test_lines_are_enqueued_in_their_order_or_not_at_all(shop: Rig):
    client = Client(shop)
    told = client.lines(*[{"job": "add", "args": [n]} for n in range(2500)], "")
    assert told["created"] == 2500
    records = shop.app.operate(lambda backend: backend.browse("default", State.READY, 3000))
    assert [record.id for record in records] == told["ids"]
    text = client.lines({"job": "add", "args": [1]}, "{", {"job": "nope"}, code=422)["detail"]
    assert text.startswith("nothing was enqueued: line 2: ")
    assert "line 3: no job named 'nope'" in text
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 2500


def test_bodies_are_bounded_and_of_a_known_kind(shop: Rig):
    client = Client(shop)
    assert "10,000,000 bytes" in problem(client.post("/jobs", content=b"x" * 10_000_001), 413)
    assert "10,000" in problem(client.post("/jobs", content=b"{}\n" * 10_001, headers={"Content-Type": NDJSON}), 413)
    assert "expected application/json" in problem(client.post("/jobs", content=b"a=1"), 415)
    kind = {"Content-Type": "application/json"}
    assert "is not JSON" in problem(client.post("/jobs", content=b"{", headers=kind), 400)
    deep = b'{"job":"add","args":' + b"[" * 5000
    assert problem(client.post("/jobs", content=deep, headers=kind), 400)


# -- keys ----------------------------------------------------------------------------------------------


def test_a_key_makes_a_request_count_once_in_every_process(shop: Rig):
    client, other = Client(shop), Client(shop, app=asgi(shop.site))
    first = client.push(key="order-7")
    again = other.post("/jobs", json={"job": "add", "args": [1, 2]}, headers={"Idempotency-Key": "order-7"})
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (201, first, "true")
    shop.drain()
    assert client.push(key="order-7") == first, "also when the job has ended"
    assert "another request" in problem(
        client.post("/jobs", json={"job": "add", "args": [3]}, headers={"Idempotency-Key": "order-7"}), 422
    )
    assert Client(shop, "operate").push(key="order-7")["id"] != first["id"], "each user has keys of their own"


def test_a_key_makes_a_batch_count_once(shop: Rig):
    client = Client(shop)
    jobs = [{"job": "add", "args": [n]} for n in range(1000)]
    first = client.lines(*jobs, key="import-1")
    assert client.lines(*jobs, key="import-1") == first
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 1000
    assert "1,000" in client.lines(*jobs, jobs[0], key="import-2", code=413)["detail"]


def test_a_request_that_was_cut_off_is_completed_by_its_repetition(shop: Rig, monkeypatch: pytest.MonkeyPatch):
    """The process dies after the push, before the answer is kept."""
    client = Client(shop)

    def cut(*_: Any) -> None:
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr("jobs_web.api.once._keep", cut)
        client.push(key="k", code=500)
    told = client.push(key="k")
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 1
    assert client.get(f"/jobs/{told['id']}").json()["state"] == "ready"


def test_requests_under_one_key_at_the_same_time_add_one_job(shop: Rig):
    told: list[Any] = []

    def push() -> None:
        answer = Client(shop).post("/jobs", json={"job": "add", "args": [1]}, headers={"Idempotency-Key": "k"})
        told.append(answer.json()["id"])

    threads = [threading.Thread(target=push) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(told)) == 1
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 1


def test_a_refused_request_leaves_its_key_free(shop: Rig):
    client = Client(shop)
    client.push(args=["x"], key="k", code=422)
    client.push(key="k")
    assert "printable" in problem(client.post("/jobs", json={}, headers={"Idempotency-Key": "a b"}), 400)


# -- one job -----------------------------------------------------------------------------------------------


def test_a_job_is_cancelled_run_again_and_dropped(shop: Rig):
    client = Client(shop)
    queued = client.push(delay=60)["id"]
    assert client.post(f"/jobs/{queued}/retry").json() == {"id": queued, "state": "ready"}
    assert client.post(f"/jobs/{queued}/cancel").json()["state"] == "cancelled"
    dead = client.push(args=[-1])["id"]
    assert "only dead and scheduled" in problem(client.post(f"/jobs/{dead}/retry"), 409)
    shop.drain()
    found = client.get(f"/jobs/{dead}").json()
    assert (found["state"], found["errors"][0]["message"]) == ("dead", "no negative numbers")
    groups = client.get("/topics/default/dead-groups").json()["items"]
    assert [group["letters"] for group in groups] == [1]
    again = client.post(f"/topics/default/dead-groups/retry?group={groups[0]['fingerprint']['id']}")
    assert again.json() == {"changed": 1}
    shop.drain()
    assert problem(Client(shop, "operate").delete(f"/jobs/{dead}"), 403)
    assert client.delete(f"/jobs/{dead}").json() == {"changed": 1}
    assert "there is no job" in problem(client.get(f"/jobs/{dead}"), 404)


def test_a_long_poll_answers_when_the_job_has_ended(shop: Rig):
    client = Client(shop)
    waits = client.push()["id"]
    assert client.get(f"/jobs/{waits}?wait=1").json()["state"] == "ready", "the time is over"
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.get, f"/jobs/{waits}?wait=60")
        until(lambda: waiting._waiters.places.used)
        shop.drain()
        assert asked.result().json()["result"] == 3


def test_the_events_of_a_job_end_with_it(shop: Rig):
    client = Client(shop)
    told = client.push()["id"]
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.get, f"/jobs/{told}/events")
        until(lambda: waiting._waiters.places.used)
        shop.drain()
        answer = asked.result()
    assert answer.headers["content-type"].startswith("text/event-stream")
    text = answer.text
    states = [json.loads(line[6:])["state"] for line in text.splitlines() if line.startswith('data: {"id"')]
    assert (states[0], states[-1]) == ("ready", "done")


def test_those_who_wait_are_bounded(shop: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "MOST", 0)
    client = Client(shop)
    told = client.push()["id"]
    assert "try again later" in problem(client.get(f"/jobs/{told}?wait=5"), 503)
    monkeypatch.setattr(waiting, "MOST", 3)
    with waiting._waiters.places.taken("admin", 3), waiting._waiters.places.taken("somebody", 3):
        assert "admin already has 1 waiting request" in problem(client.get(f"/jobs/{told}?wait=5"), 429)
    assert client.get(f"/jobs/{told}").status_code == 200


def test_a_stream_tells_only_lines_that_are_new():
    told = waiting.Told()
    job = {"id": "1", "state": "reserved", "log": ["a", "b"]}
    assert len(told.news(job)) == 3
    assert told.news(job) == []
    assert told.news({**job, "log": ["b", "c"]}) == [b'event: log\ndata: "c"\n\n']


# -- lists and things -----------------------------------------------------------------------------------------


def test_a_list_is_read_page_by_page(shop: Rig):
    client = Client(shop)
    ids = client.lines(*[{"job": "add", "args": [n]} for n in range(25)])["ids"]
    got, cursor = [], ""
    for _ in range(3):
        page = client.get(
            "/topics/default/jobs", params={"state": "ready", "limit": 10, **({"cursor": cursor} if cursor else {})}
        )
        got += [item["id"] for item in page.json()["items"]]
        cursor = page.json()["next"]
    assert got == ids
    assert cursor is None
    for wrong, why in (
        ("state=lost", "expected one of"), ("", "state is missing"), ("state=ready&limit=0", "from 1 to 1000"),
        ("state=ready&x=1", "unknown parameter 'x'"), ("state=ready&state=dead", "given twice"),
        ("state=ready&cursor=x", "cursor"),
    ):  # fmt: skip
        assert why in problem(client.get(f"/topics/default/jobs?{wrong}"), 400)


def test_topics_limits_schedule_machines_and_statistics_can_be_asked_for(shop: Rig):
    client = Client(shop)
    client.push()
    assert client.post("/topics/default/pause").json()["paused"] is True
    names = {item["name"]: item for item in client.get("/topics").json()["items"]}
    assert (names["default"]["paused"], names["default"]["counts"]["ready"]) == (True, 1)
    assert client.post("/topics/default/resume").json()["paused"] is False
    assert client.put("/limits/stripe", json={"concurrency": 5, "rate": "10/s"}).json()["concurrency"] == 5
    assert [item["limit"] for item in client.get("/limits").json()["items"]] == ["stripe"]
    assert client.delete("/limits/stripe").json() == {"changed": 1}
    assert "nothing to set" in problem(client.put("/limits/stripe", json={}), 422)
    assert client.get("/schedule").json() == {"items": []}
    assert problem(client.post("/schedule/nightly/pause"), 404)
    assert client.get("/machines").json() == {"items": []}
    assert client.get("/stats?since=3600").json()["total"]["runs"] == 0
    assert client.get("/flows").json() == {"items": [], "next": None}
    assert problem(client.get("/flows/none"), 404)


def test_health_needs_no_token_and_tells_an_outage(shop: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(things, "FRESH", 0.0)
    client = Client(shop, "")
    assert client.get("/health").json() == {"status": "ok"}
    assert problem(client.get("/topics"), 401)
    from jobs_core import BackendUnavailable

    def gone(action: Any) -> None:
        raise BackendUnavailable("it is gone")

    monkeypatch.setattr(shop.app, "operate", gone)
    assert problem(client.get("/health"), 503) == "the backend does not answer"
    assert problem(Client(shop).get("/health"), 503) == "it is gone", "only users are told where it is"


def test_many_who_ask_for_the_health_cost_the_backend_one_call(shop: Rig, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    operate = shop.app.operate
    monkeypatch.setattr(shop.app, "operate", lambda action: (asked.append(action), operate(action))[1])
    monkeypatch.setattr(things, "FRESH", 3600.0)
    assert {Client(shop, "").get("/health").status_code for _ in range(20)} == {200}
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["BackendUnavailable", "QueueFull"])
def test_what_can_be_tried_again_says_when(shop: Rig, monkeypatch: pytest.MonkeyPatch, kind: str):
    import jobs_core

    def fails(*_: Any) -> None:
        raise getattr(jobs_core, kind)("not now")

    monkeypatch.setattr(shop.app, "enqueue", fails)
    answer = Client(shop).post("/jobs", json={"job": "add", "args": [1]})
    assert problem(answer, 503) == "not now"
    assert answer.headers["retry-after"] == "2"


# -- hostile requests ---------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"job":"add","args":[NaN]}', 400),
        (b'{"job":"add","args":[Infinity]}', 400),
        (b'{"job":"add","args":[1e999]}', 422),
        (b'{"job":"add\xff","args":[1]}', 400),
        (b'{"job":"add","args":["\\ud800"]}', 400),
        (b'\xef\xbb\xbf{"job":"add","args":[1]}', 400),
        (b'{"job":"add","args":[' + b"9" * 5000 + b"]}", 422),
        (b'{"job":"add","args":[1],"headers":{"a":' + b"[" * 300 + b"]" * 300 + b"}}", 422),
        (b'{"job":"add","args":' + b"[" * 100_000, 400),
        (b'{"job":"add","args":[1],"id":"a\\r\\nSet-Cookie: x"}', 422),
        (b'{"job":"add","args":[1],"delay":1e400}', 422),
        (b"null", 422),
        (b"", 400),
    ],
    ids=["NaN", "inf", "1e999", "UTF-8", "surrogate", "mark", "integer", "headers", "deep", "CRLF", "delay", "null", "none"],
)  # fmt: skip
def test_a_hostile_body_is_a_problem_and_adds_nothing(shop: Rig, body: bytes, status: int):
    assert problem(Client(shop).post("/jobs", content=body, headers=JSON), status)
    assert shop.app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 0


@pytest.mark.parametrize("job_id", ["\u00e9\u2603", "a/b", "a b", "a?b#c", "%41"])
def test_any_id_that_a_job_can_have_is_created_and_named_in_the_location(shop: Rig, job_id: str):
    from urllib.parse import unquote

    answer = Client(shop).post("/jobs", json={"job": "add", "args": [1], "id": job_id})
    assert (answer.status_code, answer.json()["id"]) == (201, job_id)
    assert unquote(answer.headers["location"].rpartition("/")[2]) == job_id


def test_of_a_key_that_comes_twice_in_an_object_the_last_counts(shop: Rig):
    client = Client(shop)
    told = client.post("/jobs", content=b'{"job":"add","args":[1],"args":[2]}', headers=JSON).json()
    assert client.get(f"/jobs/{told['id']}").json()["message"]["args"] == [2]


def test_an_id_that_comes_twice_in_a_batch_is_created_once(shop: Rig):
    told = Client(shop).lines(*[{"job": "add", "args": [n], "id": "q"} for n in (1, 2)])
    assert (told["created"], told["duplicates"]) == (1, [2])


@pytest.mark.parametrize("call", ["pause", "resume"])
def test_what_is_no_topic_is_neither_paused_nor_looked_at(shop: Rig, call: str):
    client = Client(shop)
    assert "invalid topic name" in problem(client.post(f"/topics/a b/{call}"), 422)
    assert "invalid topic name" in problem(client.get(f"/topics/{'a' * 300}"), 422)
    assert shop.app.operate(lambda backend: backend.paused()) in (set(), frozenset())


def test_two_keys_are_refused(shop: Rig):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "application/json")]
    assert "once" in problem(Client(shop).post("/jobs", content=b'{"job":"add","args":[1]}', headers=headers), 400)


def test_many_cancels_at_once_all_answer_and_cancel_once(shop: Rig):
    queued = Client(shop).push(delay=60)["id"]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: Client(shop).post(f"/jobs/{queued}/cancel"), range(16)))
    assert {answer.json()["state"] for answer in answers} == {"cancelled"}


# -- guard ------------------------------------------------------------------------------------------------------


def test_every_call_needs_its_role_and_a_token(shop: Rig):
    for each in OPERATIONS:
        path = each.path.format(id="x", topic="default", limit="x", name="x", machine="x")
        for role, level in (("", 0), ("read", 1), ("operate", 2)):
            answer = Client(shop, role).request(each.method, path)
            if each.role is not None and level < each.role:
                problem(answer, 403 if role else 401)
            else:
                assert answer.status_code not in (401, 403), (each.method, path, role)


def test_a_producer_can_enqueue_to_its_topics_and_do_nothing_else(make_rig):
    token = new_token()
    rig = make_rig(tokens={"shop": Token("operate", hash_of(token), ["mail"]), "admin": Token("admin", hash_of("other"))})

    @job(name="add", registry=rig.app.registry)
    def add(a: int, b: int) -> None: ...

    rig.tokens["shop"], rig.tokens["admin"] = token, "other"
    client = Client(rig, "shop")
    mine = client.push(topic="mail")["id"]
    assert client.get(f"/jobs/{mine}").json()["state"] == "ready"
    assert "not to default" in client.push(code=403)["detail"]
    assert "not to default" in client.lines({"job": "add", "args": [1, 2]}, code=403)["detail"]
    foreign = Client(rig, "admin").push()["id"]
    assert problem(client.get(f"/jobs/{foreign}"), 404)
    for each in OPERATIONS:
        if each.role is not None and not each.producers and each.role <= 2:
            path = each.path.format(id=mine, topic="mail", limit="x", name="x", machine="x")
            assert "may only enqueue to mail" in problem(client.request(each.method, path), 403)
    assert client.get(f"{BASE}/jobs").status_code == 403, "nor look at a page"


def test_read_only_refuses_every_change_of_the_api(make_rig):
    client = Client(make_rig(read_only=True))
    for each in OPERATIONS:
        if each.method != "GET":
            path = each.path.format(id="x", topic="default", limit="x", name="x", machine="x")
            assert "read-only" in problem(client.request(each.method, path), 403)


def test_an_unknown_call_and_method_are_problems_too(shop: Rig):
    client = Client(shop)
    assert "openapi.json lists all" in problem(client.get("/nothing"), 404)
    wrong = client.patch("/topics")
    problem(wrong, 405)
    assert "GET" in wrong.headers["allow"]


def test_another_site_cannot_use_the_api_through_a_browser(shop: Rig):
    client = Client(shop)
    answer = client.post("/topics/default/pause", headers={"Sec-Fetch-Site": "cross-site"})
    assert "another site" in problem(answer, 403)
    assert "another site" in problem(client.post("/topics/default/pause", headers={"Origin": "https://evil.example"}), 403)


def test_a_reader_who_may_not_see_arguments_sees_none(make_rig):
    rig = make_rig(show_arguments=False)

    @job(name="add", store_result=True, registry=rig.app.registry, retries=0)
    def add(secret: str) -> str:
        raise ValueError(secret)

    told = Client(rig).push(args=["hunter2"])["id"]
    rig.drain()
    for path in (f"/jobs/{told}", "/topics/default/jobs?state=dead", f"/jobs/{told}/events"):
        text = Client(rig, "read").get(path).text
        assert told in text
        assert "hunter2" not in text
        assert "hunter2" in Client(rig, "operate").get(path).text or path.endswith("events")


def test_a_feature_that_the_backend_lacks_is_told(shop: Rig, monkeypatch: pytest.MonkeyPatch):
    def lacks(self: Operable, *_: Any) -> Any:
        raise self._lacks("flows")

    backend = shop.app.new_backend()
    monkeypatch.setattr(type(backend), "flows", lacks)
    assert "flows" in problem(Client(shop).get("/flows"), 501)
