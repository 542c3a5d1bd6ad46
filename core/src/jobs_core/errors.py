"""All errors, in one tree.

A message says what happened, where, and how to fix it; facts that a program may need are also fields.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import foreign


class JobsError(Exception):
    """Base of every error that this package itself raises."""


# -- set-up: to be fixed by an operator in a file ---------------------------------------------------


class ConfigError(JobsError):
    """Raised when the configuration cannot be used: the message names file, key and fix."""


class PluginError(JobsError):
    """Raised when a plugin that the configuration needs is missing, broken or of another interface version."""


class LoadError(JobsError):
    """Raised when a module that should define jobs cannot be imported; `frame` is the line of the user's code."""

    def __init__(self, message: str, *, frame: str = "") -> None:
        super().__init__(message)
        self.frame = frame


# -- definition and enqueue: to be fixed by a developer in code -------------------------------------


class JobDefinitionError(JobsError):
    """Raised when a function cannot be a job as written: its name is taken, or an option is out of range."""


class UnknownOption(JobDefinitionError, TypeError):
    """Raised when `@job`, `using` or `Retry` is given a keyword that it does not have; the message names our equivalent."""


class UnknownAttribute(JobsError, AttributeError):
    """Raised on access to an attribute of another system's objects on a job function, a handle or `current_job()`."""


class NotAwaitable(JobsError, TypeError):
    """Raised when a handle is awaited instead of its result."""


class UnknownName(JobsError, ImportError):
    """Raised when a name of another system is imported from `jobs_core`."""


class ArgumentError(JobsError, TypeError):
    """Raised when arguments do not fit a job's signature or annotations; `argument` names the one at fault."""

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class CheckpointError(JobsError):
    """Raised in a job whose progress cannot be stored: the job is not resumable, or the cursor is not JSON, or too large."""


class FlowError(JobDefinitionError):
    """Raised when the members of a flow do not fit together, or a result is used before it exists."""


class TransactionError(JobsError):
    """Raised when a job cannot be enqueued inside the transaction that `transaction` names; nothing was enqueued."""


class DuplicateJob(JobsError):
    """Raised by an enqueue with `unique=` and `conflict="raise"`, or by a flow, while `existing_id` holds the key."""

    def __init__(self, message: str, *, existing_id: str) -> None:
        super().__init__(message)
        self.existing_id = existing_id


# -- messages that a worker cannot read -----------------------------------------------------------


class ScheduleError(JobsError):
    """Raised when the schedule cannot be changed as wanted: the entry is unknown, exists, or would never tick."""


class MessageError(JobsError):
    """Raised when bytes from a queue are not an envelope that this version can run."""


class UnknownVersion(MessageError):
    """Raised when an envelope has a later version, which only a newer worker can read."""


class SignatureError(MessageError):
    """Raised when signing keys are configured and a message is unsigned, forged or of an unknown key."""


class PayloadError(MessageError):
    """Raised when arguments or a result cannot be read: encrypted under an unknown key, or changed since they were written."""


class MessageTooLarge(MessageError):
    """Raised when an encoded message exceeds `max_message`."""


