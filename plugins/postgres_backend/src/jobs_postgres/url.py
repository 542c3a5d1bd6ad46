"""Parse backend URLs: where the server is, the credentials, and our own parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from jobs_core.backend_kit import Url, read_url

_FORMS = (
    "Forms: postgresql://[user[:password]@][host[:port]][,host2[:port2]…]/database[?schema=jobs&notify=off]  "
    "postgresql:///database?host=/run/postgresql  postgresql://localhost:6432/database?pooling=transaction"
)
_OF_LIBPQ = frozenset(
    {
        "host", "port", "user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "channel_binding",
        "target_session_attrs", "load_balance_hosts", "gssencmode", "krbsrvname", "service", "options",
    }
)  # fmt: skip
_OURS = frozenset({"schema", "notify", "pooling"})
_SCHEMA = re.compile(r"[a-z_][a-z0-9_-]{0,47}")


class Target(Struct, frozen=True, kw_only=True):
    """A parsed URL."""

    shown: str  # without its secrets
    conninfo: Mapping[str, str]  # keyword arguments of libpq
    schema: str
    notify: bool = True  # whether a caller's transaction wakes workers at its commit
    pooling: bool = False  # whether a proxy that pools transactions is between: no LISTEN, no prepared statements, no session

    def __repr__(self) -> str:
        return f"<Target {self.shown}>"

    __str__ = __repr__


def parse(url: str, prefix: str) -> Target:
    """Parse a URL; raise a BackendError that shows the valid forms."""
    parts = read_url(url, _OF_LIBPQ | _OURS, _FORMS)
    parameters = dict(parts.parameters)
    schema = parameters.pop("schema", prefix.replace(".", "_"))  # a store of results has the prefix jobs.results
    if not _SCHEMA.fullmatch(schema):
        raise parts.wrong(f"schema {schema!r}: expected up to 48 of a-z, 0-9, _ and -, beginning with a letter")
    notify = parameters.pop("notify", "on")
    if notify not in ("on", "off"):
        raise parts.wrong(f"notify {notify!r}: expected on or off")
    pooling = parameters.pop("pooling", "session")
    if pooling not in ("session", "transaction"):
        raise parts.wrong(f"pooling {pooling!r}: expected session or transaction")
    conninfo = parameters | _place(parts)
    if parts.user:
        conninfo["user"] = parts.user
    if parts.password:
        conninfo["password"] = parts.password
    if parts.path:
        conninfo["dbname"] = parts.path
    return Target(shown=parts.shown, conninfo=conninfo, schema=schema, notify=notify == "on", pooling=pooling == "transaction")


def _place(parts: Url) -> dict[str, str]:
    if not parts.hosts:
        return {}
    addresses = parts.addresses(5432)
    return {"host": ",".join(host for host, _ in addresses), "port": ",".join(str(port) for _, port in addresses)}
