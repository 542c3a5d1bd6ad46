"""A process that receives OTLP over HTTP, as a collector does, and writes each span to a file: one JSON line a span."""

from __future__ import annotations

import gzip
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {each.key: each.value for each in span.attributes}
                    line = {
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "kind": span.kind,
                        "links": [link.span_id.hex() for link in span.links],
                        "job": values["messaging.jobs.job"].string_value if "messaging.jobs.job" in values else "",
                        "attempt": values["messaging.jobs.attempt"].int_value if "messaging.jobs.attempt" in values else 0,
                        "outcome": values["messaging.jobs.outcome"].string_value if "messaging.jobs.outcome" in values else "",
                    }
                    os.write(out, (json.dumps(line) + "\n").encode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listens at {server.server_port}", flush=True)
    server.serve_forever()
