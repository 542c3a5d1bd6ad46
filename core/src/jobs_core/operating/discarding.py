"""Discard queued jobs: an operator moves them to the dead letters, where they can be looked at and run again later."""

from __future__ import annotations

from collections.abc import Sequence

from ..backends.base import Backend
from ..backends.letters import DISCARDED
from ..machines import who


def discard(backend: Backend, job_ids: Sequence[str], why: str) -> int:
    """Move ready, limited, scheduled and waiting jobs to the dead letters, with who did it and why; return how many.

    They form a group of their own, whatever their earlier runs raised. Raises NotSupported (browse) and BackendUnavailable.
    """
    return backend.discard(job_ids, f"{DISCARDED}{who()}: {why}")
