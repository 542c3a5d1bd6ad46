"""`jobsctl alert test`, and the report of `jobsctl check` on alerts."""

from __future__ import annotations

import pytest

from ..support.receiver import Receiver
from .test_commands import said


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_a_test_alert_goes_to_every_channel(project, receiver):
    receiver.answer = b'{"errcode":0}'
    project.configure(
        f'[alerts.channels]\nwebhook = {{ url = "{receiver.url}/w" }}\nslack = {{ url = "{receiver.url}/s" }}\n'
        f'dingtalk = {{ url = "{receiver.url}/d", secret = "SECx" }}'
    )
    done = said(project.run("alert", "test", no_proxy="*"))
    assert done.splitlines() == ["✓ webhook: sent", "✓ slack: sent", "✓ dingtalk: sent"]
    assert receiver.bodies[0]["kind"] == "test"
    assert receiver.bodies[1]["text"].startswith("*jobs: this is a test of alerts*")
    assert [path[:2] for path in receiver.paths] == ["/w", "/s", "/d"]


def test_a_failing_channel_is_reported_without_its_secrets(project, receiver):
    receiver.status, receiver.answer = 404, b"no_service /services/T0SECRET"
    project.configure(f'[alerts.channels]\nslack = {{ url = "{receiver.url}/services/T0SECRET" }}')
    done = said(project.run("alert", "test", "slack", no_proxy="*"), 1)
    assert "✗ slack: answered 404 Said: no_service …" in done
    assert "SECRET" not in done


def test_an_unknown_channel_and_none_at_all(project):
    assert "no alert channel is configured" in said(project.run("alert", "test"), 2)
    project.configure('[alerts.channels]\nslack = { url = "https://example.com/" }')
    assert "there is no alert channel 'slak': the configuration has slack" in said(project.run("alert", "test", "slak"), 2)


def test_check_examines_channels_without_sending(project, receiver):
    project.configure(f'[topics.email]\nalert_above = 10\n[alerts.channels]\nslack = {{ url = "{receiver.url}" }}')
    assert "alerts        for email, to slack" in said(project.run("check"))
    assert receiver.bodies == []
    project.configure('[alerts.channels]\nslack = { url = "https://example.com/" }')
    assert "no topic has a limit" in said(project.run("check"))
    project.configure('[alerts.channels]\nslack = { ulr = "https://example.com/" }')
    assert "alerts.channels.slack: ulr: unknown key; did you mean url?" in said(project.run("check"), 2)
