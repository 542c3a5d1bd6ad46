"""All pools of a supervisor: commands for all of them, and which of them a configuration wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ... import events
from ...config import Config, Pool
from ...units import count
from ..processes.children import Child
from .pool import WorkerPool
from .watchdog import Watchdog
from .worker import WorkerRecord


class Pools:
    """The pools by name, in the order of the configuration. Belongs to the supervisor's loop."""

    def __init__(self, make: Callable[[str, Pool], WorkerPool]) -> None:
        self._make = make
        self._pools: dict[str, WorkerPool] = {}
        self._quiet = False

    def __iter__(self) -> Iterator[WorkerPool]:
        return iter(list(self._pools.values()))  # a copy: an action on one pool may remove others

    def __len__(self) -> int:
        return len(self._pools)

    def get(self, name: str) -> WorkerPool | None:
        """Return the pool of this name, if there is one."""
        return self._pools.get(name)

    def names(self) -> list[str]:
        return list(self._pools)

    def workers(self) -> Iterator[WorkerRecord]:
        """Iterate over the workers of all pools."""
        return (worker for pool in self for worker in pool.workers.values())

    # -- the configuration -------------------------------------------------------------------------

    def adopt(self, config: Config) -> None:
        """Adopt a configuration: create new pools, and reconfigure known ones; `end_others` stops those that it lacks."""
        for name, settings in config.pools.items():
            if name in self._pools:
                self._pools[name].reconfigure(settings)
            else:
                self._pools[name] = self._make(name, settings)
                self._pools[name].quiet = self._quiet

    def wanted(self, config: Config) -> list[WorkerPool]:
        """Return the pools that this configuration has."""
        return [pool for name, pool in self._pools.items() if name in config.pools]

    def end_others(self, config: Config, why: str) -> None:
        """Stop the pools that this configuration lacks; they are shown until their last job has been released."""
        for pool in self:
            if pool.name not in config.pools:
                pool.stop_all(why)

    def forget_stopped(self, config: Config) -> None:
        """Forget pools that this configuration lacks and that have no workers left."""
        for name in [name for name, pool in self._pools.items() if name not in config.pools and not pool.workers]:
            if self._pools[name].closing:
                del self._pools[name]

    # -- all pools ---------------------------------------------------------------------------------

    def balance(self) -> None:
        for pool in self:
            pool.balance()

    def are_up(self) -> bool:
        return all(pool.is_up() for pool in self)

    def be_quiet(self, quiet: bool) -> None:
        self._quiet = quiet
        for pool in self:
            pool.be_quiet(quiet)

    def end(self, how: str) -> None:
        """Stop all workers: `stop` lets jobs finish, `exit` kills."""
        for pool in self:
            if how == "exit":
                pool.kill_all()
            else:
                pool.stop_all("stop")

    def patience(self) -> float:
        """Return how many seconds the slowest pool may take to stop."""
        return max((float(pool.settings.stop_timeout) for pool in self), default=0.0)

    def are_gone(self) -> bool:
        """Return whether no worker is alive; jobs of dead ones may still have to be released."""
        return all(worker.state == "releasing" for worker in self.workers())

    def repaired(self, file: str) -> None:
        """Forget a dead worker: its jobs have been released."""
        for pool in self:
            if pool.repaired(file):
                break

    def job_of(self, child: Child, run_dir: Path) -> dict[str, str]:
        """Return the context of the job that printed to a child's descriptors 1 and 2; empty unless exactly one job runs."""
        worker = next((worker for worker in self.workers() if worker.owner == child.name), None)
        file = worker.file(run_dir) if worker else None
        entries = list(file.entries()) if file is not None and file.running() == 1 else []
        if not entries:
            return {}
        return {"job_id": entries[0].id, "job": entries[0].job, "topic": entries[0].topic}

    def scale(self, backlog: Mapping[str, tuple[int, float | None]], watchdog: Watchdog) -> None:
        """Grow or shrink the pools that scale by their topics' backlog: ready jobs, and the age of the oldest."""
        now = time.monotonic()
        for pool in self:
            if pool.scales and not pool.quiet:
                _scale(pool, backlog, watchdog, now)

    def summary(self) -> str:
        """Return the numbers of workers and pools in a few words."""
        return f"{count(self.staying(), 'worker')} in {count(len(self), 'pool')}"

    def staying(self) -> int:
        """Return the number of workers that are not about to leave."""
        return sum(len(pool.staying()) for pool in self)


def _scale(pool: WorkerPool, backlog: Mapping[str, tuple[int, float | None]], watchdog: Watchdog, now: float) -> None:
    counts = [backlog.get(topic, (0, None)) for topic in pool.settings.topics]
    staying = pool.staying()
    change = pool.scaler.decide(
        now,
        workers=pool.wanted,
        starting=pool.wanted - sum(worker.state in ("serving", "standby") for worker in staying),
        busy=watchdog.busy.get(pool.name, 0),
        idle_since=[worker.idle_since for worker in staying if worker.idle_since is not None],
        ready=sum(ready for ready, _ in counts),
        oldest_age=max((age for _, age in counts if age is not None), default=None),
        done_rate=watchdog.rates.get(pool.name, 0.0),
    )
    if change > 0:
        events.emit(events.PoolGrows(pool.name, pool.wanted, pool.wanted + change))
        pool.wanted += change
        pool.balance()
    elif change < 0:
        before = pool.wanted
        pool.shrink(-change)
        if pool.wanted != before:
            events.emit(events.PoolShrinks(pool.name, before, pool.wanted))
