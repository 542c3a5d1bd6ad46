"""Commands that the housekeeper received from the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .control import Command
from .system.messages import CommandDone, Commanded


class RemoteCommand(Command):
    """A command from another machine; its answer goes to the housekeeper that runs when it is given."""

    def __init__(self, given: Commanded, answer: Callable[[CommandDone], None]) -> None:
        self._id = given.id
        self._answer = answer
        self.message = {"do": given.do, "pool": given.pool or None}
        if given.do in ("quiet", "resume"):
            self.message |= {"do": "quiet", "on": given.do == "quiet"}
        elif given.do == "scale":
            self.message["workers"] = given.workers

    def answer(self, **facts: Any) -> None:
        self._answer(CommandDone(self._id, "" if facts.get("done") else str(facts.get("error") or "it failed")))
