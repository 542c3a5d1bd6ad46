"""Enqueue jobs through the ZeroMQ broker without our library: any language with a ZeroMQ library can do the same."""

import json
import sys
import time
import uuid

import zmq


def put(address: str, topic: str, *jobs: object) -> list[str]:
    """Enqueue jobs and return their ids once they are on the broker's disk; retry under the same request id until they are."""
    request = json.dumps({"topic": topic, "request": str(uuid.uuid4())}).encode()
    payloads = [json.dumps(job).encode() for job in jobs]
    while True:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(address)
            socket.send_multipart([b"jobs1", b"put", b"", request, *payloads])
            if socket.poll(2000):
                _, kind, _, answer = socket.recv_multipart()
                if kind == b"ok":
                    return json.loads(answer)["ids"]
                if json.loads(answer)["code"] not in ("unavailable", "full"):
                    sys.exit(f"refused: {answer.decode()}")
            time.sleep(0.1)


if __name__ == "__main__":
    envelope = {"v": 1, "topic": "default", "job": "tasks.greet", "args": ["a plain ZeroMQ socket"]}
    print(*put(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:7788", "default", envelope))
