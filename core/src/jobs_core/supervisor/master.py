"""The supervisor: one loop over signals, children and commands. It holds no user code, no broker connection and no thread."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import events
from ..config import Config
from ..errors import ConfigError
from ..scoreboard import state
from ..scoreboard.reader import WorkerFile, alive
from ..scoreboard.state import Crash
from ..units import format_duration
from . import kernel, special
from .control import ControlSocket, Request
from .generation import Generation
from .helpers import Helper
from .loop import Loop
from .notify import Notifier
from .nursery import Ended, Nursery, Offspring
from .outlet import Outlet
from .pidfile import PidFile
from .pool import Pool
from .reload import Reload
from .repair import Repair
from .repairs import Repairs
from .snapshot import Snapshot
from .watchdog import INTERVAL, Watchdog

logger = logging.getLogger("jobs.supervisor")

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP,
    signal.SIGCONT, signal.SIGCHLD,
)  # fmt: skip

LAST_REPAIRS = 5.0
"""Seconds that the end waits for the housekeeper to hand the last jobs back; what is left, the next start does."""


class Supervisor:
    """Starts, looks after, reloads and stops. `run` returns the exit code."""

    def __init__(
        self,
        config: Config,
        read_config: Callable[[], Config],
        run_dir: Path,
        pid_file: PidFile,
        outlet_of: Callable[[Loop, Callable[[Offspring], dict[str, str]]], Outlet],
        *,
        config_file: str = "",
        backend: str = "",
        on_ready: Callable[[str], None] = lambda error: None,
    ) -> None:
        self._config = config
        self._read_config = read_config
        self._run_dir = run_dir
        self._pid_file = pid_file
        self._on_ready = on_ready
        self._loop = Loop()
        self._outlet = outlet_of(self._loop, self._job_of)
        self._nursery = self._outlet.nursery = Nursery(self._loop, self._outlet.take)
        self._notifier = Notifier.from_environment()
        self._host = socket.gethostname()[:40]
        self._pools: dict[str, Pool] = {}
        self._generation: Generation | None = None
        self._reload: Reload | None = None
        self._reload_requests: list[Request] = []
        self._next_requests: list[Request] = []
        self._reload_again = False
        self._numbers = 0
        self._repairs = Repairs(self._repaired)
        self._keeper = Helper(
            "housekeeper", self._loop, self._make_keeper,
            hear=self._hear_keeper, on_up=self._keeper_up, on_down=lambda: self._repairs.use(None),
        )  # fmt: skip
        self._http = special.http(self._loop, self._nursery, run_dir, lambda: self._config, os.getpid())
        self._brokers: list[Helper] = []
        self._watchdog = Watchdog(self._loop, run_dir, lambda: self._pools.values(), lambda: float(self._config.lease))
        self._snapshot = Snapshot(
            run_dir, self._loop, self._describe, started_at=time.time(), config_file=config_file, backend=backend
        )
        self._topics: dict[str, list[Any]] = {}
        self._quiet = False
        self._served = False
        self._stopping = ""  # stop | exit
        self._ended = False
        self._exit_code = 0
        self._crashes: list[Crash] = []
        self._crashed = 0
        self._reloads = {"done": 0, "refused": 0}
        self._refusal = ""

    def run(self) -> int:
        """Serve until stopped; the exit code."""
        kernel.subreaper()
        self._loop.on_signals(SIGNALS, self._on_signal)
        (self._run_dir / state.WORKERS).mkdir(mode=0o700, exist_ok=True)
        self._take_over_leftovers()
        self._control = ControlSocket(self._loop, self._run_dir, self._obey)
        for name, settings in self._config.pools.items():
            self._pools[name] = self._new_pool(name, settings)
        events.emit(events.SupervisorStarting(os.getpid(), str(self._run_dir)))
        self._snapshot.changed()
        self._http.start()
        self._begin()
        self._loop.after(INTERVAL, self._tick)
        self._loop.run()
        return self._exit_code

    # -- what the parts need ---------------------------------------------------------------------

    def _new_pool(self, name: str, settings: Any) -> Pool:
        return Pool(
            name, settings, self._host, self._run_dir,
            generation=lambda: self._generation,
            on_change=self._changed,
            on_crash=self._crash,
            repair=self._repairs.add,
            wake_after=lambda seconds: self._balance_after(name, seconds),
        )  # fmt: skip

    def _balance_after(self, name: str, seconds: float) -> None:
        def balance() -> None:
            pool = self._pools.get(name)
            if pool is not None:
                pool.balance()

        self._loop.after(seconds, balance)

    def _job_of(self, child: Offspring) -> dict[str, str]:
        """Which job printed what came from a child's bare descriptors: known if it runs just one."""
        for pool in self._pools.values():
            worker = pool.workers.get(child.name)
            file = worker.file(self._run_dir) if worker else None
            if file is not None:
                entries = list(file.entries()) if file.running() == 1 else []
                if entries:
                    return {"job_id": entries[0].id, "job": entries[0].job, "topic": entries[0].topic}
        return {}

    def _crash(self, crash: Crash) -> None:
        self._crashed += 1
        self._crashes = [*self._crashes[-19:], crash]

    def _repaired(self, file: str) -> None:
        for pool in self._pools.values():
            if pool.repaired(file):
                break
        self._changed()

    def _take_over_leftovers(self) -> None:
        """What a supervisor that was killed has left: its workers are ended, their jobs go back."""
        deadline = time.monotonic() + 2.0
        for path in state.worker_files(self._run_dir):
            try:
                file = WorkerFile(path)
            except (OSError, ValueError):
                path.unlink(missing_ok=True)
                continue
            header = file.header()
            file.close()
            if alive(header):
                kernel.kill_session(header.pid, header.start_ticks)
                while alive(header) and time.monotonic() < deadline:
                    time.sleep(0.01)
            self._repairs.add(Repair(path.name, time.time(), "its supervisor died, and it with it"))

    # -- generations -----------------------------------------------------------------------------

    def _begin(self) -> None:
        """The first generation; without it there is no service."""
        self._generation = self._new_generation(self._config)
        try:
            self._generation.begin()
        except OSError as error:
            self._template_failed(self._generation, f"cannot make a process: {error.strerror}")

    def _new_generation(self, config: Config) -> Generation:
        self._numbers += 1
        return Generation(
            self._numbers, config, self._nursery, self._run_dir, os.getpid(),
            on_ready=self._template_ready, on_failed=self._template_failed, on_lost=self._template_lost,
        )  # fmt: skip

    def _template_ready(self, generation: Generation) -> None:
        if self._stopping:
            return
        if self._reload is not None and generation is self._reload.new:
            self._reload.imported(lambda: self._adopt(generation))
        elif generation is self._generation:
            self._start_brokers(generation)
        self._changed()

    def _template_failed(self, generation: Generation, error: str) -> None:
        """The code cannot be imported: at the first start that is the end, at a reload the old code goes on."""
        if self._reload is not None and generation is self._reload.new:
            self._refuse(error)
        elif not self._served:
            events.emit(events.CannotServe(error))
            self._on_ready(error)
            self._exit_code = 2
            self._stop("exit")
        else:
            events.emit(events.TemplateTrouble(error))
            self._loop.after(5.0, functools.partial(self._revive, generation))

    def _template_lost(self, generation: Generation, ended: Ended) -> None:
        events.emit(events.HelperDied("template", ended.pid, str(ended), 0.0))
        if self._reload is not None and generation is self._reload.new and self._reload.step == "importing":
            self._refuse(f"the template died while it imported the new code: {ended}")
        else:
            self._revive(generation)

    def _revive(self, generation: Generation) -> None:
        """Import the same generation's code anew; workers in progress do not notice."""
        if self._stopping or generation not in (self._generation, self._reload and self._reload.old):
            return
        try:
            generation.begin()
        except OSError as error:
            events.emit(events.TemplateTrouble(f"cannot fork: {error.strerror}"))
            self._loop.after(1.0, functools.partial(self._revive, generation))
        self._changed()

    def _start_brokers(self, generation: Generation) -> None:
        """Brokers first, since everybody else wants to reach them."""
        if not self._brokers:
            self._brokers = [special.broker(command, self._loop, self._nursery, self._config, os.getpid(), self._brokers_up)
                             for command in generation.brokers]  # fmt: skip
            for broker in self._brokers:
                broker.start()
        self._brokers_up()

    def _brokers_up(self) -> None:
        if all(broker.up for broker in self._brokers) and not self._stopping:
            self._keeper.start()
            for pool in self._pools.values():
                pool.balance()

    # -- reload ----------------------------------------------------------------------------------

    def reload(self, request: Request | None = None) -> None:
        """Begin a reload; one that is asked for during another follows it."""
        if self._reload is not None:
            self._reload_again = True
            self._next_requests += [request] if request else []
            return
        self._reload_requests += [request] if request else []
        assert self._generation is not None
        if not self._served or self._stopping:
            self._finish_reload("the supervisor is starting or stopping", refused=True)
            return
        try:
            config = self._read_config()
        except ConfigError as error:
            self._refuse(str(error))
            return
        events.emit(events.Reloading(self._numbers + 1))
        self._notifier.reloading()
        new = self._new_generation(config)
        try:
            new.begin()
        except OSError as error:
            self._refuse(f"cannot make a process: {error.strerror}")
            return
        self._reload = Reload(self._generation, new, self._kept_pools)
        self._changed()

    def _adopt(self, generation: Generation) -> None:
        """From now on everything new is of this generation."""
        self._generation = generation
        self._config = generation.config
        for name, settings in generation.config.pools.items():
            if name in self._pools:
                self._pools[name].reconfigure(settings)
            else:
                self._pools[name] = self._new_pool(name, settings)

    def _kept_pools(self) -> list[Pool]:
        """Pools that the newest configuration has; others go when a reload is done."""
        return [pool for name, pool in self._pools.items() if name in self._config.pools]

    def _advance_reload(self) -> None:
        if self._reload is None or self._reload.step == "importing":
            return
        result = self._reload.advance()
        if result == "done":
            self._complete()
        elif result is not None:
            self._refuse(result)

    def _complete(self) -> None:
        """The new generation serves alone."""
        assert self._reload is not None
        reload, self._reload = self._reload, None
        reload.old.retire()
        for name in [name for name in self._pools if name not in self._config.pools]:
            self._pools[name].stop_all("reload")
        self._keeper.renew()
        self._http.renew()
        self._reloads["done"] += 1
        self._refusal = ""
        events.emit(events.Reloaded(reload.new.number))
        self._finish_reload("", refused=False)

    def _refuse(self, error: str) -> None:
        """The old code goes on."""
        reload, self._reload = self._reload, None
        if reload is not None:
            self._generation, self._config = reload.old, reload.old.config
            for name in [name for name in self._pools if name not in self._config.pools]:
                self._pools.pop(name).stop_all("refused")
            for name, settings in self._config.pools.items():
                self._pools[name].reconfigure(settings)
            reload.take_back()
            reload.new.retire()
        self._reloads["refused"] += 1
        self._refusal = error
        events.emit(events.ReloadRefused(error))
        self._finish_reload(error, refused=True)

    def _finish_reload(self, error: str, *, refused: bool) -> None:
        requests, self._reload_requests = self._reload_requests, []
        number = self._generation.number if self._generation else 0
        for request in requests:
            request.answer(done=not refused, error=error, generation=number)
        self._notifier.ready(self._status_line())
        again, self._reload_again = self._reload_again, False
        self._reload_requests, self._next_requests = self._next_requests, []
        self._changed()
        if again and not self._stopping:
            self.reload()

    # -- the housekeeper -------------------------------------------------------------------------

    def _make_keeper(self, helper: Helper) -> Offspring | None:
        if self._generation is None or not self._generation.ready:
            self._loop.after(0.1, helper.start)
            return None
        return self._generation.make(special.keeper_spec(self._generation.number), helper.hear, helper.ended, helper.stillborn)

    def _keeper_up(self, child: Offspring) -> None:
        self._repairs.use(child)
        self._changed()

    def _hear_keeper(self, message: dict[str, Any]) -> None:
        if message["is"] == "repaired":
            self._repairs.confirm(message["file"])
            if self._stopping:
                self._check_end()
        elif message["is"] == "counts":
            self._topics = message["topics"]

    def _tell(self, hook: str) -> None:
        number = self._generation.number if self._generation else 0
        facts = {"pid": os.getpid(), "run_dir": str(self._run_dir), "generation": number, "pools": list(self._pools)}
        if self._keeper.child is not None:
            self._keeper.child.send({"do": "tell", "hook": hook, "facts": facts})

    # -- every second, and on every change ---------------------------------------------------------

    def _tick(self) -> None:
        self._loop.after(INTERVAL, self._tick)
        self._watchdog.look()
        self._outlet.tick()
        if not self._stopping:
            self._scale()
        self._snapshot.keep()
        self._notifier.beat()
        if not self._stopping and not self._pid_file.is_ours(self._run_dir):
            # Nobody could find this supervisor again, and a second one would start beside it.
            events.emit(events.RunDirGone(str(self._run_dir)))
            self._stop("stop")

    def _scale(self) -> None:
        now = time.monotonic()
        for pool in self._pools.values():
            if not pool.scales or self._reload is not None or self._quiet:
                continue
            counts = [self._topics.get(topic, (0, None)) for topic in pool.settings.topics]
            ages = [age for _, age in counts if age is not None]
            staying = pool.staying()
            change = pool.scaler.decide(
                now,
                workers=pool.wanted,
                starting=pool.wanted - sum(worker.state in ("serving", "standby") for worker in staying),
                busy=self._watchdog.busy.get(pool.name, 0),
                idle_since=[worker.idle_since for worker in staying if worker.idle_since is not None],
                ready=sum(ready for ready, _ in counts),
                oldest_age=max(ages, default=None),
                done_rate=self._watchdog.rates.get(pool.name, 0.0),
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

    def _changed(self) -> None:
        self._snapshot.changed()
        self._advance_reload()
        up = self._keeper.up and all(pool.is_up() for pool in self._pools.values())
        if up and not self._served and not self._stopping:
            self._now_serves()
        if self._stopping:
            self._check_end()

    def _now_serves(self) -> None:
        self._served = True
        workers = sum(len(pool.staying()) for pool in self._pools.values())
        events.emit(events.SupervisorServes(workers, len(self._pools)))
        self._notifier.ready(self._status_line())
        self._on_ready("")
        self._tell("jobs_supervisor_started")

    def _status_line(self) -> str:
        workers = sum(len(pool.staying()) for pool in self._pools.values())
        return f"{workers} workers in {len(self._pools)} pools"

    # -- signals and commands --------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._nursery.reap()
        elif number == signal.SIGTERM or (number == signal.SIGINT and not self._stopping):
            self._stop("stop")
        elif number in (signal.SIGINT, signal.SIGQUIT):
            self._stop("exit")
        elif number == signal.SIGHUP:
            self.reload()
        elif number == signal.SIGUSR1:
            self._outlet.reopen()
        elif number == signal.SIGUSR2:
            for pool in self._pools.values():
                for worker in pool.workers.values():
                    worker.dump_stacks()
            events.emit(events.StacksWritten(str(self._run_dir / state.WORKERS)))
        elif number in (signal.SIGTSTP, signal.SIGCONT):
            self._be_quiet(number == signal.SIGTSTP)

    def _be_quiet(self, quiet: bool) -> None:
        if quiet != self._quiet:
            self._quiet = quiet
            events.emit(events.Quiet(quiet))
            for pool in self._pools.values():
                pool.be_quiet(quiet)
            self._changed()

    def _obey(self, request: Request) -> None:
        order = request.message.get("do")
        if order == "reload":
            self.reload(request)
        elif order == "quiet":
            self._be_quiet(bool(request.message.get("on", True)))
            request.answer(done=True)
        elif order == "scale":
            pool = self._pools.get(str(request.message.get("pool")))
            if pool is None:
                request.answer(done=False, error=f"there is no such pool: there are {', '.join(self._pools)}")
                return
            pool.scale(request.message.get("workers"))
            request.answer(done=True, wanted=pool.wanted)
        elif order in ("stop", "exit"):
            request.answer(done=True)
            self._stop(order)
        else:
            request.answer(done=False, error=f"this supervisor knows no command {order!r}")

    # -- the end ---------------------------------------------------------------------------------

    def _stop(self, how: str) -> None:
        """Begin the end, or hasten it."""
        if self._stopping == how or self._stopping == "exit":
            return
        first, self._stopping = not self._stopping, how
        events.emit(events.SupervisorStopping(how))
        if first:
            self._tell("jobs_supervisor_stopping")
            patience = max((float(pool.settings.stop_timeout) for pool in self._pools.values()), default=0.0)
            self._notifier.stopping(f"waiting up to {format_duration(patience)} for jobs that run", patience + 10.0)
        for pool in self._pools.values():
            if how == "exit":
                pool.kill_all()
            else:
                pool.stop_all("stop")
        self._changed()

    def _check_end(self) -> None:
        """Workers first, then what they needed, from the top down."""
        if self._ended or any(worker.state != "releasing" for pool in self._pools.values() for worker in pool.workers.values()):
            return
        self._ended = True
        self._last_repairs = self._loop.after(LAST_REPAIRS if self._keeper.child else 0.0, self._end_helpers)
        self._wait_for_repairs()

    def _wait_for_repairs(self) -> None:
        if not self._repairs:
            self._last_repairs.cancel()
            self._end_helpers()
        else:
            self._loop.after(0.01, self._wait_for_repairs)

    def _end_helpers(self) -> None:
        self._last_repairs.cancel()
        special.end_all([self._keeper, self._http], self._brokers, self._loop, self._finish)

    def _finish(self) -> None:
        if self._generation is not None:
            self._generation.retire()
        if self._reload is not None:
            self._reload.new.retire()
        self._control.close()
        events.emit(events.SupervisorStopped(len(self._repairs)))
        self._snapshot.close()
        self._outlet.close()
        self._pid_file.close()
        self._loop.stop()

    # -- what is told ----------------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        """The parts of state.json that change."""
        step = "reloading" if self._reload is not None else "quiet" if self._quiet else "serving"
        return {
            "state": "stopping" if self._stopping else step if self._served else "starting",
            "generation": self._generation.number if self._generation and self._generation.ready else 0,
            "served": self._served,
            "quiet": self._quiet,
            "template_pid": self._generation.pid if self._generation else 0,
            "housekeeper_pid": self._keeper.pid,
            "http_pid": self._http.pid,
            "helper_errors": {helper.name: helper.error for helper in (self._keeper, self._http) if helper.error},
            "brokers": [broker.pid for broker in self._brokers],
            "pools": [pool.shown() for pool in self._pools.values()],
            "workers": [worker.shown() for pool in self._pools.values() for worker in pool.workers.values()],
            "crashes": self._crashes,
            "crashed": self._crashed,
            "reloads": self._reloads,
            "last_refusal": self._refusal,
        }
