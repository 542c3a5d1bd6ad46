"""One POST to an address that others have chosen: only to addresses that are allowed, and over in time.

The address is judged when the connection is made, on what the name has been resolved to, and the connection goes to exactly
that: a name that resolves to something else a moment later gains nothing. Redirects are not followed, and no proxy is used,
because it would resolve the name itself.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

PATIENCE: Final = 10.0
"""Seconds for the whole request after the name was resolved."""

MOST_READ: Final = 1000
"""Bytes of an answer that are read: they are shown in the error of a refusal."""

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "fec0::/10", "3fff::/20", "5f00::/16"),
    )
)
"""What some releases of Python call global though it is reserved, and the address at which a cloud serves its machines."""

_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(ConnectionError):
    """The receiver's name leads to addresses to which nothing is sent."""


class Reply(Struct, frozen=True):
    """What a receiver answered."""

    status: int
    retry_after: str | None
    text: str  # the first line of the body


def may_reach(address: str, allowed: Sequence[Network]) -> bool:
    """Return whether an address is public, or in one of the allowed networks."""
    found = _innermost(ipaddress.ip_address(address.partition("%")[0]))
    if any(found in network for network in allowed if network.version == found.version):
        return True
    if any(found in network for network in _NOT_PUBLIC if network.version == found.version):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _innermost(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does: a gateway would connect to that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Sequence[Network], patience: float = PATIENCE) -> Reply:
    """Send a body and return the answer; raise Forbidden or ConnectionError, whose text contains no part of the URL."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    end = time.monotonic() + patience
    try:
        plain = _connected(parts.hostname or "", parts.port or (443 if tls else 80), allowed, patience)
        timer = threading.Timer(max(0.0, end - time.monotonic()), _shut, [plain])
        timer.daemon = True
        timer.start()
        try:
            return _exchange(plain, parts.hostname if tls else None, _request(url, body, headers))
        finally:
            timer.cancel()
            timer.join()  # later, it would shut a closed connection, whose descriptor may have been reused
            plain.close()
    except Forbidden:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= end
        raise ConnectionError(f"gave no answer within {patience:g} s" if late else f"cannot be reached: {error}") from None


def _connected(host: str, port: int, allowed: Sequence[Network], patience: float) -> socket.socket:
    """Return a connection to the first address of a host that answers and to which it may be made."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [(family, place) for family, _, _, _, place in found if may_reach(str(place[0]), allowed)]
    if not places:
        raise Forbidden(
            "has only addresses that are not public, to which nothing is sent: name their network in `networks` if it is yours"
        )
    trouble: OSError | None = None
    for family, place in places:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(patience)
        try:
            connection.connect(place)
            return connection
        except OSError as error:
            connection.close()
            trouble = error
    assert trouble is not None
    raise trouble


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _request(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[str, str, bytes, dict[str, str]]:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fixed = {"Host": host, "Content-Type": "application/json", "User-Agent": "jobs", "Connection": "close"}
    return host, target, body, {**fixed, **headers}


def _exchange(plain: socket.socket, tls_name: str | None, request: tuple[str, str, bytes, dict[str, str]]) -> Reply:
    """Send a request over a connection and read the beginning of the answer; `tls_name` is whose certificate is expected."""
    host, target, body, headers = request
    connection = http.client.HTTPConnection(host)
    # A duplicate, so that the timer's shutdown reaches the connection that TLS has taken over.
    connection.sock = plain.dup()
    connection.sock.settimeout(plain.gettimeout())
    if tls_name is not None:
        connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=tls_name)
    try:
        connection.request("POST", target, body, headers)
        answer = connection.getresponse()
        said = b"" if 200 <= answer.status < 300 else answer.read1(MOST_READ)
        lines = said.decode(errors="replace").strip().splitlines()
        return Reply(answer.status, answer.getheader("Retry-After"), lines[0][:200] if lines else "")
    finally:
        connection.close()
