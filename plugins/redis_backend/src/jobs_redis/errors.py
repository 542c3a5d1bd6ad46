"""Translate errors of Redis and its client into the core's own, each with its fix; only here."""

from __future__ import annotations

import errno
import re
import socket

from jobs_core.backend_kit import Address
from jobs_core.errors import BackendError, BackendUnavailable, QueueFull

from .transport.failures import NotRedis, Redirected, Unreachable

_CODE = (  # this and the other expressions are compiled at the first error
    r"\b(OOM|MISCONF|READONLY|UNBLOCKED|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|NOREPLICAS|UNKILLABLE|"
    r"NOPERM|NOAUTH|WRONGPASS|DENIED|WRONGTYPE|MOVED|ASK|NOSCRIPT)\b"
)
_PASSING = {
    "READONLY": "this server is a replica: its master has changed (waiting for the new one), or the URL names the wrong server",
    "UNBLOCKED": "this server has become a replica, its master has changed: waiting for the new one",
    "LOADING": "Redis is loading its data",
    "MASTERDOWN": "this replica has lost its master",
    "CLUSTERDOWN": "the cluster is down or misses slots",
    "TRYAGAIN": "a slot of the cluster is on its way to another node",
    # This redirect is not followed: while a slot migrates, its keys are split between two nodes, and a script needs them
    # all. Scripts declare a key that does not exist (the store's base), so neither node runs one before the end.
    "ASK": "a slot of the cluster is on its way to another node",
    "BUSY": "Redis is busy with a script",
    "UNKILLABLE": "Redis is busy with a script",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write)",
    "MISCONF": "Redis cannot save to its disk, and refuses to write: make room there, and look at its log",
}
_LOSES_CONNECTION = frozenset({"READONLY", "UNBLOCKED", "MASTERDOWN", "LOADING", "CLUSTERDOWN"})
_FULL = "max number of clients reached"
"""A server that accepts no more clients says this without a code, and hangs up."""
_LASTING = {
    "NOAUTH": "it requires a password: redis://user:password@…",
    "WRONGPASS": "wrong user or password",
    "DENIED": "it is in protected mode: give it a password, or bind it to loopback",
}
_BY_TEXT = {
    "without any password configured": (
        "it has no password, but was given one: leave it out of the URL, or set it on the server"
    ),
    "DB index is out of range": "it has no database of that number: see `databases` in redis.conf",
    "cluster support disabled": "it is not a node of a cluster: use redis://host for a single server",
    "command SENTINEL": "it is not a sentinel: redis+sentinel:// names the sentinels, whose usual port is 26379",
}
_QUOTES = dict.fromkeys(map(ord, "'`"))  # before Redis 7, the quotes differed
_DENIED_TO_SCRIPT = r"ACL failure in script|user executing the script can't"
_OF_SCRIPT = r"^((?:ERR|NOPERM|WRONGTYPE) )?(Error running script.*user_script: ?\d+: )?|,? script: .*$"
_UNREACHABLE = {
    errno.ECONNREFUSED: "connection refused: is Redis running and listening there?",
    errno.ENOENT: "there is no such socket: is Redis running, and is this its unixsocket?",
    errno.EACCES: "no permission to use the socket: see unixsocketperm and the groups of this user",
    socket.EAI_NONAME: "no host has this name",
}


class Moved(BackendError):
    """Raised for a command that belongs to the cluster node at `address`; it was not executed."""

    def __init__(self, message: str, address: Address) -> None:
        super().__init__(message)
        self.address = address


def code(error: Exception) -> str:
    """Return the code at the start of a Redis error; older servers put it inside the text of a script's error."""
    found = re.search(_CODE, str(error))
    if found:
        return found[1]
    return "NOPERM" if re.search(_DENIED_TO_SCRIPT, str(error)) else ""


def translated(error: Exception, where: str) -> BackendError:
    """Convert an error of the client to one of the core; `where` names the server without its secrets."""
    word = code(error)
    text = re.sub(_OF_SCRIPT, "", " ".join(str(error).split()))
    if isinstance(error, Redirected) and word == "MOVED":
        return Moved(f"{where}: it is a node of a cluster: use redis+cluster://", (error.host, error.port))
    for part, fix in _BY_TEXT.items():
        if part in text.translate(_QUOTES):
            return BackendError(f"{where}: {fix}")
    if word in _PASSING:
        return BackendUnavailable(f"{where}: {_PASSING[word]} ({word})")
    if word == "OOM":
        return QueueFull(f"{where}: Redis has reached its maxmemory: raise it, or let workers catch up; queued jobs are safe")
    if word == "NOPERM":
        return BackendError(
            f'{where}: the user lacks a permission: {text}; see "Backends" in the documentation for the ACL that jobs needs'
        )
    if word in _LASTING:
        return BackendError(f"{where}: Redis refuses the connection: {_LASTING[word]}")
    if word == "WRONGTYPE":
        return BackendError(f"{where}: a key of jobs holds something else: does another program use the prefix? ({text})")
    if isinstance(error, NotRedis):
        return BackendError(f"{where}: the server there is not Redis, or requires TLS ({text})")
    if isinstance(error, TimeoutError):
        doubt = ": does it use TLS?" if where.startswith("rediss:") and "connecting" in text else ""
        return BackendUnavailable(f"{where} does not answer in time{doubt}")
    if isinstance(error, Unreachable | OSError) or _FULL in text:
        return BackendUnavailable(f"{where} cannot be reached: {_unreachable(error) or text}")
    return BackendError(f"{where}: {text}")


def _unreachable(error: BaseException) -> str:
    """Describe the operating system's error that caused the client's error; empty if it is unknown."""
    cause = error if isinstance(error, OSError) else error.__context__
    return _UNREACHABLE.get(cause.errno or 0, "") if isinstance(cause, OSError) else ""


def loses_connection(error: Exception) -> bool:
    """Return whether a new connection is needed after this error, perhaps to another server."""
    gone = isinstance(error, Unreachable | NotRedis | OSError) or _FULL in str(error)
    return gone or code(error) in _LOSES_CONNECTION
