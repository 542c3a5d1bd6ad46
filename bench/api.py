"""Measure the HTTP API: `python -m bench.api [URL] [--keep]`. One server process with uvicorn, one client, on this machine.

Prints jobs a second, enqueued one by one over several connections, and as NDJSON. The backend is SQLite, or that of the URL.
With `--keep`, docs/benchmarks.md shows the figures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from . import kept, page

CONNECTIONS = 8
SECONDS = 5.0
LINES = 2000

SERVER = """
import sys
from pathlib import Path
import uvicorn
from jobs_core import App, job, set_current_app
from jobs_core.config import Config
from jobs_core.plugins import Plugins
from jobs_web.prompt import PromptProtocol
from jobs_web.settings import Settings, Token
from jobs_web.site import Site, asgi
from jobs_web.tokens import hash_of

@job(name="add")
def add(a: int, b: str = "") -> int:
    return a

app = App(Config(backend=sys.argv[1], base_dir=Path(sys.argv[2])))
set_current_app(app)
site = Site(app, Settings(tokens={"bench": Token("operate", hash_of(sys.argv[3]))}))
uvicorn.run(asgi(site), port=int(sys.argv[4]), log_config=None, lifespan="off", http=PromptProtocol)
"""


class Client:
    """One connection."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._headers = {"Authorization": f"Bearer {token}"}

    def post(self, body: bytes, kind: str) -> None:
        self._connection.request("POST", "/api/v1/jobs", body, {**self._headers, "Content-Type": kind})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201), text


def one_by_one(port: int, token: str, connections: int, job: str = "add") -> float:
    """Return jobs a second, enqueued by so many connections at once."""
    body = json.dumps({"job": job, "args": [1, "2"]}).encode()
    end, sent = time.monotonic() + SECONDS, [0] * connections

    def work(number: int) -> None:
        client = Client(port, token)
        while time.monotonic() < end:
            client.post(body, "application/json")
            sent[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sent) / (time.monotonic() - began)


def bulk(port: int, token: str, job: str = "add") -> float:
    """Return jobs a second, enqueued as NDJSON."""
    body = b"\n".join(json.dumps({"job": job, "args": [number, "2"]}).encode() for number in range(LINES))
    client, sent, began = Client(port, token), 0, time.monotonic()
    while time.monotonic() < began + SECONDS:
        client.post(body, "application/x-ndjson")
        sent += LINES
    return sent / (time.monotonic() - began)


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__)
    parser.add_argument("url", nargs="?", metavar="URL", help="of the backend (default: SQLite in a temporary directory)")
    parser.add_argument("--keep", action="store_true", help="keep the figures for docs/benchmarks.md, and write them there")
    options = parser.parse_args()
    machine, columns = kept.machine(), _measured(options.url)
    print(page.columns("enqueue", columns))
    if options.keep:
        shown = [{"title": "enqueue", "columns": columns}]
        kept.save("api", {"machine": machine | {"load after": os.getloadavg()[0]}, "tables": shown})
        page.write()


def _measured(backend: str | None) -> dict[str, dict[str, str]]:
    """Return two columns: rates, and CPU time."""
    rates: dict[str, str] = {}
    costs: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        url = backend or f"sqlite:///{directory}/jobs.db"
        (Path(directory) / "server.py").write_text(SERVER)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        token = f"jobs_{os.urandom(16).hex()}"
        server = subprocess.Popen([sys.executable, f"{directory}/server.py", url, directory, token, str(port)])
        try:
            while True:
                try:
                    Client(port, token).post(b'{"job": "add", "args": [1]}', "application/json")
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            for what, measure in (
                ("one by one, 1 connection", lambda: one_by_one(port, token, 1)),
                (f"one by one, {CONNECTIONS} connections", lambda: one_by_one(port, token, CONNECTIONS)),
                (f"NDJSON, {LINES:,} lines a request", lambda: bulk(port, token)),
            ):
                before, rate = cpu_of(server.pid), measure()
                spent = (cpu_of(server.pid) - before) / (rate * SECONDS) * 1e6
                rates[what], costs[what] = f"{rate:,.0f}", f"{spent:,.0f}"
        finally:
            server.terminate()
            server.wait()
    return {"jobs a second": rates, "CPU time of the server a job, µs": costs}


if __name__ == "__main__":
    main()
