"""Large arguments are kept beside the queue, and go when no job needs them any more."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest

from jobs_core import App, current_job, job
from jobs_core.backends.base import Delivery, Outcome, Outgoing, Settlement, State
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Payloads, Pool
from jobs_core.errors import BackendUnavailable, ConfigError, MessageTooLarge, PayloadError, PayloadStoreUnavailable
from jobs_core.ids import new_token
from jobs_core.message import PACKED_VERSION, Body, PackedMessage, encode, new_message
from jobs_core.payloads.cleaning import clean
from jobs_core.payloads.store import FileStore, blob_name, job_of, open_store
from jobs_core.plugins import Plugins
from jobs_core.registry import default_registry
from jobs_core.testing import JobsQueue
from jobs_core.units import Duration, Size
from jobs_core.worker.decoder import Decoder
from jobs_core.worker.main import Worker

from ..support.project import until

KEY = "k1:0123456789abcdefghijklmnopqrstuvwxyz"
LONG = "x" * 5000
ZEROS = "0" * 32
DAY = 86400


@pytest.fixture(scope="module")
def s3_url():
    """A bucket on a local server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the server's libraries
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            boto3.client("s3").create_bucket(Bucket="payloads")
        yield "s3://payloads/mine"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    return f"file://{tmp_path}/blobs" if request.param == "file" else request.getfixturevalue("s3_url")


@pytest.fixture
def app_with(registry):
    made = []

    def app_with(url, backend=None, **settings):
        keys = settings.pop("keys", [])
        timeout = settings.pop("enqueue_timeout", Duration(5))
        payloads = Payloads(url=url, above=Size(1000), **settings)
        config = Config(
            backend=backend or f"memory://{new_token()}",
            encryption_keys=keys,
            payloads=payloads,
            max_message=Size(2000),
            enqueue_timeout=timeout,
        )
        made.append(App(config, plugins=Plugins(), registry=registry))
        return made[-1]

    yield app_with
    for app in made:
        app.close()
        forget(app.backend_url)


@pytest.fixture
def took(registry):
    """The arguments that the jobs received."""
    return []


@pytest.fixture
def take(registry, took):
    @job(registry=registry, name="take", retries=0)
    def take(text: str, end: str = "done") -> None:
        took.append(text)
        assert current_job().message.args[0] == text
        if end == "dead":
            raise ValueError(end)

    return take


@pytest.fixture
def atake(registry, took):
    @job(registry=registry, name="atake", retries=0)
    async def atake(text: str, end: str = "done") -> None:
        took.append(text)
        if end == "dead":
            raise ValueError(end)

    return atake


def names(app):
    return [blob.name for blob in app.payloads.store.blobs()]


def drain(app, mode="sync"):
    pool = Pool(mode=mode, concurrency=1 if mode == "sync" else 4)
    worker = Worker(app, "w", pool, None, drain=True, keeps_house=False)
    if mode == "sync":
        worker.run()
        return
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def dead(app):
    return app.operate(lambda backend: backend.browse("default", State.DEAD, 10))


def record_of(app, handle):
    return json.loads(app.find(handle.id).payload)


# -- the way of a job ------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_large_arguments_are_beside_the_queue_until_their_job_is_done(app_with, url, take, took, keys):
    app = app_with(url, keys=list(keys))
    small, large = app.enqueue(take.call("small")), app.enqueue(take.call(LONG))
    assert "ref" not in record_of(app, small).get("body", {})
    assert [record_of(app, large)["body"]["ref"]] == names(app)
    stored = app.payloads.store.get(names(app)[0], 10_000)
    assert (LONG.encode() in stored) == (not keys)
    assert app.read(app.find(large.id)).args == [LONG]
    drain(app)
    assert took == ["small", LONG]
    assert names(app) == []


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
@pytest.mark.parametrize("kind", ["take", "atake"])
def test_every_kind_of_worker_fetches_them(app_with, tmp_path, took, request, mode, kind):
    app = app_with(f"file://{tmp_path}/blobs")
    for end in ("done", "dead"):
        app.enqueue(request.getfixturevalue(kind).call(LONG, end))
    drain(app, mode)
    assert took == [LONG, LONG]
    [letter] = dead(app)
    assert letter.reason == "failed"
    assert len(names(app)) == 1  # a dead letter keeps its own
    app.operate(lambda backend: backend.requeue([letter.id]))
    drain(app, mode)
    assert took == [LONG] * 3


