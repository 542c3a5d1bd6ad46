"""Every form of URL leads to its server, with its certificates, users and prefixes; an invalid one shows the valid forms."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.errors import BackendError, BackendUnavailable
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.testing.services import free_port, program
from jobs_core.testing.services.redis import RedisServer, sentinels, server_program
from jobs_core.urls import scheme
from jobs_redis.url import parse

PATIENT = "sentinel down-after-milliseconds jobs 600000"
"""A setting of a sentinel that takes no server of a slow machine for failed."""


def made(url):
    return Plugins.discover().choose("jobs_queue_backends", scheme(url), "backend")(url, BackendOptions())


def pass_a_job(url):
    """Push a job and reserve it, through separate connections."""
    producer, worker = made(url), made(url)
    try:
        producer.open(None)
        worker.open("worker")
        producer.push([Outgoing("one", "t", b"{}")], new_token())
        assert worker.wait(["t"], 60.0)
        assert [delivery.id for delivery in worker.reserve(["t"], 10, new_token())] == ["one"]
    finally:
        producer.close()
        worker.close()


# -- read ------------------------------------------------------------------------------------------


def test_the_parts_of_a_url_are_read():
    target = parse("redis://shop:s%40crets@redis.example:7000/3?prefix=shop")
    assert (target.kind, target.addresses, target.db, target.prefix) == ("server", (("redis.example", 7000),), 3, "shop")
    assert (target.username, target.password) == ("shop", "s@crets")
    assert parse("redis://").addresses == (("localhost", 6379),)
    assert parse("redis://[::1]:7000").addresses == (("::1", 7000),)
    sentinel = parse("redis+sentinel://a,b:7001,c/shop/2?replicas=1")
    assert sentinel.addresses == (("a", 26379), ("b", 7001), ("c", 26379))
    assert (sentinel.kind, sentinel.service, sentinel.db, sentinel.replicas) == ("sentinel", "shop", 2, 1)
    assert parse("redis+cluster://a:7001,b:7002").addresses == (("a", 7001), ("b", 7002))
    assert parse("redis+unix:///run/redis.sock?db=1").path == "/run/redis.sock"


def test_a_secret_is_never_shown():
    for url in ("redis://shop:geheim@h", "redis+sentinel://u:geheim@a,b/s", "redis+cluster://:geheim@a"):
        assert "geheim" not in f"{parse(url)} {parse(url)!r} {parse(url).shown}"
    with pytest.raises(BackendError) as failed:
        parse("redis://shop:geheim@h/one")
    assert "geheim" not in str(failed.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://h?prefx=a", "unknown parameter prefx"),
        ("redis://h/one", "'one' is not a number"),
        ("redis://a,b", "several hosts"),
        ("redis+sentinel://a,b", "the name of the service"),
        ("redis+cluster://a/1", "a cluster has one database"),
        ("redis+cluster://a?replicas=1", "replicas is for"),
        ("redis+unix://", "the path of the socket"),
        ("redis+sentinel://a,,b/s", "the host is missing"),
    ],
)
def test_a_wrong_url_is_reported_with_the_valid_forms(url, why):
    with pytest.raises(BackendError, match=why) as failed:
        parse(url)
    assert "redis+cluster://" in str(failed.value)


# -- followed --------------------------------------------------------------------------------------


def test_jobs_pass_through_a_socket_of_this_machine(tmp_path):
    socket = tmp_path / "redis.sock"
    with RedisServer(tmp_path / "redis", "--unixsocket", str(socket)):
        pass_a_job(f"redis+unix://{socket}?db=2")


def test_jobs_pass_with_a_password_and_not_without(tmp_path):
    with RedisServer(tmp_path / "redis", "--requirepass", "s3cret") as server:
        pass_a_job(f"redis://:s3cret@127.0.0.1:{server.port}/0")
        with pytest.raises(BackendError, match="it requires a password"):
            pass_a_job(f"redis://127.0.0.1:{server.port}/0")


def test_jobs_pass_through_sentinels_that_have_a_password_of_their_own(tmp_path):
    settings = ["requirepass of-sentinels", "sentinel auth-pass jobs of-redis", PATIENT]
    with (
        RedisServer(tmp_path / "redis", "--requirepass", "of-redis") as master,
        sentinels(tmp_path, master, 1, settings=settings)[0] as watcher,
    ):
        url, let_in = f"redis+sentinel://:of-redis@127.0.0.1:{watcher.port}", "?sentinel_password=of-sentinels"
        pass_a_job(f"{url}/jobs{let_in}")
        with pytest.raises(BackendError, match="requires a password of its own") as refused:
            pass_a_job(f"{url}/jobs")
        assert "of-redis" not in str(refused.value)
        with pytest.raises(BackendUnavailable, match="watches no service 'shop'"):
            pass_a_job(f"{url}/shop{let_in}")
        with pytest.raises(BackendError, match="wrong user or password"):
            pass_a_job(f"redis+sentinel://:x@127.0.0.1:{watcher.port}/jobs{let_in}")


def test_prefixes_keep_installations_apart(redis_server):
    port, one, other = redis_server.port, new_token(), new_token()
    first, second = made(f"redis://127.0.0.1:{port}?prefix={one}"), made(f"redis://127.0.0.1:{port}?prefix={other}")
    for backend in (first, second):
        backend.open("worker")
    first.push([Outgoing("one", "t", b"{}")], new_token())
    assert second.reserve(["t"], 10, new_token()) == []
    assert len(first.reserve(["t"], 10, new_token())) == 1
    for backend in (first, second):
        backend.close()


@pytest.fixture
def certificate(tmp_path):
    """Create a self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            program("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=jobs", "-addext", "subjectAltName=IP:127.0.0.1",
            "-out", certificate, "-keyout", key,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def tls_server(tmp_path):
    """Return the path to a server program with TLS support; some builds of other versions lack it."""
    without_certificate = [server_program(), "--port", "0", "--tls-port", "1"]  # which ends it at once, in any build
    refused = subprocess.run(without_certificate, capture_output=True, text=True, timeout=60)
    if "Failed to configure TLS" not in refused.stdout + refused.stderr:
        pytest.skip(f"{server_program()} was built without TLS")


@pytest.mark.usefixtures("tls_server")
def test_jobs_pass_over_tls_if_the_certificate_is_trusted_and_not_otherwise(tmp_path, certificate):
    file, key = certificate
    port = RedisServer(tmp_path / "unused").port
    options = ["--tls-port", str(port), "--tls-cert-file", str(file), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    with RedisServer(tmp_path / "redis", *options):
        pass_a_job(f"rediss://127.0.0.1:{port}?ca={file}")
        with pytest.raises(BackendUnavailable, match="certificate"):
            pass_a_job(f"rediss://127.0.0.1:{port}")
        with pytest.raises(BackendUnavailable, match=r"certificate|match|mismatch"):
            pass_a_job(f"rediss://localhost:{port}?ca={file}")


@pytest.mark.usefixtures("tls_server")
def test_a_server_that_asks_for_a_client_certificate_gets_it(tmp_path, certificate):
    file, key = certificate
    port = free_port()
    options = [
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(file),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(file),
    ]
    with RedisServer(tmp_path / "redis", *options):
        pass_a_job(f"rediss://127.0.0.1:{port}?ca={file}&cert={file}&key={key}")
        with pytest.raises(BackendUnavailable):
            pass_a_job(f"rediss://127.0.0.1:{port}?ca={file}")


@pytest.mark.usefixtures("tls_server")
def test_jobs_pass_through_sentinels_and_their_master_over_tls(tmp_path, certificate):
    file, key = certificate
    options = {
        "tls-port": str(free_port()),
        "tls-cert-file": str(file),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(file),
        "tls-auth-clients": "no",
    }
    watched = SimpleNamespace(port=int(options["tls-port"]))
    port = free_port()
    settings = [f"{name} {value}" for name, value in {**options, "tls-port": port, "tls-replication": "yes"}.items()]
    settings.append(PATIENT)
    with (
        RedisServer(tmp_path / "redis", *(word for name, value in options.items() for word in (f"--{name}", value))),
        sentinels(tmp_path, watched, 1, settings=settings)[0],
    ):
        url = f"redis+sentinel://127.0.0.1:{port}/jobs?tls=yes"
        pass_a_job(f"{url}&ca={file}")
        with pytest.raises(BackendUnavailable, match="certificate"):
            pass_a_job(url)
