"""`jobsctl check` tries the payload store, and shows what is encrypted. The server of the bucket is a stand-in."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from jobs_core import App, Config
from jobs_core.errors import ConfigError, PayloadStoreUnavailable
from jobs_core.payloads.store import blob_name, open_store

SECRET = "9" * 40


class Bucket(ThreadingHTTPServer):
    """A server of one bucket: it keeps objects, or answers each request with an error."""

    error: tuple[int, str] | None = None
    environment: dict[str, str]
    """The variables with which a client finds it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Bucket

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.may():
            self.server.objects[urlsplit(self.path).path] = body
            self.answer(200)

    def do_GET(self) -> None:
        if self.may():
            body = self.server.objects.get(urlsplit(self.path).path)
            self.answer(404, code("NoSuchKey")) if body is None else self.answer(200, body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.may():
            keys = re.findall("<Key>(.*?)</Key>", body)
            for key in keys:
                self.server.objects.pop(f"/bucket/{key}", None)
            gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def may(self) -> bool:
        if self.server.error is not None:
            self.answer(self.server.error[0], code(self.server.error[1]))
        return self.server.error is None

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (("ETag", "1"), ("Last-Modified", "Fri, 27 Nov 2026 00:00:00 GMT"), ("Content-Length", len(body))):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *what: object) -> None:
        pass


def code(name: str) -> bytes:
    return f"<Error><Code>{name}</Code><Message>because</Message></Error>".encode()


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server.environment = environment
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


ERRORS = {
    "no such bucket": (404, "NoSuchBucket"),
    "no permission": (403, "AccessDenied"),
    "no such key": (403, "InvalidAccessKeyId"),
}


def test_check_tries_a_bucket_and_names_it(project, bucket):
    project.configure("payloads.url = 's3://bucket/mine'")
    assert "the payload store is s3://bucket/mine; a blob was written, read and deleted" in project.here(
        "check", **bucket.environment
    )
    assert bucket.objects == {}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_check_fails_for_a_bucket_that_cannot_be_used(project, bucket, error):
    project.configure("payloads.url = 's3://bucket/mine'")
    bucket.error = error
    said = project.here("check", code=2, **bucket.environment)
    assert "jobs.toml: payloads.url: the payload store s3://bucket/mine cannot be used: " in said
    assert error[1] in said
    assert "(at line 3)" in said
    assert "Traceback" not in said
    assert SECRET not in said


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_every_operation_on_a_bucket_that_cannot_be_used_raises_our_error(bucket, error):
    bucket.error = error
    store, name = open_store("s3://bucket/mine", patient=False), blob_name("job")
    for operation in (lambda: store.put(name, b"x"), lambda: store.get(name, 10), lambda: list(store.blobs()), store.check):
        with pytest.raises(PayloadStoreUnavailable, match="^the payload store s3://bucket/mine cannot be used: ") as raised:
            operation()
        assert "\n" not in str(raised.value)


def test_a_missing_blob_is_no_outage(bucket):
    assert open_store("s3://bucket/mine").get(blob_name("job"), 10) is None


def test_an_enqueue_to_a_bucket_that_cannot_be_used_raises_our_error(bucket, registry):
    from jobs_core import job, set_current_app

    @job(registry=registry, name="big")
    def big(text): ...

    bucket.error = (404, "NoSuchBucket")
    app = App(Config(backend="memory://bucket", payloads={"url": "s3://bucket/mine", "above": 10}), registry=registry)
    set_current_app(app)
    try:
        with pytest.raises(PayloadStoreUnavailable, match="s3://bucket/mine cannot be used: .*NoSuchBucket"):
            big.enqueue("x" * 100)
    finally:
        set_current_app(None)
        app.close()


def test_missing_credentials_are_an_error_of_the_configuration(bucket, monkeypatch, project):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match=r"s3://bucket/mine cannot be used: .*AccessKeyId.*: set AWS_ACCESS_KEY_ID"):
        App(Config(payloads={"url": "s3://bucket/mine"}))
    project.configure("payloads.url = 's3://bucket/mine'")
    assert "payloads.url: s3://bucket/mine cannot be used" in project.here("check", code=2, AWS_SECRET_ACCESS_KEY=SECRET)


def test_check_tries_a_directory_and_leaves_nothing_there(project, tmp_path):
    project.configure(f"payloads.url = 'file://{tmp_path}/blobs'")
    assert "; the first blob creates it" in project.here("check")
    assert not (tmp_path / "blobs").exists()
    (tmp_path / "blobs").mkdir(mode=0o700)
    assert "; a blob was written, read and deleted" in project.here("check")
    assert list((tmp_path / "blobs").iterdir()) == []


KEY = f'encryption_keys = ["k1:{SECRET}"]\n'
ENCRYPTED = {
    "no keys": ("", "not encrypted: there are no encryption_keys"),
    "keys": (KEY, "arguments and results are encrypted\n"),
    "keys but a topic": (KEY + "topics.open.encrypt = false", "are encrypted, but not in the topics open\n"),
    "one topic": (KEY + "defaults.encrypt = false\ntopics.secret.encrypt = true", "are encrypted only in the topics secret\n"),
    "no topic": (KEY + "defaults.encrypt = false", "are encrypted in no topic, although there are encryption_keys"),
    "a job": (KEY, "arguments and results of tasks.plain are not encrypted, by @job(encrypt=False)"),
}


@pytest.mark.parametrize(("configuration", "says"), ENCRYPTED.values(), ids=ENCRYPTED)
def test_check_shows_which_arguments_are_encrypted_and_no_key(project, configuration, says):
    (project.root / "tasks.py").write_text("from jobs_core import job\n@job(encrypt=False)\ndef plain(): ...\n")
    project.configure(configuration)
    said = project.here("check")
    assert says in said
    assert SECRET not in said
    assert "k1" not in said
