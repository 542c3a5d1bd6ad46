"""The promises of documents: versions, compare-and-set, time to live, bounds, pages, retried calls, guards."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ...backends.base import Backend
from ...backends.documents import ABSENT, LARGEST, MOST, Document, Guard, all_of
from ...errors import BackendError, NotSupported
from .concurrency import run_at_once
from .rig import Rig, RigCase, T

KIND = "contract-kind"
TIMES = 25


class DocumentCases(RigCase):
    """Of several changes that expect the same version one succeeds; what has expired is absent; nothing grows without bound."""

    def test_documents_are_refused_without_the_feature(self, rig: Rig) -> None:
        if rig.has("documents"):
            return
        backend = rig.producer()
        for call in (
            lambda: backend.documents(KIND, 1),
            lambda: backend.document(KIND, "a"),
            lambda: backend.document_versions([KIND]),
            lambda: backend.put_document(KIND, "a", b"{}", rig.request()),
            lambda: backend.delete_document(KIND, "a", rig.request()),
            lambda: backend.push_guarded([rig.job()], rig.request(), Guard(KIND, "a", ABSENT)),
        ):
            with pytest.raises(NotSupported, match="documents"):
                call()

    def test_a_document_is_read_as_it_was_written(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        writer, reader = rig.producer(), rig.producer()
        assert (reader.document(KIND, "a"), reader.documents(KIND, 9)) == (None, [])
        for data in (b"{}", '{"ä":"\u2028"}'.encode(), b'"' + b"x" * (LARGEST - 2) + b'"', bytes(range(256))):
            version = writer.put_document(KIND, "a:ä b", data, rig.request())
            found = reader.document(KIND, "a:ä b")
            assert found is not None
            assert version is not None
            assert (found.kind, found.name, found.data, found.version) == (KIND, "a:ä b", data, version)
            assert found.changed_at > 1_000_000_000
            assert found.expires_in is None
            assert reader.documents(KIND, 9) == [found]
        assert reader.document("other", "a:ä b") is None

    def test_a_change_that_expects_another_version_changes_nothing(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        assert _put(rig, backend, "a", b"1", 7) is None
        first = _put(rig, backend, "a", b"1", ABSENT)
        assert first is not None
        assert _put(rig, backend, "a", b"2", ABSENT) is None
        second = _put(rig, backend, "a", b"2", first)
        assert second is not None
        assert second > first
        assert _put(rig, backend, "a", b"3", first) is None
        assert not backend.delete_document(KIND, "a", rig.request(), expected=first)
        found = backend.document(KIND, "a")
        assert found is not None
        assert (found.data, found.version) == (b"2", second)
        assert backend.delete_document(KIND, "a", rig.request(), expected=second)
        assert not backend.delete_document(KIND, "a", rig.request())
        assert backend.document(KIND, "a") is None

    def test_no_version_returns_after_a_deletion(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        seen = []
        for _ in range(3):
            seen.append(_put(rig, backend, "a", b"same", ABSENT))
            assert backend.delete_document(KIND, "a", rig.request())
        assert len(set(seen)) == 3

    def test_the_version_of_a_kind_changes_with_its_documents_only(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        assert backend.document_versions([KIND, "other"]) == {KIND: 0, "other": 0}
        last = 0
        changes: tuple[Callable[[], object], ...] = (
            lambda: _put(rig, backend, "a", b"1"),
            lambda: _put(rig, backend, "b", b"1"),
            lambda: _put(rig, backend, "a", b"2"),
            lambda: backend.delete_document(KIND, "b", rig.request()),
        )
        for change in changes:
            change()
            version = backend.document_versions([KIND])[KIND]
            assert version > last
            last = version
        _put(rig, backend, "a", b"3", 1_000_000)
        backend.delete_document(KIND, "unknown", rig.request())
        assert backend.document_versions([KIND, "other"]) == {KIND: last, "other": 0}
        assert backend.document_versions([]) == {}

    def test_a_repeated_request_changes_nothing_and_returns_the_first_answer(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend, other = rig.producer(), rig.producer()
        request = rig.request()
        first = backend.put_document(KIND, "a", b"1", request, expected=ABSENT)
        second = _put(rig, other, "a", b"2")
        assert backend.put_document(KIND, "a", b"1", request, expected=ABSENT) == first
        assert other.put_document(KIND, "a", b"1", request, expected=ABSENT) == first
        found = other.document(KIND, "a")
        assert found is not None
        assert (found.data, found.version) == (b"2", second)
        request = rig.request()
        assert backend.delete_document(KIND, "a", request)
        _put(rig, other, "a", b"3")
        assert backend.delete_document(KIND, "a", request)
        found = backend.document(KIND, "a")
        assert found is not None
        assert found.data == b"3"

    def test_an_expired_document_is_absent_at_once(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        assert backend.put_document(KIND, "b", b"stays", rig.request(), ttl=600.0) is not None
        found = backend.document(KIND, "b")
        assert found is not None
        assert found.expires_in is not None
        assert 0 < found.expires_in <= 600.0
        version = backend.put_document(KIND, "a", b"1", rig.request(), ttl=rig.lease)
        _put(rig, backend, "b", b"stays")
        rig.advance(rig.lease * 1.05)
        assert backend.document(KIND, "a") is None
        assert [each.name for each in backend.documents(KIND, 9)] == ["b"]
        assert _put(rig, backend, "a", b"2", version) is None
        assert not backend.delete_document(KIND, "a", rig.request())
        assert _put(rig, backend, "a", b"2", ABSENT) is not None
        rig.advance(rig.lease * 2)
        backend.housekeep(100)
        assert _names(backend) == ["a", "b"], "written again without a time to live, it stays"

    def test_a_document_that_is_written_again_in_time_stays(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        if not rig.clock:  # a busy machine may stand still for longer than a short time to live
            backend.put_document(KIND, "a", b"1", rig.request(), ttl=rig.lease)
            backend.put_document(KIND, "a", b"1", rig.request(), ttl=600.0)
            rig.advance(rig.lease * 1.05)
            backend.housekeep(100)
            assert backend.document(KIND, "a") is not None
            return
        for _ in range(4):
            backend.put_document(KIND, "a", b"1", rig.request(), ttl=rig.lease)
            rig.advance(rig.lease / 2)
            backend.housekeep(100)
            assert backend.document(KIND, "a") is not None

    def test_what_cannot_be_stored_is_refused(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        wrong: tuple[tuple[str, str, bytes, float | None, str], ...] = (
            ("No Kind", "a", b"", None, "kind"),
            (KIND, "", b"", None, "name"),
            (KIND, "x" * 201, b"", None, "name"),
            (KIND, "a\n", b"", None, "name"),
            (KIND, "a", b"x" * (LARGEST + 1), None, "65,537 bytes"),
            (KIND, "a", b"", 0.0, "time to live"),
        )
        for kind, name, data, ttl, reason in wrong:
            with pytest.raises(BackendError, match=reason):
                backend.put_document(kind, name, data, rig.request(), ttl=ttl)
        assert backend.documents(KIND, 9) == []

    def test_a_kind_has_a_bounded_number_of_documents(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        for n in reversed(range(MOST)):  # the one that expires last: the others may take a minute
            backend.put_document(KIND, f"{n}", b"{}", rig.request(), ttl=3600.0 if n else 5 * rig.lease + 60.0)
        with pytest.raises(BackendError, match="10,000 documents"):
            _put(rig, backend, "one more", b"{}")
        assert _put(rig, backend, "7", b"changed") is not None
        assert backend.put_document("other", "a", b"{}", rig.request()) is not None
        assert backend.delete_document(KIND, "8", rig.request())
        assert _put(rig, backend, "one more", b"{}") is not None
        assert len(list(all_of(backend, KIND))) == MOST
        if rig.clock:
            rig.advance(5 * rig.lease + 61.0)
            assert _put(rig, backend, "in place of one that has expired", b"{}") is not None

    def test_pages_hold_every_document_once_in_order(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        names = sorted(["ä", "b", "B", "a", "aa", "z:1", *(f"n{n}" for n in range(30))])
        for name in names:
            _put(rig, backend, name, name.encode())
        assert [each.name for each in backend.documents(KIND, 5)] == names[:5]
        seen: list[Document] = []
        while page := backend.documents(KIND, 7, seen[-1].name if seen else ""):
            assert len(page) <= 7
            seen += page
        assert [(each.name, each.data) for each in seen] == [(name, name.encode()) for name in names]

    def test_a_page_of_large_documents_is_shorter_and_none_is_left_out(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend = rig.producer()
        for n in range(130):
            _put(rig, backend, f"{n:03}", b"x" * LARGEST)
        assert 0 < len(backend.documents(KIND, 1000)) < 130
        assert _names(backend) == [f"{n:03}" for n in range(130)]

    def test_of_changes_at_once_none_is_lost(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        if rig.has("multiprocess"):
            run_at_once(rig, "add", *[str(TIMES)] * 4)
        else:
            backends = [rig.producer() for _ in range(4)]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda backend: _add(rig, backend), backends))
        found = rig.producer().document(KIND, "sum")
        assert found is not None
        assert int(found.data) == 4 * TIMES

    def test_a_guarded_push_adds_jobs_if_the_document_has_the_version(self, rig: Rig) -> None:
        if not rig.has("documents"):
            return
        backend, worker = rig.producer(), rig.worker()
        version = _put(rig, backend, "a", b"1")
        assert version is not None
        right, wrong, absent = rig.job(), rig.job(), rig.job()
        assert backend.push_guarded([right], rig.request(), Guard(KIND, "a", version)) == {}
        for guard in (Guard(KIND, "a", version + 1), Guard(KIND, "a", ABSENT), Guard(KIND, "b", version)):
            assert backend.push_guarded([wrong], rig.request(), guard) is None
        assert backend.push_guarded([absent], rig.request(), Guard(KIND, "b", ABSENT)) == {}
        assert {rig.take_one(worker).id, rig.take_one(worker).id} == {right.id, absent.id}
        assert rig.take(worker) == []

    def test_a_repeated_guarded_push_returns_its_first_answer_though_the_document_has_changed(self, rig: Rig) -> None:
        if not rig.has("documents", "guards", "dedup"):
            return
        backend, worker = rig.producer(), rig.worker()
        request, job, guard = rig.request(), rig.job(), Guard(KIND, "a", ABSENT)
        assert backend.push_guarded([job], request, guard) == {}
        _put(rig, backend, "a", b"1")
        assert backend.push_guarded([job], request, guard) == {}
        assert rig.take_ids(worker) == [job.id]

    def test_no_guarded_push_gets_in_after_a_change_has_returned(self, rig: Rig) -> None:
        if not rig.has("documents", "guards", "lookup"):
            return
        backend, changer = rig.producer(), rig.producer()
        pushed: list[str] = []

        def push() -> None:
            version = ABSENT
            while True:
                job = rig.job()
                if backend.push_guarded([job], rig.request(), Guard(KIND, "a", version)) is None:
                    return
                pushed.append(job.id)

        with ThreadPoolExecutor(1) as pool:
            pushing = pool.submit(push)
            rig.until(lambda: len(pushed) > 5)
            _put(rig, changer, "a", b"paused")
            there = changer.counts([T])[T].ready
            pushing.result()
        assert changer.counts([T])[T].ready == there == len(pushed)


def _put(rig: Rig, backend: Backend, name: str, data: bytes, expected: int | None = None) -> int | None:
    return backend.put_document(KIND, name, data, rig.request(), expected=expected)


def _names(backend: Backend) -> list[str]:
    return [each.name for each in all_of(backend, KIND)]


def _add(rig: Rig, backend: Backend) -> None:
    """Add 1 to a number, TIMES times; see `contract_child.act`."""
    for _ in range(TIMES):
        while True:
            found = backend.document(KIND, "sum")
            value = int(found.data) if found else 0
            version = found.version if found else ABSENT
            if backend.put_document(KIND, "sum", b"%d" % (value + 1), rig.request(), expected=version) is not None:
                break