def test_a_job_that_is_acknowledged_early_has_its_arguments_until_it_ran(app_with, registry, tmp_path, took):
    @job(registry=registry, name="early", acks="early")
    def early(text: str) -> None:
        took.append(text)

    app = app_with(f"file://{tmp_path}/blobs")
    app.enqueue(early.call(LONG))
    drain(app)
    assert (took, names(app)) == ([LONG], [])


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("missing", "is missing in the payload store"),
        ("changed", "was changed or damaged"),
        ("longer", "is larger than payloads.limit"),
        ("another's", "the body names a blob that belongs to another job"),
        ("outside", "the body names a blob that belongs to another job"),
        ("unset", "set payloads.url here, too"),
    ],
)
def test_a_blob_that_cannot_be_used_makes_a_dead_letter_that_says_so(app_with, take, took, tmp_path, deed, says):
    app = app_with(f"file://{tmp_path}/blobs", limit=Size(6000))
    handle = app.enqueue(take.call(LONG))
    [file] = (tmp_path / "blobs").iterdir()
    if deed == "missing":
        file.unlink()
    elif deed == "changed":
        file.write_bytes(file.read_bytes().replace(b"x", b"y"))
    elif deed == "longer":
        file.write_bytes(bytes(7000))
    elif deed == "unset":
        app = app_with(None, backend=app.backend_url)
    else:
        message = record_of(app, handle)
        message["body"]["ref"] = blob_name("other") if deed == "another's" else "../../etc/passwd"
        sent = app.outgoing(new_message("take", "default", [], {}))
        app.operate(lambda backend: backend.purge("default", State.READY))
        changed = type(sent)(sent.id, "default", json.dumps(message).encode())
        app.operate(lambda backend: backend.push([changed], new_token()))
    drain(app)
    [letter] = dead(app)
    assert letter.reason == "bad payload"
    assert letter.attempt == 0
    assert says in json.loads(letter.errors[-1])["message"]
    assert took == []


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
@pytest.mark.parametrize(
    ("lost", "end", "arguments"),
    [
        ("before the run", "dead", []),
        ("in the run", "dead", [LONG, "dead"]),
        ("in the run", "done", [LONG, "done"]),
        ("never", "done", [LONG, "done"]),
    ],
)
def test_the_job_for_an_end_is_enqueued_though_the_store_is_gone(app_with, registry, tmp_path, mode, lost, end, arguments):
    told = []

    def lose():
        (tmp_path / "blobs").rename(tmp_path / "away")

    @job(registry=registry, name="tell")
    def tell(job: str, args: list[str]) -> None:
        told.append((job, args))

    @job(registry=registry, name="follow", retries=0, on_done=tell, on_dead=tell)
    def follow(texts: str, end: str) -> None:
        if lost == "in the run":
            lose()
        if end == "dead":
            raise ValueError(end)

    app = app_with(f"file://{tmp_path}/blobs")
    app.enqueue(follow.call(LONG, end))
    if lost == "before the run":
        lose()
    drain(app, mode)
    assert told == [("follow", arguments)]


def test_an_unusable_store_fails_an_enqueue_and_retries_a_job(app_with, take, took, tmp_path):
    app = app_with(f"file://{tmp_path}/blobs")
    app.enqueue(take.call(LONG))
    (tmp_path / "blobs").rename(tmp_path / "away")
    drain(app)
    [letter] = dead(app)
    assert (letter.reason, letter.attempt) == ("failed", 1)
    assert json.loads(letter.errors[-1])["type"].endswith("PayloadStoreUnavailable")
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(PayloadStoreUnavailable, match="the payload store .*/blobs cannot be used"):
        app.enqueue(take.call(LONG))
    assert took == []


