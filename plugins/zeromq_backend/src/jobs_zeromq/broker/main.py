"""Run a broker in this process, as configured, until it is stopped."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from jobs_core import Config
from jobs_core.backend_kit import is_loopback, read_url, redact, sqlite_url, url_scheme
from jobs_core.errors import BackendError, ConfigError

from .. import url
from .ipc import private_directory
from .server import Server, Settings

logger = logging.getLogger("jobs.broker")

_PR_SET_PDEATHSIG = 1


def settings(config: Config) -> Settings:
    """Return the broker's settings from the configuration; raise a ConfigError that names the key and the fix."""
    broker = config.broker
    base = config.base_dir
    keys = base / broker.keys if broker.keys else None
    if keys is not None and not (keys / "broker.key_secret").exists():
        raise ConfigError(f"broker.keys: there is no broker.key_secret in {keys}: `jobsctl broker keygen` creates it")
    listen = broker.listen
    if not listen:
        if url_scheme(config.backend or "") not in ("zmq+tcp", "zmq+ipc"):
            raise ConfigError('broker.listen: give an address, or set backend = "zmq+tcp://127.0.0.1:7788", as its clients do')
        listen = [str(config.backend).partition("?")[0]]
    store = broker.store
    if store is None:
        run_dir = base / config.run_dir
        try:
            private_directory(run_dir) if not run_dir.exists() else None
        except BackendError as error:
            raise ConfigError(f"run_dir: {error}") from None
        store = sqlite_url(run_dir / "broker.db")
    if url_scheme(store) != "sqlite":
        raise ConfigError("broker.store: expected a SQLite URL, sqlite:///broker.db")
    endpoints = [_endpoint(where, base, encrypted=keys is not None) for where in listen]
    return Settings(store=store, listen=endpoints, keys=keys, base_dir=base, min_free=int(broker.min_free))


def _endpoint(where: str, base: Path, *, encrypted: bool) -> str:
    """Convert a URL to a ZeroMQ endpoint; raise ConfigError, also if a network address has no encryption."""
    shown = f"broker.listen: {redact(where)}"
    try:
        parts = read_url(where, ())
        if parts.scheme == "zmq+ipc":
            return url.ipc_endpoint(shown, parts.location, base)
    except BackendError as error:
        raise ConfigError(str(error)) from None
    host, port = url.host_and_port(parts.hosts)
    if parts.scheme != "zmq+tcp" or not host or port is None or parts.user or parts.password or parts.path:
        raise ConfigError(f"{shown}: expected zmq+tcp://127.0.0.1:7788, or zmq+ipc:///path/of/a/socket")
    if not encrypted and not is_loopback(host):
        raise ConfigError(
            f"{shown} can be reached from other machines: this needs keys. "
            'Make them with `jobsctl broker keygen`, and set broker.keys = "keys"'
        )
    if host == "localhost":
        host = "127.0.0.1"
    return url.tcp_endpoint(host, port)


def serve(config: Config, ready: Callable[[Server], None] = lambda server: None) -> None:
    """Serve until TERM or INT; `ready` is called once clients can connect. Raises ConfigError and BackendError."""
    server = Server(settings(config))
    _allow_many_clients()
    with _stopped_by_signals(server):
        server.open()
        _collect_less_garbage()
        try:
            ready(server)
            logger.info("broker %d serves at %s", os.getpid(), ", ".join(server.listener.endpoints))
            server.run()
        finally:
            server.close()
    logger.info("broker %d stopped", os.getpid())


def _allow_many_clients() -> None:
    """Raise the limit of file descriptors to its maximum: each client needs one, and 1,024 is the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS reports "unlimited", but refuses that value
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _collect_less_garbage() -> None:
    """Collect garbage less often, and never the objects that exist now, which remain until the end: saves 3 % of the time.

    The objects of a group of requests are in use until it is answered, so earlier collections would find no garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@contextlib.contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent() -> None:
    """Ask the kernel to send us TERM when our parent ends for any reason; do nothing on macOS, which cannot do that."""
    parent = os.getppid()
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)  # the parent ended before prctl was called


def tell_ready(server: Server) -> None:
    """Write a byte to the descriptor that JOBS_READY_FD names, and close it; stop if no process reads it."""
    text = os.environ.pop("JOBS_READY_FD", "")
    if text.isdigit():
        try:
            os.write(int(text), b"\n")
            os.close(int(text))
        except BrokenPipeError:
            server.stop()  # our parent ended before `die_with_parent` was called
        except OSError as error:
            raise ConfigError(f"JOBS_READY_FD: {text}: {error.strerror}") from None
