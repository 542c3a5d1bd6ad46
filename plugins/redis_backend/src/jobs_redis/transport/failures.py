"""The failures of a connection besides OSError, of our code and of redis-py alike; ../errors.py translates them."""

from __future__ import annotations


class Failure(Exception):
    """Base of the classes below."""


class Unreachable(Failure):
    """Raised if a connection could not be made; its cause is the operating system's error."""


class NotRedis(Failure):
    """Raised for an answer that is not Redis's protocol."""


class Refused(Failure):
    """Raised for an error reply of the server, whose text begins with its code."""


class ScriptMissing(Refused):
    """Raised if the server does not have the script; nothing was executed."""


class Redirected(Refused):
    """Raised for a command that another node has to execute, at `host` and `port`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.host, _, port = text.split(" ")[-1].rpartition(":")
        self.port = int(port)


def refusal(text: str) -> Refused:
    """Return the exception for an error reply; its class depends on the code where callers have to know it."""
    return _KINDS.get(text.partition(" ")[0], Refused)(text)


_KINDS: dict[str, type[Refused]] = {"ASK": Redirected, "MOVED": Redirected, "NOSCRIPT": ScriptMissing}
