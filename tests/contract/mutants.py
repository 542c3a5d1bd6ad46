"""Faults that a backend may have, put into the memory model one at a time: the contract has to detect each.

`python -m tests.contract.mutants [NAME ...]` tries all of them (or those named), and prints the case that detected each, or
that none did. NAME=CASE runs that case alone.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import jobs_core.backends.memory

ROOT = Path(__file__).parents[2]
MODEL = Path(jobs_core.backends.memory.__file__).parent

CASES = """
import pytest
from jobs_core.testing import BackendContract
from jobs_core.testing.contract.rig import Rig
from mutant_memory import MemoryBackend, forget

class TestMutant(BackendContract):
    takes_clock = True

    @pytest.fixture
    def backend_url(self):
        forget("memory://mutant")
        return "memory://mutant"

    @pytest.fixture(autouse=True)
    def _its_factory(self, monkeypatch):
        monkeypatch.setattr(Rig, "_queue_factory", lambda *_: MemoryBackend)
"""


@dataclass(frozen=True)
class Mutant:
    """A fault: in one file of the model, `old` (which occurs there once) becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = [
    # checkpoint
    Mutant("a stale token stores a cursor", "store.py", "if job is not None and job.token == checkpoint.token:", "if job is not None:"),
    Mutant("a cursor is not delivered", "store.py", "j.limits, j.cursor, flow", "j.limits, b'', flow"),
    Mutant("a settlement loses its cursor", "store.py", "        if settlement.cursor is not None:\n            job.cursor, job.plain = settlement.cursor, False\n",
           ""),
    Mutant("only the first cursor is stored", "store.py", "                job.cursor, job.plain = checkpoint.cursor, False",
           "                job.cursor, job.plain = job.cursor or checkpoint.cursor, False"),
    Mutant("a record hides its cursor", "records.py", "            cursor=b\"\" if ended else self.cursor,\n", ""),
    Mutant("a crash loses the cursor", "store.py", "                job.redeliveries += 1\n", "                job.redeliveries, job.cursor = job.redeliveries + 1, b''\n"),
    Mutant("a dead letter loses its cursor", "store.py", "job.state, job.reason, job.since = _DEAD, reason, at.now",
           "job.state, job.reason, job.since, job.cursor = _DEAD, reason, at.now, b''"),
    # notes and history
    Mutant("a stale token tells", "store.py", "if job is not None and job.token == note.token:", "if job is not None:"),
    Mutant("a repeated note adds its lines again", "records.py", "seen = self.seen[1] if self.seen[0] == self.token else 0", "seen = 0"),
    Mutant("lines of a later run count as known", "records.py", "seen = self.seen[1] if self.seen[0] == self.token else 0", "seen = self.seen[1]"),
    Mutant("a settlement loses the last notes", "store.py", "        job.tell(settlement.notes, settlement.timeline)\n        if settlement.limits",
           "        job.tell(None, settlement.timeline)\n        if settlement.limits"),
    Mutant("a dead letter loses its notes", "store.py", "            job.tell(settlement.notes, settlement.timeline)\n            self.make_dead", "            self.make_dead"),
    Mutant("a done job loses its last notes", "store.py", "        job.tell(settlement.notes, settlement.timeline)\n        self.end(at", "        job.tell(None, settlement.timeline)\n        self.end(at"),
    Mutant("a timeline grows", "records.py", "(*self.timeline, timeline)[-MOST_RUNS:]", "(*self.timeline, timeline)"),
    Mutant("the oldest runs are kept", "records.py", "(*self.timeline, timeline)[-MOST_RUNS:]", "(*self.timeline, timeline)[:MOST_RUNS]"),
    Mutant("a record hides its notes", "records.py", "            notes=NONE if ended else self.notes,\n", ""),
    Mutant("a result is kept with its whole job", "records.py", "            notes=NONE if ended else self.notes,\n", "            notes=self.notes,\n"),
    Mutant("every stored result is a job of the history", "store.py", "        if not settlement.timeline:\n", "        if False:\n"),
    Mutant("done jobs are not limited", "store.py", "for _ in range(len(done) - at.options.retention(job.topic).done_max):", "for _ in ():"),
    Mutant("the newest done jobs are dropped", "store.py", "oldest = next(iter(done))", "oldest = next(reversed(done))"),
    Mutant("done jobs are listed oldest first", "store.py", "for job_id in reversed(self.done.get(topic, ())))", "for job_id in self.done.get(topic, ()))"),
    # push
    Mutant("a repeated push adds again", "store.py", "        if known:\n            return known[1]\n", ""),
    Mutant("a known id is pushed over", "store.py", "if message.id in self.jobs or (message.chosen and self.find(at.now, message.id)):",
           "if False:"),
    Mutant("a delay is forgotten", "store.py", "self.place(job, at.now, delay)", "self.place(job, at.now, 0)"),
    Mutant("a push wakes nobody", "store.py", "            self.place(job, at.now, delay)\n        self.changed.notify_all()",
           "            self.place(job, at.now, delay)"),
    Mutant("a limit moves with each replacement", "store.py", "                ends = min(ends, until)\n", "                pass\n"),
    Mutant("priorities are upside down", "records.py", "-message.priority, message.unique", "message.priority, message.unique"),
    Mutant("a push request is remembered for ever short", "store.py", "at.now - at.options.dedup_window", "at.now"),
    Mutant("the prefix is not looked at", "backend.py", "_stores[_name(url), options.prefix]", '_stores[_name(url), "jobs"]'),
    # unique
    Mutant("unique keys are not held", "store.py", "                if holder:\n", "                if False:\n"),
    Mutant("a key in seconds ends with its job", "store.py",
           "if job.unique and isinstance(job.unique.scope, str) and", "if job.unique and"),
    Mutant("a queued key is held until done", "store.py", 'if job.unique and job.unique.scope == "queued":', "if False:"),
    Mutant("replace cancels a running job", "store.py", "job.state not in (_READY, _SCHEDULED) or job.node", "job.node"),
    Mutant("replace refuses", "store.py", 'if unique.conflict != "replace" or job is None or', "if True or"),
    Mutant("a dead job keeps its key", "store.py", "            self._leave(job)\n        self._free_key(job)\n        job.state, job.reason",
           "            self._leave(job)\n        job.state, job.reason"),
    # reserve
    Mutant("a repeated reserve takes more", "store.py", "        if request == owner.reserve_request:\n            taken = sorted",
           "        if False:\n            taken = sorted"),
    Mutant("a reserve takes one too many", "store.py", "while heap and len(taken) < limit:", "while heap and len(taken) <= limit:"),
    Mutant("a reserve does not renew the lease", "store.py",
           "        owner = self._owner(owner_id)\n        owner.lease_until = at.now + at.options.lease\n        self.passed_over = False\n        if request == owner.reserve_request:\n            taken = sorted",
           "        owner = self._owner(owner_id)\n        if request == owner.reserve_request:\n            taken = sorted"),
    Mutant("paused topics are handed out", "store.py", "if topic in self.paused or limit <= 0:\n            return taken", "if limit <= 0:\n            return taken"),
    Mutant("due jobs wait for housekeeping", "store.py", "            self._ready_due(at.now, len(self._scheduled))\n", ""),
    Mutant("a released owner may reserve", "store.py",
           '            raise OwnerLost.of(owner_id)',
           "            owner = self.owners[owner_id] = Owner(1e18)"),
    Mutant("topics are served in the order of names", "store.py", "for topic in topics:\n                if topic in", "for topic in sorted(topics):\n                if topic in"),
    # settle
    Mutant("an old token settles", "store.py", "if job is None or job.token != settlement.token:", "if job is None:"),
    Mutant("a repeated settle is done again", "store.py",
           "            return [Answer.ALREADY if old is Answer.SETTLED else old for old in owner.settle_answers]",
           "            pass"),
    Mutant("a retry counts no attempt", "store.py", "            job.attempt += 1\n            job.note(settlement.error)", "            job.note(settlement.error)"),
    Mutant("a defer counts an attempt", "store.py", "            job.deferrals += 1", "            job.deferrals += 1\n            job.attempt += 1"),
    Mutant("a release counts a redelivery", "store.py", "            self._make_ready(job, first=True)\n            return\n",
           "            job.redeliveries += 1\n            self._make_ready(job, first=True)\n            return\n"),
    Mutant("a release goes to the end of the line", "store.py",
           "            self._make_ready(job, first=True)\n            return\n", "            self.place(job, now, 0)\n            job.seq += 10**6\n            return\n"),
    Mutant("a release loses the job", "store.py", "            self._make_ready(job, first=True)\n            return\n", "            return\n"),
    Mutant("a retry comes at once", "store.py", "self.place(job, now, settlement.after)", "self.place(job, now, 0)"),
    Mutant("follow-ups are lost", "store.py", "        if settlement.followups and outcome in ENDS:\n", "        if False:\n"),
    Mutant("a settle wakes nobody", "store.py",
           "        owner.settle_request, owner.settle_answers = request, answers\n        self.changed.notify_all()",
           "        owner.settle_request, owner.settle_answers = request, answers"),
    Mutant("a result is not kept", "store.py", "settlement.result_ttl, settlement.result)", "settlement.result_ttl)"),
    Mutant("a result is kept for ever", "store.py", "if record and until > now else None", "if record else None"),
    Mutant("a running job's cancel is forgotten", "store.py", "        elif job.cancel:\n", "        elif False:\n"),
    Mutant("the history of errors grows", "records.py", "(*self.errors, error)[-KEPT_ERRORS:]", "(*self.errors, error)"),
    Mutant("the oldest errors are kept", "records.py", "(*self.errors, error)[-KEPT_ERRORS:]", "(*self.errors, error)[:KEPT_ERRORS]"),
    Mutant("dead letters are not limited", "store.py", "for _ in range(len(dead) - at.options.retention(job.topic).dead_max):", "for _ in ():"),
    Mutant("ids are found by what is in them", "operators.py", "if each.startswith(prefix) and", "if prefix in each and"),
    # owners
    Mutant("a dead owner's jobs are lost", "store.py", "            else:\n                self._make_ready(job, first=job.id not in started)\n        self.members.proceed(at, SLICE)\n        self.changed.notify_all()\n        return len(owner.held)",
           "        self.changed.notify_all()\n        return len(owner.held)"),
    Mutant("started jobs are not charged", "store.py", "            if job.id in started:", "            if False:"),
    Mutant("unstarted jobs are charged", "store.py", "            if job.id in started:", "            if started:"),
    Mutant("every started job is charged a crash", "backend.py", "crash=len(started) == 1, ran=ran)", "crash=True, ran=ran)"),
    Mutant("jobs that ran give their tokens back", "store.py", "back=job.id not in started and job.id not in ran", "back=job.id not in started"),
    Mutant("a released owner's jobs wake nobody", "store.py", "        self.changed.notify_all()\n        return len(owner.held)", "        return len(owner.held)"),
    Mutant("leases never run out", "store.py", "if owner.lease_until <= at.now][:limit]", "if False][:limit]"),
    Mutant("an outage expires everybody", "store.py", "if last is None or at.now - last > at.options.outage_after:", "if False:"),
    Mutant("a clock set back keeps the dead", "store.py", "owner.lease_until = min(owner.lease_until, at.now + 2 * lease)", "pass"),
    Mutant("close loses what it held", "backend.py", "                self.store.release_owner(self._moment(), owner, (), b\"\", crash=False)",
           "                self.store.owners.pop(owner, None)"),
    Mutant("a heartbeat tells of no cancel", "store.py", "cancelled = [job for job in owner.held.values() if job.cancel or (not job.plain and job.barred)]",
           "cancelled: list[Job] = []"),
    Mutant("wait polls", "backend.py", "self.store.changed.wait(left)", "self.store.changed.wait(min(left, 0.1))"),
    Mutant("an interrupt before a wait is forgotten", "backend.py", "        self._interrupted = True\n", "        self._interrupted = bool(self.store.changed._waiters)\n"),
    Mutant("wait ignores what is there", "backend.py", "if until_due <= 0 or (topics and self.store.members.work) or any(map(self.store.has_ready, topics)):", "if until_due <= 0:"),
    # operators
    Mutant("resume wakes nobody", "operators.py", "            self.store.paused.discard(topic)\n            self.store.changed.notify_all()", "            self.store.paused.discard(topic)"),
    Mutant("requeue wakes nobody", "operators.py", "            self.store.members.proceed(at, SLICE)\n            self.store.changed.notify_all()", "            pass"),
    Mutant("requeue keeps the attempts", "operators.py", "job.attempt = job.redeliveries = job.crashes = job.deferrals = 0", "pass"),
    Mutant("purge takes every state", "operators.py", "if job.topic == topic and job.state is state)", "if job.topic == topic)"),
    Mutant("discard takes running jobs", "operators.py", "if job.state in (State.READY, State.SCHEDULED, State.WAITING)]", "if job.state is not State.DEAD]"),
    Mutant("the oldest age is the newest", "operators.py", "max(0.0, now - min(since))", "max(0.0, now - max(since))"),
    Mutant("due jobs count as scheduled", "operators.py", "Counter(State.READY if job.is_due(now) else job.seen_state for job in jobs)", "Counter(job.seen_state for job in jobs)"),
    # limits and turns
    Mutant("a slot is never free again", "limits.py", "            value.used -= 1\n", ""),
    Mutant("a job that ran gives its token back", "store.py", "self._free(job, back=not settlement.ran)", "self._free(job, back=True)"),
    Mutant("a job that did not run keeps its token", "store.py", "self._free(job, back=not settlement.ran)", "self._free(job, back=False)"),
    Mutant("a rate has no burst", "limits.py", " - (definition.burst - 1) * definition.interval", ""),
    Mutant("only the first limit is looked at", "limits.py", "        for limit in limits:\n            definition, value = self.definition(limit), self.values.get(limit)",
           "        for limit in limits[:1]:\n            definition, value = self.definition(limit), self.values.get(limit)"),
    Mutant("a name overrides its values", "limits.py", "self.overrides.get(limit) or self.overrides.get(name)", "self.overrides.get(name) or self.overrides.get(limit)"),
    Mutant("a second closure shortens the first", "limits.py", "max(value.closed, until)", "until"),
    Mutant("values are kept for ever", "limits.py", "        while self._debts and self._debts[0][0] <= now:", "        while False:"),
    Mutant("a change reaches some lines only", "lines.py", "        del self.unseen[-SLICE:]\n", "        self.unseen.clear()\n"),
    Mutant("a returned job's key waits for its turn", "lines.py", "        if first and fair:\n", "        if False:\n"),
    Mutant("a key that was served keeps its turn", "lines.py", "if self.rules.fair and (not key or (job.rank, key) in self._turns):", "if False:"),
    Mutant("a claim counts the slot of the one before", "store.py", "                    self.owners[job.owner].held.pop(job.id, None)\n                    self._free(job, back=False)\n",
           "                    self.owners[job.owner].held.pop(job.id, None)\n"),
    Mutant("a member of a flow has no limits while it runs", "store.py", "        if job.slots:\n", "        if job.slots and job.node is None:\n"),
    # flows
    Mutant("members run before the last part", "members.py", "        if part.last:\n", "        if True:\n"),
    Mutant("a part with a refused member is added", "members.py", "        if conflicts:\n            return conflicts\n", ""),
    Mutant("a repeated part is added again", "members.py", "if flow.closed or part.number < flow.parts:", "if False:"),
    Mutant("a gap between parts is not seen", "members.py", "        if part.number > flow.parts:", "        if False:"),
    Mutant("an abandoned flow stays open", "members.py", "if flow.touched + flow.part.open_for <= at.now]", "if False]"),
    Mutant("a dropped flow takes parts", "members.py", "        if flow.lost:\n            raise FlowLost.of(part.flow, flow.lost)\n", ""),
    Mutant("a cycle through an own stage is not seen", "flows.py", "target.stage != stage and target.order >= seal:", "False:"),
    Mutant("a stage grows after its end", "flows.py", "if by is None or by.stage != stage or seal is None:", "if seal is None:"),
    Mutant("a stage has members of body and finale", "flows.py", "stages.setdefault(stage, node.finale)) != node.finale:", "stages.setdefault(stage, node.finale)) is None:"),
    Mutant("a stage ends with its first member", "flows.py", "        if group.left == 0:\n", "        if group.left <= 1:\n"),
    Mutant("a dead member ends no stage", "flows.py", "ended, had_ended = phase not in (Phase.WAITING, Phase.ACTIVE), before in _BAD", "ended, had_ended = phase in _FINAL, False"),
    Mutant("a skipped member spoils its stage", "flows.py", "group.gone += phase is Phase.GONE", "group.gone += phase in (Phase.GONE, Phase.SKIPPED)"),
    Mutant("a failure runs again after a retry", "flows.py", "            any_end, target.any_end = target.any_end, []\n", "            any_end = target.any_end\n"),
    Mutant("a retry takes no death back", "flows.py", "if (ended or had_ended) and", "if ended and"),
    Mutant("a handler of failures always runs", "flows.py", 'if node.place.when == "failed" and not node.bad:', "if False:"),
    Mutant("what needs a cancelled member waits on", "flows.py", "node.lost = node.lost or end", "node.lost = None"),
    Mutant("what a member adds comes after its end", "store.py", "        if settlement.followups and outcome in ENDS:\n", "        self.members.proceed(at)\n        if settlement.followups and outcome in ENDS:\n"),
    Mutant("a job adds to the flow of others", "members.py", "if adder is None or adder.flow.part.flow != place.flow:", "if adder is None:"),
    Mutant("a refused addition is lost", "members.py", "            flow.add_dead(node, str(error))\n            self._has_failed(flow, at.now)\n            self._store.make_dead(at, job, str(error))\n", "            self._store.end(at, job, State.UNKNOWN, 0)\n"),
    Mutant("a stage that has ended does not grow", "flows.py", "            group.end = None  # nothing", "            # nothing"),
    Mutant("a retried dead letter is delayed again", "members.py", "        job.delay = job.delay if job.node.left else 0.0  # an operator wants it now\n", ""),
    Mutant("a member of a cancelled flow adds", "members.py", "if adder.barred or node.barred:", "if False:"),
    Mutant("ready members start after a cancellation", "store.py", "(barred if job.barred else taken).append(job)", "taken.append(job)"),
    Mutant("a full worker is woken for flows", "backend.py", "(topics and self.store.members.work)", "self.store.members.work"),
    Mutant("nobody is woken for the work of flows", "backend.py", "(topics and self.store.members.work)", "False"),
    Mutant("limited members start after a cancellation", "lines.py", "        if not job.barred:\n", "        if True:\n"),
    Mutant("members of a fair topic start after a cancellation", "lines.py", "if not job.plain and job.barred:", "if False:"),
    Mutant("a cancellation forgets the finale that is to run", "flows.py", "not (self.flow.keeps_finale and self.finale)", "True"),
    Mutant("running members hear of no cancellation", "members.py", "            self._store.call_owners()\n", "            pass\n"),
    Mutant("a released member runs after the cancellation", "store.py", "        job.cancel = job.cancel or job.barred\n", ""),
    Mutant("dead letters of cancelled flows are retried", "operators.py", "(job.node.refused or job.node.flow.cancelled):", "job.node.refused:"),
    Mutant("what a flow refused is requeued", "operators.py", "(job.node.refused or job.node.flow.cancelled):", "job.node.flow.cancelled:"),
    Mutant("the key of an addition is not looked at", "members.py", "            if holder := self._store.take_key(at, message):\n", "            if holder := self._store.take_key(at, message) and \"\":\n"),
    Mutant("a retried member does not wait", "members.py", "        job.node.flow.retry(job.node, _Host(self._store, at))\n",
           "        job.node.left = job.node.stuck = 0\n        job.node.flow.retry(job.node, _Host(self._store, at))\n"),
    Mutant("dead letters that a flow needs are trimmed", "store.py", "            dead = self.needed[job.topic]\n", "            pass\n"),
    Mutant("dead members are dropped by their own age", "members.py", "        flow.failed_at = now\n", ""),
    Mutant("a key replaces a member", "store.py", "or job.node is not None:\n            return holder", "or False:\n            return holder"),
    Mutant("a delay counts from the push", "store.py", "job.delay, job.node = _WAITING, message.delay, node", "job.delay, job.node = _WAITING, 0.0, node"),
    Mutant("claim takes waiting members", "store.py", "job.state not in (_DEAD, _WAITING) and", "job.state is not _DEAD and"),
    Mutant("results are forgotten when one has taken them", "flows.py", "            if left > 0:\n                self._takers", "            if False:\n                self._takers"),
    Mutant("results are kept for ever", "flows.py", "                self.results.pop(job_id, None)\n", ""),
    Mutant("results are delivered however large", "members.py", "if most < 0 and (found or not first):", "if False:"),
    Mutant("a flow is kept for ever", "members.py", "while self._kept and self._kept[0][0] <= at.now", "while False"),
    Mutant("waiting members count as ready", "operators.py", "        states[State.WAITING],\n", ""),
    Mutant("dead letters are listed oldest first", "operators.py", "jobs = self.store.letters(topic)", "jobs = self.store.letters(topic)[::-1]"),
    # documents
    Mutant("a change expects nothing", "documents.py", "return expected is None or expected ==", "return True or expected =="),
    Mutant("versions begin anew after a deletion", "documents.py", "            del self._kinds[kind][name]\n            self._next(kind)\n",
           "            del self._kinds[kind][name]\n            self._versions[kind] = 0\n"),
    Mutant("a deletion is no change of the kind", "documents.py", "            del self._kinds[kind][name]\n            self._next(kind)\n",
           "            del self._kinds[kind][name]\n"),
    Mutant("a refused change counts", "documents.py", "        version = None\n", "        version = None\n        self._next(kind)\n"),
    Mutant("a repeated change is made again", "documents.py", "            return self._answers[request][1]\n", "            pass\n"),
    Mutant("a repeated deletion is made again", "documents.py", "            return bool(self._answers[request][1])\n", "            pass\n"),
    Mutant("an expired document is there until it is dropped", "documents.py", "return None if kept is None or _has_expired(kept, now) else kept", "return kept"),
    Mutant("no document expires", "documents.py", "_Kept(data, version, now, None if ttl is None else now + ttl)", "_Kept(data, version, now, None)"),
    Mutant("documents of a kind have no bound", "documents.py", "len(documents) >= MOST:\n            self", "len(documents) > 10 * MOST:\n            self"),
    Mutant("a full kind takes no change of what it has", "documents.py", "if name not in documents and len(documents) >= MOST:", "if len(documents) >= MOST:"),
    Mutant("expired documents fill a kind", "documents.py", "            self.housekeep(now, float(\"-inf\"), MOST)\n", ""),
    Mutant("a document of any size is stored", "operators.py", "        check(kind, name, data, ttl)\n", ""),
    # letters
    Mutant("a retried letter stays in its group", "store.py",
           '"""Take a job out of the dead letters."""\n        self.groups.remove(job)', '"""Take a job out of the dead letters."""'),
    Mutant("a trimmed letter stays in its group", "store.py",
           '"""Delete a dead letter that was taken out of its topic\'s."""\n        self.groups.remove(job)', ""),
    Mutant("a moved letter keeps its group", "store.py", "        job.topic = topic\n        self.groups.add(job, of)",
           "        self.groups.add(job, of)\n        job.topic = topic"),
    Mutant("the given fingerprint is not looked at", "letters.py", "of or last_of", "last_of"),
    Mutant("the letters of a group are listed newest first", "letters.py", "key=lambda job: job.since)\n\n", "key=lambda job: -job.since)\n\n"),
    Mutant("the smallest group comes first", "letters.py", "-len(letters))", "len(letters))"),
    Mutant("an amendment looks at no payload", "operators.py", " or job.payload != was", ""),
    Mutant("a ready job is amended", "operators.py", "job.state is not State.DEAD or job.payload", "job.payload"),
    Mutant("a member of a flow is moved", "operators.py", "                if job.node is not None:\n                    raise not_movable(job_id)\n", ""),
    Mutant("a page begins with the last document of the one before", "documents.py", "if name > after and", "if name >= after and"),
    Mutant("documents are listed as they were written", "documents.py", "names = sorted(name for", "names = list(name for"),
    Mutant("a guard holds whatever the version", "store.py", "not self.documents.holds(guard, at.now)", "False"),
    Mutant("a guard holds never", "store.py", "not self.documents.holds(guard, at.now)", "True"),
    Mutant("a repeated guarded push is refused", "store.py", "if request not in self._pushes and not self.documents", "if not self.documents"),
]  # fmt: skip  # a row a fault reads best


