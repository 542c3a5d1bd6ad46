"""The entries that runs leave in the timeline of their job, in topics with `keep_done`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..backends.base import Outcome, Settlement
from ..message import Message
from ..runs import failure
from ..runs.run import Run


class KeptRuns(Struct, frozen=True):
    """What happens at the end of the runs of a job that is kept when it is done; it stands in `Policy.on_end`.

    So the runs of other topics have nothing to do with it.
    """

    then: Any  # the `OnEnd` of the job, or None
    keep_done: float  # seconds

    def sent(self, message: Message) -> bytes | None:
        """Return what `OnEnd.sent` does."""
        arguments: bytes | None = None if self.then is None else self.then.sent(message)
        return arguments

    def of_run(self, run: Run, ending: Settlement) -> Settlement:
        """Return the settlement of a run with its entry, and with the follow-ups of `then`."""
        if self.then is not None:
            ending = self.then.of_run(run, ending)
        if run.unfit:
            return ending
        ttl = ending.result_ttl
        if ending.outcome is Outcome.DONE:
            ttl = self.keep_done if ending.result is None else max(ttl, self.keep_done)
        return replace(ending, timeline=_entry(run, ending), result_ttl=ttl)


def _entry(run: Run, ending: Settlement) -> bytes:
    """Return the entry of a run, as JSON. Its times are those of the broker's clock, at which it was reserved."""
    began = run.delivery.broker_now
    error = "" if run.failure is None else run.failure.line
    facts = {
        "attempt": run.attempt,
        "began": began,
        "ended": began + (run.ended - run.started if run.started else 0.0),
        "outcome": ending.outcome.value,
        "after": ending.after or None,
        "error": error[:LONGEST_ERROR] or None,
    }
    return failure.document(**{key: value for key, value in facts.items() if value is not None})


LONGEST_ERROR = 300
"""Most characters of an error in an entry; the history of errors has all of it."""
