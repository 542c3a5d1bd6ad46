"""A memory backend with limits, written for clarity: every question walks over all jobs."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from jobs_core.backends.limits import Limit
from jobs_core.backends.memory import MemoryBackend


class Shared:
    def __init__(self):
        self.limits, self.keys, self.defined, self.closed = {}, {}, {}, {}


_shared = WeakKeyDictionary()


class Naive(MemoryBackend):
    features = MemoryBackend.features | {"limits"}

    @property
    def shared(self):
        return _shared.setdefault(self.store, Shared())

    def define_limits(self, limits, topics):
        with self.store.lock:
            self.shared.defined.update(limits)
            self.store.changed.notify_all()

    def push(self, messages, request):
        with self.store.lock:
            for message in messages:
                self.shared.limits.setdefault(message.id, message.limits)
        return super().push(messages, request)

    def used(self):
        held = (job for owner in self.store.owners.values() for job in owner.held.values())
        return Counter(limit for job in held for limit in self.shared.limits.get(job.id, ()))

    def choose(self, topics, most):
        now, used, chosen, self.passed_over = self._options.now(), self.used(), [], False
        startable = self.startable
        for topic in topics:
            for entry in sorted(self.store._ready[topic], key=lambda entry: entry[:3]):
                job = entry[3]
                if len(chosen) >= most or job.state.value != "ready":
                    continue
                limits = self.shared.limits.get(job.id, ())
                defined = [self.shared.defined.get(limit.partition(":")[0], Limit()) for limit in limits]
                if any(self.shared.closed.get(limit, 0) > now for limit in limits):
                    continue
                if any(
                    d.concurrency is not None and used[limit] >= d.concurrency for limit, d in zip(limits, defined, strict=True)
                ):
                    continue
                if startable is not None and any(d.concurrency is not None for d in defined):
                    if startable <= 0:
                        self.passed_over = True
                        continue
                    startable -= 1
                used.update(limits)
                chosen.append(entry)
        return chosen

    def reserve(self, topics, limit, request):
        with self.store.lock:
            self.store._ready_due(self._options.now(), 10**9)
            chosen, before = self.choose(topics, limit), {topic: self.store._ready[topic] for topic in topics}
            for topic in topics:
                self.store._ready[topic] = [entry for entry in chosen if entry[3].topic == topic]
                heapq.heapify(self.store._ready[topic])
            taken = super().reserve(topics, limit, request)
            for topic in topics:
                self.store._ready[topic] = before[topic]
            return [replace(each, limits=self.shared.limits.get(each.id, ())) for each in taken]

    def wait(self, topics, timeout):
        deadline = time.monotonic() + timeout
        with self.store.lock:
            while True:
                if self._interrupted:
                    self._interrupted = False
                    return False
                if topics and (self.choose(topics, 1) or self.passed_over):
                    return True
                soon = [at - self._options.now() for at in self.shared.closed.values()]
                due = self.store.next_due()
                soon += [] if due is None else [due - self._options.now()]
                if due is not None and due <= self._options.now() and topics:
                    return True
                left = min([deadline - time.monotonic(), *(each for each in soon if each > 0)])
                if left <= 0:
                    return False
                self.store.changed.wait(left)

    def settle(self, settlements, request):
        with self.store.lock:
            answers = super().settle(settlements, request)
            for settlement in settlements:
                if settlement.limits is not None:
                    self.shared.limits[settlement.id] = settlement.limits
                for limit, seconds in settlement.close_limits:
                    self.shared.closed[limit] = self._options.now() + seconds
            return answers
