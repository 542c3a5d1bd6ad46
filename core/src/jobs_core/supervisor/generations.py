"""The code and configuration that new processes use: the serving generation, and the reload that replaces it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .. import events
from ..config import Config
from ..errors import ConfigError
from .control import Command
from .pools.pool import WorkerPool
from .pools.pools import Pools
from .pools.worker import WorkerRecord
from .processes.backoff import RestartBackoff
from .processes.children import Children, Ended
from .processes.generation import Generation
from .system.loop import Loop

Step: TypeAlias = Literal["importing", "proving", "rolling"]

REVIVE_AFTER = 5.0
"""Seconds until another attempt to import code that could be imported before, and now cannot."""


MOST_FAILURES = 5
"""Number of consecutive children of a kind that die, or cannot be started, before a first start is given up."""


class Generations:
    """The generations of the code: their start, the replacement of a lost template, reloads. For the supervisor's loop.

    `on_ready` is called when the serving generation's template is ready, `on_hopeless` if the first template cannot become
    ready, `on_replaced` when a reload has succeeded, `on_settled` when a reload has succeeded or failed.
    """

    def __init__(
        self,
        config: Config,
        read_config: Callable[[dict[str, Any]], Config],
        loop: Loop,
        children: Children,
        run_dir: Path,
        pools: Pools,
        *,
        on_ready: Callable[[Generation], None],
        on_hopeless: Callable[[str], None],
        on_reloading: Callable[[], None],
        on_replaced: Callable[[], None],
        on_settled: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self.config = config
        self.generation: Generation | None = None
        self.proved = False  # the first generation has served: from now on a failure does not stop the supervisor
        self.closing = False
        self.counts = {"done": 0, "refused": 0}
        self.refusal = ""
        self._read_config = read_config
        self._loop = loop
        self._children = children
        self._run_dir = run_dir
        self._pools = pools
        self._on_ready = on_ready
        self._on_hopeless = on_hopeless
        self._on_reloading = on_reloading
        self._on_replaced = on_replaced
        self._on_settled = on_settled
        self._on_change = on_change
        self._numbers = 0
        self._backoff = RestartBackoff()
        self._reload: Reload | None = None
        self._commands: list[Command] = []
        self._next_commands: list[Command] = []
        self._again = False

    @property
    def number(self) -> int:
        """Return the number of the serving generation, or 0."""
        return self.generation.number if self.generation else 0

    @property
    def reloading(self) -> bool:
        return self._reload is not None

    def begin(self) -> None:
        """Start the first generation; without it the supervisor cannot serve."""
        self.generation = self._new(self.config)
        try:
            self.generation.begin()
        except OSError as error:
            self._failed(self.generation, f"cannot make a process: {error.strerror}")

    def check(self) -> None:
        """Check the templates; called once a second."""
        reload = self._reload
        for generation in {self.generation, *((reload.old, reload.new) if reload is not None else ())}:
            if generation is not None:
                generation.check()

    def retire(self) -> None:
        """Let all templates exit."""
        if self.generation is not None:
            self.generation.retire()
        if self._reload is not None:
            self._reload.new.retire()

    # -- templates -------------------------------------------------------------------------------

    def _new(self, config: Config) -> Generation:
        self._numbers += 1
        return Generation(
            self._numbers, config, self._children, self._run_dir, os.getpid(),
            on_ready=self._ready, on_failed=self._failed, on_lost=self._lost,
        )  # fmt: skip

    def _ready(self, generation: Generation) -> None:
        if self.closing:
            return
        if self._reload is not None and generation is self._reload.new:
            self._reload.imported(lambda: self._adopt(generation))
        elif generation is self.generation:
            self._on_ready(generation)
        self._on_change()

    def _failed(self, generation: Generation, error: str) -> None:
        """React to code that cannot be imported: give up a first start, refuse a reload, else try again later."""
        if self._reload is not None and generation is self._reload.new:
            self._refuse(error)
        elif not self.proved:
            self._on_hopeless(error)
        else:
            events.emit(events.TemplateTrouble(error))
            self._loop.after(REVIVE_AFTER, functools.partial(self._revive, generation))

    def _lost(self, generation: Generation, ended: Ended, lived: float | None) -> None:
        """React to a killed template. `lived` is how many seconds it had been ready; None: it was still importing."""
        if generation.ready:  # its spare has taken over
            events.emit(events.HelperDied("template", ended.pid, str(ended), 0.0))
            if generation is self.generation:
                self._on_ready(generation)
            return
        self._backoff.died(lived)
        pause = self._backoff.left()
        events.emit(events.HelperDied("template", ended.pid, str(ended), pause))
        if self._reload is not None and generation is self._reload.new and self._reload.step == "importing":
            self._refuse(f"the template died while importing the new code: {ended}")
        elif not self.proved and self._backoff.failures >= MOST_FAILURES:
            self._on_hopeless(f"the process that imports the application is killed every time: {ended}")
        else:
            self._loop.after(pause, functools.partial(self._revive, generation))

    def _revive(self, generation: Generation) -> None:
        """Start another template for the same generation; its workers are not affected."""
        if self.closing or generation not in (self.generation, self._reload and self._reload.old):
            return
        try:
            generation.begin()
        except OSError as error:
            events.emit(events.TemplateTrouble(f"cannot fork: {error.strerror}"))
            self._loop.after(1.0, functools.partial(self._revive, generation))
        self._on_change()

    # -- reloads ---------------------------------------------------------------------------------

    def reload(self, command: Command | None = None) -> None:
        """Begin a reload; if one is in progress, begin another after it."""
        if self._reload is not None:
            self._again = True
            self._next_commands += [command] if command else []
            return
        self._commands += [command] if command else []
        if not self.proved or self.closing or self.generation is None:
            self._settle("the supervisor is starting or stopping")
            return
        try:
            config = self._read_config(command.message if command else {})
        except ConfigError as error:
            self._refuse(str(error))
            return
        events.emit(events.Reloading(self._numbers + 1))
        self._on_reloading()
        new = self._new(config)
        try:
            new.begin()
        except OSError as error:
            self._refuse(f"cannot make a process: {error.strerror}")
            return
        self._reload = Reload(self.generation, new, lambda: self._pools.wanted(self.config))
        self._on_change()

    def advance(self) -> None:
        """Continue the reload in progress, if there is one; called whenever something has changed."""
        if self._reload is None or self._reload.step == "importing":
            return
        result = self._reload.advance()
        if result == "done":
            self._complete(self._reload)
        elif result is not None:
            self._refuse(result)

    def _adopt(self, generation: Generation) -> None:
        """Use this generation for all new processes."""
        self.generation, self.config = generation, generation.config
        self._pools.adopt(generation.config)

    def _complete(self, reload: Reload) -> None:
        """End a reload that succeeded: the new generation serves alone."""
        self._reload = None
        reload.old.retire()
        self._pools.end_others(self.config, "reload")
        self._on_replaced()
        self.counts["done"] += 1
        self.refusal = ""
        events.emit(events.Reloaded(reload.new.number))
        self._settle("")

    def _refuse(self, error: str) -> None:
        """End a reload that failed: the old code continues."""
        reload, self._reload = self._reload, None
        if reload is not None:
            self.generation, self.config = reload.old, reload.old.config
            self._pools.end_others(self.config, "refused")
            self._pools.adopt(self.config)
            reload.abandon()
            reload.new.retire()
        self.counts["refused"] += 1
        self.refusal = error
        events.emit(events.ReloadRefused(error))
        self._settle(error)

    def _settle(self, error: str) -> None:
        """Answer the commands that requested the reload, and begin the reload that was requested meanwhile."""
        commands, self._commands = self._commands, []
        for command in commands:
            command.answer(done=not error, error=error, generation=self.number)
        self._on_settled()
        again, self._again = self._again, False
        self._commands, self._next_commands = self._next_commands, []
        self._on_change()
        if again and not self.closing:
            self.reload()


class Reload:
    """One reload in progress. `advance` is called whenever something has changed.

    One worker of each pool tries the new code beside the old; then all workers are replaced. The new code is refused if it
    cannot be imported or a pool's worker cannot start. The old generation serves until the new one does, and continues if
    the reload fails.
    """

    def __init__(self, old: Generation, new: Generation, pools: Callable[[], Iterable[WorkerPool]]) -> None:
        self.old = old
        self.new = new
        self.step: Step = "importing"
        self._pools = pools

    def imported(self, adopt: Callable[[], None]) -> None:
        """Replace one worker of each pool, now that the new template is ready."""
        adopt()
        self.step = "proving"
        for pool in self._pools():
            pool.cannot_boot = False
            pool.balance()  # to the size that the new configuration wants
            old = self._of_old(pool)
            if old:
                pool.replace(old[0], "reload")

    def advance(self) -> str | None:
        """Continue where possible; return "done", or why it failed, or None while it is in progress."""
        pools = list(self._pools())
        if self.step == "proving":
            for pool in pools:
                if pool.cannot_boot:
                    return pool.last_error
            if all(self._proved(pool) for pool in pools):
                self._roll_out(pools)
        return "done" if self.step == "rolling" and self._rolled_out(pools) else None

    def _roll_out(self, pools: Iterable[WorkerPool]) -> None:
        """Replace all workers of the old generation."""
        self.step = "rolling"
        for pool in pools:
            for worker in self._of_old(pool):
                pool.replace(worker, "reload")

    def _rolled_out(self, pools: Iterable[WorkerPool]) -> bool:
        left = any(worker.state not in ("stopping", "releasing") for pool in pools for worker in self._of_all_old(pool))
        return not left and all(pool.is_up() for pool in pools)

    def abandon(self) -> None:
        """Give up the new code: stop its workers, and keep those of the old code that it was to replace."""
        for pool in self._pools():
            for worker in pool.outgoing:
                if worker.leaving == "reload":
                    worker.leaving = ""
            pool.outgoing = [worker for worker in pool.outgoing if worker.leaving]
            pool.cannot_boot = False
            for worker in list(pool.workers.values()):
                if worker.spec.generation == self.new.number and worker.state != "releasing":
                    pool.stop(worker, "refused")
            pool.balance()

    def _proved(self, pool: WorkerPool) -> bool:
        if not pool.wanted:
            return True
        return any(
            worker.spec.generation == self.new.number and worker.state in ("serving", "standby")
            for worker in pool.workers.values()
        )

    def _of_old(self, pool: WorkerPool) -> list[WorkerRecord]:
        return [worker for worker in self._of_all_old(pool) if not worker.leaving]

    def _of_all_old(self, pool: WorkerPool) -> list[WorkerRecord]:
        return [worker for worker in pool.workers.values() if worker.spec.generation != self.new.number]
