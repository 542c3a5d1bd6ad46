"""How each of the single children is made: the housekeeper, the HTTP child, brokers; and how all of them end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ..config import Config
from ..ids import new_token
from . import born, template
from .born import Ends
from .helpers import Helper
from .loop import Loop
from .nursery import Nursery, Offspring
from .workerside import WorkerSpec

PATIENCE = 3.0
"""Seconds that the end gives each of them."""


def keeper_spec(generation: int) -> WorkerSpec:
    """What a template is asked for to make the housekeeper."""
    return WorkerSpec(owner=f"housekeeper-{new_token(4)}", pool=template.HOUSEKEEPER, generation=generation)


def http(loop: Loop, nursery: Nursery, run_dir: Path, config: Callable[[], Config], supervisor: int) -> Helper:
    """The child that serves probes and metrics, where `[http] listen` asks for one."""

    def make(helper: Helper) -> Offspring | None:
        now = config()
        if now.http.listen is None:
            return None
        listen = now.http.listen

        def entry(ends: Ends) -> NoReturn:
            from . import probes
            from .channel import Channel

            born.settle_in("http", "http", ends, now.logs, supervisor)
            channel = Channel.of(ends.control)
            lease, ready = float(now.lease), lambda: tell_ready(channel)
            try:
                probes.serve(run_dir, listen, lease=lease, ready=ready, base_dir=now.base_dir)
            except Exception as error:
                channel.send({"is": "failed", "error": str(error)})
                raise

        return nursery.fork("http", entry, helper.hear, helper.ended)

    return Helper("http", loop, make, obeys=False)


def tell_ready(channel: object) -> None:
    """Say that a child serves."""
    channel.send({"is": "ready"})  # type: ignore[attr-defined]


def broker(
    command: Sequence[str], loop: Loop, nursery: Nursery, config: Config, supervisor: int, on_up: Callable[[], None]
) -> Helper:
    """A program that a plugin wants run beside the workers; it says that it serves by a byte on a pipe."""

    def make(helper: Helper) -> Offspring:
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def entry(ends: Ends) -> NoReturn:
            born.settle_in("broker", "broker", ends, config.logs, supervisor)
            os.set_inheritable(writer, True)
            os.execve(command[0], list(command), {**os.environ, "JOBS_READY_FD": str(writer)})

        try:
            child = nursery.fork("broker", entry, helper.hear, helper.ended, keep=[writer])
        finally:
            os.close(writer)

        def heard() -> None:
            loop.unwatch(reader)
            said = os.read(reader, 1)
            os.close(reader)
            if said:
                helper.hear({"is": "ready"})

        loop.watch(reader, heard)
        return child

    return Helper("broker", loop, make, obeys=False, on_up=lambda child: on_up())


def end_all(helpers: Sequence[Helper], brokers: Sequence[Helper], loop: Loop, then: Callable[[], None]) -> None:
    """End helpers, then the brokers that they need; one that does not go is killed."""
    for helper in helpers:
        helper.stop()
    end_each(helpers, loop, lambda: _end_brokers(brokers, loop, then))


def _end_brokers(brokers: Sequence[Helper], loop: Loop, then: Callable[[], None]) -> None:
    for helper in brokers:
        helper.stop()
    end_each(brokers, loop, then)


def end_each(helpers: Sequence[Helper], loop: Loop, then: Callable[[], None]) -> None:
    """Call when all are gone."""

    def kill() -> None:
        for helper in helpers:
            helper.kill()

    hurry = loop.after(PATIENCE, kill)

    def check() -> None:
        if any(helper.child is not None for helper in helpers):
            loop.after(0.01, check)
        else:
            hurry.cancel()
            then()

    check()
