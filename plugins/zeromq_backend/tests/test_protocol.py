"""The protocol page says what the code does, and a producer written from that page alone is understood."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobs_zeromq import protocol as p

from .raw import Raw

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "zeromq-protocol.md").read_text()
TASKS = """
from pathlib import Path
from jobs_core import job

@job
def greet(name: str) -> None:
    Path("greeted").write_text(name)
"""


def row(verb):
    found = re.search(rf"^\| `{verb}` \| (.*) \| (.*) \|$", PAGE.split("## Requests")[1], re.MULTILINE)
    assert found, f"the page has no line for {verb}"
    return found[0]


@pytest.mark.parametrize("verb", sorted(p.VERBS))
def test_every_request_has_its_line_and_every_field_is_named_there(verb):
    name = verb.decode()
    text = row(name) if name != "put" else PAGE.split("## A producer: put")[1].split("## A worker")[0]
    fields = list(p.VERBS[verb].request.__struct_fields__)
    if verb in (b"hello", b"status", b"housekeep"):
        fields += {b"hello": p.Welcome, b"status": p.Status, b"housekeep": p.Kept}[verb].__struct_fields__
    if verb in (b"requeue", b"drop", b"cancel"):
        fields.remove("reason")  # they share a structure with discard
    assert [field for field in fields if field not in text] == []


def test_the_page_names_every_code_and_limit():
    assert all(f"| `{code}` |" in PAGE for code in p.Code.__args__)
    assert f"{p.MAX_FRAME:,} bytes" in PAGE
    assert f"{p.MAX_TAG} bytes" in PAGE
    assert f"every {p.HEARTBEAT} s" in " ".join(PAGE.split())
    assert f"`{p.VERSION.decode()}`" in PAGE


def test_the_conversation_on_the_page_takes_place(start_in_process):
    with Raw(start_in_process().url) as raw:
        assert raw.ask(b"open", {"owner": "worker-7"}) == (p.OK, None)
        assert raw.ask(b"reserve", {"owner": "worker-7", "request": "a1", "topics": ["email"], "limit": 2}) == (p.OK, [])
        raw.send(p.VERSION, b"wait", b"4", msgspec.msgpack.encode({"topics": ["email"], "timeout": 5.0}))
        raw.send(p.VERSION, b"put", b"5", b'{"topic": "email", "request": "r"}', b'{"v": 1}')
        raw.receive()
        assert raw.socket.poll(0) == 0  # its own request has ended its wait
        raw.send(p.VERSION, b"wait", b"6", msgspec.msgpack.encode({"topics": ["email"], "timeout": 5.0}))
        assert raw.receive() == [p.VERSION, p.WAKE, b"6", b""]
        asked = {"owner": "worker-7", "request": "a2", "topics": ["email"], "limit": 2}
        kind, deliveries = raw.ask(b"reserve", asked)
        assert (kind, [one["payload"] for one in deliveries]) == (p.OK, [b'{"v": 1}'])
        assert [one["token"] for one in raw.ask(b"reserve", asked)[1]] == [deliveries[0]["token"]]
        settled = {"id": deliveries[0]["id"], "token": deliveries[0]["token"], "outcome": "done"}
        asked = {"owner": "worker-7", "request": "s1", "settlements": [settled]}
        assert raw.ask(b"settle", asked) == (p.OK, ["settled"])
        assert raw.ask(b"settle", asked) == (p.OK, ["already"])


def test_a_put_repeated_adds_nothing_and_names_the_same_ids(start_in_process):
    with Raw(start_in_process().url, hello=False) as raw:
        body = {"topic": "email", "request": "r", "priority": 3}
        kind, first = raw.ask(b"put", body, b'"one"', b'"two"')
        assert (kind, len(set(first["ids"]))) == (p.OK, 2)
        assert raw.ask(b"put", body, b'"one"', b'"two"') == (kind, first)
        assert raw.ask(b"put", {**body, "request": "q", "ids": ["only one"]}, b'"one"', b'"two"')[1]["code"] == "malformed"
        assert raw.ask(b"hello", {})[0] == p.OK
        assert raw.ask(b"counts", {"topics": ["email"]})[1]["email"]["ready"] == 2


def test_the_example_of_a_plain_producer_works(service, tmp_path):
    service.start()
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "jobs.toml").write_text(f'backend = "{service.url}"\nmodules = ["tasks"]\n')
    example = ROOT / "examples" / "zeromq_producer" / "producer.py"
    assert "jobs_" not in example.read_text()
    address = service.url.removeprefix("zmq+")
    done = subprocess.run([sys.executable, example, address], text=True, capture_output=True, check=True, timeout=60)
    assert len(done.stdout.split()) == 1
    worker = [sys.executable, "-m", "jobs_core", "worker", "--drain"]
    subprocess.run(worker, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "greeted").read_text() == "a plain ZeroMQ socket"
