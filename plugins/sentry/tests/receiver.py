"""A process that receives envelopes as Sentry does, and writes each item to a file: one JSON line an item."""

from __future__ import annotations

import gzip
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        rest = body.partition(b"\n")[2]
        while rest.strip():
            head, _, rest = rest.partition(b"\n")
            header = json.loads(head)
            length = header["length"]
            payload, rest = json.loads(rest[:length]), rest[length:].removeprefix(b"\n")
            os.write(out, (json.dumps({"type": header["type"], **payload}) + "\n").encode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listens at {server.server_port}", flush=True)
    server.serve_forever()
