"""The promises of note, of the notes and timelines in settlements, and of the done jobs that are kept."""

from __future__ import annotations

import pytest

from ...backends.base import Answer, Backend, Delivery, Operable, Outcome, State
from ...backends.notes import MOST_BYTES, MOST_LINES, MOST_RUNS, Note, Notes
from ...errors import NotSupported
from .rig import ERROR, Rig, RigCase, T, retention

LINES = (b'{"text":"one"}', b"", bytes(range(256)), b"a\nb")
"""A line is any bytes: encrypted ones are not text."""


class NoteCases(RigCase):
    """What a job tells is in its record, once, as long as the job is in the store; a stale token adds nothing."""

    def test_note_is_refused_without_the_feature(self, rig: Rig) -> None:
        if not rig.has("notes"):
            with pytest.raises(NotSupported, match="notes"):
                rig.worker().note([Note("x", 1, b"{}")])

    def test_a_record_shows_what_a_running_job_has_told(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        worker = rig.worker()
        one, two = rig.push_many(rig.producer(), 2)
        held = {delivery.id: delivery for delivery in rig.take(worker, 2)}
        worker.note([_of(held[one], b"1/3", LINES), _of(held[two], None, (b"x",))])
        worker.note([_of(held[one], b"2/3", first=len(LINES)), _of(held[one], None, (b"last",), first=len(LINES))])
        worker.note([])
        producer = rig.producer()
        assert rig.record(producer, one).notes == Notes(b"2/3", (*LINES, b"last"))
        assert rig.record(producer, two).notes == Notes(b"", (b"x",))
        if rig.has("browse"):
            found = {record.id: record.notes.progress for record in producer.browse(T, State.RESERVED, 10)}
            assert found == {one: b"2/3", two: b""}

    def test_a_repeated_note_adds_no_line_twice(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        worker.note([_of(delivery, b"1", (b"a", b"b"))])
        worker.note([_of(delivery, b"1", (b"a", b"b"))])
        worker.note([_of(delivery, b"2", (b"a", b"b", b"c"))])
        worker.note([_of(delivery, b"3", (b"d",), first=3)])
        assert rig.record(worker, job_id).notes == Notes(b"3", (b"a", b"b", b"c", b"d"))
        rig.settle(worker, delivery, Outcome.RELEASE, notes=_of(delivery, None, (b"d", b"e"), first=3))
        assert rig.record(worker, job_id).notes == Notes(b"3", (b"a", b"b", b"c", b"d", b"e"))

    def test_notes_outlast_every_end_after_which_the_job_runs_again(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        delivery, lines = rig.take_one(worker), []
        for outcome in (Outcome.RELEASE, Outcome.DEFER, Outcome.RETRY):
            sent, last = (f"{outcome.value} {what}".encode() for what in ("sent", "last"))
            worker.note([_of(delivery, b"early", (sent,))])
            progress = outcome.value.encode()
            assert rig.settle(worker, delivery, outcome, notes=_of(delivery, progress, (last,), first=1)) is Answer.SETTLED
            lines += [sent, last]
            assert rig.record(worker, job_id).notes == Notes(progress, tuple(lines))
            delivery = rig.take_one(worker)
        worker.close()
        assert rig.record(rig.producer(), job_id).notes.lines == tuple(lines)

    def test_only_the_newest_lines_are_kept(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        worker = rig.worker()
        many, large = rig.push_many(rig.producer(), 2)
        held = {delivery.id: delivery for delivery in rig.take(worker, 2)}
        numbers = [b"%d" % n for n in range(MOST_LINES + 60)]
        worker.note([_of(held[many], None, tuple(numbers[:150]))])
        worker.note([_of(held[many], None, tuple(numbers[150:]), first=150)])
        size = MOST_BYTES // 8
        for n in range(10):
            worker.note([_of(held[large], None, (b"%d" % n * size,), first=n)])
        assert rig.record(worker, many).notes.lines == tuple(numbers[-MOST_LINES:])
        assert rig.record(worker, large).notes.lines == tuple(b"%d" % n * size for n in range(2, 10))

    def test_a_stale_token_tells_nothing(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup", "fencing"):
            return
        worker, other = rig.worker(), rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        old = rig.take_one(worker)
        rig.settle(worker, old, Outcome.RELEASE, notes=_of(old, b"good", (b"good",)))
        worker.note([_of(old, b"of a released job", (b"x",), first=1)])
        new = rig.take_one(worker)
        worker.note([_of(old, b"of an older reservation", (b"x",), first=1)])
        other.note([_of(new, b"of another owner", (b"x",))])
        rig.settle(worker, old, Outcome.RETRY, notes=_of(old, b"of a stale settlement", (b"x",), first=1), timeline=b"x")
        record = rig.record(worker, job_id)
        assert (record.notes, record.timeline) == (Notes(b"good", (b"good",)), ())

    def test_stale_and_current_notes_may_come_together(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 2)
        gone, held = rig.take(worker, 2)
        rig.done(worker, gone)
        worker.note([_of(gone, b"late", (b"late",)), _of(held, b"in time", (b"in time",))])
        assert rig.record(worker, held.id).notes == Notes(b"in time", (b"in time",))

    def test_a_dead_letter_keeps_its_notes_and_its_timeline(self, rig: Rig) -> None:
        if not rig.has("notes", "browse", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        rig.settle(worker, delivery, Outcome.RETRY, error=ERROR, timeline=b"first")
        delivery = rig.take_one(worker)
        notes = _of(delivery, b"half", (b"it fails",))
        rig.settle(worker, delivery, Outcome.DEAD, reason="failed", error=ERROR, notes=notes, timeline=b"\x00second")
        record = rig.record(worker, job_id)
        assert (record.state, record.notes) == (State.DEAD, Notes(b"half", (b"it fails",)))
        assert record.timeline == (b"first", b"\x00second")
        assert worker.requeue([job_id]) == 1
        assert rig.record(worker, job_id).notes == Notes(b"half", (b"it fails",))

    def test_a_timeline_keeps_its_newest_entries(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        for n in range(MOST_RUNS + 3):
            rig.settle(worker, rig.take_one(worker), Outcome.RELEASE, timeline=b"%d" % n)
        assert rig.record(worker, job_id).timeline == tuple(b"%d" % n for n in range(3, MOST_RUNS + 3))

    def test_a_new_job_never_has_the_notes_of_an_earlier_one(self, rig: Rig) -> None:
        if not rig.has("notes", "lookup"):
            return
        producer, worker = rig.producer(), rig.worker()
        for housekept in (False, True):
            job = rig.job(chosen=True)
            rig.push(producer, job)
            delivery = rig.take_one(worker)
            worker.note([_of(delivery, b"old", (b"old",))])
            rig.settle(worker, delivery, Outcome.RETRY, timeline=b"old")
            rig.done(worker, rig.take_one(worker))
            if housekept:
                worker.housekeep(100)
            rig.push(producer, job)
            record = rig.record(worker, job.id)
            assert (record.notes, record.timeline) == (Notes(), ())
            delivery = rig.take_one(worker)
            worker.note([_of(delivery, b"new", (b"new",))])
            assert rig.record(worker, job.id).notes == Notes(b"new", (b"new",))
            rig.done(worker, delivery)


class HistoryCases(RigCase):
    """A job that is done with a timeline is kept with all that it told; others leave no more than a result."""

    def test_a_done_job_is_kept_with_its_timeline(self, rig: Rig) -> None:
        if not rig.has("history"):
            return
        producer, worker = rig.producer(), rig.worker()
        jobs = [rig.job(b"%d" % n) for n in range(3)]
        for n, job in enumerate(jobs):
            rig.push(producer, job)
            rig.settle(worker, rig.take_one(worker), Outcome.RETRY, error=ERROR, timeline=b"failed")
            delivery = rig.take_one(worker)
            result = b"%d" % n if n else None
            notes = _of(delivery, b"all", (b"line",))
            rig.settle(worker, delivery, Outcome.DONE, result=result, result_ttl=1000.0, notes=notes, timeline=b"done")
        found = producer.browse(T, State.DONE, 10)
        assert {record.id for record in found} == {job.id for job in jobs}
        assert [record.id for record in producer.browse(T, State.DONE, 1, 1)] == [found[1].id]
        record = rig.record(producer, jobs[1].id)
        assert (record.state, record.topic, record.payload, record.attempt) == (State.DONE, T, jobs[1].payload, 1)
        assert (record.notes, record.timeline) == (Notes(b"all", (b"line",)), (b"failed", b"done"))
        assert len(record.errors) == 1
        assert record.pushed_at <= (record.since or 0.0)
        assert producer.fetch_result(jobs[1].id, 0.0) is not None
        assert {rig.record(producer, job.id).result for job in jobs} == {None, b"1", b"2"}
        if rig.has("exact_counts"):
            assert producer.counts([T])[T].ready == producer.counts([T])[T].reserved == 0

    def test_the_newest_done_job_comes_first(self, rig: Rig) -> None:
        if not rig.has("history"):
            return
        worker = rig.worker()
        ended = _done_one_by_one(rig, worker, 3, apart=rig.lease / 50)
        assert [record.id for record in worker.browse(T, State.DONE, 10)] == ended[::-1]

    def test_a_job_without_a_timeline_is_not_kept(self, rig: Rig) -> None:
        if not rig.has("history"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 2)
        plain, stored = rig.take(worker, 2)
        rig.done(worker, plain)
        worker.note([_of(stored, b"x", (b"x",))])
        rig.settle(worker, stored, Outcome.DONE, result=b"1", result_ttl=1000.0)
        assert worker.get(plain.id) is None
        record = rig.record(worker, stored.id)
        assert (record.payload, record.notes) == (b"", Notes())
        assert worker.browse(T, State.DONE, 10) == []

    def test_a_kept_job_goes_at_its_time(self, rig: Rig) -> None:
        if not rig.has("history"):
            return
        worker = rig.worker()
        (job_id,) = rig.push_many(rig.producer(), 1)
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, result_ttl=rig.lease / 4, timeline=b"x")
        rig.until(lambda: worker.get(job_id) is None)
        assert worker.browse(T, State.DONE, 10) == []
        worker.housekeep(100)
        assert worker.browse(T, State.DONE, 10) == []

    def test_only_so_many_done_jobs_are_kept(self, rig: Rig) -> None:
        if not rig.has("history"):
            return

        def few(topic: str) -> object:
            limits = retention()(topic)
            return type(limits)(limits.dead_keep, limits.dead_max, 2)

        worker = rig.worker(retention=few)
        ended = []
        for _ in range(4):
            rig.push_many(rig.producer(), 1)
            delivery = rig.take_one(worker)
            rig.settle(worker, delivery, Outcome.DONE, result_ttl=1000.0, timeline=b"x")
            ended.append(delivery.id)
            rig.advance(rig.lease / 50)
        assert [record.id for record in worker.browse(T, State.DONE, 10)] == ended[:1:-1]

    def test_a_kept_job_is_not_pushed_again(self, rig: Rig) -> None:
        if not rig.has("history", "known_ids"):
            return
        producer, worker = rig.producer(), rig.worker()
        job = rig.job(chosen=True)
        rig.push(producer, job)
        rig.settle(worker, rig.take_one(worker), Outcome.DONE, result_ttl=1000.0, timeline=b"x")
        assert dict(producer.push([job], rig.request())) == {job.id: job.id}
        assert rig.take(worker, 1) == []

    def test_done_jobs_are_deleted_oldest_first_with_their_results_and_stay_known(self, rig: Rig) -> None:
        if not rig.has("history"):
            with pytest.raises(NotSupported, match="history"):
                rig.producer().purge_done(T, 10)
            return
        if not _purges_done(rig):
            return
        producer, worker = rig.producer(), rig.worker()
        jobs = []
        for n in range(3):
            jobs.append(rig.job(b"%d" % n, chosen=rig.has("known_ids")))
            rig.push(producer, jobs[n])
            delivery = rig.take_one(worker)
            notes = _of(delivery, b"all", (b"line",))
            rig.settle(worker, delivery, Outcome.DONE, result=b"1", result_ttl=1000.0, notes=notes, timeline=b"x")
            rig.advance(rig.lease / 50)
        other = rig.job(topic="other")
        rig.push(producer, other)
        rig.settle(worker, rig.take(worker, topics=["other"])[0], Outcome.DONE, result_ttl=1000.0, timeline=b"x")
        assert producer.purge_done(T, 10, 3600.0) == 0
        assert producer.purge_done(T, 1) == 1
        assert [record.id for record in producer.browse(T, State.DONE, 10)] == [jobs[2].id, jobs[1].id]
        record = rig.record(producer, jobs[0].id)
        assert (record.state, record.payload, record.result) == (State.DONE, b"", None)
        assert (record.notes, record.timeline) == (Notes(), ())
        if rig.has("known_ids"):
            assert dict(producer.push([jobs[0]], rig.request())) == {jobs[0].id: jobs[0].id}
        assert producer.purge_done(T, 10) == 2
        assert producer.purge_done(T, 10) == 0
        assert [record.id for record in producer.browse("other", State.DONE, 10)] == [other.id]

    def test_only_done_jobs_of_that_age_are_deleted(self, rig: Rig) -> None:
        if not rig.has("history") or not _purges_done(rig):
            return
        worker = rig.worker()
        ended = _done_one_by_one(rig, worker, 2, apart=rig.lease / 5)
        old, new = (rig.record(worker, job_id) for job_id in ended)
        age = old.broker_now - ((old.since or 0.0) + (new.since or 0.0)) / 2  # of a moment between the two ends
        assert worker.purge_done(T, 10, age) == 1
        assert [record.id for record in worker.browse(T, State.DONE, 10)] == [new.id]

    def test_a_kept_job_pushes_its_followups_and_frees_its_key(self, rig: Rig) -> None:
        if not rig.has("history", "atomic_followups"):
            return
        worker = rig.worker()
        rig.push_many(rig.producer(), 1)
        delivery, follow = rig.take_one(worker), rig.job()
        rig.settle(worker, delivery, Outcome.DONE, result_ttl=1000.0, timeline=b"x", followups=(follow,))
        assert rig.take_one(worker).id == follow.id


def _done_one_by_one(rig: Rig, worker: Backend, number: int, apart: float) -> list[str]:
    """Run jobs that are kept, each ending this many seconds after the one before; return their ids in that order."""
    ended = []
    for _ in range(number):
        rig.push_many(rig.producer(), 1)
        delivery = rig.take_one(worker)
        rig.settle(worker, delivery, Outcome.DONE, result_ttl=1000.0, timeline=b"x")
        ended.append(delivery.id)
        rig.advance(apart)
    return ended


def _purges_done(rig: Rig) -> bool:
    """Return whether the backend overrides `purge_done`, which came after the first backends with history."""
    return type(rig.producer()).purge_done is not Operable.purge_done


def _of(delivery: Delivery, progress: bytes | None = None, lines: tuple[bytes, ...] = (), first: int = 0) -> Note:
    return Note(delivery.id, delivery.token, progress, lines, first)


__all__ = ["HistoryCases", "NoteCases"]
