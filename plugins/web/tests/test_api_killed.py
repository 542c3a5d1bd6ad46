"""A server that is killed in the middle of an enqueue: a repetition under the same key adds what is missing, nothing twice."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.project import until

from jobs_core import App
from jobs_core.backends.base import State
from jobs_core.config import Config
from jobs_core.plugins import Plugins
from jobs_web.api.operation import NDJSON
from jobs_web.tokens import hash_of, new_token

from .test_command import free_port

TASKS = "from jobs_core import job\n\n\n@job\ndef add(a: int, b: int = 2) -> int:\n    return a + b\n"


class Served:
    """`jobsctl web` in a directory, perhaps with a point at which it dies."""

    def __init__(self, directory: Path, token: str, failpoint: str = "") -> None:
        self._port, self._token = free_port(), token
        command = [sys.executable, "-m", "jobs_core", "web", "--listen", f"127.0.0.1:{self._port}"]
        environment = {**os.environ, **({"JOBS_FAILPOINT": failpoint} if failpoint else {})}
        self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "the dashboard is at" in self.process.stdout.readline()

    def post(self, lines: list[Any], key: str) -> tuple[int, Any]:
        """Enqueue jobs under a key: one as JSON, several as NDJSON."""
        kind = NDJSON if len(lines) > 1 else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind, "Idempotency-Key": key}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            until(lambda: self._answers(connection))
            connection.request("POST", "/api/v1/jobs", "\n".join(map(json.dumps, lines)), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def _answers(self, connection: http.client.HTTPConnection) -> bool:
        try:
            connection.connect()
        except ConnectionRefusedError:
            return False
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.mark.parametrize(("point", "number"), [("push.before_commit", 10), ("push.after_commit", 10), ("push.after_commit", 1)])
def test_a_killed_server_and_its_successor_add_each_job_once(tmp_path: Path, point: str, number: int):
    token = new_token()
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "jobs.toml").write_text(
        'backend = "sqlite:///jobs.db"\nmodules = ["tasks"]\n'
        f'[plugins.web.tokens.shop]\nrole = "operate"\nhash = "{hash_of(token)}"\n'
    )
    lines = [{"job": "tasks.add", "args": [one]} for one in range(number)]
    first = Served(tmp_path, token, f"{point}=kill")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        first.post(lines, "import")
    first.close()
    assert first.process.returncode == -signal.SIGKILL
    second = Served(tmp_path, token)
    try:
        status, told = second.post(lines, "import")
        assert (status, told["created"]) == ((200, number) if number > 1 else (201, True))
        assert second.post(lines, "import") == (status, told)
    finally:
        second.close()
    app = App(Config(backend="sqlite:///jobs.db", base_dir=tmp_path), plugins=Plugins([]))
    backend = app.new_backend()
    backend.open(None)
    assert [record.id for record in backend.browse("default", State.READY, 100)] == (
        told["ids"] if number > 1 else [told["id"]]
    )
    backend.close()
