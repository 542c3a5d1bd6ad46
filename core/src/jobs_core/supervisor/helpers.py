"""The helpers, which are single children beside the workers: the housekeeper, the HTTP child, the dashboard, and each broker.

A helper is started, restarted after a back-off when it dies, and stopped here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from .. import events
from ..config import Config
from ..ids import new_token
from .processes import child_setup, template
from .processes.backoff import RestartBackoff
from .processes.child_setup import Ends
from .processes.children import Child, Children, Ended
from .system.channel import Channel
from .system.loop import Loop
from .system.messages import Failed, FromChild, Ready, Stop, WorkerSpec

PATIENCE = 3.0
"""Seconds that helpers have to stop before they are killed."""


class Helper:
    """A child that is kept running. Belongs to the supervisor's loop."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        make: Callable[[Helper], Child | None],
        *,
        obeys: bool = True,
        on_message: Callable[[FromChild], None] = lambda message: None,
        on_up: Callable[[Child], None] = lambda child: None,
        on_down: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.child: Child | None = None
        self.up = False
        self.error = ""
        self.stopping = False
        self.renewing = False
        self._loop = loop
        self._make = make
        self._obeys = obeys  # the child reads its control channel; otherwise TERM stops it
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._on_failure = on_failure
        self._backoff = RestartBackoff()
        self._ready_at: float | None = None

    @property
    def pid(self) -> int:
        return self.child.pid if self.child else 0

    @property
    def failures(self) -> int:
        """Return the number of consecutive quick deaths."""
        return self._backoff.failures

    def start(self) -> None:
        """Start the child, unless it is running. If `make` returns None, no child runs until the next call."""
        if self.child is not None or self.stopping:
            return
        if self._backoff.left() > 0:
            self._loop.after(self._backoff.left(), self.start)
            return
        self._ready_at = None
        try:
            self.child = self._make(self)
        except OSError as error:
            self.error = f"cannot start: {error.strerror or error}"
            self._backoff.died(None)
            self._loop.after(self._backoff.left(), self.start)

    def on_message(self, message: FromChild) -> None:
        """React to a message from the child."""
        if isinstance(message, Ready):
            if self.child is not None:
                self.up, self.error = True, ""
                self._ready_at = time.monotonic()
                self._on_up(self.child)
        elif isinstance(message, Failed):
            self.error = message.error
        else:
            self._on_message(message)

    def ended(self, ended: Ended) -> None:
        """React to the child's end: start a new one, unless it was told to stop."""
        self.child, was_up, self.up = None, self.up, False
        if was_up:
            self._on_down()
        if self.stopping:
            return
        if self.renewing:
            self.renewing = False
            self.start()
            return
        if self._ready_at is None:
            self.error = self.error or str(ended)
        self._backoff.died(time.monotonic() - self._ready_at if self._ready_at is not None else None)
        events.emit(events.HelperDied(self.name, ended.pid, self.error or str(ended), self._backoff.left()))
        self._loop.after(self._backoff.left(), self.start)
        self._on_failure()

    def failed_to_start(self, error: str) -> None:
        """Try again after a back-off: the template could not start the child."""
        self.child = None
        self.error = error
        self._backoff.died(None)
        self._loop.after(self._backoff.left(), self.start)
        self._on_failure()

    def stop(self) -> None:
        """Ask the child to stop; it is not restarted."""
        self.stopping = True
        self._ask_to_stop()

    def renew(self) -> None:
        """Replace the child after a reload; if it is not running, start it in case it is configured now."""
        if self.child is None:
            self.start()
        else:
            self.renewing = True
            self._ask_to_stop()

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()

    def _ask_to_stop(self) -> None:
        if self.child is None:
            return
        if self._obeys:
            self.child.send(Stop())
        elif self.child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, signal.SIGTERM)


def housekeeper_spec(generation: int) -> WorkerSpec:
    """Return the specification by which a template makes the housekeeper."""
    return WorkerSpec(owner=f"housekeeper-{new_token(4)}", pool=template.HOUSEKEEPER, generation=generation)


def dashboard_spec(generation: int) -> WorkerSpec:
    """Return the specification by which a template makes the dashboard."""
    return WorkerSpec(owner=f"dashboard-{new_token(4)}", pool=template.DASHBOARD, generation=generation)


def http(loop: Loop, children: Children, run_dir: Path, config: Callable[[], Config], supervisor: int) -> Helper:
    """Return the helper for the child that serves probes and metrics, if `http.listen` is set."""

    def make(helper: Helper) -> Child | None:
        now = config()
        if now.http.listen is None:
            return None
        listen = now.http.listen

        def entry(ends: Ends) -> NoReturn:
            from .http import probes

            child_setup.set_up("http", "http", ends, now.logs, supervisor)
            channel = Channel[None].of(ends.control, None)
            lease, ready = float(now.lease), lambda: report_ready(channel)
            try:
                probes.serve(run_dir, listen, lease=lease, ready=ready, base_dir=now.base_dir)
            except Exception as error:
                channel.send(Failed(str(error)))
                raise

        return children.fork("http", entry, helper.on_message, helper.ended)

    return Helper("http", loop, make, obeys=False)


def report_ready(channel: Channel[None]) -> None:
    """Tell the supervisor that a child serves."""
    channel.send(Ready())


def broker(
    command: Sequence[str], loop: Loop, children: Children, config: Config, supervisor: int, on_up: Callable[[], None]
) -> Helper:
    """Return the helper for a program that a plugin wants run beside the workers.

    The program writes a byte to a pipe once it serves.
    """

    def make(helper: Helper) -> Child:
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def entry(ends: Ends) -> NoReturn:
            child_setup.set_up("broker", "broker", ends, config.logs, supervisor)
            os.set_inheritable(writer, True)
            os.execve(command[0], list(command), {**os.environ, "JOBS_READY_FD": str(writer)})

        try:
            child = children.fork("broker", entry, helper.on_message, helper.ended, keep=[writer])
        finally:
            os.close(writer)

        def on_readable() -> None:
            loop.unwatch(reader)
            said = os.read(reader, 1)
            os.close(reader)
            if said:
                helper.on_message(Ready())

        loop.watch(reader, on_readable)
        return child

    return Helper("broker", loop, make, obeys=False, on_up=lambda child: on_up())


def stop_all(helpers: Sequence[Helper], brokers: Sequence[Helper], loop: Loop, then: Callable[[], None]) -> None:
    """Stop helpers, then the brokers that they need; kill those that do not stop within PATIENCE seconds. Then call `then`."""
    for helper in helpers:
        helper.stop()
    when_gone(helpers, loop, lambda: _end_brokers(brokers, loop, then))


def _end_brokers(brokers: Sequence[Helper], loop: Loop, then: Callable[[], None]) -> None:
    for helper in brokers:
        helper.stop()
    when_gone(brokers, loop, then)


def when_gone(helpers: Sequence[Helper], loop: Loop, then: Callable[[], None]) -> None:
    """Call `then` when all helpers have ended; kill the remaining ones after PATIENCE seconds."""

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
