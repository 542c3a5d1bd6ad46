"""URLs: the addresses of the nodes, and the credentials."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from pika import ConnectionParameters, PlainCredentials, SSLOptions

from jobs_core.errors import BackendError
from jobs_core.units import seconds
from jobs_core.urls import number, read, redact

CONNECT_TIMEOUT = 5.0
"""Longest time, in seconds, that one node may take to accept a connection."""

HEARTBEAT = 15
"""Seconds; a connection that carries nothing for about twice as long counts as dead at both ends."""

_PORT, _TLS_PORT = 5672, 5671
_FORM = "amqp[s]://[user:password@]host[:port][,host[:port]…][/vhost][?prefix=…&queues=classic]"
_PARAMETERS = frozenset({"prefix", "queues", "heartbeat", "consumer_timeout", "ca", "cert", "key"})

Address = tuple[str, int]


class Target(Struct, frozen=True, kw_only=True):
    """A parsed URL."""

    shown: str  # without its secrets
    addresses: tuple[Address, ...]
    vhost: str = "/"
    username: str = "guest"
    password: str = "guest"
    tls: ssl.SSLContext | None = None
    prefix: str | None = None
    queues: Literal["quorum", "classic"] = "quorum"
    heartbeat: int = HEARTBEAT
    consumer_timeout: float | None = None  # the broker's own setting, if it is not the default; seconds

    def __repr__(self) -> str:
        return f"<Target {self.shown}>"

    __str__ = __repr__

    def parameters(self, address: Address, heartbeat: int, name: str) -> ConnectionParameters:
        """Return pika's parameters for one node."""
        host, port = address
        return ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self.vhost,
            credentials=PlainCredentials(self.username, self.password),
            heartbeat=heartbeat,
            ssl_options=SSLOptions(self.tls, host) if self.tls else None,
            client_properties={"connection_name": name},
        )


def parse(url: str) -> Target:
    """Parse a URL; raise BackendError that shows the form."""
    try:
        parts = read(url, _PARAMETERS)
    except BackendError as error:
        raise BackendError(f"{error}. The form: {_FORM}") from None
    secure, parameters = parts.scheme == "amqps", parts.parameters
    queues = parameters.get("queues", "quorum")
    if queues not in ("quorum", "classic"):
        raise _wrong(url, f"queues={queues}: expected quorum or classic")
    heartbeat = _duration(url, "heartbeat", parameters)
    if heartbeat is not None and not 1 <= heartbeat <= 3600:
        raise _wrong(url, f"heartbeat={parameters['heartbeat']}: expected 1 to 3600 seconds")
    return Target(
        shown=redact(url),
        addresses=_addresses(url, parts.hosts or "localhost", _TLS_PORT if secure else _PORT),
        vhost=parts.path or "/",
        username=parts.user or "guest",
        password="guest" if parts.password is None else parts.password,
        tls=_tls(url, parameters) if secure else None,
        prefix=parameters.get("prefix"),
        queues="classic" if queues == "classic" else "quorum",
        heartbeat=round(heartbeat or HEARTBEAT),
        consumer_timeout=_duration(url, "consumer_timeout", parameters),
    )


def _tls(url: str, parameters: Mapping[str, str]) -> ssl.SSLContext:
    """Return the TLS options. Certificates are always verified, against the system's authorities or those in the file `ca`."""
    try:
        context = ssl.create_default_context(cafile=parameters.get("ca"))
        if "cert" in parameters:
            context.load_cert_chain(parameters["cert"], parameters.get("key"))
    except OSError as error:
        raise _wrong(url, f"ca, cert or key cannot be read: {error}") from None
    return context


def _addresses(url: str, hosts: str, port: int) -> tuple[Address, ...]:
    found = []
    for part in hosts.split(","):
        host, colon, given = part.rpartition(":") if not part.endswith("]") else (part, "", "")
        if not colon:
            host, given = part, str(port)
        if not host:
            raise _wrong(url, "the host is missing")
        port_number = number(given)
        if port_number is None or not 0 < port_number < 65536:
            raise _wrong(url, "the port is not a number from 1 to 65535")  # which may be a part of the password
        found.append((host.strip("[]"), port_number))
    return tuple(found)


def _duration(url: str, name: str, parameters: Mapping[str, str]) -> float | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return float(seconds(float(text) if text.replace(".", "", 1).isdigit() else text))
    except ValueError as error:
        raise _wrong(url, f"{name}: {error}") from None


def _wrong(url: str, why: str) -> BackendError:
    return BackendError(f"{redact(url)}: {why}. The form: {_FORM}")
