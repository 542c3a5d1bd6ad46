"""Several hosts, TLS, and the errors for URLs and servers that cannot work."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.errors import BackendError, BackendUnavailable, NotSupported
from jobs_core.ids import new_id, new_token
from jobs_core.message import UniqueKey
from jobs_core.testing.services import free_port
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_rabbitmq import _create
from jobs_rabbitmq.topology import LONGEST, STEP, Names, level_of
from jobs_rabbitmq.url import parse


def opened(url):
    backend = _create(url, BackendOptions())
    backend.open(None)
    return backend


def test_the_next_host_is_tried_where_one_does_not_answer(rabbitmq_url):
    before, _, rest = rabbitmq_url.partition("127.0.0.1")
    backend = opened(f"{before}127.0.0.1:{free_port()},127.0.0.1{rest}")
    assert backend.push([Outgoing(new_id(), "a", b"x")], new_token()) == {}
    backend.close()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("guest:guest", "guest:wrong"), BackendError, "wrong user or password"),
        (("127.0.0.1", "127.0.0.1:1,127.0.0.1:2/x?"), BackendError, "unknown parameter"),
        (("/v", "/nowhere-v"), BackendError, "virtual host does not exist"),
        (("amqp://", "amqps://"), BackendUnavailable, "cannot be reached"),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(rabbitmq_url, change, error, says):
    with pytest.raises(error, match=says):
        opened(rabbitmq_url.replace(*change))


def test_an_unsupported_call_names_the_missing_setting(rabbitmq_url):
    backend = opened(rabbitmq_url)
    keyed = Outgoing(new_id(), "a", b"x", unique=UniqueKey("key"))
    for call in (lambda: backend.get("x"), lambda: backend.cancel("x"), lambda: backend.push([keyed], new_token())):
        with pytest.raises(NotSupported, match=r"\[results\] url = "):
            call()
    backend.close()


def certify(directory):
    """Create an authority, and a certificate of it for this machine, valid for server and client."""
    (directory / "names").write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )  # Python 3.13 requires everything that the standard requires
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -addext keyUsage=keyCertSign "
        "-keyout ca-key.pem -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem",
        "x509 -req -days 2 -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile names -out certificate.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


def test_tls_is_verified_on_both_sides(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed: apt-get install openssl")
    certify(tmp_path)
    ca, key, certificate = (tmp_path / name for name in ("ca.pem", "key.pem", "certificate.pem"))
    port = free_port()
    config = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {ca}\n"
        f"ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
    )
    with RabbitMQNode(tmp_path / "node", config=config) as node:
        url = node.url(node.make_vhost(), port=port).replace("amqp://", "amqps://")
        backend = opened(f"{url}?ca={ca}&cert={certificate}&key={key}")
        assert backend.push([Outgoing(new_id(), "a", bytes(300_000))], new_token()) == {}
        backend.close()
        with pytest.raises(BackendError, match="certificate cannot be trusted"):
            opened(url)
        with pytest.raises(BackendUnavailable):
            opened(f"{url}?ca={ca}")  # the node requires client certificates


def test_installations_with_prefixes_of_their_own_share_a_virtual_host(rabbitmq_url):
    shop, office = opened(f"{rabbitmq_url}?prefix=shop"), _create(f"{rabbitmq_url}?prefix=office", BackendOptions())
    office.open("w")
    shop.push([Outgoing(new_id(), "a", b"theirs"), Outgoing(new_id(), "a", b"theirs, later", delay=0.05)], new_token())
    office.push([Outgoing(new_id(), "a", b"ours", delay=0.2)], new_token())
    assert office.wait(["a"], 60.0)
    assert [delivery.payload for delivery in office.reserve(["a"], 10, new_token())] == [b"ours"]
    shop.close()
    office.close()


def test_priorities_are_kept_on_four_levels():
    assert [level_of(priority) for priority in range(10)] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("delay", [0.001, STEP, 1.0, 3600.0, LONGEST, LONGEST + 5])
def test_the_ladder_never_ends_before_a_delay_and_hardly_after(delay):
    exchange, key, left = Names("jobs").route("jobs.a", delay)
    bits = key.removesuffix(".jobs.a").split(".")
    ladder = sum(STEP * 2**step for step, bit in enumerate(reversed(bits)) if bit == "1")
    assert 0 <= ladder + left - delay < STEP + 1e-6
    assert exchange == f"jobs:delay.{len(bits) - 1 - bits.index('1'):02}"


def test_a_url_is_shown_without_its_password():
    target = parse("amqp://user:secret@a:1,b/vhost?queues=classic")
    assert "secret" not in repr(target)
    assert (target.addresses, target.vhost, target.queues) == ((("a", 1), ("b", 5672)), "vhost", "classic")
