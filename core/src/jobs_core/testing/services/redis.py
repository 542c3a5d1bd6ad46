"""Private Redis servers with an append-only file, on free ports of loopback, each in its own directory.

JOBS_TEST_REDIS_SERVER names a program to use instead of the installed `redis-server`: another version, or Valkey.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from . import PATIENCE, free_port, program, until, until_frozen

SERVER = "JOBS_TEST_REDIS_SERVER"
BUS_OFFSET = 10_000
"""The difference between a cluster node's bus port and its port, which cannot be changed before Redis 7."""


@functools.cache
def server_version(path: str) -> tuple[int, int]:
    """Return the version of Redis with which a server's program is compatible; Valkey is compatible with 7.2."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=PATIENCE).stdout
    found = re.search(r" v=(\d+)\.(\d+)", said)
    assert found, f"{path} --version says {said!r}"
    return int(found[1]), int(found[2])


def server_program() -> str:
    """Return the path of the program under test; if it is missing, skip the test, or fail it in CI."""
    return program(os.environ.get(SERVER) or "redis-server", "redis-server")


class RedisServer:
    """One `redis-server` process, or a sentinel; each `start` uses the same port and directory."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        port: int = 0,
        sentinel: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.log = directory / "redis.log"
        self._sentinel = sentinel
        self._options = options
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process, "the server does not run"
        return self._process.pid

    def start(self, *more: str) -> None:
        """Start the server, and return when it is serving; the options `more` apply to this start only."""
        command = [server_program()]
        if self._sentinel:
            command += [str(self.directory / "sentinel.conf"), "--sentinel"]
        else:
            command += ["--appendonly", "yes", "--save", "", "--dir", str(self.directory)]
            if server_version(command[0]) >= (7, 0):  # earlier versions allow DEBUG without it
                command += ["--enable-debug-command", "yes"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--logfile", str(self.log), *self._options, *more]
        self._process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            restore_signals=False,  # SIGXFSZ stays ignored: a file size limit then acts like a full disk instead of a kill
        )
        until(self.serves, self._process, self.log)

    def serves(self) -> bool:
        """Return whether the server answers, and has loaded its data."""
        try:
            return self.command("PING") in (b"+PONG", b"-NOAUTH Authentication required.")
        except OSError:
            return False

    def command(self, *words: str, timeout: float = PATIENCE) -> bytes:
        """Send one command without a client library; return the first line of the answer."""
        with self._asked(words, timeout) as answer:
            return answer.readline().rstrip(b"\r\n")

    def text(self, *words: str, timeout: float = PATIENCE) -> str:
        """Send a command whose answer is text, such as INFO; return the text."""
        with self._asked(words, timeout) as answer:
            length = answer.readline()
            return answer.read(int(length[1:])).decode() if length.startswith(b"$") else ""

    def fact(self, name: str, *words: str) -> str:
        """Return one value from the answer to a command such as INFO; "" if it is missing."""
        return dict(line.split(":", 1) for line in self.text(*words).splitlines() if ":" in line).get(name, "")

    def monitor(self, seconds: float) -> list[str]:
        """Return the commands that clients send within `seconds`, without the calls that scripts make."""
        heard = b""
        deadline = time.monotonic() + seconds
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"MONITOR\r\n")
            while (left := deadline - time.monotonic()) > 0:
                if select.select([connection], [], [], left)[0]:
                    heard += connection.recv(1 << 16)
        return [line for line in heard.decode(errors="replace").splitlines()[1:] if " lua] " not in line]

    @contextlib.contextmanager
    def _asked(self, words: Sequence[str], timeout: float) -> Iterator[BinaryIO]:
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                yield answer

    def append_only_files(self) -> list[Path]:
        """Return the append-only files that are being written; before Redis 7, a single file in the server's directory."""
        return [*self.directory.glob("appendonlydir/*.incr.aof"), *self.directory.glob("appendonly.aof")]

    # -- ends ------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the server, as in a crash."""
        self.signal(signal.SIGKILL)
        self.wait()

    def shutdown(self) -> None:
        """Shut the server down normally."""
        self.signal(signal.SIGTERM)
        self.wait()

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            if number == signal.SIGSTOP:
                until_frozen(self._process.pid)

    def wait(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.wait(PATIENCE)


def sentinels(
    root: Path, master: RedisServer, count: int = 3, *, service: str = "jobs", settings: Sequence[str] = ()
) -> list[RedisServer]:
    """Return sentinels, not yet started, that watch a master and agree on its failure within about a second."""
    made = []
    for number in range(count):
        directory = root / f"sentinel-{number}"
        directory.mkdir(parents=True)
        (directory / "sentinel.conf").write_text(
            f"sentinel monitor {service} 127.0.0.1 {master.port} {count // 2 + 1}\n"
            f"sentinel down-after-milliseconds {service} 500\n"
            f"sentinel failover-timeout {service} 3000\n" + "".join(f"{line}\n" for line in settings)
        )
        made.append(RedisServer(directory, sentinel=True))
    return made


def cluster(root: Path, masters: int = 3, *, options: Sequence[str] = ()) -> list[RedisServer]:
    """Return the started masters of a cluster without replicas that serves every slot."""
    nodes = [
        RedisServer(
            root / f"node-{number}", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options,
            port=_port_with_bus(),
        )
        for number in range(masters)
    ]  # fmt: skip
    for node in nodes:
        node.start()
    addresses = [f"127.0.0.1:{node.port}" for node in nodes]
    create = [program("redis-cli", "redis-tools"), "--cluster", "create", *addresses, "--cluster-yes"]
    done = subprocess.run(create, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    for node in nodes:  # a node that has just started takes part only after two seconds
        assert node._process is not None
        until(partial(_takes_part, node), node._process, node.log)
    return nodes


def _port_with_bus() -> int:
    """Return a free port whose bus port is free, too."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as bus:
            bus.bind(("127.0.0.1", port + BUS_OFFSET))
            return port


def _takes_part(node: RedisServer) -> bool:
    return node.fact("cluster_state", "CLUSTER", "INFO") == "ok"


def urls(servers: Sequence[RedisServer]) -> str:
    """Return the hosts of these servers as the part of a URL."""
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)