def killed_by(mutant: Mutant, case: str = "") -> str:
    """Return the case that detects the mutant; an empty string if none does.

    Unless a case is named, the directed cases run first: the machines take longer.
    """
    with tempfile.TemporaryDirectory(prefix="jobs-mutant-") as name:
        directory = Path(name)
        package = directory / "mutant_memory"
        package.mkdir()
        for source in MODEL.glob("*.py"):
            text = source.read_text()
            if source.name == mutant.file:
                count = text.count(mutant.old)
                assert count == 1, f"{mutant.name}: what it changes stands {count} times in {mutant.file}"
                text = text.replace(mutant.old, mutant.new)
            text = text.replace("from ...", "from jobs_core.").replace("from ..base", "from jobs_core.backends.base")
            for module in ("limits", "flows", "documents", "letters", "notes", "statistics"):
                text = text.replace(f"from ..{module}", f"from jobs_core.backends.{module}")
            (package / source.name).write_text(text)
        (directory / "test_mutant.py").write_text(CASES)
        machines = "model or as_they_are_defined"
        return _run(mutant, directory, case or f"not ({machines})") or (not case and _run(mutant, directory, machines)) or ""


def _run(mutant: Mutant, directory: Path, expression: str) -> str:
    """Run the cases in a fork of this process, which has imported everything that they need."""
    output = directory / "output"
    pid = os.fork()
    if not pid:
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(directory)
        sys.path.insert(0, str(directory))
        options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout=60", "--import-mode=importlib", f"--rootdir={directory}"]
        code = 3
        try:
            code = pytest.main([*options, "-k", expression, "test_mutant.py"])
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        return ""
    lines = output.read_text().splitlines()
    noticed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    collected = noticed and "::" in noticed[0]  # otherwise not a case has run
    assert collected, f"{mutant.name}: the contract could not be run:\n" + "\n".join(lines)
    return noticed[0].rpartition("::")[2].partition(" - ")[0]


def main(names: list[str]) -> int:
    import jobs_core.testing.contract  # noqa: F401  # once, for all that are forked

    gc.freeze()
    cases = dict(name.partition("=")[::2] for name in names)
    survivors = 0
    for mutant in MUTANTS:
        if not names or mutant.name in cases:
            case = killed_by(mutant, cases.get(mutant.name, ""))
            survivors += not case
            print(f"{'killed' if case else 'SURVIVES':8}  {mutant.name:48} {case}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    os.environ["JOBS_CONTRACT_PATIENCE"] = "2"
    sys.exit(main(sys.argv[1:]))
