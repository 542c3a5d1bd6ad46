"""Events of the supervisor: its start and end, its helpers, and the commands that it carries out."""

from __future__ import annotations

import logging
from typing import ClassVar

from ..units import count
from .base import Event, soon


class SupervisorStarting(Event, frozen=True):
    """A supervisor is starting."""

    pid: int
    run_dir: str

    def __str__(self) -> str:
        return f"supervisor {self.pid} is starting in {self.run_dir}"


class SupervisorServes(Event, frozen=True):
    """The workers of all pools are serving for the first time since the start."""

    workers: int
    pools: int

    def __str__(self) -> str:
        return f"ready: {count(self.workers, 'worker')} in {count(self.pools, 'pool')}"


class SupervisorStopping(Event, frozen=True):
    """The supervisor was asked to stop: gracefully ("stop"), or at once ("exit")."""

    how: str

    def __str__(self) -> str:
        if self.how == "exit":
            return "stopping immediately: workers are killed, and the jobs they are running return to their topics"
        return "stopping: no new jobs are taken; waiting for running jobs to finish"


class SupervisorStopped(Event, frozen=True):
    """The supervisor has stopped; the jobs of `unrepaired` dead workers have not returned to their topics yet."""

    unrepaired: int

    def __str__(self) -> str:
        if self.unrepaired:
            return f"stopped; the jobs of {count(self.unrepaired, 'dead worker')} return to their topics at the next start"
        return "stopped"


class CannotServe(Event, frozen=True):
    """The application cannot be imported at the first start: the supervisor ends."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"the application cannot be loaded, so nothing was started: {self.error}"


class CannotPreload(Event, frozen=True):
    """The import left threads running in the template, so workers are not forked from it but import the application."""

    level: ClassVar[int] = logging.WARNING

    threads: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"threads are running after the import ({', '.join(self.threads)}), so every worker imports the application itself "
            "and starts more slowly; start threads in the job or in after_fork, or set preload = false"
        )


class StillImporting(Event, frozen=True):
    """The import of the application takes long; `module` is the module of `modules` being imported, if known."""

    generation: int
    module: str
    seconds: int

    def __str__(self) -> str:
        return f"generation {self.generation} is still importing {self.module or 'the application'} ({self.seconds} s so far)"


class TemplateTrouble(Event, frozen=True):
    """The template could not be restarted; this is retried."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"the template cannot be restarted; retrying. Existing workers continue, new ones have to wait: {self.error}"


class HelperDied(Event, frozen=True):
    """A template, housekeeper, HTTP child or broker died; a replacement is started."""

    level: ClassVar[int] = logging.ERROR

    name: str
    pid: int
    reason: str
    restart_in: float

    def __str__(self) -> str:
        return f"{self.name} {self.pid} died ({self.reason}); a replacement starts {soon(self.restart_in)}"


class Reloading(Event, frozen=True):
    """New code is being imported, while the old code serves."""

    generation: int

    def __str__(self) -> str:
        return f"reload: importing generation {self.generation}"


class Reloaded(Event, frozen=True):
    """The new code serves in place of the old code."""

    generation: int

    def __str__(self) -> str:
        return f"reload: generation {self.generation} is serving"


class ReloadRefused(Event, frozen=True):
    """New code cannot be loaded; the old code keeps running."""

    level: ClassVar[int] = logging.ERROR

    error: str

    def __str__(self) -> str:
        return f"reload refused, the old code keeps running: {self.error}"


class Quiet(Event, frozen=True):
    """Workers take no new jobs, or take jobs again."""

    on: bool

    def __str__(self) -> str:
        return "quiet: workers take no new jobs" if self.on else "workers take jobs again"


class PoolQuiet(Event, frozen=True):
    """The workers of one pool take no new jobs, or take jobs again."""

    pool: str
    on: bool

    def __str__(self) -> str:
        return f"pool {self.pool} is quiet: its workers take no new jobs" if self.on else f"pool {self.pool} takes jobs again"


class CommandReceived(Event, frozen=True):
    """A command for this machine was found in the backend."""

    id: str
    do: str
    pool: str
    by: str

    def __str__(self) -> str:
        return f"command {self.id} by {self.by or 'unknown'}: {self.do}" + (f" pool {self.pool}" if self.pool else "")


class CommandEnded(Event, frozen=True):
    """A command from the backend was carried out, or could not be."""

    id: str
    error: str

    def __str__(self) -> str:
        return f"command {self.id} was not carried out: {self.error}" if self.error else f"command {self.id} was carried out"


class MachineNotReported(Event, frozen=True):
    """The backend refuses the report of this machine, which other machines therefore do not list."""

    level: ClassVar[int] = logging.WARNING

    error: str

    def __str__(self) -> str:
        return f"`jobsctl machines` does not list this machine, because the backend refuses its report: {self.error}"


class StatisticsTrouble(Event, frozen=True):
    """Some of what the workers of this machine did is missing in the statistics, or comes late."""

    level: ClassVar[int] = logging.WARNING

    error: str

    def __str__(self) -> str:
        return f"`jobsctl stats` does not show everything that this machine did: {self.error}"


class CommandRefused(Event, frozen=True):
    """A document in the backend is no command that this machine obeys."""

    level: ClassVar[int] = logging.ERROR

    id: str
    error: str

    def __str__(self) -> str:
        return f"command {self.id} in the backend is refused: {self.error}"


class PoolSizeRefused(Event, frozen=True):
    """A document in the backend is no size of a pool that this machine obeys."""

    level: ClassVar[int] = logging.ERROR

    name: str
    error: str

    def __str__(self) -> str:
        return f"the size {self.name} of a pool in the backend is refused: {self.error}"


class StacksWritten(Event, frozen=True):
    """Every worker was asked for its stacks."""

    directory: str

    def __str__(self) -> str:
        return f"the stacks of every worker are being appended to its .stacks file in {self.directory}"


class RunDirGone(Event, frozen=True):
    """The run directory was removed or replaced: the supervisor stops, since no command could find it any more."""

    level: ClassVar[int] = logging.ERROR

    run_dir: str

    def __str__(self) -> str:
        return f"{self.run_dir} was removed or replaced: stopping, because no command could find this supervisor any more"


class RunDirTrouble(Event, frozen=True):
    """A file of the run directory cannot be written; jobs continue, but status and metrics are out of date."""

    level: ClassVar[int] = logging.ERROR

    file: str
    error: str

    def __str__(self) -> str:
        return f"{self.file} cannot be written; status and metrics are out of date until it can be: {self.error}"
