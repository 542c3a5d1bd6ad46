"""Sessions end one by one, and tokens are those of the file as it is now."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from jobs_web.sessions import DIRECTORY, SWEPT, Record, Sessions, id_of
from jobs_web.settings import Settings, Token, read
from jobs_web.site import Site, asgi
from jobs_web.tokens import hash_of, new_token
from jobs_web.watching import Watched

from .support import Browser


def test_a_session_is_listed_and_ends_alone(rig):
    one, other = rig.browser("admin"), rig.browser("admin")
    first, _ = sorted(rig.site.sessions, key=lambda record: record.since)
    assert (first.user, first.client, first.agent) == ("admin", "testclient", "testclient")
    rig.site.sessions.end(first.id)
    assert one.get("/").status_code == 303
    assert other.get("/").status_code == 200


def test_a_copied_cookie_is_worth_nothing_after_the_logout(rig):
    browser = rig.browser("admin")
    thief = Browser(rig)
    thief.cookies.set("jobs_session", browser.cookies["jobs_session"])
    assert thief.get("/").status_code == 200
    browser.submit("/logout", _page="/")
    assert thief.get("/").status_code == 303
    assert list(rig.site.sessions) == []


def test_a_visit_without_a_login_stores_nothing(rig):
    rig.browser().get("/login")
    assert list(rig.site.sessions) == []


def test_expired_sessions_are_forgotten_and_files_are_private(tmp_path):
    Sessions(tmp_path, 60.0).begin("old", "anna", "a", "b")
    age(tmp_path, "old", 61)
    sessions = Sessions(tmp_path, 60.0)
    sessions.begin("new", "bob", "x" * 5000, "y" * 5000)
    assert [record.user for record in sessions] == ["bob"]
    assert [file.name for file in (tmp_path / DIRECTORY).iterdir()] == [id_of("new")]
    for file in (tmp_path / DIRECTORY, *(tmp_path / DIRECTORY).iterdir()):
        assert file.stat().st_mode & 0o077 == 0


def test_an_expired_session_is_over_before_its_file_is_deleted(tmp_path):
    sessions = Sessions(tmp_path, 3600.0)
    sessions.begin("nonce", "anna", "a", "b")
    assert sessions.is_open("nonce")
    age(tmp_path, "nonce", 3601)
    assert not sessions.is_open("nonce")
    assert not Sessions(tmp_path, 3600.0).is_open("unknown")


def test_a_login_looks_at_a_few_files_and_reads_none_and_logins_forget_all_expired_sessions(tmp_path, monkeypatch):
    sessions = Sessions(tmp_path, 3600.0)
    old, new = [f"old {number}" for number in range(5 * SWEPT)], [f"new {number}" for number in range(5 * SWEPT)]
    for nonce in (*old, *new):
        sessions.begin(nonce, "anna", "a", "b")
    (tmp_path / DIRECTORY / ".left.1").write_bytes(b"of a crash")
    for nonce in old:
        age(tmp_path, nonce, 3601)
    os.utime(tmp_path / DIRECTORY / ".left.1", (0, 0))
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("a login reads no session"))
    monkeypatch.setattr(os, "listdir", lambda *_: pytest.fail("a login lists no sessions"))
    sessions = Sessions(tmp_path, 3600.0)  # as after a restart
    files = {each.name for each in os.scandir(tmp_path / DIRECTORY)}
    for number in range(12):  # a login adds one file and looks at SWEPT: one round is over
        before = files
        sessions.begin(f"newer {number}", "anna", "a", "b")
        files = {each.name for each in os.scandir(tmp_path / DIRECTORY)}
        assert len(before - files) <= SWEPT
    assert not files & {".left.1", *map(id_of, old)}
    assert files >= set(map(id_of, new))
    assert all(map(sessions.is_open, new))


def test_a_senseless_file_among_the_sessions_is_passed_over(tmp_path):
    sessions = Sessions(tmp_path, 60.0)
    sessions.begin("nonce", "anna", "a", "b")
    (tmp_path / DIRECTORY / "nonsense").write_bytes(b"\xff")
    assert [record.user for record in sessions] == ["anna"]


def age(root: Path, nonce: str, seconds: float) -> None:
    """Let a session be older by some seconds."""
    path = root / DIRECTORY / id_of(nonce)
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    path.write_bytes(msgspec.json.encode(replace(record, since=record.since - seconds)))
    os.utime(path, (record.since - seconds,) * 2)


class File:
    """A file of tokens, and a site that watches it."""

    def __init__(self, rig, path: Path) -> None:
        self.path = path
        self.tokens = {"anna": new_token(), "bob": new_token()}
        self.write(*self.tokens)
        self.site = Site(rig.app, self.read(), users=Watched(self.read(), path, self.read))
        self.rig = rig

    def write(self, *names: str) -> None:
        self.path.write_text("\n".join(f"{name} {hash_of(self.tokens[name])}" for name in names))
        os.utime(self.path, ns=(os.stat(self.path).st_mtime_ns + 1,) * 2)

    def read(self) -> Settings:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return read({"tokens": {name: {"role": "read", "hash": given} for name, given in lines}})

    def browser(self, name: str) -> Browser:
        made = Browser(self.rig)
        made._transport.app = asgi(self.site)  # type: ignore[attr-defined]
        assert made.log_in(self.tokens[name]).status_code == 303
        return made


def test_a_token_that_is_deleted_ends_its_sessions_at_the_next_request(rig, tmp_path):
    file = File(rig, tmp_path / "tokens")
    anna, bob = file.browser("anna"), file.browser("bob")
    bearer = {"Authorization": f"Bearer {file.tokens['anna']}"}
    assert anna.get("/").status_code == 200
    assert anna.get("/api/v1/topics", headers=bearer).status_code == 200
    file.write("bob")
    assert anna.get("/").status_code == 303
    assert anna.get("/api/v1/topics", headers=bearer).status_code == 401
    assert bob.get("/").status_code == 200
    file.write("anna", "bob")  # the session was not revoked, its token was
    assert anna.get("/").status_code == 200


def test_a_file_that_is_wrong_or_gone_changes_nothing_and_is_logged_once(rig, tmp_path, caplog):
    file = File(rig, tmp_path / "tokens")
    anna = file.browser("anna")
    file.path.write_text("anna nonsense")
    assert anna.get("/").status_code == 200
    assert anna.get("/").status_code == 200
    told = [record for record in caplog.records if "has changed and cannot be used" in record.getMessage()]
    assert len(told) == 1
    file.path.unlink()
    assert anna.get("/").status_code == 200


def test_a_change_of_the_file_keeps_the_key_of_the_printed_link(rig, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("")
    key = new_token()
    users = Watched(Settings(), path, lambda: Settings(tokens={"anna": Token("read", hash_of(new_token()))}))
    browser = Browser(rig)
    browser._transport.app = asgi(Site(rig.app, Settings(), key=key, users=users))
    assert browser.log_in(key).status_code == 303
    path.write_text("changed")
    assert browser.get("/").status_code == 200
