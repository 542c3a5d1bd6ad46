"""The table `[plugins.web]`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from jobs_core import ConfigError
from jobs_core.config_rules import parse_listen
from jobs_core.topics import topic_error

from .proxies import UNIX, network
from .roles import ROLES, Role
from .tokens import HASH

TABLE = "plugins.web"

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")
_MODE = re.compile(r"0?[0-7]{3}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")

OTHERS = "*"
"""The entry of `users` for everybody whom the proxy names and `users` does not."""


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

    listen: str = "127.0.0.1:9100"  # where it serves: an address, or "unix:/path"
    socket_mode: str = "600"  # the mode of a unix socket: who may connect
    read_only: bool = False  # refuse every change, whatever the role
    root_path: str = ""  # the prefix under which a proxy publishes it, such as "/jobs"
    trusted_proxies: list[str] = []  # addresses, networks or "unix": proxies whose X-Forwarded- headers are believed
    trusted_user_header: str = ""  # in which these proxies name the user who has logged in there
    users: dict[str, str] = {}  # the roles of users whom a proxy names; "*": everybody else
    tokens: dict[str, Token] = {}  # by the name of their user
    session: float = 12 * 3600.0  # seconds after which a user has to log in again
    show_arguments: bool = True  # false: arguments, results, log lines and messages of errors are hidden from role read

    @property
    def address(self) -> tuple[str, int] | Path:
        """Return host and port of `listen`, or the path of the unix socket."""
        return parse_listen(self.listen)

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the address of `listen`."""
        return isinstance(self.address, Path) or is_loopback(self.address[0])

    @property
    def knows_users(self) -> bool:
        """Return whether anybody could be let in: by a token, or by the word of a proxy."""
        return bool(self.tokens or self.trusted_user_header)

    def role_of(self, name: str) -> Role | None:
        """Return the role of a user whom a trusted proxy names; None for one who may not use the dashboard."""
        word = self.users.get(name, self.users.get(OTHERS)) if _NAME.fullmatch(name) else None
        return None if word is None else ROLES[word]


def read(table: Mapping[str, Any], **given: Any) -> Settings:
    """Return the settings in the table, or given on the command line; raise ConfigError for one that is wrong."""
    merged = {**table, **{key: value for key, value in given.items() if value is not None}}
    try:
        found = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{TABLE}: {error}") from None
    _check(found)
    return found


def exposed(found: Settings) -> None:
    """Raise ConfigError for settings with which everybody could use the dashboard."""
    if not found.knows_users and not found.is_local:
        raise ConfigError(
            f"{TABLE}.listen: {found.listen} can be reached from other machines, and there are no tokens: everybody could "
            "use the dashboard. Make one with `jobsctl web token NAME --role admin`, or listen on 127.0.0.1"
        )


def _check(found: Settings) -> None:
    try:
        parse_listen(found.listen)
    except ValueError as error:
        raise ConfigError(f"{TABLE}.listen: {error}") from None
    if not _MODE.fullmatch(found.socket_mode):
        raise ConfigError(f'{TABLE}.socket_mode: expected three octal digits such as "660", got "{found.socket_mode}"')
    if not _PREFIX.fullmatch(found.root_path):
        raise ConfigError(
            f'{TABLE}.root_path: expected a path such as "/jobs" without a slash at its end, got "{found.root_path}"'
        )
    if not 60 <= found.session <= 30 * 86400:
        raise ConfigError(f"{TABLE}.session: expected 60 to {30 * 86400} seconds, got {found.session:g}")
    _check_proxies(found)
    for name, token in found.tokens.items():
        _check_name("tokens", name)
        if token.role not in ROLES:
            raise ConfigError(f"{TABLE}.tokens.{name}.role: expected {', '.join(ROLES)}, got {token.role!r}")
        if reason := next(filter(None, map(topic_error, token.topics)), None):
            raise ConfigError(f"{TABLE}.tokens.{name}.topics: {reason}")
        if token.topics and token.role == "admin":
            raise ConfigError(
                f"{TABLE}.tokens.{name}.topics: they are for a program that enqueues (role operate) or looks (role read): "
                "leave out role admin, or the topics"
            )
        if not HASH.fullmatch(token.hash):
            raise ConfigError(
                f"{TABLE}.tokens.{name}.hash: expected what `jobsctl web token {name}` prints, never the token itself"
            )


def _check_proxies(found: Settings) -> None:
    for proxy in found.trusted_proxies:
        try:
            if proxy != UNIX:
                network(proxy)
        except ValueError as error:
            raise ConfigError(
                f'{TABLE}.trusted_proxies: expected an address, a network such as "10.0.0.0/8", or "unix": {error}'
            ) from None
    if not found.trusted_user_header:
        if found.users:
            raise ConfigError(f"{TABLE}.users: without trusted_user_header, no proxy names a user: set it, or use tokens")
        return
    if not _HEADER.fullmatch(found.trusted_user_header):
        raise ConfigError(
            f'{TABLE}.trusted_user_header: expected a header such as "X-Forwarded-User", got "{found.trusted_user_header}"'
        )
    if not found.trusted_proxies:
        raise ConfigError(f"{TABLE}.trusted_user_header: everybody could send it: name the proxies in trusted_proxies")
    if not found.users:
        raise ConfigError(f'{TABLE}.trusted_user_header: nobody has a role: add [{TABLE}.users] with "*" = "read", or names')
    for name, role in found.users.items():
        if name != OTHERS:
            _check_name("users", name)
        if role not in ROLES:
            raise ConfigError(f"{TABLE}.users.{name}: expected {', '.join(ROLES)}, got {role!r}")


def _check_name(table: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f'{TABLE}.{table}: expected a name of letters, digits and "_.@+-", got "{name}"')


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
