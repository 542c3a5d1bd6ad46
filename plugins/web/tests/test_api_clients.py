"""The clients on the page about the API enqueue a job and print its result, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from tests.support.project import until

from jobs_core import job, set_current_app
from jobs_core.worker.main import Worker

from .support import Rig

PAGE = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text()

CLIENTS = {"shell-script": ("client.sh", ["sh"]), "php": ("client.php", ["php"]), "javascript": ("client.mjs", ["node"])}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Rig, str]]:
    """Serve the API of an application with uvicorn, on a port of the system's choice."""
    rig = Rig(f"sqlite:///{tmp_path}/jobs.db", tmp_path)
    set_current_app(rig.app)

    @job(name="shop.price", store_result=True, registry=rig.app.registry)
    def price(order: int) -> int:
        return order * 100

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(rig.asgi, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield rig, f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    set_current_app(None)
    rig.close()


@pytest.mark.parametrize("language", CLIENTS)
def test_the_client_of_the_page_enqueues_a_job_and_prints_its_result(served: tuple[Rig, str], tmp_path: Path, language: str):
    rig, url = served
    name, command = CLIENTS[language]
    if shutil.which(command[0]) is None or (language == "shell-script" and shutil.which("curl") is None):
        pytest.skip(f"{command[0]} is not installed")
    [text] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert len(text.splitlines()) <= 13
    (tmp_path / name).write_text(text)
    environment = {**os.environ, "API_URL": url, "API_TOKEN": rig.tokens["operate"]}
    client = subprocess.Popen([*command, name, "7"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    until(lambda: rig.app.operate(lambda backend: backend.counts(["default"]))["default"].ready)
    Worker(rig.app, "default", rig.app.config.pools["default"], None, drain=True).run()
    said, _ = client.communicate(timeout=60)
    assert client.returncode == 0
    assert "700" in said
