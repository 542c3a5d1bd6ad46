"""URLs: the addresses of the servers, and the credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from jobs_core.errors import BackendError
from jobs_core.urls import number, read, redact

_PORT = 6379
_SENTINEL_PORT = 26379
_FORMS = (
    "redis://[user:password@]host[:port][/db]  rediss://…  redis+unix:///path.sock[?db=0]  "
    "redis+sentinel://[user:password@]host[:port],…/service[/db]  redis+cluster://[user:password@]host[:port],…"
)
_PARAMETERS = frozenset(
    {"prefix", "db", "tls", "ca", "cert", "key", "sentinel_username", "sentinel_password", "replicas"},
)

Address = tuple[str, int]


class Target(Struct, frozen=True, kw_only=True):
    """A parsed URL."""

    kind: Literal["server", "unix", "sentinel", "cluster"]
    shown: str  # without its secrets
    addresses: tuple[Address, ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: Mapping[str, Any] | None = None  # keyword arguments of redis.SSLConnection
    prefix: str | None = None
    replicas: int = 0  # a push returns when so many replicas have it

    def __repr__(self) -> str:
        return f"<Target {self.shown}>"

    __str__ = __repr__


def parse(url: str) -> Target:
    """Parse a URL; raise BackendError that shows the possible forms."""
    try:
        parts = read(url, _PARAMETERS)
    except BackendError as error:
        raise BackendError(f"{error}. Forms: {_FORMS}") from None
    name, parameters, hosts, path = parts.scheme, parts.parameters, parts.hosts, parts.path or ""
    facts: dict[str, Any] = {
        "shown": redact(url),
        "username": parts.user,
        "password": parts.password,
        "prefix": parameters.get("prefix"),
        "replicas": _number(url, parameters.get("replicas", "0")),
        "sentinel_username": parameters.get("sentinel_username"),
        "sentinel_password": parameters.get("sentinel_password"),
        "tls": _tls(parameters) if name == "rediss" or parameters.get("tls") == "yes" else None,
    }
    database = parameters.get("db", "0")
    if name == "redis+unix":
        if not path:
            raise _wrong(url, "the path of the socket is missing")
        return Target(kind="unix", path="/" + path, db=_number(url, database), **facts)
    if name == "redis+cluster":
        if path or database != "0":
            raise _wrong(url, "a cluster has one database")
        if facts["replicas"]:
            raise _wrong(url, "replicas is for redis:// and redis+sentinel://")
        return Target(kind="cluster", addresses=_addresses(url, hosts, _PORT), **facts)
    if name == "redis+sentinel":
        service, _, db = path.partition("/")
        if not service:
            raise _wrong(url, "the name of the service that the sentinels watch is missing")
        addresses = _addresses(url, hosts, _SENTINEL_PORT)
        return Target(kind="sentinel", addresses=addresses, service=service, db=_number(url, db or database), **facts)
    (address, *more) = _addresses(url, hosts or "localhost", _PORT)
    if more:
        raise _wrong(url, "several hosts are for redis+sentinel:// and redis+cluster://")
    return Target(kind="server", addresses=(address,), db=_number(url, path or database), **facts)


def _tls(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the TLS options. Certificates are always verified, against the system's authorities or those in the file `ca`."""
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": parameters.get("ca"),
        "ssl_certfile": parameters.get("cert"),
        "ssl_keyfile": parameters.get("key"),
    }


def _addresses(url: str, hosts: str, port: int) -> tuple[Address, ...]:
    found = []
    for part in hosts.split(","):
        host, colon, given = part.rpartition(":") if not part.endswith("]") else (part, "", "")
        if not colon:
            host, given = part, str(port)
        if not host:
            raise _wrong(url, "the host is missing")
        found.append((host.strip("[]"), _port(url, given)))
    return tuple(found)


def _number(url: str, text: str) -> int:
    found = number(text)
    if found is None:
        shown = repr(text) if redact(url) == url else "the database, or replicas,"  # or a part of the password
        raise _wrong(url, f"{shown} is not a number")
    return found


def _port(url: str, text: str) -> int:
    found = number(text)
    if found is None or not 0 < found < 65536:
        raise _wrong(url, "the port is not a number from 1 to 65535")
    return found


def _wrong(url: str, why: str) -> BackendError:
    return BackendError(f"{redact(url)}: {why}. Forms: {_FORMS}")
