"""Find and delete blobs that no job needs: their process died before the push, or their job was purged."""

from __future__ import annotations

from collections.abc import Callable

from ..backends.base import JobRecord, State
from ..errors import MessageError
from ..message import Message
from .packing import blob_of
from .store import PayloadStore, is_unfinished, job_of

BATCH = 500


def clean(
    store: PayloadStore,
    *,
    find: Callable[[str], JobRecord | None] | None,
    envelope: Callable[[JobRecord], Message],
    grace: float,
    keep: float,
    comes: Callable[[str], bool] = lambda job_id: False,
) -> int:
    """Delete what is left over; return the number of blobs.

    Without `find` (the backend cannot look up jobs), that is what is older than `keep` seconds. `comes` says whether a job that
    the backend does not know is on its way there.
    """
    deleted, batch = 0, list[str]()
    for blob in store.blobs():
        job_id = job_of(blob.name)
        if job_id is None:
            unneeded = is_unfinished(blob.name) and blob.age > grace
        elif find is None:
            unneeded = blob.age > keep
        else:
            record = find(job_id) if blob.age > grace else None
            unneeded = blob.age > grace and not _needs(record, blob.name, envelope) and not (record is None and comes(job_id))
        if unneeded:
            batch.append(blob.name)
        if len(batch) == BATCH:
            store.delete(batch)
            deleted, batch = deleted + len(batch), []
    store.delete(batch)
    return deleted + len(batch)


def _needs(record: JobRecord | None, name: str, envelope: Callable[[JobRecord], Message]) -> bool:
    """Return whether a job needs a blob; the job may have been enqueued again under its id."""
    if record is None or record.state in (State.DONE, State.CANCELLED, State.UNKNOWN):
        return False
    try:
        return blob_of(envelope(record)) == name
    except MessageError:  # a process with other keys or codecs may be able to read it
        return True
