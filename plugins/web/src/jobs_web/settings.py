"""The table `[plugins.web]`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from jobs_core import ConfigError

from .roles import ROLES, Role
from .tokens import HASH

TABLE = "plugins.web"

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A token, of which the configuration has only the hash."""

    role: str  # read, operate or admin
    hash: str  # as `jobsctl web token` prints it
    topics: list[str] = []  # if set, it can do nothing but enqueue to these topics through the API, and look at jobs in them

    @property
    def allows(self) -> Role:
        return ROLES[self.role]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the plugin."""

    listen: str = "127.0.0.1:9100"  # where `jobsctl web` serves
    read_only: bool = False  # refuse every change, whatever the role
    root_path: str = ""  # the prefix under which a proxy publishes it, such as "/jobs"
    proxies: list[str] = []  # addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed
    tokens: dict[str, Token] = {}  # by the name of their user
    session: float = 12 * 3600.0  # seconds after which a user has to log in again
    show_arguments: bool = True  # false: arguments, results, log lines and messages of errors are hidden from role read

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the address of `listen`."""
        return is_loopback(self.address[0])


def read(table: Mapping[str, Any], **given: Any) -> Settings:
    """Return the settings in the table, or given on the command line; raise ConfigError for one that is wrong."""
    merged = {**table, **{key: value for key, value in given.items() if value is not None}}
    try:
        found = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{TABLE}: {error}") from None
    _check(found)
    return found


def _check(found: Settings) -> None:
    host, _, port = found.listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f'{TABLE}.listen: expected an address such as "127.0.0.1:9100", got "{found.listen}"')
    if not _PREFIX.fullmatch(found.root_path):
        raise ConfigError(
            f'{TABLE}.root_path: expected a path such as "/jobs" without a slash at its end, got "{found.root_path}"'
        )
    if not 60 <= found.session <= 30 * 86400:
        raise ConfigError(f"{TABLE}.session: expected 60 to {30 * 86400} seconds, got {found.session:g}")
    for name, token in found.tokens.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f'{TABLE}.tokens: expected a name of letters, digits and "_.@+-", got "{name}"')
        if token.role not in ROLES:
            raise ConfigError(f"{TABLE}.tokens.{name}.role: expected {', '.join(ROLES)}, got {token.role!r}")
        if not HASH.fullmatch(token.hash):
            raise ConfigError(
                f"{TABLE}.tokens.{name}.hash: expected what `jobsctl web token {name}` prints, never the token itself"
            )


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
