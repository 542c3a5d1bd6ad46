"""A reload: new code beside the old, proved by one worker of each pool, then rolled out; refused if it cannot be had.

The old generation serves until the new one does, and takes over again if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from .generation import Generation
from .pool import Pool
from .worker import Worker

Step: TypeAlias = Literal["importing", "proving", "rolling"]


class Reload:
    """One reload under way. `advance` is called whenever something has changed."""

    def __init__(self, old: Generation, new: Generation, pools: Callable[[], Iterable[Pool]]) -> None:
        self.old = old
        self.new = new
        self.step: Step = "importing"
        self._pools = pools

    def imported(self, adopt: Callable[[], None]) -> None:
        """The new template is ready: have one worker of each pool replaced."""
        adopt()
        self.step = "proving"
        for pool in self._pools():
            pool.cannot_boot = False
            pool.balance()  # to the size that the new configuration wants
            old = self._of_old(pool)
            if old:
                pool.replace(old[0], "reload")

    def advance(self) -> str | None:
        """Go on where possible; "done", or why it failed, or None while it is under way."""
        pools = list(self._pools())
        if self.step == "proving":
            for pool in pools:
                if pool.cannot_boot:
                    return pool.last_error
            if not all(self._proved(pool) for pool in pools):
                return None
            self.step = "rolling"
            for pool in pools:
                for worker in self._of_old(pool):
                    pool.replace(worker, "reload")
        if self.step == "rolling":
            left = any(worker.state not in ("stopping", "releasing") for pool in pools for worker in self._of_all_old(pool))
            if not left and all(pool.is_up() for pool in pools):
                return "done"
        return None

    def take_back(self) -> None:
        """The new code is not to be: who was to go for it stays."""
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

    def _proved(self, pool: Pool) -> bool:
        if not pool.wanted:
            return True
        return any(
            worker.spec.generation == self.new.number and worker.state in ("serving", "standby")
            for worker in pool.workers.values()
        )

    def _of_old(self, pool: Pool) -> list[Worker]:
        return [worker for worker in self._of_all_old(pool) if not worker.leaving]

    def _of_all_old(self, pool: Pool) -> list[Worker]:
        return [worker for worker in pool.workers.values() if worker.spec.generation != self.new.number]
