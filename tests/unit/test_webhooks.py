"""Webhooks: which events are made, how they are signed, where they may go, and what the job makes of the answer."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import socket
import time

import pytest

from jobs_core import App, Config, ConfigError, Discard, Flow, Retry, current_job, job, set_current_app, webhook_signing
from jobs_core.backends.base import Counts, Outcome, Outgoing, Settlement, State
from jobs_core.backends.memory import forget
from jobs_core.config import Alerts, Pool, Topic
from jobs_core.ids import new_token
from jobs_core.machines import acting_as
from jobs_core.message import encode, new_message
from jobs_core.operating.discarding import discard
from jobs_core.registry import Registry
from jobs_core.webhooks import sending
from jobs_core.webhooks.job import Refused, _judge, register
from jobs_core.webhooks.sending import Forbidden, Reply, may_reach, post
from jobs_core.worker.main import Worker

from ..support.inprocess import as_it_was
from ..support.receiver import Receiver

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture(autouse=True)
def undisturbed():
    with as_it_was():
        yield
    forget("memory://webhooks")


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Verify a request as a receiver would, with nothing of ours."""
    headers = {name.lower(): value for name, value in headers.items()}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return wanted in headers["webhook-signature"].split()


# -- signatures --------------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_published_example():
    keys = webhook_signing.keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = webhook_signing.headers(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_secret_of_a_change_signs():
    made = webhook_signing.headers(webhook_signing.keys(f"{SECRET} {OTHER}"), "1", 2, b"body")
    assert verified(SECRET, made, b"body")
    assert verified(OTHER, made, b"body")
    assert not verified(SECRET, made, b"Body")


@pytest.mark.parametrize("text", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_*" * 3, SECRET + " x"])
def test_a_secret_in_another_form_is_refused_without_showing_it(text: str):
    with pytest.raises(ValueError) as caught:
        webhook_signing.keys(text)
    assert len(text) < 8 or text not in str(caught.value)


# -- where events may go -------------------------------------------------------------------------------


PRIVATE = """
    127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 ::
    fe80::1 fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2002:a00:1::1
    ::ffff:169.254.169.254 2002:a9fe:a9fe:: fd00:ec2::254 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b:1::7f00:1 2001:0:7f00:1::
    fec0::1 3fff::1 5f00::1 100::1 192.0.0.8 192.88.99.1 198.18.0.1 240.0.0.1 0.1.2.3 100.100.100.200 168.63.129.16
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_nothing_is_sent_to_an_address_that_is_not_public(address: str):
    assert not may_reach(address, ())


def test_public_and_allowed_addresses_are_reached():
    assert may_reach("93.184.216.34", ())
    assert may_reach("2606:2800:220:1:248:1893:25c8:1946", ())
    assert may_reach("10.1.2.3", [ipaddress.ip_network("10.0.0.0/8")])
    assert may_reach("::ffff:10.1.2.3", [ipaddress.ip_network("10.0.0.0/8")])
    assert not may_reach("10.1.2.3", [ipaddress.ip_network("fc00::/7")])


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(receiver, monkeypatch):
    """A name that leads to a public address when it is looked at, and to a private one a moment later, gains nothing."""
    port = int(receiver.url.rpartition(":")[2])
    asked = []

    def resolve(host, wanted, **rest):
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.255.255.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(sending.socket, "getaddrinfo", resolve)
    assert post(f"http://hooks.example:{port}/x", b"{}", {}, LOOPBACK).status == 200
    assert asked == ["hooks.example"], "resolved once"
    with pytest.raises(Forbidden, match="not public"):
        post(f"http://hooks.example:{port}/x", b"{}", {}, LOOPBACK)
    assert receiver.headers[0]["Host"] == f"hooks.example:{port}"


def test_a_redirect_is_not_followed_and_no_proxy_is_asked(receiver, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    receiver.status, receiver.location = 302, "http://169.254.169.254/"
    assert post(f"{receiver.url}/x?y=1", b"{}", {}, LOOPBACK).status == 302
    assert receiver.paths == ["/x?y=1"]


def test_a_receiver_that_drips_or_hangs_cannot_keep_a_worker(receiver):
    receiver.status, receiver.drip = 500, 0.2
    with pytest.raises(ConnectionError, match=r"no answer within 0\.5 s"):
        post(receiver.url, b"{}", {}, LOOPBACK, patience=0.5)
    receiver.hang.clear()
    with pytest.raises(ConnectionError, match=r"no answer within 0\.3 s"):
        post(receiver.url, b"{}", {}, LOOPBACK, patience=0.3)


def test_an_unreachable_receiver_is_an_error_without_its_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionError) as caught:
            post(f"http://127.0.0.1:{port}/T0KEN", b"{}", {}, LOOPBACK)
    assert "T0KEN" not in str(caught.value)
    assert "refused" in str(caught.value)


# -- what the job makes of the answer --------------------------------------------------------------------


def test_the_answer_of_the_receiver_decides():
    _judge("crm", Reply(204, None, ""))
    with pytest.raises(Refused, match="the receiver of webhook crm answered 500: broken"):
        _judge("crm", Reply(500, None, "broken"))
    with pytest.raises(Refused, match="a redirect, which is not followed"):
        _judge("crm", Reply(301, None, ""))
    with pytest.raises(Discard, match="wants no more events"):
        _judge("crm", Reply(410, None, ""))
    for after, seconds in (("7", 7.0), ("0", 1.0), ("999999", 3600.0)):
        with pytest.raises(Retry) as caught:
            _judge("crm", Reply(429, after, ""))
        assert caught.value.delay == seconds
    with pytest.raises(Refused):
        _judge("crm", Reply(503, "Fri, 27 Nov 2026 12:00:00 GMT", ""))


# -- from the end of a job to the receiver -----------------------------------------------------------------


def application(receiver: Receiver, **settings) -> App:
    hook = {"url": f"{receiver.url}/hook", "secret": SECRET, "networks": ["127.0.0.1"], **settings}
    config = Config(
        backend="memory://webhooks",
        webhooks={"crm": hook},
        pools={"default": Pool(topics=["default", "other", "webhooks"])},
    )
    registry = Registry()
    app = App(config, registry=registry)
    register(app)
    set_current_app(app)
    return app


def drain(app: App, topics: list[str] | None = None) -> None:
    pool = app.config.pools["default"] if topics is None else Pool(topics=topics)
    Worker(app, "default", pool, None, drain=True).run()


def test_done_is_told_for_named_topics_alone_and_signed(receiver):
    app = application(receiver, events=["done"], topics=["default"])

    @job(registry=app.registry, name="add")
    def add(a: int, b: int) -> int:
        return a + b

    told = add.enqueue(1, 2)
    add.using(topic="other").enqueue(3, 4)
    drain(app)
    [body] = receiver.bodies
    assert body["type"] == "job.done"
    assert body["data"] == {"id": told.id, "job": "add", "topic": "default", "attempt": 1}
    assert verified(SECRET, receiver.headers[0], receiver.raw[0])
    assert receiver.headers[0]["Content-Type"] == "application/json"


def test_an_event_tells_arguments_result_and_error_only_if_they_are_included(receiver):
    app = application(
        receiver, events=["done", "dead"], topics=["default"], include=["arguments", "result", "error"], retries=0
    )

    @job(registry=app.registry, name="work", retries=0)
    def work(items: list[int], fails: bool = False) -> int:
        items.append(9)  # what was sent is told, not this
        if fails:
            raise ValueError("no such order")
        return sum(items)

    work.enqueue([1, 2])
    drain(app)
    work.enqueue([3], fails=True)
    drain(app)
    done, dead = (body["data"] for body in receiver.bodies)
    assert (done["args"], done["kwargs"], done["result"]) == ([[1, 2]], {}, 12)
    assert (dead["args"], dead["kwargs"], dead["error"]) == ([[3]], {"fails": True}, "ValueError: no such order")
    assert dead["reason"] == "failed"
    assert "result" not in dead


def test_what_is_encrypted_in_the_queue_is_not_told(receiver):
    app = application(receiver, events=["done"], topics=["default"], include=["arguments", "result"])
    app = App(
        Config(
            backend=app.config.backend,
            webhooks=app.config.webhooks,
            pools=app.config.pools,
            encryption_keys=["one:" + "x" * 32],
        ),
        registry=app.registry,
    )
    set_current_app(app)

    @job(registry=app.registry, name="pay")
    def pay(account: str) -> str:
        return account

    pay.enqueue("DE02")
    drain(app)
    [body] = receiver.bodies
    assert body["data"].keys() == {"id", "job", "topic", "attempt"}


def test_jobs_that_never_run_are_told_as_dead_too(receiver):
    app = application(receiver, events=["dead"])

    @job(registry=app.registry, name="old", expires=0.001)
    def old() -> None: ...

    @job(registry=app.registry, name="strict")
    def strict(number: int) -> None: ...

    old.enqueue()
    time.sleep(0.05)
    drain(app)
    sent = new_message("strict", "default", ["x"], {})
    app.operate(lambda backend: backend.push([Outgoing(sent.id, "default", encode(sent))], new_token()))
    drain(app)
    app.operate(lambda backend: backend.push([Outgoing("odd", "default", b"no envelope")], new_token()))
    drain(app)
    assert [(body["data"]["job"], body["data"]["reason"]) for body in receiver.bodies] == [
        ("old", "expired"),
        ("strict", "bad arguments"),
        (None, "bad message"),
    ]


def test_the_job_of_an_event_has_neither_the_secret_nor_the_address_of_its_receiver(receiver):
    from jobs_core.webhooks.announcing import made

    app = application(receiver, events=["dead"])
    payload = made(app, "crm", "job.dead", {"id": "1"}).payload
    assert b"crm" in payload
    assert SECRET.encode() not in payload
    assert receiver.url.encode() not in payload


def test_a_large_event_leaves_out_what_is_large(receiver):
    app = application(receiver, events=["done"], topics=["default"], include=["arguments"])

    @job(registry=app.registry, name="read")
    def read(text: str) -> None: ...

    read.enqueue("x" * 70_000)
    drain(app)
    assert receiver.bodies[0]["data"]["left_out"] == ["args", "kwargs"]


def test_an_event_that_is_not_taken_is_retried_under_its_id_and_becomes_a_dead_letter_that_causes_no_event(receiver):
    app = application(receiver, events=["dead"], retries=0)
    receiver.status, receiver.answer = 500, b"broken"

    @job(registry=app.registry, name="fail", retries=0)
    def fail() -> None:
        raise ValueError("no")

    fail.enqueue()
    drain(app)
    [letter] = app.operate(lambda backend: backend.browse("webhooks", State.DEAD, 10))
    assert "the receiver of webhook crm answered 500: broken" in json.loads(letter.errors[-1])["message"]
    assert receiver.url not in str(letter)
    receiver.status = 200
    app.operate(lambda backend: backend.requeue([letter.id]))
    drain(app)
    first, second = receiver.headers
    assert first["webhook-id"] == second["webhook-id"] == letter.id
    assert receiver.bodies[0] == receiver.bodies[1]
    assert app.operate(lambda backend: backend.counts(["webhooks"]))["webhooks"].ready == 0


def test_the_event_is_stored_in_the_settlement_itself(receiver):
    app = application(receiver, events=["done"], topics=["default"])
    settled = []

    @job(registry=app.registry, name="noop")
    def noop() -> None: ...

    noop.enqueue()
    backend = app.new_backend()
    settle = backend.settle
    backend.settle = lambda some, request: (settled.extend(some), settle(some, request))[1]
    Worker(app, "default", Pool(topics=["default"]), None, drain=True, backend=backend).run()
    [ending] = settled
    assert ending.outcome is Outcome.DONE
    assert [(each.topic, each.unique) for each in ending.followups] == [("webhooks", None)]


def test_a_job_of_which_nobody_wants_to_know_has_no_announcer(receiver):
    from jobs_core.worker.on_end import policy_of

    app = application(receiver, events=["done"], topics=["other"])

    @job(registry=app.registry, name="noop")
    def noop() -> None: ...

    assert policy_of(app, noop, "default").on_end is None
    assert policy_of(app, noop, "other").on_end is not None


# -- configuration -----------------------------------------------------------------------------------------


GOOD = {"url": "https://example.com/", "secret": SECRET}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "ftp://example.com/"}, "begins with https://"),
        ({"url": "https://me:pw@example.com/"}, "without a user"),
        ({"secret": "hunter2hunter2"}, "whsec_"),
        ({"events": ["died"]}, "expected some of done, dead, backlog, flow"),
        ({"events": []}, "at least one"),
        ({"include": ["traceback"]}, "expected some of arguments, result, error"),
        ({"networks": ["10.0.0.1/8"]}, "expected networks such as"),
        ({"retries": -1}, "retries"),
    ],
    ids=["scheme", "user", "secret", "event", "no event", "include", "network", "retries"],
)
def test_a_setting_that_cannot_be_used_is_refused_without_its_secrets(settings, why, tmp_path):
    from jobs_core.config_sources import load

    file = tmp_path / "jobs.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**GOOD, **settings}.items()]
    file.write_text("[webhooks.crm]\n" + "\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert why in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("url = 'https://example.com/'", "needs either secret or secret_file"),
        ("secret_file = 'x'", "needs either url or url_file"),
        ("url = 'https://example.com/'\nsecret_file = 'x'\nevents = ['done']", "name the topics"),
        ("url = 'https://example.com/'\nsecret_file = 'x'\ntopics = ['webhooks']", "cause none"),
    ],
    ids=["no secret", "no url", "done of all", "own topic"],
)
def test_keys_that_do_not_go_together_are_refused(text, why, tmp_path):
    from jobs_core.config_sources import load

    file = tmp_path / "jobs.toml"
    file.write_text(f"[webhooks.crm]\n{text}\n")
    with pytest.raises(ConfigError, match=why):
        load(file, environ={})


# -- the housekeeper -----------------------------------------------------------------------------------------


def test_a_hook_that_fails_does_not_stop_the_housekeeper_and_is_logged(receiver, monkeypatch, caplog):
    from jobs_core.supervisor.housekeeper import webhooks
    from jobs_core.supervisor.housekeeper.alerts import message

    app = application(receiver, events=["backlog"])
    told = webhooks.Webhooks(app)
    backend = app.new_backend()
    backend.open(None)

    def fails(*_, **__):
        raise RuntimeError("a hook of the application")

    with monkeypatch.context() as patch:
        patch.setattr(webhooks, "made", fails)
        told.alert(message(app.config, "backlog", "default", Counts(ready=9), 60.0))
    told.work(backend)
    assert "event topic.backlog for webhook crm could not be made: RuntimeError: a hook of the application" in caplog.text
    told.alert(message(app.config, "backlog", "default", Counts(ready=9), 60.0))
    told.work(backend)
    assert backend.counts(["webhooks"])["webhooks"].ready == 1
    backend.close()


@pytest.fixture
def housekeeper(receiver):
    """The events of an application whose receiver wants to know of dead letters, with its backend."""
    from jobs_core.supervisor.housekeeper import webhooks

    app = application(receiver, events=["dead"], include=["error", "arguments"])
    told = webhooks.Webhooks(app)
    backend = app.new_backend()
    backend.open("keeper")

    def look():
        told._next = 0.0
        told.work(backend)
        drain(app, ["webhooks"])
        found, receiver.bodies = [body["data"] for body in receiver.bodies], []
        return found

    look()
    yield app, backend, look
    backend.close()


def test_what_an_operator_discards_is_told_once_with_who_and_why_whatever_it_raised_before(housekeeper):
    app, backend, look = housekeeper

    @job(registry=app.registry, name="note")
    def note(text: str) -> None: ...

    fresh, failed = note.using(topic="other").enqueue("one"), note.enqueue("two")
    [delivery] = backend.reserve(["default"], 1, new_token())
    error = b'{"type": "ValueError", "message": "two", "traceback": ""}'
    backend.settle([Settlement(delivery.id, delivery.token, Outcome.RETRY, after=3600.0, error=error)], new_token())
    assert look() == []
    with acting_as("eve"):
        assert discard(backend, [fresh.id, failed.id], "a mistake") == 2
    wanted = {"job": "note", "kwargs": {}, "reason": "discarded by eve: a mistake", "error": ""}
    assert sorted(look(), key=lambda data: data["args"]) == [
        {**wanted, "id": fresh.id, "topic": "other", "attempt": 0, "args": ["one"]},
        {**wanted, "id": failed.id, "topic": "default", "attempt": 1, "args": ["two"]},
    ]
    assert look() == []
    groups = backend.dead_groups(["default"], 10)
    assert [group.fingerprint.kind for group in groups] == ["discarded by eve: a mistake"]


def test_a_letter_that_is_discarded_again_is_told_again(housekeeper):
    app, backend, look = housekeeper

    @job(registry=app.registry, name="note")
    def note() -> None: ...

    told = note.enqueue()
    for _ in range(2):
        assert discard(backend, [told.id], "a mistake") == 1
        assert [data["id"] for data in look()] == [told.id]
        assert backend.requeue([told.id]) == 1


def test_an_addition_that_its_flow_refuses_is_told(housekeeper):
    app, _, look = housekeeper

    @job(registry=app.registry, name="single", unique="a key")
    def single() -> None: ...

    @job(registry=app.registry, name="adds")
    def adds() -> None:
        current_job().flow.add(single.call())

    holder = single.using(topic="other").enqueue()
    with Flow() as flow:
        flow.add(adds.call())
    drain(app, ["default"])
    [data] = look()
    assert data["job"] == "single"
    assert f"cannot be a member of flow {flow.id}: its unique key is held by {holder.id}" in data["reason"]


def test_many_letters_are_told_and_those_that_workers_told_or_that_died_before_are_not(housekeeper, monkeypatch):
    from jobs_core.supervisor.housekeeper import untold, webhooks

    app, backend, look = housekeeper
    monkeypatch.setattr(untold, "PAGE", 10)

    @job(registry=app.registry, name="note", retries=0)
    def note(fails: bool) -> None:
        raise ValueError("no")

    handles = note.enqueue_many([(False,)] * 35)
    assert discard(backend, [handle.id for handle in handles[:25]], "old") == 25
    assert len(look()) == 25
    discard(backend, [handle.id for handle in handles[25:30]], "old")
    assert len(look()) == 5
    drain(app, ["default"])
    drain(app, ["webhooks"])
    assert len(look()) == 5, "told by the worker alone"
    late = webhooks.Webhooks(app)
    late.work(backend)
    assert backend.counts(["webhooks"])["webhooks"].ready == 0, "another housekeeper tells nothing again"


def test_an_event_is_never_about_an_event(housekeeper):
    from jobs_core.webhooks.announcing import made

    app, backend, look = housekeeper
    backend.push([made(app, "crm", "test", {})], new_token())
    [record] = backend.browse("webhooks", State.READY, 10)
    assert discard(backend, [record.id], "not wanted") == 1
    assert look() == []


def test_a_topic_that_is_behind_now_and_then_is_told_once_in_each_repeat(receiver):
    """A backlog that comes and goes every second for an hour is one event, and one for its end."""
    from jobs_core.plugins import Plugins
    from jobs_core.supervisor.housekeeper.alerts import TopicAlerts
    from jobs_core.supervisor.housekeeper.webhooks import Webhooks

    app = application(receiver, events=["backlog"])
    told = Webhooks(app)
    backend = app.new_backend()
    backend.open(None)
    config = Config(topics={"default": Topic(alert_above=5)}, alerts=Alerts(after=0.0, repeat=3600.0))
    alerts = TopicAlerts(config, Plugins([]), also=told.alert)
    for second in range(3600):
        alerts.check(float(second), {"default": Counts(ready=9 * (second % 2))})
        told.work(backend)
    messages = [app.read(record) for record in backend.browse("webhooks", State.READY, 10)]
    assert [message.args[1] for message in messages] == ["topic.backlog", "topic.caught_up"]
    backend.close()


def test_during_an_outage_the_newest_alert_of_each_topic_is_kept_and_pushed_once(receiver):
    from jobs_core import BackendUnavailable
    from jobs_core.supervisor.housekeeper.alerts import message
    from jobs_core.supervisor.housekeeper.webhooks import Webhooks

    app = application(receiver, events=["backlog"])
    told = Webhooks(app)
    backend = app.new_backend()
    backend.open(None)
    pushed = []
    push = backend.push

    def cut_off(jobs, request):
        pushed.append(request)
        push(jobs, request)
        raise BackendUnavailable("the answer is lost")

    told.alert(message(app.config, "backlog", "default", Counts(ready=8), 60.0))
    told.alert(message(app.config, "backlog", "default", Counts(ready=9), 60.0))
    backend.push = cut_off
    with pytest.raises(BackendUnavailable):
        told.work(backend)
    backend.push = lambda jobs, request: (pushed.append(request), push(jobs, request))[1]
    told.work(backend)
    assert pushed[0] == pushed[1]
    assert backend.counts(["webhooks"])["webhooks"].ready == 1
    backend.close()
