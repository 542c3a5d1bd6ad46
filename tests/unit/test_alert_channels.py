"""The alert channels of the core, against a real server on loopback."""

import re
import socket
import time
from pathlib import Path

import pytest

from jobs_core.alert_channels.channels import DingTalkChannel, SlackChannel, WebhookChannel, signature
from jobs_core.alert_channels.post import post

from ..support.receiver import Receiver, seconds

TLS = Path(__file__).parent / "fixtures" / "tls"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def refused(action):
    with pytest.raises(ConnectionError) as caught:
        action()
    return str(caught.value)


# -- what is sent ----------------------------------------------------------------------------------


def test_a_webhook_gets_plain_json(receiver):
    channel = WebhookChannel({"url": f"{receiver.url}/in?key=abc", "headers": {"Authorization": "Bearer 1"}})
    channel.send("title", "text", {"topic": "email", "ready": 7})
    assert receiver.bodies == [{"title": "title", "text": "text", "topic": "email", "ready": 7}]
    assert receiver.paths == ["/in?key=abc"]
    assert receiver.headers[0]["Authorization"] == "Bearer 1"
    assert receiver.headers[0]["Content-Type"].startswith("application/json")


def test_slack_gets_text_with_its_control_characters_written_out(receiver):
    SlackChannel({"url": receiver.url}).send("title", "a <!channel> & b\nmore", {})
    assert receiver.bodies == [{"text": "*title*\na &lt;!channel&gt; &amp; b\nmore"}]


def test_dingtalk_gets_a_signed_text(receiver):
    receiver.answer = b'{"errcode":0,"errmsg":"ok"}'
    DingTalkChannel({"url": f"{receiver.url}/robot/send?access_token=tok", "secret": "SECx"}).send("title", "text", {})
    assert receiver.bodies == [{"msgtype": "text", "text": {"content": "title\ntext"}}]
    path = receiver.paths[0]
    at = re.fullmatch(r"/robot/send\?access_token=tok&timestamp=(\d{13})&sign=[\w%]+", path)
    assert at
    assert path.endswith(signature("SECx", int(at[1])))


def test_dingtalk_without_a_secret_does_not_sign(receiver):
    receiver.answer = b'{"errcode":0}'
    DingTalkChannel({"url": f"{receiver.url}/robot/send?access_token=tok"}).send("title", "text", {})
    assert receiver.paths == ["/robot/send?access_token=tok"]


def test_the_signature_is_dingtalks():
    # printf '1700000000000\nSEC0123456789abcdef' | openssl dgst -sha256 -hmac SEC0123456789abcdef -binary | base64
    said = signature("SEC0123456789abcdef", 1_700_000_000_000)
    assert said == "timestamp=1700000000000&sign=TSZbRFUuvaSQaRKUpF970OPCb2%2FLcQAP3wOvwZIzBZk%3D"


# -- what goes wrong -------------------------------------------------------------------------------


def test_dingtalk_refuses_under_status_200(receiver):
    channel = DingTalkChannel({"url": receiver.url})
    receiver.answer = b'{"errcode":310000,"errmsg":"sign not match"}'
    assert refused(lambda: channel.send("a", "b", {})) == "DingTalk refused it: 310000 sign not match"
    receiver.answer = b"<html>"
    assert "an answer that no DingTalk robot sends" in refused(lambda: channel.send("a", "b", {}))


def test_an_error_of_the_server_is_reported_with_its_first_line(receiver):
    receiver.status, receiver.answer = 403, b"invalid_token\nmore"
    assert refused(lambda: post(receiver.url, {})) == "answered 403 Said: invalid_token"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/", "http://127.0.0.1:1/", "/elsewhere"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(receiver, location, status):
    receiver.status, receiver.location = status, location
    assert "a redirect, which is not followed" in refused(lambda: post(receiver.url, {}))
    assert len(receiver.bodies) == 1


def test_a_refused_connection_is_reported_without_the_address(receiver):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = refused(lambda: post(f"http://127.0.0.1:{port}/secret", {}))
    assert text.startswith("cannot be reached: ")
    assert "secret" not in text


def test_a_server_that_does_not_answer_is_given_up(receiver):
    receiver.hang.clear()
    begin = time.monotonic()
    assert seconds(lambda: refused(lambda: post(receiver.url, {}, patience=0.3))) < 4
    assert time.monotonic() - begin >= 0.3


def test_a_server_that_answers_a_byte_at_a_time_is_given_up(receiver):
    receiver.drip = 0.2  # each well within the time-out of a read; the whole takes 10 s
    assert seconds(lambda: refused(lambda: post(receiver.url, {}, patience=0.5))) < 4


def test_a_server_whose_body_comes_a_byte_at_a_time_is_given_up(receiver):
    receiver.drip, receiver.answer = 0.002, b"x" * 20_000
    assert seconds(lambda: refused(lambda: post(receiver.url, {}, patience=1.0))) < 10


# -- the way ---------------------------------------------------------------------------------------


def test_certificates_are_verified(monkeypatch):
    made = Receiver(TLS)
    try:
        assert "certificate" in refused(lambda: post(made.url, {}))
        assert made.bodies == []
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "cert.pem"))
        assert post(made.url, {"a": 1}) == b"ok"
        made.hang.clear()
        assert seconds(lambda: refused(lambda: post(made.url, {}, patience=0.3))) < 4
    finally:
        made.close()


def test_a_proxy_of_the_environment_is_used(receiver, monkeypatch):
    monkeypatch.setenv("http_proxy", receiver.url)
    post("http://alerts.invalid/in", {})
    assert receiver.paths == ["http://alerts.invalid/in"]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    post(f"{receiver.url}/direct", {})
    assert receiver.paths[1:] == ["/direct"]


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WebhookChannel, SlackChannel, DingTalkChannel])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "url is missing"),
        ({"ulr": "https://a.b/"}, "ulr: unknown key; did you mean url?"),
        ({"url": 7}, "Expected str, got int"),
        ({"url": "file:///etc/passwd"}, "expected an address that begins with https://"),
        ({"url": "https://"}, "expected an address that begins with https://"),
        ({"url": "https://a.b/x\r\nHost: c"}, "expected an address that begins with https://"),
        ({"url": "https://[bad/"}, "expected an address that begins with https://"),
        ({"url": "https://a:b/"}, "expected an address that begins with https://"),
        ({"url_file": "/no/such/file"}, "url_file: /no/such/file: No such file or directory"),
    ],
)
def test_a_bad_setting_is_reported(kind, settings, says):
    with pytest.raises(ValueError, match=".") as caught:
        kind(settings)
    assert says in str(caught.value)


def test_secrets_may_come_from_files(tmp_path, receiver):
    receiver.answer = b'{"errcode":0}'
    (tmp_path / "url").write_text(f"{receiver.url}/x\n")
    (tmp_path / "secret").write_text("SECx\n")
    channel = DingTalkChannel({"url_file": str(tmp_path / "url"), "secret_file": str(tmp_path / "secret")})
    channel.send("a", "b", {})
    assert receiver.paths[0].startswith("/x?timestamp=")
