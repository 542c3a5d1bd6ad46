"""Redis's and its client's errors as the core's own, each with its mend; in this one place."""

from __future__ import annotations

import re

import redis.exceptions

from jobs_core.errors import BackendError, BackendUnavailable, QueueFull

_CODE = re.compile(
    r"\b(OOM|MISCONF|READONLY|UNBLOCKED|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|NOREPLICAS|UNKILLABLE|"
    r"NOPERM|NOAUTH|WRONGPASS|DENIED|WRONGTYPE|MOVED|ASK|NOSCRIPT)\b"
)
_PASSING = {
    "READONLY": "this server is a replica, its master has changed: waiting for the new one",
    "UNBLOCKED": "this server has become a replica, its master has changed: waiting for the new one",
    "LOADING": "Redis is loading its data",
    "MASTERDOWN": "this replica has lost its master",
    "CLUSTERDOWN": "the cluster is down or misses slots",
    "TRYAGAIN": "a slot of the cluster is on its way to another node",
    "MOVED": "a slot of the cluster is with another node now",
    "ASK": "a slot of the cluster is on its way to another node",
    "BUSY": "Redis is busy with a script",
    "UNKILLABLE": "Redis is busy with a script",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write)",
    "MISCONF": "Redis cannot save to its disk, and refuses to write: make room there, and look at its log",
}
_LOSES_CONNECTION = frozenset({"READONLY", "UNBLOCKED", "MASTERDOWN", "LOADING", "CLUSTERDOWN"})
_LASTING = {
    "NOAUTH": "it wants a password: redis://user:password@…",
    "WRONGPASS": "user or password are wrong",
    "DENIED": "it is in protected mode: give it a password, or bind it to loopback",
}


def code(error: Exception) -> str:
    """The word by which Redis says what is wrong; older servers hide it in the text of a script's error."""
    if isinstance(error, redis.exceptions.NoScriptError):
        return "NOSCRIPT"
    for kind, word in _BY_TYPE.items():
        if isinstance(error, kind):
            return "NOAUTH" if word == "WRONGPASS" and "required" in str(error) else word
    found = _CODE.search(str(error))
    return found[1] if found else ""


_BY_TYPE: dict[type[Exception], str] = {
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.AuthenticationError: "WRONGPASS",
}


def translated(error: Exception, where: str) -> BackendError:
    """The core's error for one of the client's; `where` names the server without its secrets."""
    word = code(error)
    text = " ".join(str(error).split())
    if word in _PASSING:
        return BackendUnavailable(f"{where}: {_PASSING[word]} ({word})")
    if word == "OOM":
        return QueueFull(f"{where}: Redis has reached its maxmemory: raise it, or let workers catch up; what is queued is safe")
    if word == "NOPERM":
        return BackendError(f"{where}: the user lacks a permission: {text}; docs/backends.md has the ACL that jobs needs")
    if word in _LASTING:
        return BackendError(f"{where}: Redis refuses us: {_LASTING[word]}")
    if word == "WRONGTYPE":
        return BackendError(f"{where}: a key of ours holds something else: is the prefix used by another program? ({text})")
    if isinstance(error, redis.exceptions.TimeoutError | TimeoutError):
        return BackendUnavailable(f"{where} does not answer in time")
    if isinstance(error, redis.exceptions.ConnectionError | OSError):
        return BackendUnavailable(f"{where} cannot be reached: {text}")
    return BackendError(f"{where}: {text}")


def loses_connection(error: Exception) -> bool:
    """Whether to connect anew after it: perhaps to another server."""
    gone = isinstance(error, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError | OSError)
    return gone or code(error) in _LOSES_CONNECTION
