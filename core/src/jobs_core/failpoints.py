"""Fail points: places where a test can make this process die, stall or fail, to hit a race window exactly.

`JOBS_FAILPOINT=reserve.after_commit=kill,push.before_commit=sleep:0.5@3` names points, the action at each, and after `@`
the visit at which it happens (default: the first). Actions: `kill` (SIGKILL to itself), `exit:CODE`, `sleep:SECONDS`,
`raise` (BackendUnavailable). Without the variable, `failpoint` is an empty function, and no backend is wrapped.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .errors import BackendUnavailable, ConfigError

B = TypeVar("B")
_OPERATIONS = {name: name for name in ("push", "reserve", "settle", "heartbeat")} | {"push_loosely": "push"}


class _Point:
    def __init__(self, name: str, action: str) -> None:
        self.name = name
        action, _, visit = action.partition("@")
        self.verb, _, self.value = action.partition(":")
        self.left = int(visit or 1)
        if self.verb not in ("kill", "exit", "sleep", "raise"):
            raise ConfigError(f"JOBS_FAILPOINT: {name}: expected kill, exit:CODE, sleep:SECONDS or raise, got {action!r}")

    def visit(self) -> None:
        self.left -= 1
        if self.left:
            return
        if self.verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.verb == "exit":
            os._exit(int(self.value or 1))
        elif self.verb == "sleep":
            time.sleep(float(self.value))
        else:
            raise BackendUnavailable(f"fail point {self.name}")


def _none(name: str) -> None:
    """Do nothing: no fail points are set."""


def parse(text: str) -> Callable[[str], None]:
    """Return the function that visits the points set in `text`."""
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    points = {name: _Point(name, action) for name, _, action in pairs}

    def visit(name: str) -> None:
        if name in points:
            points[name].visit()

    return visit if points else _none


failpoint: Callable[[str], None] = parse(os.environ.get("JOBS_FAILPOINT", ""))


def arm(text: str) -> None:
    """Set fail points in a process that has already imported everything, such as a test's fork of a prepared process."""
    visit = parse(text)
    for module in list(sys.modules.values()):
        if vars(module).get("failpoint") is _none:
            vars(module)["failpoint"] = visit


def with_failpoints(backend: B, also: Mapping[str, str] | None = None) -> B:
    """Return this new backend; if fail points are set, its methods visit `push.before_commit`, `push.after_commit` and so on.

    The operations are push, reserve, settle and heartbeat. `also` maps more methods to operations. Without fail points the
    backend is not wrapped, so that a call costs nothing. Do not pass a backend that visits these points itself, at better
    places.
    """
    if failpoint is not _none:
        for method, operation in {**_OPERATIONS, **(also or {})}.items():
            if hasattr(backend, method):
                setattr(backend, method, _visiting(getattr(backend, method), operation))
    return backend


def _visiting(call: Callable[..., Any], operation: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def visit(*arguments: Any, **options: Any) -> Any:
        failpoint(f"{operation}.before_commit")
        answer = call(*arguments, **options)
        failpoint(f"{operation}.after_commit")
        return answer

    return visit
