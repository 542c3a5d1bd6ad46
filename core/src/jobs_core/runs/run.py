"""One run of one job inside a worker, from its delivery to its settlement. Internal; applications see JobContext."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..backends.base import Delivery, Outgoing, Settlement
    from ..errors import JobInterrupted
    from ..message import Message
    from ..options import Policy
    from ..registry import AnyJob
    from .failure import Failure
    from .notebook import Notebook
    from .progress import Progress


Ending: TypeAlias = "tuple[Settlement, Run | None]"
"""A settlement on its way to the backend, and its run; None if the job could not become a run."""


class Stops(Protocol):
    """The part of a worker that its runs know: whether it has been told to stop, and where they tell about themselves."""

    @property
    def stopping(self) -> bool: ...

    @property
    def notebook(self) -> Notebook | None: ...


class StopFlag:
    """The same, for a real worker; all its runs share one."""

    __slots__ = ("notebook", "stopping")

    def __init__(self, notebook: Notebook | None = None) -> None:
        self.stopping: bool = False
        self.notebook: Notebook | None = notebook  # None if the backend keeps no notes


class Run:
    """A run: made by the decoder, run by an executor, settled by the courier, and used by one of them at a time.

    `started` and `ended` are this process's monotonic seconds; 0.0 means not yet.
    """

    __slots__ = (
        "args", "blob", "context", "convert", "delivery", "ended", "error", "failure", "followups", "interrupted", "job",
        "kwargs", "load", "message", "owed", "policy", "progress", "retries", "sent", "settlement", "slot", "started",
        "stop_flag", "store_result", "taken", "task", "timeout", "trace", "unfit", "value",
    )  # fmt: skip

    def __init__(
        self, delivery: Delivery, message: Message, job: AnyJob, policy: Policy, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        self.delivery: Delivery = delivery
        self.message: Message = message
        self.job: AnyJob = job
        self.policy: Policy = policy
        self.args: list[Any] = args
        self.kwargs: dict[str, Any] = kwargs
        self.retries: int = policy.retries if message.retries is None else message.retries
        self.timeout: float | None = policy.timeout if message.timeout is None else (message.timeout or None)
        self.store_result: bool = policy.store_result if message.store_result is None else message.store_result
        self.blob: str | None = None  # the name of the arguments in the payload store
        self.load: Callable[[Message], Message] | None = None  # fetches them; None once they are fetched
        self.sent: bytes | None = None  # they as JSON, kept for the jobs that follow this one's end
        self.convert: bool = False  # the arguments are not converted yet, see `Arguments.run_code`
        self.unfit: bool = False  # the arguments could not be converted
        self.started: float = 0.0
        self.ended: float = 0.0
        self.taken: float = 0.0  # when it got a slot; set only if it may then have to wait for a thread
        self.value: Any = None
        self.error: BaseException | None = None
        self.failure: Failure | None = None  # the error as text
        self.settlement: Settlement | None = None  # what `outcome` has decided, once the run has ended
        self.interrupted: JobInterrupted | None = None  # the error that the courier wants raised in it
        self.followups: list[Outgoing | Callable[[], Outgoing]] | None = None  # callable: times count from the end
        self.owed: Callable[[], tuple[Outgoing, ...]] | None = None  # makes the job that follows its end; see `worker.on_end`
        self.context: Any = None
        self.progress: Progress | None = None  # of a resumable job
        self.stop_flag: Stops | None = None
        self.slot: int = -1  # on the scoreboard, from its start until it is settled
        self.task: Any = None  # async: the task to cancel
        self.trace: bytes = b""  # the id of a trace that has a span for it, 16 bytes

    @property
    def id(self) -> str:
        return self.delivery.id

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, counted from 1."""
        return self.delivery.previous_attempts + 1

    @property
    def about(self) -> tuple[str, str, str, int]:
        """Return the facts that every event of a run begins with: id, job, topic, attempt."""
        return self.delivery.id, self.job.name, self.delivery.topic, self.attempt

    def due_followups(self) -> tuple[Outgoing, ...]:
        """Return the messages of the follow-ups; delays and expiries of a callable one count from now."""
        return tuple(each() if callable(each) else each for each in self.followups or ())

    def __repr__(self) -> str:
        return f"<Run {self.job.name} {self.delivery.id}>"
