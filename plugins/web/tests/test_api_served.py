"""The API on real connections: many clients that wait, lost ones, slow ones, and a broker that is down."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn
from tests.support.project import until
from tests.support.stopwatch import Stopwatch

from jobs_core import job, set_current_app
from jobs_core.plugins import Plugins
from jobs_core.testing.services.redis import RedisServer
from jobs_core.worker.main import Worker
from jobs_web import prompt
from jobs_web.api import bodies, waiting

from .support import Rig


class Served:
    """The API of an application, served by uvicorn on a port of the system's choice."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        set_current_app(rig.app)

        @job(name="add", store_result=True, registry=rig.app.registry)
        def add(a: int, b: int = 2) -> int:
            return a + b

        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = listening.getsockname()[1]
        config = uvicorn.Config(rig.asgi, log_config=None, lifespan="off", http=prompt.PromptProtocol)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def head(self, method: str, path: str, *more: str) -> bytes:
        lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.rig.tokens['admin']}", *more]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        data = b"" if body is None else json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(self.head(method, path, "Content-Type: application/json", f"Content-Length: {len(data)}") + data)
            return answer(b"".join(iter(lambda: connection.recv(65536), b"")))

    def push(self, number: int) -> str:
        status, said = self.ask("POST", "/jobs", {"job": "add", "args": [number]})
        assert status == 201, said
        return json.loads(said)["id"]  # type: ignore[no-any-return]

    def drain(self) -> None:
        Worker(self.rig.app, "default", self.rig.app.config.pools["default"], None, drain=True).run()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        set_current_app(None)
        self.rig.close()


def answer(said: bytes) -> tuple[int, bytes]:
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(Rig(f"sqlite:///{tmp_path}/jobs.db", tmp_path))
    yield made
    made.close()


# -- waiting ---------------------------------------------------------------------------------------------


def test_two_hundred_clients_learn_the_end_of_their_jobs(served: Served):
    """A hundred follow the same job, a hundred wait for jobs of their own."""
    shared, own = served.push(0), [served.push(number) for number in range(100)]
    paths = [*[f"/jobs/{shared}/events"] * 100, *[f"/jobs/{each}?wait=60" for each in own]]

    async def ask(path: str) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(served.head("GET", path))
        try:
            return answer(await reader.read())
        finally:
            writer.close()

    async def all_of_them() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*map(ask, paths))

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(asyncio.run, all_of_them())
        until(lambda: waiting._waiters.places.used == 200)
        served.drain()
        answers = asked.result()
    assert {status for status, _ in answers} == {200}
    assert all(b'"state":"done"' in body for _, body in answers)
    assert [json.loads(body)["result"] for _, body in answers[100:]] == [number + 2 for number in range(100)]
    until(lambda: waiting._waiters.places.used == 0)


@pytest.mark.parametrize("path", ["/events", "?wait=60"], ids=["stream", "long poll"])
def test_a_client_that_is_gone_waits_no_longer(served: Served, path: str):
    told = served.push(1)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(served.head("GET", f"/jobs/{told}{path}"))
        until(lambda: waiting._waiters.places.used == 1)
    until(lambda: waiting._waiters.places.used == 0)
    served.drain()
    assert json.loads(served.ask("GET", f"/jobs/{told}")[1])["state"] == "done"


def test_a_job_that_ended_while_nobody_listened_is_told_at_once(served: Served):
    told = served.push(1)
    served.drain()
    status, said = served.ask("GET", f"/jobs/{told}/events")
    assert status == 200
    assert b'"state":"done"' in said
    assert json.loads(served.ask("GET", f"/jobs/{told}?wait=60")[1])["result"] == 3


# -- slow clients --------------------------------------------------------------------------------------------


def test_a_head_that_does_not_arrive_closes_its_connection_and_no_other(served: Served, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as hurried:
        hurried.setattr(prompt, "HEAD_PATIENCE", 0.3)
        begun = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(3)]
        begun[1].sendall(b"GET /api/v1/health HTT")
        begun[2].sendall(served.head("GET", "/health")[:-2])
        assert [_ended(connection) for connection in begun] == [True, True, True]
    for connection in begun:
        connection.close()
    assert served.ask("GET", "/health")[0] == 200
    told = served.push(1)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as slow:
        slow.sendall(served.head("GET", f"/jobs/{told}?wait=60"))
        until(lambda: waiting._waiters.places.used == 1)
        assert {each._timer for each in list(served._server.server_state.connections)} == {None}, "who waits for an answer may"
        served.drain()
        assert answer(b"".join(iter(lambda: slow.recv(65536), b"")))[0] == 200