def test_an_enqueue_ends_in_time_though_the_bucket_does_not_answer(app_with, take, s3_url, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        app = app_with(s3_url, enqueue_timeout=Duration(0.2))
        with pytest.raises(PayloadStoreUnavailable, match=r"did not take 5,0\d\d bytes within enqueue_timeout, 0.2 s"):
            app.enqueue(take.call(LONG))


def test_a_bucket_in_a_process_forked_after_its_first_use_is_an_error_that_says_so(app_with, take, s3_url):
    app = app_with(s3_url)
    name = blob_name("a")
    app.payloads.store.put(name, b"x")
    calls = {
        "put": lambda store: store.put(blob_name("b"), b"x"),
        "get": lambda store: store.get(name, 10),
        "delete": lambda store: store.delete([name]),
        "list": lambda store: list(store.blobs()),
    }

    def refused(call):
        try:
            call(open_store(s3_url))
        except PayloadStoreUnavailable as error:
            return "it was forked from one that has used the store" in str(error)
        return False

    child = os.fork()
    if child == 0:
        os._exit(sum(refused(call) for call in calls.values()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(calls)
    assert app.payloads.store.get(name, 10) == b"x"


@pytest.mark.parametrize("acks", ["late", "early"])
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_blob_is_kept_until_the_backend_has_confirmed_that_its_job_is_done(
    app_with, registry, took, tmp_path, monkeypatch, acks, confirmed
):
    settled = []

    @job(registry=registry, name="done", acks=acks)
    def done(text: str) -> None:
        took.append(text)

    def confirm(self):
        settled.append(len(took))
        if not confirmed:
            raise BackendUnavailable("the connection is lost")

    monkeypatch.setattr(MemoryBackend, "confirm", confirm)
    app = app_with(f"file://{tmp_path}/blobs")
    app.enqueue(done.call(LONG))
    drain(app)
    assert (took, settled, bool(names(app))) == ([LONG], [1], not confirmed)


def test_the_limit_is_for_the_arguments(app_with, take, tmp_path):
    with pytest.raises(MessageTooLarge, match=r"payloads\.limit"):
        app_with(f"file://{tmp_path}/blobs", limit=Size(3000)).enqueue(take.call(LONG))


def test_small_messages_are_as_without_a_store(app_with, tmp_path):
    message = new_message("take", "default", ["small"], {})
    assert app_with(f"file://{tmp_path}/blobs").outgoing(message).payload == encode(message)


# -- what is left over -----------------------------------------------------------------------------


def aged(tmp_path, name, age):
    os.utime(tmp_path / "blobs" / name, (time.time() - age,) * 2)


def test_unused_blobs_are_deleted_once_they_are_old(app_with, take, tmp_path):
    app = app_with(f"file://{tmp_path}/blobs", grace=Duration(DAY))
    needed = app.enqueue(take.call(LONG))
    drained = app.enqueue(take.using(topic="purged").call(LONG))
    app.operate(lambda backend: backend.purge("purged", State.READY))
    fresh, foreign = blob_name("unknown"), "README"
    for name in (fresh, foreign, f"{blob_name('unknown')}.tmp", blob_name(needed.id)):
        (tmp_path / "blobs" / name).write_bytes(b"x")
    for name in os.listdir(tmp_path / "blobs"):
        if name != fresh:
            aged(tmp_path, name, 2 * DAY)
    assert app.clean_payloads() == 3  # the purged job's, the unfinished one, and one that its job does not name
    assert sorted(names(app)) == sorted([fresh, foreign, record_of(app, needed)["body"]["ref"]])
    assert all(job_of(name) != drained.id for name in names(app))


def test_where_jobs_cannot_be_looked_up_age_alone_decides(tmp_path):
    store = FileStore(tmp_path / "blobs", syncs=False)
    for job_id, age in (("young", DAY), ("old", 70 * DAY)):
        store.put(f"{job_id}.{'0' * 32}", b"x")
        aged(tmp_path, f"{job_id}.{'0' * 32}", age)
    assert clean(store, find=None, envelope=lambda record: pytest.fail("looked up"), grace=DAY, keep=60 * DAY) == 1
    assert [job_of(blob.name) for blob in store.blobs()] == ["young"]


@pytest.mark.parametrize(
    ("point", "left", "queued"),
    [("payload.before_rename", ".tmp", 0), ("payload.after_put", "", 0), ("push.before", "", 0), ("push.after", "", 1)],
)
def test_a_producer_that_dies_at_any_step_leaves_no_job_without_arguments(app_with, take, tmp_path, point, left, queued):
    program = (
        "from jobs_core import App, job\n"
        "from jobs_core.config import *\n"
        "from jobs_core.plugins import Plugins\n"
        "@job(name='take')\n"
        "def take(text: str, end: str = 'done') -> None: ...\n"
        f"payloads = Payloads(url='file://{tmp_path}/blobs', above=Size(1000))\n"
        f"app = App(Config(backend='sqlite:///{tmp_path}/q.db', payloads=payloads), plugins=Plugins())\n"
        "app.enqueue(take.call('x' * 5000))\n"
    )
    environment = {**os.environ, "JOBS_FAILPOINT": f"{point}=kill"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == -signal.SIGKILL
    [file] = os.listdir(tmp_path / "blobs")
    assert file.endswith(left)
    app = app_with(f"file://{tmp_path}/blobs", backend=f"sqlite:///{tmp_path}/q.db", grace=Duration(DAY))
    aged(tmp_path, file, 2 * DAY)
    assert app.clean_payloads() == 1 - queued
    drain(app)
    assert (dead(app), names(app)) == ([], [])


# -- names and places ------------------------------------------------------------------------------


@pytest.mark.parametrize("job_id", ["0192-a", "a/../b", "_x", "ö ü", "x" * 128, "ä" * 64, "a.b", "-"])
def test_the_name_of_a_blob_contains_its_job_and_is_a_plain_file_name(job_id):
    name = blob_name(job_id)
    assert job_of(name) == job_id
    assert name != blob_name(job_id)
    assert len(name) <= 220
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert not name.startswith(".")


@pytest.mark.parametrize("name", ["", "a", "../a." + "0" * 32, "a." + "0" * 31, ".tmp", "_!." + "0" * 32, "a/b." + "0" * 32])
def test_other_names_are_not_blobs(name):
    assert job_of(name) is None


@pytest.mark.parametrize(
    "url", ["file://host/dir", "file:///", "ftp://x/y", "s3://", "file:///x?sync=no", "file:///x?durability=no"]
)
def test_a_url_that_names_no_store_is_refused(url):
    with pytest.raises(ConfigError, match="payloads.url: expected"):
        open_store(url)


@pytest.mark.parametrize("kind", ["a link to a file", "a dangling link", "a circle of links", "a pipe", "a directory"])
def test_only_a_file_is_read_as_a_blob(tmp_path, kind):
    store = open_store(f"file://{tmp_path}/blobs")
    store.put(blob_name("first"), b"mine")
    name = blob_name("other")
    place = tmp_path / "blobs" / name
    (tmp_path / "secret").write_text("of another application")
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a directory":
        place.mkdir()
    else:
        place.symlink_to({"a link to a file": tmp_path / "secret", "a circle of links": place}.get(kind, tmp_path / "none"))
    assert store.get(name, 100) is None
    assert {job_of(blob.name) for blob in store.blobs()} == {"first", "other"}


@pytest.mark.parametrize("ref", ["../secret", "/etc/passwd", "first.x", f"../first.{ZEROS}", f"first.{ZEROS}/..", ""])
def test_a_reference_that_is_no_name_of_the_jobs_own_blob_is_never_read(app_with, tmp_path, ref, monkeypatch):
    app = app_with(f"file://{tmp_path}/blobs")
    monkeypatch.setattr(app.payloads.store, "get", lambda *read: pytest.fail(f"read {read}"))
    for mine in (new_message("take", "default", [], {}, id="first"), new_message("take", "default", [], {}, id="../first")):
        fields = {name: getattr(mine, name) for name in mine.__struct_fields__}
        packed = PackedMessage(**{**fields, "v": PACKED_VERSION, "body": Body(ref=ref, sha256="0" * 64)})
        with pytest.raises(PayloadError, match="belongs to another job"):
            app.payloads.unpacked(packed)


REFS = ["../secret", "/etc/passwd", "first.x", f"../first.{ZEROS}", f"first.{ZEROS}/..", f"another.{ZEROS}", "."]


@pytest.mark.parametrize("ref", REFS)
def test_a_message_that_names_what_is_not_its_blob_can_neither_read_nor_delete_it(app_with, take, took, tmp_path, ref, caplog):
    """The blob of a job is deleted when it is done or cancelled, so its name has to be checked before the job may start."""
    app = app_with(f"file://{tmp_path}/blobs")
    store = app.payloads.store
    store.put(f"another.{ZEROS}", b"of another job")
    (tmp_path / "secret").write_text("of another application")
    mine = new_message("take", "default", [], {}, id="first")
    fields = {name: getattr(mine, name) for name in mine.__struct_fields__}
    packed = PackedMessage(**{**fields, "v": PACKED_VERSION, "body": Body(ref=ref, sha256=ZEROS * 2)})
    app._producer.push([Outgoing("first", "default", encode(packed))], 5.0)
    drain(app)
    (letter,) = dead(app)
    assert letter.reason == "bad payload"
    assert "belongs to another job" in caplog.text
    store.delete([ref] if ref != f"another.{ZEROS}" else [])
    assert store.get(ref, 100) is None or ref == f"another.{ZEROS}"
    app.payloads.discarder.flush(5.0)
    assert (tmp_path / "secret").exists()
    assert names(app) == [f"another.{ZEROS}"]
    assert took == []


def test_a_decoder_never_accepts_a_run_with_a_blob_of_another_job(app_with, take, tmp_path):
    decoder = Decoder(app_with(f"file://{tmp_path}/blobs"))
    for ref in REFS:
        mine = new_message("take", "default", [], {}, id="first")
        fields = {name: getattr(mine, name) for name in mine.__struct_fields__}
        packed = PackedMessage(**{**fields, "v": PACKED_VERSION, "body": Body(ref=ref, sha256=ZEROS * 2)})
        ending = decoder.accept(Delivery("first", "default", encode(packed), "token", 0, 0, 0, 0, 0.0, 0.0))
        assert isinstance(ending, Settlement), ref  # a run could be cancelled, and its blob deleted, before it is loaded
        assert ending.outcome is Outcome.DEAD


def test_a_worker_without_a_supervisor_cleans_the_store(app_with, take, took, tmp_path):
    app = app_with(f"file://{tmp_path}/blobs", grace=Duration(0.0))
    app.payloads.store.put(blob_name("gone"), b"left over")
    app.enqueue(take.call(LONG))
    worker = Worker(app, "p", Pool(), None)

    def wait_until_it_is_clean():
        try:
            until(lambda: not list((tmp_path / "blobs").iterdir()))
        finally:
            worker.courier.stop()

    waiting = threading.Thread(target=wait_until_it_is_clean)
    waiting.start()
    worker.run()
    waiting.join()
    assert not list((tmp_path / "blobs").iterdir())
    assert len(took) == 1


def test_blobs_are_private_to_this_user(tmp_path):
    store = open_store(f"file://{tmp_path}/blobs?durability=process")
    store.put(blob_name("a"), b"x")
    [file] = (tmp_path / "blobs").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    (tmp_path / "blobs").chmod(0o777)
    with pytest.raises(PayloadStoreUnavailable, match="other users may write"):
        store.put(blob_name("a"), b"x")


def test_tests_of_applications_run_such_jobs_too(tmp_path):
    took = []

    @job(name="inline")
    def inline(text: str) -> None:
        took.append(text)

    with JobsQueue(Config(payloads=Payloads(url=f"file://{tmp_path}/blobs", above=Size(1000)))) as queue:
        inline.enqueue(LONG)
        queue.assert_enqueued(inline, LONG)
        queue.drain()
    default_registry._jobs.pop("inline")
    assert took == [LONG]
