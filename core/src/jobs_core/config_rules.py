"""The values that a configuration key may have, beyond its type.

A rule takes a value and returns None, or why it cannot be used, with the fix. It examines only the value: whether a port is
free or a directory is writable depends on the machine, and is checked by `jobsctl check` and `start`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from . import urls, webhook_signing
from .message import MAX_NESTING, nesting
from .topics import topic_error
from .units import MAX_SECONDS, format_duration, format_size, interval

Rule: TypeAlias = "Callable[[Any], str | None]"

LARGEST_SIZE = 10**15
"""A petabyte: more than anyone needs, and it fits into every store's integers."""
LONGEST_TEXT = 4096

LEAVE_OUT = "leave the key out to use its default"
"""The fix for an empty string, which commands replace by theirs."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_LIMIT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MODULE = re.compile(r"[^\s./\\:,\"'\x00-\x1f\x7f]+(\.[^\s./\\:,\"'\x00-\x1f\x7f]+)*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")


def seconds(least: float = 0.0, longest: float = MAX_SECONDS) -> Rule:
    """Accept a duration within bounds."""

    def check(value: float) -> str | None:
        if least <= value <= longest:
            return None
        return f"expected a duration from {format_duration(least)} to {format_duration(longest)}, got {value:g} s"

    return check


def size_or_none(least: int, largest: int = LARGEST_SIZE) -> Rule:
    """Accept a size within bounds, or 0 for no limit."""

    def check(value: int) -> str | None:
        if value == 0 or least <= value <= largest:
            return None
        return (
            f"expected 0 for no limit, or a size from {format_size(least)} to {format_size(largest)}, got {format_size(value)}"
        )

    return check


def size(least: int, largest: int = LARGEST_SIZE) -> Rule:
    """Accept a size within bounds."""

    def check(value: int) -> str | None:
        if least <= value <= largest:
            return None
        return f"expected a size from {format_size(least)} to {format_size(largest)}, got {format_size(value)}"

    return check


def text(value: str) -> str | None:
    """Accept a non-empty string on one line: NUL and newlines would end a path, a header or a name early."""
    if not value.strip():
        return f"expected a string, got an empty one: {LEAVE_OUT}"
    if len(value) > LONGEST_TEXT:
        return f"expected at most {LONGEST_TEXT:,} characters, got {len(value):,}"
    if any(ord(each) < 32 or 127 <= ord(each) < 160 for each in value):
        return "expected a string on one line, without control characters"
    if any(0xD800 <= ord(each) < 0xE000 for each in value):
        return "expected valid UTF-8; files and directories with other names have to be renamed"
    return None


def name(value: str) -> str | None:
    """Accept a name that the configuration chooses for an entry."""
    return text(value) or ("expected a name of at most 200 characters" if len(value) > 200 else None)


def path(value: str) -> str | None:
    """Accept the name of a file or directory."""
    reason = text(value)
    if reason is None and any(len(part.encode()) > 255 for part in value.split("/")):
        reason = "expected a path whose parts have at most 255 bytes each"
    return reason


def url(value: str) -> str | None:
    """Accept anything in the form of a URL; plugins know the schemes."""
    return _in_form(value, 'a URL such as "sqlite:///jobs.db" or "redis://localhost:6379/0"')


def store_url(value: str) -> str | None:
    """Accept the SQLite URL of a broker's store."""
    expected = 'a SQLite URL, such as "sqlite:///broker.db"'
    return _in_form(value, expected) or (None if urls.scheme(value) == "sqlite" else f"expected {expected}")


def payload_url(value: str) -> str | None:
    """Accept the URL of a payload store."""
    expected = '"file:///an/absolute/directory", perhaps with ?durability=process, or "s3://bucket/prefix"'
    if reason := _in_form(value, expected):
        return reason
    return None if re.match(r"file:///[^/?]", value) or re.match(r"s3://[^/]", value) else f"expected {expected}"


def endpoint(value: str) -> str | None:
    """Accept an address on which a ZeroMQ broker may listen."""
    expected = '"zmq+tcp://127.0.0.1:7788", or "zmq+ipc:///path/of/a/socket"'
    return _in_form(value, expected) or (None if urls.scheme(value) in ("zmq+tcp", "zmq+ipc") else f"expected {expected}")


def _in_form(value: str, expected: str) -> str | None:
    """Accept anything in the form of a URL. The error shows no value that may hold a password."""
    if reason := text(value):
        return reason
    if _URL.fullmatch(value):
        return None
    if urls.scheme(value) or any(each in value for each in "@:/?#"):
        return f"expected {expected}, without spaces in it"
    return f'expected {expected}, got "{value[:80]}"'


def module(value: str) -> str | None:
    """Accept a module as written in an import statement."""
    if _MODULE.fullmatch(value) and len(value) <= LONGEST_TEXT and text(value) is None:
        return None
    return f'{value[:80]!r} is not a module name: write it as in an import statement, "shop.tasks" for shop/tasks.py'


def pool_name(value: str) -> str | None:
    """Accept a pool's name, which is used as a key and as a metrics label, and has 48 bytes in the scoreboard."""
    if _NAME.fullmatch(value) and not value.startswith((".", "-")) and len(value) <= 48:
        return None
    return f"invalid pool name {value[:80]!r}: use 1 to 48 letters, digits, _ . - and begin with a letter or digit"