class UnknownJob(JobsError):
    """Raised when no registered function has this name; `nearest` holds the closest names."""

    def __init__(self, message: str, *, nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nearest: tuple[str, ...] = tuple(nearest)


# -- backends --------------------------------------------------------------------------------------


class BackendError(JobsError):
    """Raised when the backend refuses an operation; trying again does not help."""


class BackendUnavailable(BackendError):
    """Raised when the backend cannot be reached or is too busy; the same request may be sent again.

    `nothing_sent` is true if no connection was made, so that nothing of the request can have arrived.
    """

    nothing_sent = False


class PayloadStoreUnavailable(BackendError):
    """Raised when the payload store cannot be used: not mounted, not reachable, no space. A job is tried again."""


class QueueFull(BackendError):
    """Raised when the backend has no room for more jobs; reserving and settling still work."""


class OwnerLost(BackendError):
    """Raised when this owner's lease has expired and its jobs were released; open again under a fresh owner id."""

    @classmethod
    def of(cls, owner: str) -> OwnerLost:
        """Return the error for the owner of this id."""
        return cls(f"owner {owner} was released: its jobs went to other workers; open under a fresh owner id")


class FlowLost(BackendError):
    """Raised when a part is pushed to a flow that was dropped, because its parts came too slowly, or was cancelled."""

    @classmethod
    def of(cls, flow: str, why: str) -> FlowLost:
        """Return the error for the flow of this id."""
        return cls(f"flow {flow} {why}: no member of it will run; push the whole flow again under a new id")


HAVING: dict[str, tuple[str, ...]] = {
    "limits": ("sqlite://", "redis://", "zmq+tcp://", "postgresql://"),
    "fairness": ("sqlite://", "redis://", "zmq+tcp://", "postgresql://"),
    "flows": ("sqlite://", "redis://", "zmq+tcp://", "postgresql://"),
    "notes": ("sqlite://", "redis://", "zmq+tcp://", "postgresql://"),
    "statistics": ("sqlite://", "redis://", "zmq+tcp://", "postgresql://"),
    "history": ("sqlite://", "redis://", "zmq+tcp://", "postgresql://"),
    "transactions": ("postgresql://",),
}
"""Our backends with features that not all have, by the scheme of their URL: those of several processes, if there are any."""


def elsewhere(feature: str) -> str:
    """Return the advice to choose a backend that has a feature, by name."""
    known = HAVING.get(feature)
    named = f" ({', '.join(known[:-1])} or {known[-1]})" if known and known[1:] else f" ({known[0]})" if known else ""
    return f'choose a backend that has {feature}{named}: see "Backends" in the documentation'


class NotSupported(BackendError):
    """Raised when a call needs a `feature` that the configured backend does not have."""

    def __init__(self, feature: str, backend: str, fix: str = "") -> None:
        super().__init__(f"{backend} does not support {feature}: {fix or elsewhere(feature)}")
        self.feature = feature
        self.backend = backend


# -- results ---------------------------------------------------------------------------------------


class ResultNotStored(JobsError):
    """Raised when a result is requested that was not stored."""


class ResultUnreadable(ResultNotStored):
    """Raised when a stored result cannot be read here: encrypted under an unknown key, or changed since it was written."""


class ResultTimeout(JobsError, TimeoutError):
    """Raised when a job has not ended within the time a caller wanted to wait for its result."""


class EndlessWait(JobsError):
    """Raised when a job waits without a timeout for another job's result: in a full pool, neither would ever end."""


class JobFailed(JobsError):
    """Raised by `JobHandle.result` for a job in the dead letters; its last error is in the fields, as text.

    The message is safe for a terminal; the fields contain what the job raised, unchanged.
    """

    def __init__(self, message: str, *, reason: str, error_type: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.error_type = error_type
        self.traceback = traceback


class JobWasCancelled(JobsError):
    """Raised by `JobHandle.result` for a cancelled job."""


# -- raised inside a job, by the application -------------------------------------------------------


class JobSignal(Exception):
    """Base of the exceptions by which a job decides what happens to it; none of them is an error."""


class Retry(JobSignal):
    """Raise in a job to end this attempt and retry; `delay` is in seconds, or "5m", or a timedelta.

    It counts as an attempt; without a delay, the job's backoff applies. `close` names a limit, or several
    ("partner:acme"): until the retry is due, no job under it starts. `Snooze` does the same without counting an attempt.
    """

    @foreign.explains(foreign.SIGNALS)
    def __init__(self, reason: str = "", *, delay: object = None, close: str | Sequence[str] = ()) -> None:
        super().__init__(reason or "the job asked to be retried")
        self.delay = delay
        self.close = close


class Snooze(JobSignal):
    """Raise in a job to have it run again after `delay`, as if this run had not taken place: no attempt is counted.

    `close` names a limit, or several ("partner:acme"): until the delay is over, no job under it starts. Use it if a server
    refuses further calls, which is no failure of the job.
    """

    @foreign.explains(foreign.SIGNALS)
    def __init__(self, delay: object, *, close: str | Sequence[str] = ()) -> None:
        super().__init__("the job asked to be run later")
        self.delay = delay
        self.close = close


class Discard(JobSignal):
    """Raise in a job to give it up: it goes to the dead letters with `reason`, without further attempts."""

    @foreign.explains(foreign.SIGNALS)
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# -- raised inside a job, by us --------------------------------------------------------------------


class JobInterrupted(BaseException):
    """Base of the exceptions that are raised in the middle of a job.

    Not an `Exception`: `except Exception` must not swallow it.
    """

    struck = False
    """True if a signal handler raised it in the main thread."""


class JobTimeout(JobInterrupted):
    """Raised inside a job that has run for longer than its timeout; the attempt counts."""


class JobSuspended(JobInterrupted):
    """Raised by `steps` inside a resumable job whose worker stops: the job continues in another worker, uncharged."""


class JobCancelled(JobInterrupted):
    """Raised inside a job that was cancelled while it ran."""
