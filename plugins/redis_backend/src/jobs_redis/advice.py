"""Risks in a server's configuration, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs_core.backend_kit import is_loopback
from jobs_core.errors import BackendError, BackendUnavailable

from .transport.connection import ServerConnection
from .url import Target

OLDEST = (6, 2)
NEARLY_FULL = 0.9


def advice(target: Target, connection: ServerConnection) -> list[str]:
    """Return the risks, for `jobsctl check`. Settings that the server does not disclose are not checked."""
    return [
        *_version(connection),
        *_role(connection),
        *_durability(connection),
        *_memory(connection),
        *_access(target, connection),
    ]


def _version(connection: ServerConnection) -> Iterator[str]:
    facts = _info(connection, "server")
    if not facts or "valkey_version" in facts:
        return
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        yield f"Redis {version} is older than {'.'.join(map(str, OLDEST))}, the oldest that is supported: upgrade it"


def _role(connection: ServerConnection) -> Iterator[str]:
    role = _ask(connection, "ROLE")
    if role and role[0] == b"slave":
        master = f"{role[1].decode()}:{role[2]}"
        yield (
            f"this server is a replica of {master}, the only one that can be written to: use that, or sentinels "
            "(redis+sentinel://)"
        )


def _durability(connection: ServerConnection) -> Iterator[str]:
    if _setting(connection, "appendonly") == "no":
        yield (
            "appendonly is off: when Redis stops, jobs since its last snapshot are lost: "
            "CONFIG SET appendonly yes, and write it into redis.conf"
        )
    elif _setting(connection, "appendfsync") == "no":
        yield "appendfsync is no: a power cut may lose half a minute of jobs: set everysec (a second), or always (none)"


def _memory(connection: ServerConnection) -> Iterator[str]:
    policy = _setting(connection, "maxmemory-policy")
    if policy and policy != "noeviction":
        yield (
            f"maxmemory-policy is {policy}: a full Redis would delete jobs to make room: "
            "CONFIG SET maxmemory-policy noeviction; enqueue then raises QueueFull"
        )
    facts = _info(connection, "memory")
    used, most = (int(facts.get(name, "0")) for name in ("used_memory", "maxmemory"))
    if most and used >= NEARLY_FULL * most:
        yield (
            f"Redis uses {used / most:.0%} of its maxmemory, and refuses new jobs when it is full (QueueFull): "
            "raise maxmemory, or start more workers"
        )


def _access(target: Target, connection: ServerConnection) -> Iterator[str]:
    if target.kind == "unix" or all(is_loopback(host) for host, _ in target.addresses):
        return
    user = _ask(connection, "ACL", "WHOAMI")
    if user == b"default":
        yield (
            "Redis is reached over the network as its default user: give jobs a user of its own that may access only its own "
            'keys (see "Backends" in the documentation for its ACL), redis://user:password@…'
        )
    if target.tls is None:
        yield "Redis is reached over the network without TLS: passwords and jobs can be read in transit; use rediss://…"


def _info(connection: ServerConnection, section: str) -> dict[str, str]:
    facts = _ask(connection, "INFO", section)
    return dict(line.split(":", 1) for line in facts.decode().splitlines() if ":" in line) if facts else {}


def _setting(connection: ServerConnection, name: str) -> str | None:
    found = _ask(connection, "CONFIG", "GET", name)
    return found[1].decode() if found else None


def _ask(connection: ServerConnection, *command: str) -> Any:
    """Return the answer, or None if the server refuses the command."""
    try:
        return connection.call(*command)
    except BackendUnavailable:
        raise
    except BackendError:
        return None
