"""The operations for operators, sent to the broker."""

from __future__ import annotations

import abc
import time
from collections.abc import Sequence

from jobs_core.backend_kit import new_token
from jobs_core.backends.base import Backend, BackendOptions, JobRecord, State
from jobs_core.backends.documents import Document, check
from jobs_core.backends.flows import FlowStatus, MemberStatus
from jobs_core.backends.letters import DeadGroup
from jobs_core.backends.limits import Limit, LimitState
from jobs_core.backends.statistics import StatisticsRow
from jobs_core.errors import BackendError

from . import protocol as p
from .connection import REPLY, BrokerConnection

_SLICE = 10.0
_PURGED_AT_ONCE = 500
_LATER_STATES = {State.LIMITED: p.LIMITS, State.WAITING: p.FLOWS}


class ZeromqOperatorCalls(Backend):
    """The backend's methods for operators."""

    _options: BackendOptions

    @property
    @abc.abstractmethod
    def _connection(self) -> BrokerConnection:
        """Return the connection; raise BackendUnavailable if there is none."""

    def get(self, job_id: str) -> JobRecord | None:
        return self._connection.call(p.GET, p.OfJob(id=job_id))

    def browse(self, topic: str, state: State, limit: int, offset: int = 0) -> list[JobRecord]:
        if not self._has_state(state):
            return []
        return self._connection.call(p.BROWSE, p.Browse(topic=topic, state=state, limit=limit, offset=offset))

    def _has_state(self, state: State) -> bool:
        """Return whether the broker knows a state: one of an earlier release has no jobs in states that came later."""
        needed = _LATER_STATES.get(state)
        return needed is None or needed in self._connection.features

    def topics(self) -> list[str]:
        return self._connection.call(p.TOPICS, p.Nothing())

    def requeue(self, job_ids: Sequence[str]) -> int:
        return self._connection.call(p.REQUEUE, p.Change(request=new_token(), ids=list(job_ids)))

    def dead_groups(self, topics: Sequence[str], most: int) -> list[DeadGroup]:
        self._require_letters()
        return self._connection.call(p.DEAD_GROUPS, p.DeadGroups(topics=list(topics), most=most))

    def dead_in_group(self, topic: str, group: str, limit: int, offset: int = 0) -> list[JobRecord]:
        self._require_letters()
        return self._connection.call(p.DEAD_IN_GROUP, p.DeadInGroup(topic=topic, group=group, limit=limit, offset=offset))

    def amend(self, job_id: str, was: bytes, payload: bytes, topic: str = "") -> bool:
        self._require_letters()
        asked = p.Amend(request=new_token(), id=job_id, was=was, payload=payload, topic=topic)
        return self._connection.call(p.AMEND, asked)

    def _require_letters(self) -> None:
        if p.LETTERS not in self._connection.features:
            raise BackendError(
                "the broker is of a release that neither groups nor amends dead letters: upgrade jobs-zeromq there, and "
                "restart the broker"
            )

    def discard(self, job_ids: Sequence[str], reason: str) -> int:
        return self._connection.call(p.DISCARD, p.Change(request=new_token(), ids=list(job_ids), reason=reason))

    def purge(self, topic: str, state: State) -> int:
        if not self._has_state(state):
            return 0
        deleted = 0
        while True:
            some = self._connection.call(p.PURGE, p.Purge(request=new_token(), topic=topic, state=state))
            deleted += some
            if some < _PURGED_AT_ONCE:
                return deleted

    def purge_done(self, topic: str, limit: int, older: float = 0.0) -> int:
        if p.PURGES_DONE not in self._connection.features:
            raise BackendError(
                "the broker is of a release that does not delete done jobs: upgrade jobs-zeromq there, and restart the broker"
            )
        deleted = 0
        while deleted < limit:
            most = min(limit - deleted, _PURGED_AT_ONCE)
            some = self._connection.call(p.PURGE_DONE, p.PurgeDone(request=new_token(), topic=topic, limit=most, older=older))
            deleted += some
            if some < most:
                break
        return deleted

    def drop(self, job_ids: Sequence[str]) -> int:
        return self._connection.call(p.DROP, p.Change(request=new_token(), ids=list(job_ids)))

    def pause(self, topic: str) -> None:
        self._connection.call(p.PAUSE, p.OfTopic(topic=topic, request=new_token()))

    def resume(self, topic: str) -> None:
        self._connection.call(p.RESUME, p.OfTopic(topic=topic, request=new_token()))

    def paused(self) -> frozenset[str]:
        names: list[str] = self._connection.call(p.PAUSED, p.Nothing())
        return frozenset(names)

    def cancel(self, job_id: str, *, force: bool = False) -> State:
        return self._connection.call(p.CANCEL, p.Change(request=new_token(), ids=[job_id], reason="force" if force else ""))

    def limits(self, most: int, names: Sequence[str] = ()) -> list[LimitState]:
        if p.LIMITS not in self._connection.features:
            return []  # a broker of an earlier release has none
        return self._connection.call(p.LIST_LIMITS, p.ListLimits(most=most, names=list(names)))

    def override_limit(self, limit: str, definition: Limit | None) -> None:
        asked = p.OverrideLimit(name=limit, definition=definition)
        self._connection.call(p.OVERRIDE_LIMIT, asked, needs=lambda: (p.LIMITS,))

    def lines(self, topic: str, most: int) -> list[tuple[str, int]]:
        if p.LIMITS not in self._connection.features:
            return []
        return self._connection.call(p.LIST_LINES, p.ListLines(topic=topic, most=most))

    @property
    def _has_flows(self) -> bool:
        return p.FLOWS in self._connection.features  # a broker of an earlier release has none

    def flow(self, flow_id: str) -> FlowStatus | None:
        return self._connection.call(p.FLOW, p.OfFlow(flow=flow_id)) if self._has_flows else None

    def flows(self, most: int, offset: int = 0) -> list[FlowStatus]:
        return self._connection.call(p.LIST_FLOWS, p.ListFlows(most=most, offset=offset)) if self._has_flows else []

    def flow_members(self, flow_id: str, most: int, offset: int = 0, *, dead: bool = False) -> list[MemberStatus]:
        if not self._has_flows:
            return []
        return self._connection.call(p.FLOW_MEMBERS, p.ListMembers(flow=flow_id, most=most, offset=offset, dead=dead))

    def flow_results(self, flow_id: str, job_ids: Sequence[str]) -> list[tuple[str, bytes]]:
        if not self._has_flows:
            return []
        return self._connection.call(
            p.FLOW_RESULTS, p.FlowResults(flow=flow_id, ids=list(job_ids), most_bytes=self._options.max_message)
        )

    def cancel_flow(self, flow_id: str, *, finale: bool = False) -> bool:
        if not self._has_flows:
            return False
        return self._connection.call(p.CANCEL_FLOW, p.CancelFlow(flow=flow_id, request=new_token(), finale=finale))

    def retry_flow(self, flow_id: str) -> int:
        if not self._has_flows:
            return 0
        return self._connection.call(p.RETRY_FLOW, p.RetryFlow(flow=flow_id, request=new_token()))

    def wait_flow(self, flow_id: str, timeout: float) -> FlowStatus | None:
        deadline = time.monotonic() + timeout
        while self._has_flows:
            left = min(_SLICE, max(0.0, deadline - time.monotonic()))
            over, status = self._connection.call(p.WAIT_FLOW, p.WaitFlow(flow=flow_id, timeout=left), reply=left + REPLY)
            if over or time.monotonic() >= deadline:
                return status
        return None

    def statistics(
        self, span: int, since: float, most: int, *, topic: str | None = None, after: StatisticsRow | None = None
    ) -> list[StatisticsRow]:
        self._require_statistics()
        asked = p.ListStatistics(span=span, since=since, most=most, topic=topic, after=after)
        return self._connection.call(p.LIST_STATISTICS, asked)

    def _require_statistics(self) -> None:
        if p.STATISTICS not in self._connection.features:
            raise BackendError(
                "the broker is of a release without statistics: upgrade jobs-zeromq there, and restart the broker"
            )

    @property
    def _has_documents(self) -> bool:
        return p.DOCUMENTS in self._connection.features  # a broker of an earlier release has none

    def documents(self, kind: str, most: int, after: str = "") -> list[Document]:
        if not self._has_documents:
            return []
        return self._connection.call(p.LIST_DOCUMENTS, p.ListDocuments(kind=kind, most=most, after=after))

    def document(self, kind: str, name: str) -> Document | None:
        return self._connection.call(p.READ_DOCUMENT, p.OfDocument(kind=kind, name=name)) if self._has_documents else None

    def document_versions(self, kinds: Sequence[str]) -> dict[str, int]:
        if not self._has_documents:
            return dict.fromkeys(kinds, 0)
        return self._connection.call(p.DOCUMENT_VERSIONS, p.OfKinds(kinds=list(kinds)))

    def put_document(
        self, kind: str, name: str, data: bytes, request: str, *, expected: int | None = None, ttl: float | None = None
    ) -> int | None:
        check(kind, name, data, ttl)
        self._require_documents()
        asked = p.PutDocument(kind=kind, name=name, data=data, request=request, expected=expected, ttl=ttl)
        return self._connection.call(p.PUT_DOCUMENT, asked)

    def delete_document(self, kind: str, name: str, request: str, *, expected: int | None = None) -> bool:
        self._require_documents()
        asked = p.DeleteDocument(kind=kind, name=name, request=request, expected=expected)
        return self._connection.call(p.DELETE_DOCUMENT, asked)

    def _require_documents(self) -> None:
        if not self._has_documents:
            raise BackendError(
                "the broker is of a release without documents: upgrade jobs-zeromq there, and restart the broker"
            )

    def fetch_result(self, job_id: str, timeout: float) -> JobRecord | None:
        deadline = time.monotonic() + timeout
        while True:
            left = min(_SLICE, max(0.0, deadline - time.monotonic()))
            record = self._connection.call(p.RESULT, p.Result(id=job_id, timeout=left), reply=left + REPLY)
            if record is not None or time.monotonic() >= deadline:
                return record
