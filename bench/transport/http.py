"""`python -m bench.transport.http`: the HTTP child's server and metrics text beside the standard library's and others.

For each: the time and the memory of its imports, beside what the child needs anyway; and for the servers, what 200 clients
that dawdle cost, and how long a probe takes beside them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time

from jobs_core.cli import output

from ..support import median

BASE = """
import re, sys, time, jobs_core.supervisor.http.metrics, jobs_core.config_rules, selectors, socket
def private():
    return sum(map(int, re.findall(r"Private_(?:Dirty|Clean): *(\\d+)", open("/proc/self/smaps_rollup").read())))
before, begin = private(), time.perf_counter()
import {module}
print((time.perf_counter() - begin) * 1e3, private() - before, len(sys.modules))
"""
MODULES = ("jobs_core.supervisor.http.server", "http.server", "wsgiref.simple_server", "asyncio", "prometheus_client")

OURS = """
import socket
from jobs_core.supervisor.http.server import Response, Server
listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
listening.setblocking(False)
print(listening.getsockname()[1], flush=True)
Server(listening, {"/livez": lambda request: Response(200, "fine\\n")}).run()
"""
LIBRARYS = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    timeout = 5
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"fine\\n")
    def log_message(self, *_): pass
ThreadingHTTPServer.request_queue_size = 1024
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
DAWDLERS, HEADERS = 200, 4_000_000


def imports(module: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", BASE.format(module=module)], capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


def probe(port: int) -> float:
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 10.0) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        while client.recv(4096):
            pass
    return (time.perf_counter() - begin) * 1e3


def status(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def taken(port: int) -> float:
    """Return how many bytes of endless headers the server takes, in MB."""
    sent, line = 0, b"x: " + b"y" * 60_000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), 2.0) as client:
        try:
            client.sendall(b"GET /livez HTTP/1.0\r\n")
            while sent < HEADERS:
                client.sendall(line)
                sent += len(line)
        except OSError:
            pass
    return sent / 1e6


def serve(code: str) -> dict[str, float]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        alone, idle = median([probe(port) for _ in range(50)]), status(server.pid, "VmRSS")
        dawdlers = []
        for _ in range(DAWDLERS):
            dawdlers.append(socket.create_connection(("127.0.0.1", port)))
            dawdlers[-1].sendall(b"G")
        beside = median([probe(port) for _ in range(20)])
        found = {
            "a probe, ms": alone,
            "RSS, MB": idle / 1024,
            "threads beside 200 that dawdle": status(server.pid, "Threads"),
            "RSS more beside them, MB": (status(server.pid, "VmRSS") - idle) / 1024,
            "a probe beside them, ms": beside,
        }
        for each in dawdlers:
            each.close()
        found["headers taken from one client, MB"] = taken(port)
        server.kill()
        return found


def main() -> None:
    rounds = [{module: imports(module) for module in MODULES} for _ in range(5)]
    rows = [
        (module, *(f"{median([each[module][n] for each in rounds]):,.{digits}f}" for n, digits in ((0, 1), (1, 0))))
        for module in MODULES
    ]
    output.table(["import", "ms", "private memory, KiB"], rows, plain=False)
    sides = [(serve(OURS), serve(LIBRARYS)) for _ in range(3)]
    output.table(
        ["", "ours", "ThreadingHTTPServer"],
        [(what, *(f"{median([side[n][what] for side in sides]):,.2f}" for n in (0, 1))) for what in sides[0][0]],
        plain=False,
    )


if __name__ == "__main__":
    main()