def limit(value: str) -> str | None:
    """Accept the name of a limit: the part before the colon in `limits` of a job."""
    if _LIMIT.fullmatch(value):
        return None
    return f"invalid limit name {value[:80]!r}: use 1 to 64 letters, digits, _ . -, and define the name without a value"


def rate(value: str) -> str | None:
    """Accept a rate such as "100/s"."""
    try:
        interval(value)
    except ValueError as error:
        return str(error)
    return None


def topic(value: str) -> str | None:
    """Accept a topic's name."""
    return topic_error(value)


def prefix(value: str) -> str | None:
    """Accept the prefix of a backend's keys and queues, short enough for brokers that limit names to 255 bytes."""
    if _PREFIX.fullmatch(value):
        return None
    return f"invalid prefix {value[:80]!r}: use 1 to 64 letters, digits, _ . : -"


def listen(value: str) -> str | None:
    """Accept an address to listen on."""
    if reason := text(value):
        return reason
    try:
        parse_listen(value)
    except ValueError as error:
        return str(error)
    return None


def parse_listen(value: str) -> Path | tuple[str, int]:
    """Return host and port, or the path of a unix socket; raise ValueError.

    An address without a host is refused: it would expose the server to the network by accident.
    """
    if value.startswith("unix:"):
        where = value.removeprefix("unix:").removeprefix("//")
        if not where or where.endswith("/") or path(where):
            raise ValueError(f'"{value}" has no path: write "unix:/run/jobs/http.sock"')
        return Path(where)
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or ":" not in value or not 0 < int(port) < 65536:
        raise ValueError(
            f'expected "127.0.0.1:9000", "[::1]:9000" or "unix:/path", got "{value}": a port is a number up to 65535'
        )
    if not host:
        raise ValueError(
            f'"{value}" has no host: write "127.0.0.1:{port}", or "0.0.0.0:{port}" to accept connections from every network'
        )
    return _host(host, port, value), int(port)


def _host(host: str, port: str, value: str) -> str:
    """Return an address or the name of a host, without brackets; raise ValueError."""
    if host.startswith("[") and host.endswith("]"):
        _address(host[1:-1].partition("%")[0], value)
        return host[1:-1]
    if ":" in host:
        raise ValueError(f'an IPv6 address needs brackets: write "[{host}]:{port}"')
    if re.fullmatch(r"[0-9.]+", host):
        _address(host, value)
    elif not _HOST.fullmatch(host):
        raise ValueError(f'"{host}" is not a host name: write "127.0.0.1:{port}", or the name of this machine')
    return host


def _address(host: str, value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f'"{value}": {host} is not an IP address: write "127.0.0.1:9000" or "[::1]:9000"') from None


def http_url(value: str) -> str | None:
    """Accept the address of an HTTP server. The error does not show it, because it may contain a token."""
    if reason := _in_form(value, '"https://example.com/hooks"'):
        return reason
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and value.isascii() and parts.username is None
        _ = parts.port  # a number, or ValueError
    except ValueError:
        good = False
    return None if good else "expected an address that begins with https:// (or http://), without a user and password"


def webhook_secret(value: str) -> str | None:
    """Accept secrets of a webhook."""
    try:
        webhook_signing.keys(value)
    except ValueError as error:
        return str(error)
    return None


def networks(value: list[str]) -> str | None:
    """Accept a list of networks."""
    for each in value:
        try:
            ipaddress.ip_network(each)
        except ValueError as error:
            return f'expected networks such as "10.0.0.0/8" or "127.0.0.1": {error}'
    return None


def some_of(*known: str, least: int = 1) -> Rule:
    """Accept a list of these words, at least so many."""

    def check(value: list[str]) -> str | None:
        if len(value) < least:
            return f"expected at least one of {', '.join(known)}"
        unknown = [each for each in value if each not in known]
        return f'expected some of {", ".join(known)}, got "{unknown[0][:80]}"' if unknown else no_repeats(value)

    return check


def keys(shortest: int) -> Rule:
    """Accept a list of keys, each "kid:secret", with secrets of at least `shortest` characters; no error shows a secret."""

    def check(value: list[str]) -> str | None:
        kids = []
        for number, key in enumerate(value, 1):
            kid, colon, secret = key.partition(":")
            if not colon or not kid.isalnum() or not kid.isascii() or len(kid) > 64 or len(secret) < shortest:
                return (
                    f'key {number} of {len(value)}: expected "kid:secret", with 1 to 64 letters and digits before the colon '
                    f"and at least {shortest} random characters after it: openssl rand -base64 32 prints some"
                )
            if kid in kids:
                return f"key {number} of {len(value)}: a key before it has the same name, {kid}: rename one"
            kids.append(kid)
        return None

    return check


def not_empty(value: Any) -> str | None:
    """Accept a list or table that is not empty."""
    return None if value else "expected at least one entry, got none"


def arguments(value: Any) -> str | None:
    """Accept arguments of a job that can be written as JSON."""
    try:
        payload = msgspec.json.encode(value)
    except (OverflowError, RecursionError, UnicodeEncodeError, TypeError) as error:
        return f"cannot be stored as JSON ({error}): use smaller numbers, or strings"
    if nesting(payload) > MAX_NESTING + 1:  # one more level: the list of arguments itself
        return f"nested too deeply to be stored (more than {MAX_NESTING} levels): pass it as a string that the job parses"
    return None


def no_repeats(value: list[str]) -> str | None:
    """Accept a list without duplicates."""
    twice = [each for number, each in enumerate(value) if each in value[:number]]
    return f'"{twice[0][:80]}" is listed twice: once is enough' if twice else None
