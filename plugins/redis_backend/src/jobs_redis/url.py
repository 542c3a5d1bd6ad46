"""Parse backend URLs: the addresses of the servers, and the credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from jobs_core.backend_kit import Address, Url, read_url

_PORT = 6379
_SENTINEL_PORT = 26379
_FORMS = (
    "Forms: redis://[user:password@]host[:port][/db]  rediss://…  redis+unix:///path.sock[?db=0]  "
    "redis+sentinel://[user:password@]host[:port],…/service[/db]  redis+cluster://[user:password@]host[:port],…"
)
_PARAMETERS = frozenset(
    {"prefix", "db", "tls", "ca", "cert", "key", "sentinel_username", "sentinel_password", "replicas"},
)


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
    replicas: int = 0  # number of replicas that must have a push before it returns

    def __repr__(self) -> str:
        return f"<Target {self.shown}>"

    __str__ = __repr__


def parse(url: str) -> Target:
    """Parse a URL; raise a BackendError that shows the valid forms."""
    parts = read_url(url, _PARAMETERS, _FORMS)
    place = _PLACES.get(parts.scheme, _server)(parts)
    parameters = parts.parameters
    return Target(
        shown=parts.shown,
        username=parts.user,
        password=parts.password,
        sentinel_username=parameters.get("sentinel_username"),
        sentinel_password=parameters.get("sentinel_password"),
        tls=_tls(parameters) if parts.scheme == "rediss" or parameters.get("tls") == "yes" else None,
        prefix=parameters.get("prefix"),
        replicas=_number(parts, parameters.get("replicas", "0")),
        **place,
    )


def _server(parts: Url) -> dict[str, Any]:
    (address, *more) = parts.addresses(_PORT, "localhost")
    if more:
        raise parts.wrong("several hosts are for redis+sentinel:// and redis+cluster://")
    return {"kind": "server", "addresses": (address,), "db": _database(parts, parts.path)}


def _unix(parts: Url) -> dict[str, Any]:
    if not parts.path:
        raise parts.wrong("the path of the socket is missing")
    return {"kind": "unix", "path": f"/{parts.path}", "db": _database(parts)}


def _cluster(parts: Url) -> dict[str, Any]:
    if parts.path or parts.parameters.get("db", "0") != "0":
        raise parts.wrong("a cluster has one database")
    if _number(parts, parts.parameters.get("replicas", "0")):
        raise parts.wrong("replicas is for redis:// and redis+sentinel://")
    return {"kind": "cluster", "addresses": parts.addresses(_PORT)}


def _sentinel(parts: Url) -> dict[str, Any]:
    service, _, database = (parts.path or "").partition("/")
    if not service:
        raise parts.wrong("the name of the service that the sentinels watch is missing")
    addresses = parts.addresses(_SENTINEL_PORT)
    return {"kind": "sentinel", "addresses": addresses, "service": service, "db": _database(parts, database)}


_PLACES = {"redis+unix": _unix, "redis+cluster": _cluster, "redis+sentinel": _sentinel}


def _database(parts: Url, in_path: str | None = None) -> int:
    return _number(parts, in_path or parts.parameters.get("db", "0"))


def _number(parts: Url, text: str) -> int:
    return parts.integer(text, "the database, or replicas,")


def _tls(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the TLS options. Certificates are always verified, against the system's authorities or those in the file `ca`."""
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": parameters.get("ca"),
        "ssl_certfile": parameters.get("cert"),
        "ssl_keyfile": parameters.get("key"),
    }
