"""A partner's API: it answers each account twice at once, and refuses more with 429. `python partner.py 8077` serves it."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST = 2
"""Most requests of one account at once."""


class Partner(ThreadingHTTPServer):
    """The server, and what it has seen."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)
        self.guard = threading.Lock()
        self.now: Counter[str] = Counter()  # requests at this moment, by account
        self.most: Counter[str] = Counter()  # the most at once
        self.refused = 0


class _Handler(BaseHTTPRequestHandler):
    server: Partner

    def do_GET(self) -> None:
        account = self.path.split("/")[1]
        with self.server.guard:
            self.server.now[account] += 1
            self.server.most[account] = max(self.server.most[account], self.server.now[account])
            refuses = self.server.now[account] > MOST
            self.server.refused += refuses
        if not refuses:
            time.sleep(0.02)  # the work that the partner does
        with self.server.guard:  # before the answer: the client may call again as soon as it has it
            self.server.now[account] -= 1
        self.send_response(429 if refuses else 200)
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(b"" if refuses else f"page {self.path}".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


if __name__ == "__main__":
    port = int(sys.argv[1])
    with Partner(("127.0.0.1", port)) as server:
        print(f"the partner answers at http://127.0.0.1:{port}")
        server.serve_forever()
