"""Everything that a new connection to a server needs, whoever makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from jobs_core.backend_kit import Address


class Opening(Struct, frozen=True, kw_only=True):
    """Everything that a new connection needs. The times are in seconds."""

    timeout: float  # for each answer of the login
    connect_timeout: float  # for each address
    address: Address | None = None  # None for a unix socket
    found: Any = ()  # the answers of getaddrinfo for `address`
    path: str = ""
    username: str | None = None
    password: str | None = None
    name: str | None = None  # the client's name, which the server shows to its operators
    db: int = 0
    tls: Mapping[str, Any] | None = None  # see `Target.tls`

    @property
    def where(self) -> str:
        return f"{self.address[0]}:{self.address[1]}" if self.address else self.path

    def login(self) -> list[tuple[Any, ...]]:
        """Return the commands that come first on a connection."""
        commands: list[tuple[Any, ...]] = []
        if self.username:
            commands.append(("AUTH", self.username, self.password or ""))
        elif self.password:
            commands.append(("AUTH", self.password))
        if self.name:
            commands.append(("CLIENT", "SETNAME", self.name))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands
