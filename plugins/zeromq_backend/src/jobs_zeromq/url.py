"""Parse zmq+tcp://host:port?key=client.key_secret&broker=broker.key and zmq+ipc:///path into ZeroMQ's terms."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from jobs_core.backend_kit import Url, is_loopback, number, read_url, redact, split_port
from jobs_core.errors import BackendError

DEFAULT_PORT = 7788
LONGEST_IPC_PATH = 107
_PARAMETERS = "the only parameters are key and broker, the files that `jobsctl broker keygen` makes"


class Address(Struct, frozen=True):
    """The address of a broker, and the files that identify us and the broker."""

    shown: str  # for errors and logs
    endpoint: str  # the address in ZeroMQ's syntax
    key: Path | None = None  # our secret key
    broker: Path | None = None  # the broker's public key


def parse(url: str, base_dir: Path) -> Address:
    """Parse a backend URL; raise a BackendError that names the mistake and the fix."""
    try:
        parts = read_url(url, ("key", "broker"))
    except BackendError:
        raise BackendError(f"{redact(url)}: {_PARAMETERS}") from None
    if parts.user is not None or parts.password is not None:
        raise parts.wrong(_PARAMETERS)
    files = {name: base_dir / file for name, file in parts.parameters.items()}
    if len(files) == 1:
        raise parts.wrong("key (ours) and broker (its public one) go together")
    endpoint = (_ipc if parts.scheme == "zmq+ipc" else _tcp)(parts, base_dir, encrypted=bool(files))
    return Address(parts.shown, endpoint, files.get("key"), files.get("broker"))


def _ipc(parts: Url, base_dir: Path, *, encrypted: bool) -> str:
    if encrypted:
        raise parts.wrong("a socket in the file system needs no keys: its directory is private")
    return ipc_endpoint(parts.shown, parts.location, base_dir)


def _tcp(parts: Url, _: Path, *, encrypted: bool) -> str:
    host, port = host_and_port(parts.hosts)
    if parts.path or not host or port is None:
        raise parts.wrong("expected zmq+tcp://host:port, or zmq+ipc:///path/of/a/socket")
    if not encrypted and not is_loopback(host):
        raise parts.wrong(
            "beyond this machine the connection must be encrypted: make keys with `jobsctl broker keygen` and name them, "
            "?key=NAME.key_secret&broker=broker.key"
        )
    return tcp_endpoint(host, port)


def host_and_port(hosts: str) -> tuple[str, int | None]:
    """Return host and port: the default port if none or 0 is given, None if the port is invalid."""
    host, given = split_port(hosts)
    port = number(given or "0")
    return host.lower(), (port or DEFAULT_PORT) if port is not None and port < 65536 else None


def tcp_endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def ipc_endpoint(shown: str, path: str, base_dir: Path) -> str:
    """Return the endpoint. zmq+ipc://relative/path starts at `base_dir`; zmq+ipc:///absolute/path does not."""
    if not path or path.endswith("/"):
        raise BackendError(f"{shown}: expected the path of a socket, zmq+ipc:///run/jobs/broker.sock")
    full = str((base_dir / path).absolute())
    if len(full.encode()) > LONGEST_IPC_PATH:
        raise BackendError(f"{shown}: {full} is longer than the {LONGEST_IPC_PATH} bytes that a socket's path may have")
    return f"ipc://{full}"
