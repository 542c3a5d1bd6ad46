"""The Lua scripts: one file per operation, and the parts that several share."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from typing import TYPE_CHECKING, Any, TypeAlias


class Script:
    """One operation, sent by its digest. Its file is read on first use, because a producer needs two of thirty."""

    __slots__ = ("digest", "name", "source")

    def __init__(self, name: str) -> None:
        self.name = name

    if not TYPE_CHECKING:  # otherwise a type checker would believe that every attribute exists

        def __getattr__(self, attribute):
            """Read the script on the first access to `digest` or `source`; later accesses find the stored attributes."""
            if attribute not in Script.__slots__:
                raise AttributeError(attribute)
            parts: dict[str, str] = {}
            _gather(self.name, parts)
            # Comments are removed: they would be sent to the server at the first use.
            self.source = "\n".join(map(_stripped, parts.values())).encode()
            self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()
            return getattr(self, attribute)

    digest: bytes
    source: bytes


ScriptCall: TypeAlias = tuple[Any, ...]
"""A script, the base of its store, and its arguments: the parameters of `ServerConnection.run`."""


_NAMES = r"Needs (\w+(?:(?:, | and )\w+)*)"


def _gather(name: str, parts: dict[str, str]) -> None:
    """Add a file, each section after the files that it declares as requirements."""
    own, *later = re.split(rf"^-- {_NAMES} from here on\b.*\n", _read(name), flags=re.MULTILINE)
    needs = re.search(rf"{_NAMES}\.", own)
    for n, (names, section) in enumerate(zip((needs[1] if needs else "", *later[::2]), (own, *later[1::2]), strict=True)):
        for part in re.split(r", | and ", names) if names else ():
            if part not in parts:
                _gather(part, parts)
        parts[f"{name} {n}" if n else name] = section


def _read(name: str) -> str:
    source = pkgutil.get_data(__name__, f"{name}.lua")  # importlib.resources takes 10 ms to import
    assert source is not None
    return source.decode()


def _stripped(source: str) -> str:
    lines = (re.sub(r"(^|\s)--(?!\[).*$", "", line).strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line)


ADD_STATISTICS = Script("add_statistics")
AMEND = Script("amend")
BIND = Script("bind")
BROWSE = Script("browse")
CANCEL = Script("cancel")
CANCEL_FLOW = Script("cancel_flow")
CHECKPOINT = Script("checkpoint")
CLAIM = Script("claim")
COUNTS = Script("counts")
DEAD_GROUPS = Script("dead_groups")
DEAD_IN_GROUP = Script("dead_in_group")
DEAD_MEMBERS = Script("dead_members")
DEFINE_LIMITS = Script("define_limits")
DELETE_DOCUMENT = Script("delete_document")
DISCARD = Script("discard")
DOCUMENTS = Script("documents")
DROP = Script("drop")
EMPTY = Script("empty")
END_CLOSURES = Script("end_closures")
FLOW_MEMBERS = Script("flow_members")
FLOW_RESULTS = Script("flow_results")
FLOW_STATE = Script("flow_state")
FOLLOW = Script("follow")
FOLLOW_FLOW = Script("follow_flow")
GET = Script("get")
HEARTBEAT = Script("heartbeat")
HOUSEKEEP = Script("housekeep")
KEYS = Script("keys")
LIMITS = Script("limits")
LIST_FLOWS = Script("list_flows")
LOOK = Script("look")
NAME_LETTERS = Script("name_letters")
NOTE = Script("note")
OPEN = Script("open")
OPEN_LIMITS = Script("open_limits")
PAUSE = Script("pause")
PEEK = Script("peek")
PURGE = Script("purge")
PURGE_DONE = Script("purge_done")
PUSH = Script("push")
PUSH_GUARDED = Script("push_guarded")
PUSH_ONE = Script("push_one")
PUSH_PART = Script("push_part")
PUSH_PLAIN = Script("push_plain")
PUT_DOCUMENT = Script("put_document")
READ_DOCUMENT = Script("read_document")
REJECT = Script("reject")
RELEASE = Script("release")
REQUEUE = Script("requeue")
RESERVE = Script("reserve")
RESUME = Script("resume")
RETURN_TOKENS = Script("return_tokens")
SETTLE = Script("settle")
STATISTICS_ROWS = Script("statistics_rows")
TOPICS = Script("topics")
UNNAMED_LETTERS = Script("unnamed_letters")
WAKE_OWNER = Script("wake_owner")
