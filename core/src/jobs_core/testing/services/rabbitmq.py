"""A private RabbitMQ node: one per test run, since it takes seconds to boot; every test gets its own virtual host.

The node has its own name, ports, cookie and directory; its Erlang distribution and its port mapper listen on loopback. Its
whole process group is killed, and only the port mapper's directory, which belongs to the test, is left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ...ids import new_token
from . import PATIENCE, free_port, program, until, until_frozen

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""Debian's directory of the programs. Their wrappers in /usr/sbin would switch to the user rabbitmq first."""

STUCK = 2.0
"""Seconds after which the node retries to dead-letter messages from one queue to the next; RabbitMQ's default is 180."""

COOKIE = ".erlang.cookie"
"""The secret that nodes of a cluster share."""

_AMQP = b"AMQP\x00\x00\x09\x01"


class RabbitMQNode:
    """One node; each `start` uses the same ports and directory.

    `joins` is a running node whose cluster it joins; `erlang` holds arguments for the virtual machine.
    """

    def __init__(self, directory: Path, *, config: str = "", erlang: str = "", joins: RabbitMQNode | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self.log = directory / "log" / "console.log"
        self._name = f"jobs-{new_token(4)}@localhost"
        self._distribution = free_port()
        self._mapper: int = joins._mapper if joins is not None else free_port()
        self._joins = joins
        self._config = config
        self._erlang = erlang
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RabbitMQNode:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- start and end --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the node, and return when it is serving, after 5 to 20 seconds."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        first, cookie = self._joins, self.directory / COOKIE
        if first is not None and not cookie.exists():
            shutil.copy2(first.directory / COOKIE, cookie)
        self._write_configuration()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_program("rabbitmq-server")],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.serves, self._process, self.log)
        if first is not None:
            self._joins = None  # it stays a member of the cluster after restarts
            self.control("stop_app")
            self.control("join_cluster", first._name)
            self.control("start_app")

    def _write_configuration(self) -> None:
        lines = [
            "log.file = false",
            "log.console = true",
            "log.console.level = warning",
            "vm_memory_high_watermark.absolute = 1GB",
            "disk_free_limit.absolute = 20MB",
            self._config,
        ]
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "enabled_plugins").write_text("[].\n")

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **kept,
            "HOME": str(self.directory),  # the cookie is created there
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} "
                f"-rabbit dead_letter_worker_publisher_confirm_timeout {round(STUCK * 1000)} {self._erlang}"
            ),
            "ERL_CRASH_DUMP_SECONDS": "0",  # no crash dumps, which would be written into the tests' current directory
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper),
        }

    def serves(self) -> bool:
        """Return whether the node answers the greeting of the protocol."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
                connection.sendall(_AMQP)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the node, as in a crash."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        """Send a signal to the node's processes."""
        if self._process is not None:
            os.killpg(self._process.pid, number)
            if number == signal.SIGSTOP:
                for process in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(ProcessLookupError):
                        if os.getpgid(int(process.name)) == self._process.pid:
                            until_frozen(int(process.name))

    def close(self) -> None:
        """Kill the node, and end its port mapper, which accepts a request to end once it has noticed that the node is gone."""
        self.kill()
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self._mapper), timeout=1.0) as mapper:
                    mapper.sendall(struct.pack(">HB", 1, ord("k")))  # the port mapper's request KILL_REQ
                    mapper.recv(16)
            except OSError:
                return
            time.sleep(0.02)  # poll, because the port mapper does not report when it is ready to end

    # -- rabbitmqctl ---------------------------------------------------------------------------------

    def control(self, *arguments: str, program: str = "rabbitmqctl") -> str:
        """Run `rabbitmqctl`, or another of its programs, on the node; return its output. Starting it takes a second or two."""
        done = subprocess.run(
            [_program(program), "--node", self._name, "--quiet", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression in the node; return the value as text."""
        return self.control("eval", expression).strip()

    def make_vhost(self) -> str:
        """Create a virtual host that the user guest may use; return its name."""
        return self.make_vhosts(1)[0]

    def make_vhosts(self, count: int, instead_of: Sequence[str] = ()) -> list[str]:
        """Create several virtual hosts with one run of `rabbitmqctl`, and delete others in the background."""
        names = [f"v{new_token(6)}" for _ in range(count)]
        self.evaluate(
            f'lists:foreach(fun(V) -> rabbit_vhost:add(V, <<"tests">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"tests">>) end, [{_binaries(names)}]),'
            'spawn(fun() -> lists:foreach(fun(V) -> rabbit_vhost:delete(V, <<"tests">>) end, '
            f"[{_binaries(instead_of)}]) end), ok."
        )
        return names

    def url(self, vhost: str, *, port: int = 0) -> str:
        """Return the backend's URL for a virtual host; `port` may be that of a proxy."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/{vhost}"


def _binaries(names: Sequence[str]) -> str:
    return ",".join(f'<<"{name}">>' for name in names)


def _program(name: str) -> str:
    if (PROGRAMS / name).exists():
        return str(PROGRAMS / name)
    found = program(name, "rabbitmq-server")
    return shutil.which(re.sub(r"\.sh$", "", found)) or found


__all__ = ["RabbitMQNode"]
