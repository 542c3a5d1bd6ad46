"""The supervisor: one loop over signals, children and commands. It has no user code, no broker connection and no threads."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import events
from ..config import Config
from ..scoreboard import state
from ..scoreboard.reader import WorkerFile, alive
from ..scoreboard.state import Crash, SupervisorState
from ..units import format_duration
from . import helpers
from .control import Command, ControlSocket
from .generations import MOST_FAILURES, Generations
from .helpers import Helper
from .log.collector import LogCollector
from .notify import Notifier
from .pidfile import PidFile
from .pools.pool import WorkerPool
from .pools.pools import Pools
from .pools.repairs import Repairs
from .pools.watchdog import INTERVAL, Watchdog
from .processes.children import Child, Children
from .processes.generation import Generation
from .remote import RemoteCommand
from .snapshot import Snapshot
from .system import linux
from .system.loop import Loop
from .system.messages import CallHook, CommandDone, Commanded, Counted, FromChild, RanTooFast, Repair, Repaired

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP,
    signal.SIGCONT, signal.SIGCHLD,
)  # fmt: skip

LAST_REPAIRS = 5.0
"""Seconds that a stop waits for the housekeeper to release the last jobs; the next start releases the rest."""


class Supervisor:
    """The supervisor, which starts, watches, reloads and stops all processes of an installation."""

    def __init__(
        self,
        config: Config,
        read_config: Callable[[dict[str, Any]], Config],
        run_dir: Path,
        pid_file: PidFile,
        collector_of: Callable[[Loop, Callable[[Child], dict[str, str]]], LogCollector],
        *,
        config_file: Callable[[], str] = str,
        backend: str = "",
        on_ready: Callable[[str], None] = lambda error: None,
        awaited: bool = False,
    ) -> None:
        self._run_dir = run_dir
        self._pid_file = pid_file
        self._config_file = config_file
        self._on_ready = on_ready
        self._awaited = awaited  # a command waits for `on_ready`: a start that fails is given up, not retried
        self._loop = Loop()
        self._pools = Pools(self._new_pool)
        self._log = collector_of(self._loop, lambda child: self._pools.job_of(child, run_dir))
        self._children = self._log.children = Children(self._loop, self._log.collect)
        self._notifier = Notifier.from_environment()
        self._host = socket.gethostname()[:40]
        self._repairs = Repairs(self._repaired)
        self._housekeeper = Helper(
            "housekeeper", self._loop, self._make_housekeeper,
            on_message=self._on_housekeeper_message, on_up=self._housekeeper_up, on_down=lambda: self._repairs.use(None),
            on_failure=self._changed,
        )  # fmt: skip
        self._generations = Generations(
            config, read_config, self._loop, self._children, run_dir, self._pools,
            on_ready=self._start_brokers, on_hopeless=self._cannot_serve, on_reloading=self._notifier.reloading,
            on_replaced=self._renew_helpers, on_settled=self._notify_ready, on_change=self._changed,
        )  # fmt: skip
        self._http = helpers.http(self._loop, self._children, run_dir, lambda: self._generations.config, os.getpid())
        self._dashboard = Helper("dashboard", self._loop, self._make_dashboard, obeys=False, on_failure=self._changed)
        self._brokers: list[Helper] = []
        self._watchdog = Watchdog(self._loop, run_dir, self._pools, lambda: float(self._generations.config.lease))
        log = str(config.base_dir / config.logs.file) if config.logs.file else ""
        self._snapshot = Snapshot(run_dir, self._loop, self._describe, started_at=time.time(), backend=backend, log=log)
        self._backlog: dict[str, tuple[int, float | None]] = {}  # topic → ready jobs, age of the oldest
        self._suspicious: dict[str, RanTooFast] = {}  # job → report for the next housekeeper
        self._ended_commands: list[CommandDone] = []  # for the next housekeeper
        self._quiet = False
        self._served = False
        self._stopping = ""  # stop | exit
        self._ended = False
        self._exit_code = 0
        self._crashes: list[Crash] = []
        self._crashed = 0
        self._restarts: dict[str, dict[str, int]] = {}  # those of an earlier supervisor, by pool

    def run(self) -> int:
        """Serve until stopped; return the exit code."""
        linux.subreaper()
        self._loop.on_signals(SIGNALS, self._on_signal)
        (self._run_dir / state.WORKERS).mkdir(mode=0o700, exist_ok=True)
        self._continue_counting()
        self._take_over_leftovers()
        self._control = ControlSocket(self._loop, self._run_dir, self._obey, self._snapshot.publish)
        self._pools.adopt(self._generations.config)
        events.emit(events.SupervisorStarting(os.getpid(), str(self._run_dir)))
        self._snapshot.changed()
        self._http.start()
        self._generations.begin()
        self._loop.after(INTERVAL, self._tick)
        self._loop.run()
        return self._exit_code

    # -- pools ------------------------------------------------------------------------------------

    def _new_pool(self, name: str, settings: Any) -> WorkerPool:
        return WorkerPool(
            name, settings, self._host, self._run_dir,
            restarts=self._restarts.pop(name, {}),
            generation=lambda: self._generations.generation,
            on_change=self._changed,
            on_crash=self._crash,
            repair=self._repairs.add,
            alert=self._alert,
            wake_after=lambda seconds: self._balance_after(name, seconds),
        )  # fmt: skip

    def _balance_after(self, name: str, seconds: float) -> None:
        def balance() -> None:
            pool = self._pools.get(name)
            if pool is not None:
                pool.balance()

        self._loop.after(seconds, balance)

    def _crash(self, crash: Crash) -> None:
        self._crashed += 1
        self._crashes = [*self._crashes[-19:], crash]

    def _repaired(self, file: str) -> None:
        self._pools.repaired(file)
        self._changed()

    def _continue_counting(self) -> None:
        """Take over the counters of the supervisor that ran here before: a restart must not hide what led to it."""
        before = state.read(self._run_dir / state.STATE, SupervisorState)
        if before is not None:
            self._crashed = before.crashed
            self._restarts = {pool.name: pool.restarts for pool in before.pools}
            self._generations.counts |= before.reloads

    def _take_over_leftovers(self) -> None:
        """Kill the workers that a killed supervisor has left behind, and have their jobs released."""
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
                linux.kill_session(header.pid, header.start_ticks)
                linux.wait_for_end(header.pid, deadline - time.monotonic())
            self._repairs.add(Repair(path.name, time.time(), "its supervisor died, so it was killed too", charge=False))

    # -- templates and brokers --------------------------------------------------------------------

    def _cannot_serve(self, error: str) -> None:
        """Stop, and report the error: the first start has failed."""
        events.emit(events.CannotServe(error))
        self._on_ready(error)
        self._exit_code = 2
        self._stop("exit")

    def _start_brokers(self, generation: Generation) -> None:
        """Start the brokers first: workers and the housekeeper connect to them."""
        if not self._brokers:
            config, supervisor = generation.config, os.getpid()
            self._brokers = [
                helpers.broker(command, self._loop, self._children, config, supervisor, self._brokers_up)
                for command in generation.brokers
            ]
            for broker in self._brokers:
                broker.start()
        self._brokers_up()

    def _brokers_up(self) -> None:
        if all(broker.up for broker in self._brokers) and not self._stopping:
            self._housekeeper.start()
            self._dashboard.start()
            self._pools.balance()

    def _renew_helpers(self) -> None:
        """Replace the helpers after a reload, so that they run the new code, too."""
        self._housekeeper.renew()
        self._http.renew()
        self._dashboard.renew()

    def _make_dashboard(self, helper: Helper) -> Child | None:
        generation = self._generations.generation
        if generation is None or not generation.config.http.dashboard:
            return None
        if not generation.ready:
            self._loop.after(0.1, helper.start)
            return None
        return generation.make(
            helpers.dashboard_spec(generation.number), helper.on_message, helper.ended, helper.failed_to_start
        )

    # -- the housekeeper -------------------------------------------------------------------------

    def _make_housekeeper(self, helper: Helper) -> Child | None:
        generation = self._generations.generation
        if generation is None or not generation.ready:
            self._loop.after(0.1, helper.start)
            return None
        return generation.make(
            helpers.housekeeper_spec(generation.number), helper.on_message, helper.ended, helper.failed_to_start
        )

    def _housekeeper_up(self, child: Child) -> None:
        self._repairs.use(child)
        self._tell_suspicious(child)
        while self._ended_commands:
            child.send(self._ended_commands.pop(0))
        self._changed()

    def _on_housekeeper_message(self, message: FromChild) -> None:
        match message:
            case Repaired(file):
                self._repairs.confirm(file)
                if self._stopping:
                    self._check_end()
            case Counted(topics, leases):
                self._backlog = topics
                if leases:
                    self._watchdog.backend_answers()
            case Commanded():
                # A size of a pool that was stored has no id, and nobody waits for its answer.
                self._obey(RemoteCommand(message, self._tell_done if message.id else lambda done: None))

    def _tell_done(self, done: CommandDone) -> None:
        """Tell the housekeeper how a command ended: after a reload, the next one, since this one may not listen any more.

        It reports the command and the state together, so the state is published first: else "done" stands beside the old one.
        """
        self._snapshot.publish()
        if self._housekeeper.up and self._housekeeper.child is not None and not self._housekeeper.renewing:
            self._housekeeper.child.send(done)
        else:
            self._ended_commands.append(done)

    def _alert(self, found: RanTooFast) -> None:
        """Have the housekeeper send an alert, or keep it until a housekeeper is ready: workers may start sooner."""
        self._suspicious[found.job] = found
        if self._housekeeper.child is not None:
            self._tell_suspicious(self._housekeeper.child)

    def _tell_suspicious(self, housekeeper: Child) -> None:
        for found in self._suspicious.values():
            housekeeper.send(found)
        self._suspicious.clear()

    def _call_hook(self, hook: str) -> None:
        facts = {
            "pid": os.getpid(),
            "run_dir": str(self._run_dir),
            "generation": self._generations.number,
            "pools": self._pools.names(),
        }
        if self._housekeeper.child is not None:
            self._housekeeper.child.send(CallHook(hook, facts))

    # -- every second, and on every change ---------------------------------------------------------

    def _tick(self) -> None:
        self._loop.after(INTERVAL, self._tick)
        self._watchdog.check()
        self._generations.check()
        self._log.tick()
        if not (self._stopping or self._quiet or self._generations.reloading):
            self._pools.scale(self._backlog, self._watchdog)
        self._snapshot.keep()
        self._notifier.beat()
        if not self._stopping and not self._pid_file.is_ours(self._run_dir):
            # No command could find this supervisor again, and a second supervisor could start beside it.
            events.emit(events.RunDirGone(str(self._run_dir)))
            self._stop("stop")

    def _changed(self) -> None:
        self._snapshot.changed()
        self._generations.advance()
        self._pools.forget_stopped(self._generations.config)
        if self._housekeeper.up and self._pools.are_up() and not self._served and not self._stopping:
            self._now_serves()
        if self._awaited and not (self._served or self._stopping):
            self._give_up_a_start_that_fails()
        if self._stopping:
            self._check_end()

    def _give_up_a_start_that_fails(self) -> None:
        for pool in self._pools:
            if pool.failures >= MOST_FAILURES:
                self._cannot_serve(f"pool {pool.name}: no worker has started serving: {pool.last_error}")
                return
        if self._housekeeper.failures >= MOST_FAILURES:
            self._cannot_serve(f"the housekeeper cannot start: {self._housekeeper.error}")

    def _now_serves(self) -> None:
        self._served = self._generations.proved = True
        events.emit(events.SupervisorServes(self._pools.staying(), len(self._pools)))
        self._notify_ready()
        self._on_ready("")
        self._call_hook("jobs_supervisor_started")

    def _notify_ready(self) -> None:
        self._notifier.ready(self._pools.summary())

    # -- signals and commands --------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._children.reap()
        elif number == signal.SIGTERM or (number == signal.SIGINT and not self._stopping):
            self._stop("stop")
        elif number in (signal.SIGINT, signal.SIGQUIT):
            self._stop("exit")
        elif number == signal.SIGHUP:
            self._generations.reload()
        elif number == signal.SIGUSR1:
            self._log.reopen()
        elif number == signal.SIGUSR2:
            self._dump_stacks(self._pools)
        elif number in (signal.SIGTSTP, signal.SIGCONT):
            self._be_quiet(number == signal.SIGTSTP)

    def _be_quiet(self, quiet: bool) -> None:
        if quiet != self._quiet:
            self._quiet = quiet
            events.emit(events.Quiet(quiet))
            self._pools.be_quiet(quiet)
            self._changed()

    def _quiet_pools(self, pools: Iterable[WorkerPool], *, on: bool) -> None:
        for pool in pools:
            if pool.quiet != on:
                events.emit(events.PoolQuiet(pool.name, on))
                pool.be_quiet(on)

    def _dump_stacks(self, pools: Iterable[WorkerPool]) -> None:
        for pool in pools:
            for worker in pool.workers.values():
                worker.dump_stacks()
        events.emit(events.StacksWritten(str(self._run_dir / state.WORKERS)))

    def _obey(self, command: Command) -> None:
        name = command.message.get("do")
        if name == "reload":
            self._generations.reload(command)
        elif name in ("quiet", "scale", "stacks"):
            self._obey_for_pools(name, command)
        elif name in ("stop", "exit"):
            command.answer(done=True)
            self._stop(name)
        else:
            command.answer(done=False, error=f"this supervisor does not know the command {name!r}")

    def _obey_for_pools(self, name: str, command: Command) -> None:
        """Carry out a command that is meant for one pool or all."""
        given = command.message.get("pool")
        pool = None if given is None else self._pools.get(str(given))
        if pool is None and (given is not None or name == "scale"):
            command.answer(done=False, error=f"there is no such pool; the pools are {', '.join(self._pools.names())}")
            return
        pools = self._pools if pool is None else (pool,)
        if name == "scale" and pool is not None:
            pool.scale(command.message.get("workers"))
            command.answer(done=True, wanted=pool.wanted)
            return
        if name == "stacks":
            self._dump_stacks(pools)
        else:
            on = bool(command.message.get("on", True))
            if pool is None:
                self._be_quiet(on)
            self._quiet_pools(pools, on=on)
        command.answer(done=True)

    # -- stopping ---------------------------------------------------------------------------------

    def _stop(self, how: str) -> None:
        """Begin to stop (`stop` lets jobs finish, `exit` kills them), or turn a stop in progress into an exit."""
        if self._stopping == how or self._stopping == "exit":
            return
        first, self._stopping = not self._stopping, how
        self._generations.closing = True
        events.emit(events.SupervisorStopping(how))
        if first:
            self._call_hook("jobs_supervisor_stopping")
            patience = self._pools.patience()
            self._notifier.stopping(f"waiting up to {format_duration(patience)} for running jobs", patience + 10.0)
        self._pools.end(how)
        self._changed()

    def _check_end(self) -> None:
        """Once all workers are gone, stop the helpers, then the brokers that the helpers need."""
        if self._ended or not self._pools.are_gone():
            return
        self._ended = True
        self._last_repairs = self._loop.after(LAST_REPAIRS if self._housekeeper.child else 0.0, self._end_helpers)
        self._wait_for_repairs()

    def _wait_for_repairs(self) -> None:
        if not self._repairs:
            self._last_repairs.cancel()
            self._end_helpers()
        else:
            self._loop.after(0.01, self._wait_for_repairs)

    def _end_helpers(self) -> None:
        self._last_repairs.cancel()
        helpers.stop_all([self._housekeeper, self._http, self._dashboard], self._brokers, self._loop, self._finish)

    def _finish(self) -> None:
        self._generations.retire()
        self._control.close()
        events.emit(events.SupervisorStopped(len(self._repairs)))
        self._snapshot.close()
        self._log.close()
        self._pid_file.close()
        self._loop.stop()

    # -- state.json -------------------------------------------------------------------------------

    def _state(self) -> str:
        if self._stopping:
            return "stopping"
        if not self._served:
            return "starting"
        return "reloading" if self._generations.reloading else "quiet" if self._quiet else "serving"

    def _describe(self) -> dict[str, Any]:
        """Return the parts of state.json that change."""
        generations, generation = self._generations, self._generations.generation
        config = generations.config
        return {
            "config_file": self._config_file(),
            "base_dir": str(config.base_dir),
            "lease": float(config.lease),
            "state": self._state(),
            "generation": generation.number if generation and (generation.ready or self._served) else 0,
            "served": self._served,
            "quiet": self._quiet,
            "template_pid": generation.pid if generation else 0,
            "housekeeper_pid": self._housekeeper.pid,
            "http_pid": self._http.pid,
            "dashboard_pid": self._dashboard.pid,
            "helper_errors": {
                helper.name: helper.error for helper in (self._housekeeper, self._http, self._dashboard) if helper.error
            },
            "brokers": [broker.pid for broker in self._brokers],
            "pools": [pool.shown() for pool in self._pools],
            "workers": [worker.shown() for worker in self._pools.workers()],
            "crashes": self._crashes,
            "crashed": self._crashed,
            "reloads": generations.counts,
            "last_refusal": generations.refusal,
        }
