"""The probes in their own process, asked over real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from jobs_core.scoreboard.layout import Phase
from jobs_core.scoreboard.state import PoolState, TopicState
from jobs_core.scoreboard.writer import start_ticks
from jobs_core.supervisor.http import server
from jobs_core.supervisor.http.server import ListenError
from jobs_core.testing.services import free_port

from ..support.board import FakeBoard
from ..support.project import PATIENCE

SERVE = """
import sys
from pathlib import Path
from jobs_core.supervisor.http import probes
probes.serve(Path(".jobs"), sys.argv[1], lease=30.0, ready=lambda: print("listens", flush=True))
"""


@pytest.fixture
def board(project):
    made = FakeBoard(project.root / ".jobs")
    yield made
    made.close()


@pytest.fixture
def start(project):
    """Start a server of probes; return its address."""

    def begin(listen=None):
        where = listen or f"unix:{project.root / 'http.sock'}"
        process = project.start_python("-c", SERVE, where)
        process.until_said("listens")
        return process, where

    return begin


@pytest.fixture
def ask(start):
    _, where = start()
    return lambda target, **more: get(where, target, **more)


def connect(where):
    if where.startswith("unix:"):
        made = socket.socket(socket.AF_UNIX)
        made.connect(where.removeprefix("unix:"))
        made.settimeout(PATIENCE)
        return made
    host, _, port = where.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), PATIENCE)


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def get(where, target, *, method="GET", accept=""):
    """Return status, body and headers."""
    with connect(where) as connection:
        header = f"Accept: {accept}\r\n" if accept else ""
        connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        answer = read_all(connection).decode()
    return take_apart(answer)


def take_apart(answer):
    head, _, body = answer.partition("\r\n\r\n")
    lines = head.split("\r\n")
    return int(lines[0].split()[1]), body, dict(line.split(": ", 1) for line in lines[1:])


# -- responses ----------------------------------------------------------------------------------


def test_all_is_well(board, ask):
    board.worker("h-1")
    for target in ("/livez", "/readyz", "/startupz"):
        status, body, headers = ask(target)
        assert (status, body) == (200, "ok\n")
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert ask("/readyz?verbose")[1] == "[+] supervisor\n[+] application\n[+] taking\n[+] pool default\n[+] backend\nok\n"


def test_a_supervisor_that_has_written_nothing_is_neither(project, start):
    (project.root / ".jobs").mkdir()
    _, where = start()
    assert get(where, "/livez")[:2] == (503, "supervisor: it has written nothing yet\n")
    assert get(where, "/readyz")[0] == get(where, "/startupz")[0] == 503


def test_a_dead_supervisor_is_not_alive_and_not_ready(board, ask):
    board.worker("h-1")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        board.write(pid=other.pid, start_ticks=start_ticks(other.pid))
        assert ask("/livez")[0] == ask("/readyz")[0] == 200
        other.communicate(b"\n")
    assert ask("/livez")[:2] == (503, f"supervisor: process {other.pid} is gone\n")
    assert ask("/readyz")[0] == 503


def test_another_process_of_the_same_number_is_not_the_supervisor(board, ask):
    board.write(start_ticks=start_ticks(os.getpid()) - 1)
    assert ask("/livez")[0] == 503


def test_a_supervisor_that_does_nothing_is_not_alive(board, ask):
    from jobs_core.scoreboard import state

    board.supervisor.written_at = time.time() - 60
    state.write(board.run_dir / state.STATE, board.supervisor)
    assert "has done nothing for 6" in ask("/livez")[1]


def test_a_backend_that_does_not_answer_makes_it_not_ready_and_leaves_it_alive(board, ask):
    board.worker("h-1")
    board.backlog.answered_at = time.time() - 8
    board.write()
    assert ask("/livez")[0] == 200
    status, body, _ = ask("/readyz")
    assert status == 503
    assert body.startswith("backend: it has not answered for ")
    board.backlog.answered_at, board.backlog.answers, board.backlog.error = time.time(), False, "connection refused"
    board.write()
    assert ask("/readyz")[:2] == (503, "backend: it does not answer: connection refused\n")


def test_every_pool_needs_a_worker_that_serves_unless_it_may_have_none(board, ask):
    board.supervisor.pools += [
        PoolState("none", ["n"], "sync", 1, 0, 4, 0),
        PoolState("scaled", ["s"], "sync", 1, 2, 4, 0, scaled=True),
        PoolState("broken", ["b"], "sync", 1, 1, 1, 1, failures=3, cannot_boot=True, last_error="ImportError: no shop"),
    ]
    board.worker("h-1", phase=Phase.OFFLINE)
    board.worker("h-2", child="stopping")
    assert ask("/readyz")[1].splitlines() == [
        "pool default: no worker is serving (1 offline, 1 stopping)",
        "pool broken: no worker is serving (there is none): ImportError: no shop",
    ]
    board.worker("h-3")
    board.worker("b-1", pool="broken")
    assert ask("/readyz")[0] == 200


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quiet": True}, "taking: an operator told it to take no new jobs"),
        ({"state": "stopping"}, "taking: it is stopping"),
        ({"generation": 0}, "application: it is not serving yet"),
        ({"served": False}, "application: it is not serving yet"),
    ],
)
def test_a_supervisor_that_accepts_no_jobs_is_not_ready(board, ask, change, reason):
    board.worker("h-1")
    board.write(**change)
    assert ask("/readyz")[:2] == (503, f"{reason}\n")
    assert ask("/livez")[0] == 200


def test_startup_is_over_once_every_pool_has_served(board, ask):
    board.write(served=False)
    assert ask("/startupz")[:2] == (503, "startup: not every pool is serving yet\n")
    board.write(served=True, state="reloading")
    assert ask("/startupz")[0] == 200


def test_metrics_come_in_the_format_that_is_asked_for(board, ask):
    board.backlog.topics = {"email": TopicState(ready=3)}
    board.write()
    status, body, headers = ask("/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert status == 200
    assert headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith("# EOF\n")
    assert "jobs_topic_jobs" in {family.name for family in parse_openmetrics(body)}
    for accept in ("", "text/plain", "*/*", "application/openmetrics-text;q=0"):
        _, body, headers = ask("/metrics", accept=accept)
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "jobs_topic_jobs" in {family.name for family in parse_prometheus(body)}


def test_it_exits_on_request(board, start):
    process, _ = start()
    assert process.stop() == -signal.SIGTERM


# -- how it behaves ------------------------------------------------------------------------------


def test_head_has_the_same_headers_and_no_body(board, ask):
    status, body, headers = ask("/livez", method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "3")


def test_missing_and_forbidden_paths_are_reported(board, ask):
    assert ask("/")[:2] == (404, "not found; the paths are /livez, /readyz, /startupz, /metrics\n")
    status, _, headers = ask("/livez", method="POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /livez HTTP/2\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000, 431),
    ],
)
def test_bad_requests_are_answered(board, start, request_, status):
    _, where = start()
    with connect(where) as connection:
        connection.sendall(request_)
        assert take_apart(read_all(connection).decode())[0] == status


def test_slow_clients_keep_no_other_client_out_and_are_dropped(board, start):
    process, where = start()
    dawdlers = [connect(where) for _ in range(server.MOST_CONNECTIONS + 10)]
    try:
        for dawdler in dawdlers[10:]:
            with contextlib.suppress(OSError):  # on a slow machine, its time may be over
                dawdler.sendall(b"GET /livez HT")
        assert get(where, "/livez")[0] == 200
        assert dawdlers[0].recv(1) == b""  # the oldest connection was dropped for the newest
        assert dawdlers[-1].recv(1) == b""  # and no client may take longer than 5 s
    finally:
        for dawdler in dawdlers:
            dawdler.close()
    assert get(where, "/livez")[0] == 200
    assert process.alive()


def test_a_client_that_disconnects_harms_no_other(board, start):
    process, where = start()
    for _ in range(20):
        with connect(where) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert get(where, "/livez")[0] == 200
    assert process.alive()


def test_idle_it_uses_no_processor_time(board, start):
    process, where = start()
    get(where, "/livez")
    before = process.cpu_seconds()
    select.select([], [], [], 1.5)
    assert process.cpu_seconds() - before <= 0.02


def test_a_broken_file_is_an_answer_and_no_end(board, start):
    process, where = start()
    (board.run_dir / "state.json").write_text("{")
    assert get(where, "/livez")[0] == 503
    (board.run_dir / "workers" / "rubbish").write_bytes(b"x" * 100_000)
    assert get(where, "/metrics")[0] == 200
    assert process.alive()


# -- where it listens ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_it_listens_on_an_address(board, start, host):
    if host == "[::1]" and not _has_ipv6():
        host = "127.0.0.1"
    _, where = start(f"{host}:{free_port()}")
    assert get(where, "/livez")[0] == 200


def _has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def test_a_unix_socket_is_private_to_its_user_and_replaces_a_stale_one(board, start, project):
    first, where = start()
    path = project.root / "http.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.kill() == -signal.SIGKILL
    start()
    assert get(where, "/livez")[0] == 200


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_address_of_another_process_is_not_taken_over(board, start, project, kind):
    _, where = start(None if kind == "unix" else f"127.0.0.1:{free_port()}")
    with pytest.raises(ListenError, match=r"http.listen: .* cannot be used: .*: choose another address, or free this one"):
        server.listener(where)
    assert get(where, "/livez")[0] == 200


def test_a_file_that_is_not_a_socket_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ListenError, match="the file there is not a socket"):
        server.listener(f"unix:{tmp_path / 'precious'}")
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        (":9000", 'has no host: write "127.0.0.1:9000", or "0.0.0.0:9000" to accept connections from every network'),
        ("9000", 'expected "127.0.0.1:9000"'),
        ("localhost", 'expected "127.0.0.1:9000"'),
        ("localhost:99999", "a port is a number up to 65535"),
        ("::1:9000", r'needs brackets: write "\[::1\]:9000"'),
        ("unix:", "has no path"),
        ("unix:/" + "x" * 200, "AF_UNIX path too long"),
        ("nowhere.invalid:9000", "cannot be used"),
    ],
)
def test_an_address_that_cannot_be_is_an_error_with_its_fix(listen, says):
    with pytest.raises(ListenError, match=says):
        server.listener(listen)


def test_it_loads_nothing_heavy():
    script = "import sys, jobs_core.supervisor.http.probes; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())
    assert loaded & {"asyncio", "click", "rich", "http", "email", "ssl", "socketserver", "concurrent.futures"} == set()
