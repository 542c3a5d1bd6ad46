"""URLs of backends: parse them, and show them without their secrets.

Passwords may be written unescaped, even with `/`, `#`, `?` and `@` in them. So there is one rule for parsing and showing:
the text before the last `@` is user and password. In a parameter's value, `@` has to be written as `%40`. An address that
begins with a slash is a path, without a user.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from .errors import BackendError
from .units import seconds

Address: TypeAlias = tuple[str, int]
"""Host and port."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PLAIN_USER = re.compile(r"[A-Za-z0-9_.%+-]*")
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
_SECRET_PARAMETER = re.compile(r"[?&][^=&@]*(pass|pwd|secret|key|token|auth|cred)[^=&@]*=", re.IGNORECASE)
_WITHIN_TEXT = re.compile(r"://\S*")
_PATHS_ALONE = frozenset({"sqlite", "memory"})


class Url(Struct, frozen=True, kw_only=True):
    """A parsed URL; user, password and path are decoded, hosts are unchanged.

    Methods that read a part of it raise BackendError, which shows the URL without its secrets, and `forms`.
    """

    given: str  # with its secrets
    forms: str = ""  # for errors
    scheme: str
    user: str | None = None
    password: str | None = None
    hosts: str = ""
    path: str | None = None  # the text after the slash; None if there is none
    parameters: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"<Url {self.scheme}://…>"

    __str__ = __repr__

    @property
    def location(self) -> str:
        """Return hosts and path joined as a file name, for schemes without a host: `zmq+ipc://relative/path`."""
        return unquote(self.hosts) + ("" if self.path is None else f"/{self.path}")

    @property
    def shown(self) -> str:
        """Return the URL without its secrets."""
        return redact(self.given)

    def wrong(self, why: str) -> BackendError:
        """Return an error that shows the URL without its secrets, and the reason `why`."""
        return BackendError(f"{self.shown}: {why}" + (f". {self.forms}" if self.forms else ""))

    def addresses(self, default_port: int, default_host: str = "") -> tuple[Address, ...]:
        """Return all hosts, separated by commas in the URL, each with its port."""
        found = []
        for part in (self.hosts or default_host).split(","):
            host, port = split_port(part)
            if not host:
                raise self.wrong("the host is missing")
            port_number = default_port if port is None else number(port)
            if port_number is None or not 0 < port_number < 65536:
                raise self.wrong("the port is not a number from 1 to 65535")  # not shown: it may be a part of the password
            found.append((host, port_number))
        return tuple(found)

    def integer(self, text: str, meaning: str) -> int:
        """Return a part of the URL as a number of 0 or more; the error shows `meaning` if the part may be a secret."""
        found = number(text)
        if found is None:
            shown = repr(text) if self.shown == self.given else meaning  # it may be a part of the password
            raise self.wrong(f"{shown} is not a number")
        return found

    def duration(self, name: str, least: float = 0.0, most: float = float("inf")) -> float | None:
        """Return a parameter in seconds, written as a number or like "30s"; None if it is not given."""
        text = self.parameters.get(name)
        if text is None:
            return None
        try:
            found = float(seconds(float(text) if text.replace(".", "", 1).isdigit() else text))
        except ValueError as error:
            raise self.wrong(f"{name}: {error}") from None
        if not least <= found <= most:
            raise self.wrong(f"{name}={text}: expected {least:g} to {most:g} seconds")
        return found

    def choice(self, name: str, *choices: str) -> str:
        """Return a parameter that must be one of these choices; the first one if it is not given."""
        chosen = self.parameters.get(name, choices[0])
        if chosen not in choices:
            raise self.wrong(f"{name}={chosen}: expected {' or '.join(choices)}")
        return chosen


def scheme(url: str) -> str:
    """Return the scheme of a backend URL, in lower case; "" if there is none."""
    head, separator, _ = url.partition("://")
    return head.lower() if separator and _SCHEME.fullmatch(head) else ""


def read(url: str, parameters: Collection[str], forms: str = "") -> Url:
    """Parse the URL of a backend that knows these parameters; raise BackendError, which shows no secret.

    Every error about the URL ends with `forms`, such as "Forms: mine://host[:port]".
    """
    hint = f". {forms}" if forms else ""
    try:
        url.encode()
    except UnicodeEncodeError:
        raise BackendError(f"{scheme(url)}://…: it contains bytes that are not text{hint}") from None
    rest, query = _split_query(url.partition("://")[2], parameters)
    credentials, body = "", rest
    if not rest.startswith("/"):
        credentials, _, body = rest.rpartition("@")
    found = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(found) - set(parameters))
    if unknown:
        shown = redact(url)
        named = f"unknown parameter {', '.join(unknown)}" if shown == url else "an unknown parameter"
        raise BackendError(f"{shown}: {named}; valid parameters are {', '.join(sorted(parameters))}{hint}")
    user, colon, password = credentials.partition(":")
    hosts, slash, path = body.partition("/")
    return Url(
        given=url,
        forms=forms,
        scheme=scheme(url),
        user=unquote(user) or None,
        password=unquote(password) if colon else None,
        hosts=hosts,
        path=unquote(path) if slash else None,
        parameters=found,
    )


def _split_query(rest: str, parameters: Collection[str]) -> tuple[str, str]:
    """Split a URL at the `?` that begins its query; a password may contain others."""
    for mark in re.finditer(r"\?", rest):
        query = rest[mark.end() :]
        if all(part.partition("=")[0] in parameters for part in query.split("&")):
            return rest[: mark.start()], query
    mark_at = rest.find("?", rest.rfind("@") + 1)
    return (rest, "") if mark_at < 0 else (rest[:mark_at], rest[mark_at + 1 :])


def of_sqlite(path: Path) -> str:
    """Return the URL of a SQLite file, whatever its name contains."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def number(text: str) -> int | None:
    """Convert up to nine digits to a number; return None for any other text. (`isdigit` alone accepts `²`, too.)"""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def split_port(host: str) -> tuple[str, str | None]:
    """Return the host, without the brackets of IPv6, and the text of the port; None if there is no colon."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    return (name.strip("[]"), port) if colon else (host.strip("[]"), None)


def is_loopback(host: str) -> bool:
    """Return whether other machines cannot reach an address; False for every name except localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def redact(url: str) -> str:
    """Return a URL, valid or not, without anything that may be secret, for logs and errors."""
    name = scheme(url)
    if not name:
        return "…" if "@" in url or ":" in url else url
    rest = url.partition("://")[2]
    secret = _SECRET_PARAMETER.search(rest)
    shown = rest[: secret.start()] if secret else rest
    query = "?…" if secret else ""
    if name in _PATHS_ALONE and rest.startswith("/"):
        return f"{name}://{shown}{query}"
    credentials, at, body = shown.rpartition("@")
    if secret and "@" in rest[secret.start() :]:  # the parameter may be part of a password, or its value contain `@`
        return f"{name}://…"
    if at:
        user, colon, _ = credentials.partition(":")
        who = f"{user}:***@" if colon and _PLAIN_USER.fullmatch(user) else "***@"
    else:
        who = ""
    hosts = re.split(r"[/?#]", body, maxsplit=1)[0]
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):  # user:password without a host
        return f"{name}://{who}…"
    return f"{name}://{who}{body}{query}"


def cover(text: str) -> str:
    """Return `text` with users and passwords of URLs in it replaced; takes one pass, however long it is."""
    return _WITHIN_TEXT.sub(lambda found: f"://***@{found[0].rpartition('@')[2]}" if "@" in found[0] else found[0], text)
