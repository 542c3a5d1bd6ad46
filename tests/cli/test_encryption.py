"""Commands show encrypted jobs to those who have the keys, and work without them."""

from __future__ import annotations

import json

import pytest

from jobs_core.backends.base import Outcome, Settlement

SECRET = "the patient's name is Ada"
KEYS = 'encryption_keys = ["k1:0123456789abcdefghijklmnopqrstuvwxyz"]\n'


@pytest.fixture
def encrypting(project):
    project.configure(KEYS)
    return project


def test_jobs_are_shown_in_full_with_the_keys_and_without_them_as_encrypted(encrypting):
    job_id = encrypting.push("note", SECRET)
    assert SECRET in encrypting.here("show", job_id)
    assert json.loads(encrypting.here("show", job_id, "--json"))["message"]["args"] == [SECRET]
    encrypting.configure()
    shown = encrypting.here("show", job_id)
    assert "(encrypted)" in shown
    assert "tasks.note" in shown
    data = json.loads(encrypting.here("show", job_id, "--json"))["message"]
    assert (data["args"], data["kwargs"], data["body"]) == ("(encrypted)", "(encrypted)", {"key": "k1"})
    assert "key k1 is not configured" in data["unreadable"]
    for command in ("list default", "list default --json"):
        listed = encrypting.here(*command.split())
        assert "tasks.note" in listed
        assert SECRET not in listed
    assert "1 waiting in default would not run: cannot be decrypted: key k1 is not configured" in encrypting.here(
        "check", code=1
    )


def test_jobs_and_results_pass_a_real_worker_and_leave_no_readable_byte_in_the_file(encrypting):
    job_id = encrypting.push("note", SECRET, store_result=True)
    added = encrypting.push("add", 700_000_001, store_result=True)
    assert encrypting.worker("--drain").wait() == 0
    assert encrypting.ledger() == [f"note {SECRET}"]
    assert encrypting.here("result", added).strip() == "700000003"
    for file in encrypting.root.glob("queue.db*"):
        stored = file.read_bytes() if file.is_file() else b""
        for text in (SECRET.encode(), b"700000001", b"700000003"):
            assert text not in stored, file
    encrypting.configure()
    assert "its result cannot be decrypted: key k1 is not configured" in encrypting.here("result", added, code=1)
    assert "(encrypted)" in encrypting.here("show", job_id)


def test_dead_letters_are_shown_and_retried_without_keys(encrypting):
    job_id = encrypting.push("note", SECRET)
    encrypting.configure()
    assert encrypting.worker("--drain").wait() == 0
    [dead] = encrypting.dead()
    assert dead.reason == "bad payload"
    for command in (["dead", "list"], ["dead", "show", job_id], ["dead", "list", "--json"]):
        shown = encrypting.here(*command)
        assert "key k1 is not configured" in shown
        assert SECRET not in shown
    encrypting.here("dead", "retry", job_id)
    encrypting.configure(KEYS)
    assert encrypting.worker("--drain").wait() == 0
    assert encrypting.ledger() == [f"note {SECRET}"]


def test_an_encrypted_dead_letter_is_edited_and_stays_encrypted(encrypting):
    job_id = encrypting.push("add", "one", 700000002)
    assert encrypting.worker("--drain").wait() == 0
    [dead] = encrypting.dead()
    assert dead.reason == "bad arguments"
    assert "1 job is ready again" in encrypting.here("dead", "retry", job_id, "--set", "a=700000001")
    stored = encrypting.app().operate(lambda backend: backend.get(job_id)).payload
    assert b"700000001" not in stored
    assert encrypting.worker("--drain").wait() == 0
    assert not encrypting.dead()
    assert encrypting.here("result", job_id).strip() == "1400000003"


def test_check_shows_no_secret(encrypting):
    for command in (["check", "--show"], ["check", "--show", "--json"]):
        assert "0123456789" not in encrypting.here(*command)


def test_the_cursor_of_a_resumable_job_is_shown_with_the_keys_and_stored_without_a_readable_byte(encrypting):
    job_id = encrypting.push("note", "x")
    app = encrypting.app()
    pack = app.payloads.cursor_packer(True)
    backend = app.new_backend()
    backend.open("worker")
    (delivery,) = backend.reserve(["default"], 1, "reserve")
    cursor = pack(job_id, json.dumps({"cursor": SECRET}).encode())
    backend.settle([Settlement(job_id, delivery.token, Outcome.RELEASE, cursor=cursor)], "settle")
    backend.close()
    app.close()
    assert SECRET in encrypting.here("show", job_id)
    assert json.loads(encrypting.here("show", job_id, "--json"))["cursor"] == {"cursor": SECRET}
    assert not any(SECRET.encode() in file.read_bytes() for file in encrypting.root.glob("queue.db*") if file.is_file())
    encrypting.configure()
    assert SECRET not in encrypting.here("show", job_id)
    assert json.loads(encrypting.here("show", job_id, "--json"))["cursor"] == "(encrypted)"