def _ended(connection: socket.socket) -> bool:
    """Wait for the end of a connection. On a slow machine, the server has closed it before this side sent what it sends."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_an_answer_that_is_not_read_closes_its_connection_and_no_other(served: Served, monkeypatch: pytest.MonkeyPatch):
    for number in range(100):
        served.push(10**4000 + number)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        monkeypatch.setattr(prompt, "READ_PATIENCE", 0.3)
        deaf.connect(("127.0.0.1", served.port))
        for _ in range(30):
            deaf.sendall(
                served.head("GET", "/topics/default/jobs?state=ready&limit=1000").replace(b"Connection: close\r\n", b"")
            )
        until(lambda: served._server.server_state.connections)
        until(lambda: not served._server.server_state.connections)
    assert served.ask("GET", "/health")[0] == 200


def test_a_body_that_does_not_arrive_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bodies, "PATIENCE", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as slow:
        slow.sendall(served.head("POST", "/jobs", "Content-Type: application/json", "Content-Length: 100") + b'{"job"')
        status, body = answer(b"".join(iter(lambda: slow.recv(65536), b"")))
    assert status == 408
    assert "did not arrive within" in json.loads(body)["detail"]
    assert served.ask("GET", "/health")[0] == 200


# -- the broker ------------------------------------------------------------------------------------------------


def test_while_the_broker_is_down_callers_are_told_so_and_afterwards_it_goes_on(tmp_path: Path):
    with RedisServer(tmp_path / "redis") as server:
        server.command("CONFIG", "SET", "appendfsync", "always")  # else a kill may lose what was acknowledged last
        rig = Rig(f"redis://127.0.0.1:{server.port}", tmp_path, plugins=Plugins.discover(()))
        served = Served(rig)
        try:
            first = served.push(1)
            server.kill()
            watch = Stopwatch()
            for method, path, body in (
                ("GET", "/health", None), ("GET", f"/jobs/{first}", None), ("GET", "/topics/default", None),
                ("POST", "/topics/default/pause", None), ("POST", "/jobs", {"job": "add", "args": [2]}),
            ):  # fmt: skip
                status, said = served.ask(method, path, body)
                assert status == 503, said
                assert json.loads(said)["title"] == "The backend does not answer"
            assert watch.stop() < 60
            server.start()
            status, said = until(lambda: (last := served.ask("GET", f"/jobs/{first}"))[0] != 503 and last)
            assert status == 200, said
            until(lambda: served.ask("GET", "/health")[0] == 200)
        finally:
            served.close()


@pytest.mark.parametrize("path", ["/events", "?wait=60"], ids=["stream", "long poll"])
def test_who_waits_for_a_job_waits_through_a_restart_of_the_broker(tmp_path: Path, path: str):
    with RedisServer(tmp_path / "redis") as server:
        server.command("CONFIG", "SET", "appendfsync", "always")
        served = Served(Rig(f"redis://127.0.0.1:{server.port}", tmp_path, plugins=Plugins.discover(())))
        try:
            told = served.push(1)
            with ThreadPoolExecutor(1) as threads:
                asked = threads.submit(served.ask, "GET", f"/jobs/{told}{path}")
                until(lambda: waiting._waiters._busy == 1)
                server.kill()
                until(lambda: served.ask("GET", "/health")[0] == 503)
                server.start()
                until(lambda: served.ask("GET", "/health")[0] == 200)
                served.drain()
                status, said = asked.result()
            assert status == 200
            assert b'"state":"done"' in said
        finally:
            served.close()


def test_a_form_that_does_not_arrive_holds_no_connection(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bodies, "PATIENCE", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        head = ["POST /login HTTP/1.1", "Host: x", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 99"]
        connection.sendall("\r\n".join([*head, "", "key="]).encode())
        status, _ = answer(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert status == 408


def test_a_stream_ends_when_its_token_is_deleted(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "ALLOWED_FOR", 0.0)
    told = served.push(1)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(served.head("GET", f"/jobs/{told}/events"))
        until(lambda: waiting._waiters.places.used == 1)
        del served.rig.site.settings.tokens["admin"]
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"HTTP/1.1 200" in said
    assert b'"state":"ready"' in said
    assert b'"state":"done"' not in said


def test_connections_for_which_there_is_no_room_are_closed_at_once(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompt.PromptProtocol, "most", 2)
    held = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(2)]
    until(lambda: len(served._server.server_state.connections) == 2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as more:
        assert more.recv(100) == b""
    for connection in held:
        connection.close()
    until(lambda: not served._server.server_state.connections)
    assert served.ask("GET", "/health")[0] == 200


def test_connections_that_cannot_be_accepted_do_not_fill_the_log():
    lines = [logging.makeLogRecord({"msg": text}) for text in ["socket.accept() out of system resource"] * 3 + ["another"]]
    seldom = prompt.Seldom()
    assert [bool(seldom.filter(line)) for line in lines] == [True, False, False, True]
