"""Parse backend URLs: the addresses of the nodes, and the credentials."""

from __future__ import annotations

import ssl
from typing import Literal

from msgspec import Struct
from pika import ConnectionParameters, PlainCredentials, SSLOptions

from jobs_core.backend_kit import Address, Url, read_url

CONNECT_TIMEOUT = 5.0
"""Seconds that one node may take to accept a connection."""

HEARTBEAT = 15
"""Heartbeat interval in seconds; after about two of them without data, a connection counts as dead at both ends."""

_PORT, _TLS_PORT = 5672, 5671
_FORM = "The form: amqp[s]://[user:password@]host[:port][,host[:port]…][/vhost][?prefix=…&queues=classic]"
_PARAMETERS = frozenset({"prefix", "queues", "heartbeat", "consumer_timeout", "ca", "cert", "key"})


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
    consumer_timeout: float | None = None  # seconds; the broker's setting, if it is not the default

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
    """Parse a URL; raise a BackendError that shows the valid form."""
    parts = read_url(url, _PARAMETERS, _FORM)
    secure = parts.scheme == "amqps"
    return Target(
        shown=parts.shown,
        addresses=parts.addresses(_TLS_PORT if secure else _PORT, "localhost"),
        vhost=parts.path or "/",
        username=parts.user or "guest",
        password="guest" if parts.password is None else parts.password,
        tls=_tls(parts) if secure else None,
        prefix=parts.parameters.get("prefix"),
        queues="classic" if parts.choice("queues", "quorum", "classic") == "classic" else "quorum",
        heartbeat=round(parts.duration("heartbeat", 1, 3600) or HEARTBEAT),
        consumer_timeout=parts.duration("consumer_timeout"),
    )


def _tls(parts: Url) -> ssl.SSLContext:
    """Return the TLS options. Certificates are always verified, against the system's authorities or those in the file `ca`."""
    parameters = parts.parameters
    try:
        context = ssl.create_default_context(cafile=parameters.get("ca"))
        if "cert" in parameters:
            context.load_cert_chain(parameters["cert"], parameters.get("key"))
    except OSError as error:
        raise parts.wrong(f"ca, cert or key cannot be read: {error}") from None
    return context
