"""One generation of code: a template as the supervisor sees it, and the workers made from it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ... import events
from ...config import Config
from ...ids import new_token
from ...loaders.importing import ended_importing
from ..system.messages import Failed, FailedToStart, Forked, FromChild, Importing, TemplateReady, WorkerSpec
from . import template
from .child_setup import Ends
from .children import Child, Children, Ended

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""Signals that are sent from outside, and show nothing about the code that was being imported."""

IMPORT_PATIENCE, IMPORT_REPEATED = 3, 30
"""Seconds until the log says that the application is still being imported, and between repetitions."""

START_PATIENCE = 20
"""Seconds without an answer from a template that was told to start children: then it is killed and replaced."""


class Generation:
    """One version of the code with one configuration, from which workers are started.

    While its template is not ready (it is importing, or has died and is being replaced) nothing is started. A template that
    cannot be forked, because threads run in it, only proves that the code can be imported: workers are then forked from the
    supervisor and import it themselves. A template that can be forked has a spare, forked from it, which replaces it when it
    dies: the spare has the same code, even if the code on disk has changed since, or is broken.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        children: Children,
        run_dir: Path,
        supervisor: int,
        *,
        on_ready: Callable[[Generation], None],
        on_failed: Callable[[Generation, str], None],
        on_lost: Callable[[Generation, Ended, float | None], None],
    ) -> None:
        self.number = number
        self.config = config
        self.ready = False
        self.brokers: list[list[str]] = []
        self._children = children
        self._run_dir = run_dir
        self._supervisor = supervisor
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._on_lost = on_lost
        self._fit = False
        self._error = ""
        self._importing = ""  # the module that the template imports
        self._retired = False
        self._template: Child | None = None
        self._spare: Child | None = None
        self._ready_at: float | None = None  # monotonic
        self._seconds = 0  # since the template began to import
        self._unanswered = 0  # seconds that an order to the template has been unanswered
        self._expected: dict[str, tuple[Child, Callable[[str], None]]] = {}  # owner → child that the template is starting

    @property
    def pid(self) -> int:
        """Return the process id of the template, or 0."""
        return self._template.pid if self._template else 0

    def begin(self) -> None:
        """Start the template; raises OSError if no process can be created."""
        self.ready = self._fit = False
        self._error = self._importing = ""
        self._ready_at = None
        self._seconds = 0

        def entry(ends: Ends) -> None:
            template.main(ends, self.config, self._run_dir, self._supervisor)

        self._template = self._children.fork("template", entry, self._on_message, self._ended)  # type: ignore[arg-type]

    def retire(self) -> None:
        """Let the templates exit, by closing their channels."""
        self._retired = True
        self.ready = False
        for one in (self._template, self._spare):
            if one is not None:
                self._children.close_channel(one)

    def make(
        self,
        spec: WorkerSpec,
        on_message: Callable[[FromChild], None],
        on_end: Callable[[Ended], None],
        on_failed_to_start: Callable[[str], None],
    ) -> Child:
        """Start a worker, the housekeeper or the dashboard; raises OSError.

        `on_failed_to_start` is called if the template could not.
        """
        preload = spec.pool in (template.HOUSEKEEPER, template.DASHBOARD) or self.config.pools[spec.pool].preload
        if not (self._fit and preload):
            role = template.role_of(spec)

            def entry(ends: Ends) -> None:
                role(spec, ends, self.config, self._run_dir, self._supervisor, None)

            return self._children.fork(spec.owner, entry, on_message, on_end)  # type: ignore[arg-type]
        child = self._order(spec, on_message, on_end, on_failed_to_start)
        self._make_spare()  # if the last one has died
        return child

    def check(self) -> None:
        """Kill a template that hangs, or whose answer was lost, so that no child waits for ever; called once a second."""
        self._unanswered = self._unanswered + 1 if self._expected else 0
        if self._template is not None and self._ready_at is None and not self._retired:
            self._seconds += 1
            if self._seconds == IMPORT_PATIENCE or self._seconds % IMPORT_REPEATED == 0:
                events.emit(events.StillImporting(self.number, self._importing, self._seconds))
        if self._unanswered > START_PATIENCE and self._template is not None:
            self._template.kill()

    def _order(
        self,
        spec: WorkerSpec,
        on_message: Callable[[FromChild], None],
        on_end: Callable[[Ended], None],
        on_failed_to_start: Callable[[str], None],
    ) -> Child:
        assert self._template is not None
        child, ends = self._children.prepare(spec.owner, on_message, on_end)
        sent = self._template.channel is not None and self._template.channel.send(spec, list(ends))
        ends.close()
        if not sent:
            self._children.forget(child)
            raise OSError("the template does not answer")
        self._expected[spec.owner] = child, on_failed_to_start
        return child

    # -- the template ----------------------------------------------------------------------------

    def _on_message(self, message: FromChild) -> None:
        self._unanswered = 0
        match message:
            case Forked(owner, pid):
                if owner in self._expected:
                    child, _ = self._expected.pop(owner)
                    self._children.started(child, pid)
            case FailedToStart(owner, error):
                self._give_up(owner, error)
            case Importing(module):
                self._importing = module
            case Failed(error):
                self._error = error
            case TemplateReady():
                self._be_ready(message)

    def _be_ready(self, template: TemplateReady) -> None:
        self.brokers = template.brokers
        self._fit = template.preloaded and template.fit
        self.ready = True
        self._ready_at = time.monotonic()
        if template.preloaded and not template.fit:
            events.emit(events.CannotPreload(tuple(template.threads)))
        self._on_ready(self)
        self._make_spare()

    def _give_up(self, owner: str, error: str) -> None:
        if owner in self._expected:
            child, on_failed_to_start = self._expected.pop(owner)
            self._children.forget(child)
            on_failed_to_start(error)

    def _make_spare(self) -> None:
        if not self._fit or self._retired or self._spare is not None:
            return

        def lost(why: object) -> None:  # not replaced at once: the next one might be killed for the same reason
            self._spare = None

        spec = WorkerSpec(owner=f"spare-{new_token(4)}", pool=template.SPARE, generation=self.number)
        with contextlib.suppress(OSError):  # no descriptors left: the next worker's start tries again
            self._spare = self._order(spec, self._on_message, lost, lost)

    def _ended(self, ended: Ended) -> None:
        self._template = None
        self.ready = False
        spare, self._spare = self._spare, None
        for owner in list(self._expected):
            self._give_up(owner, "the template exited before it was ready")
        if self._retired:
            return
        if spare is not None and spare.pid:
            self._template, spare.on_end, self.ready = spare, self._ended, True
            self._make_spare()
        elif self._error:
            self._on_failed(self, self._error)
            return
        elif self._ready_at is None and ended.signal not in FROM_OUTSIDE:
            self._on_failed(self, ended_importing(self._importing, ended))
            return
        self._on_lost(self, ended, None if self._ready_at is None else time.monotonic() - self._ready_at)
