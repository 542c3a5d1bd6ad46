"""What proxies say about a request, and which of them are believed: only those that `[plugins.web] trusted_proxies` names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # each process that reads the settings imports this module
    from starlette.types import ASGIApp, Receive, Scope, Send

UNIX = "unix"
"""The entry of `trusted_proxies` that means every program that may connect to the unix socket of `listen`."""

TRUSTED = "jobs_web.trusted_proxy"
"""The key of the scope that is true if a trusted proxy has sent the request."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: str) -> Network:
    """Return the network of an address or a CIDR; raise ValueError."""
    found = ipaddress.ip_network(text)
    if found.prefixlen == 0:
        raise ValueError(f"{text} is every address, so that everybody could claim to be any user")
    return found


class Proxies:
    """Serves an application behind proxies.

    What a trusted proxy says in X-Forwarded-For and X-Forwarded-Proto replaces the client and the scheme of the request. What
    anybody else says there is ignored. `on_socket` tells that the server listens on a unix socket: no address there.
    """

    def __init__(self, app: ASGIApp, trusted: Iterable[str], *, on_socket: bool) -> None:
        self._app = app
        self._on_socket = on_socket and UNIX in trusted
        self._networks = [network(each) for each in trusted if each != UNIX]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            trusted = self._on_socket or self._is_trusted(scope["client"][0] if scope.get("client") else "")
            scope = {**scope, TRUSTED: trusted}
            if trusted:
                self._believe(scope)
        await self._app(scope, receive, send)

    def _is_trusted(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    def _believe(self, scope: Scope) -> None:
        schemes = values_of(scope["headers"], b"x-forwarded-proto")
        if schemes and schemes[-1] in ("http", "https"):
            scope["scheme"] = schemes[-1]
        # Each proxy adds at the end the address that it sees, and what comes before may have been written by the client.
        for host in reversed(values_of(scope["headers"], b"x-forwarded-for")):
            scope["client"] = (host, 0)
            if not self._is_trusted(host):
                break


def values_of(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Return the values of a header, in their order: of all its lines, each split at its commas."""
    lines = [value.decode("latin-1") for key, value in headers if key.lower() == name]
    return [part.strip() for part in ",".join(lines).split(",") if part.strip()]
