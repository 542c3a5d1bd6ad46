"""One generation of code: a template as the supervisor sees it, and workers made through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import events
from ..config import Config
from . import template
from .born import Ends
from .nursery import Ended, Nursery, Offspring, release
from .workerside import WorkerSpec


class Generation:
    """Makes workers of one code and one configuration.

    While its template is not ready (it imports, or died and is made anew) nothing is made; a template that may not be
    forked, because threads run in it, only proves that the code can be imported: workers are then forked here and import
    it themselves.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        nursery: Nursery,
        run_dir: Path,
        supervisor: int,
        *,
        on_ready: Callable[[Generation], None],
        on_failed: Callable[[Generation, str], None],
        on_lost: Callable[[Generation, Ended], None],
    ) -> None:
        self.number = number
        self.config = config
        self.ready = False
        self.brokers: list[list[str]] = []
        self._nursery = nursery
        self._run_dir = run_dir
        self._supervisor = supervisor
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._on_lost = on_lost
        self._fit = False
        self._error = ""
        self._retired = False
        self._template: Offspring | None = None
        self._expected: dict[str, tuple[Offspring, Callable[[str], None]]] = {}  # owner -> who waits to be born

    @property
    def pid(self) -> int:
        """The template's process, or 0."""
        return self._template.pid if self._template else 0

    def begin(self) -> None:
        """Make the template; raises OSError if there is no room for a process."""
        self.ready = self._fit = False

        def entry(ends: Ends) -> None:
            template.main(ends, self.config, self._run_dir, self._supervisor)

        self._template = self._nursery.fork("template", entry, self._hear, self._ended)  # type: ignore[arg-type]

    def retire(self) -> None:
        """Let the template go: its channel ends, and so does it."""
        self._retired = True
        self.ready = False
        if self._template is not None:
            self._nursery.hang_up(self._template)

    def make(
        self,
        spec: WorkerSpec,
        on_message: Callable[[dict[str, Any]], None],
        on_end: Callable[[Ended], None],
        on_stillborn: Callable[[str], None],
    ) -> Offspring:
        """Make a worker, or the housekeeper; raises OSError. `on_stillborn` is called if the template could not."""
        preload = spec.pool == template.HOUSEKEEPER or self.config.pools[spec.pool].preload
        if not (self._fit and preload):
            role = template.role_of(spec)

            def entry(ends: Ends) -> None:
                role(spec, ends, self.config, self._run_dir, self._supervisor, None)

            return self._nursery.fork(spec.owner, entry, on_message, on_end)  # type: ignore[arg-type]
        assert self._template is not None
        child, ends = self._nursery.conceive(spec.owner, on_message, on_end)
        sent = self._template.channel is not None and self._template.channel.send(
            {"spec": {name: getattr(spec, name) for name in spec.__struct_fields__}}, list(ends)
        )
        release(ends)
        if not sent:
            self._nursery.forget(child)
            raise OSError("the template does not answer")
        self._expected[spec.owner] = child, on_stillborn
        return child

    # -- the template ----------------------------------------------------------------------------

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        if kind == "born":
            child, _ = self._expected.pop(message["owner"])
            self._nursery.claim(child, message["pid"])
        elif kind == "stillborn":
            self._give_up(message["owner"], message["error"])
        elif kind == "failed":
            self._error = message["error"]
        elif kind == "ready":
            self.brokers = message["brokers"]
            self._fit = message["preloaded"] and message["fit"]
            self.ready = True
            if message["preloaded"] and not message["fit"]:
                events.emit(events.CannotPreload(tuple(message["threads"])))
            self._on_ready(self)

    def _give_up(self, owner: str, error: str) -> None:
        child, on_stillborn = self._expected.pop(owner)
        self._nursery.forget(child)
        on_stillborn(error)

    def _ended(self, ended: Ended) -> None:
        self._template = None
        self.ready = False
        for owner in list(self._expected):
            self._give_up(owner, "the template ended before it was made")
        if self._retired:
            return
        if self._error:
            error, self._error = self._error, ""
            self._on_failed(self, error)
        else:
            self._on_lost(self, ended)
