"""The memory backend chooses the jobs that the rules of limits and fairness name, as a walk over all jobs finds them."""

import hypothesis.strategies as st
from hypothesis import given, settings

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.limits import Limit, Lines
from jobs_core.backends.memory import MemoryBackend, forget

LIMITS = ("a", "a:1", "b", "r", "none")
DEFINITIONS = st.builds(Limit, st.sampled_from([None, 0, 1, 2, 3]), st.sampled_from([None, None, 2.0, 5.0]), st.integers(1, 3))
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.sampled_from(["", "k1", "k2", "k3"]),
            st.lists(st.sampled_from(LIMITS), max_size=2, unique=True).map(lambda limits: tuple(sorted(limits))),
            st.integers(0, 1),
        ),
        st.tuples(st.just("reserve"), st.integers(1, 4), st.sampled_from([None, None, 0, 1, 2])),
        st.tuples(st.just("settle"), st.integers(0, 5), st.sampled_from(["done", "release", "retry"]), st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("close"), st.sampled_from(LIMITS), st.sampled_from([1.0, 7.0])),
        st.tuples(st.just("time"), st.sampled_from([0.5, 2.0, 6.0])),
        st.tuples(st.just("define"), st.sampled_from(["a", "b", "r"]), DEFINITIONS),
        st.tuples(st.just("override"), st.sampled_from(["a", "a:1", "b"]), st.none() | DEFINITIONS),
        st.tuples(st.just("rules"), st.booleans(), st.sampled_from([None, 1, 2])),
    ),
    max_size=60,
)


class Reference:
    """One topic, as the rules describe it: ready jobs are dicts, and each choice walks over all of them."""

    def __init__(self, now=1000.0):
        self.ready, self.held, self.now, self.number = [], [], now, 0
        self.defined, self.overrides, self.tat, self.closed = {}, {}, {}, {}
        self.fair, self.most, self.turns, self.counter, self.front = False, None, {}, 0, 0

    def definition(self, limit):
        if limit.startswith("key/"):
            return Limit(concurrency=self.most) if self.fair else None
        name = limit.partition(":")[0]
        return self.overrides.get(limit) or self.overrides.get(name) or self.defined.get(name)

    def limits_of(self, job):
        return (*job["limits"], "key/t:" + job["group"]) if self.fair else job["limits"]

    def has_room(self, limit):
        definition, used = self.definition(limit), sum(job["slots"].count(limit) for job in self.held)
        if self.closed.get(limit, 0) > self.now:
            return False
        if definition is None:
            return True
        if definition.concurrency is not None and used >= definition.concurrency:
            return False
        interval = definition.interval
        return interval is None or self.debt(limit, definition) <= (definition.burst - 1) * interval

    def debt(self, limit, definition):
        """Return how far ahead of now the rate is; a debt of more than two bursts is left from a slower rate."""
        debt = max(self.tat.get(limit, 0) - self.now, 0)
        return debt if debt <= 2 * definition.burst * definition.interval else 0

    def enter(self, job, *, unstarted=False):
        job["group"] = job["key"] if self.fair else ""
        job["line"] = (job["group"], job["limits"], job["rank"]) if self.fair else ("", job["limits"], None)
        if not job["limits"] and not job["group"]:
            job["line"] = None
        group = job["rank"], job["group"]
        if job["group"] and not any((each["rank"], each["group"]) == group for each in self.ready):
            self.counter += 1
            self.turns[group] = self.counter
        self.ready.append(job)
        if unstarted and self.fair:
            self.front -= 1
            self.turns[group] = self.front

    def heads(self):
        first = {}
        for job in sorted(self.ready, key=lambda job: (job["rank"], job["at"], job["number"])):
            first.setdefault(job["line"], job)
        return first.values()

    def reserve(self, limit, startable):
        taken = []
        while len(taken) < limit:
            found = []
            for job in self.heads():
                limits = self.limits_of(job)
                definitions = [self.definition(each) for each in limits]
                bound = any(each is not None and each.concurrency is not None for each in definitions)
                if all(map(self.has_room, limits)) and not (bound and startable == 0):
                    turn = self.turns.get((job["rank"], job["group"]), 0) if self.fair else 0
                    found.append(((job["rank"], turn, job["at"], job["number"]), bound, job))
            if not found:
                break
            _, bound, job = min(found, key=lambda each: each[0])
            startable = startable - 1 if bound and startable is not None else startable
            self.ready.remove(job)
            job["slots"], job["tokens"] = self.limits_of(job), []
            for each in job["slots"]:
                definition = self.definition(each)
                if definition is not None and definition.interval is not None:
                    self.tat[each] = self.now + self.debt(each, definition) + definition.interval
                    job["tokens"].append((each, definition.interval))
            if self.fair:
                self.counter += 1
                self.turns[job["rank"], job["group"]] = self.counter
            self.held.append(job)
            taken.append(job["id"])
        return taken

    def end(self, job, outcome, ran):
        self.held.remove(job)
        for limit, interval in job["tokens"] if not ran else ():
            self.tat[limit] -= interval
        if outcome == "retry":
            job["at"] = self.now
        if outcome != "done":
            self.enter(job, unstarted=outcome == "release")


def replay(steps, model, backend, tick=0.0):
    """Do the same steps, `tick` seconds apart, with a model and a backend whose clock is the model's; compare every choice."""
    backend.open("owner")
    held, requests = {}, iter(range(10**6))
    for verb, *facts in steps:
        model.now = round(model.now + tick, 6)
        if verb == "push":
            key, limits, priority = facts
            model.number += 1
            job = {"id": f"job-{model.number}", "key": key, "limits": limits, "rank": -priority}
            backend.push([Outgoing(job["id"], "t", b"", priority, key=key, limits=limits)], f"{next(requests)}")
            model.enter({**job, "at": model.now, "number": model.number})
        elif verb == "reserve":
            limit, backend.startable = facts
            taken = backend.reserve(["t"], limit, f"{next(requests)}")
            held |= {each.id: each for each in taken}
            assert [each.id for each in taken] == model.reserve(*facts)
        elif verb == "settle" and model.held:
            number, outcome, ran = facts
            job = model.held[number % len(model.held)]
            delivery = held[job["id"]]
            backend.settle([Settlement(delivery.id, delivery.token, Outcome(outcome), ran=ran)], f"{next(requests)}")
            model.end(job, outcome, ran)
        elif verb == "cancel" and model.ready:
            job = model.ready.pop(facts[0] % len(model.ready))
            backend.cancel(job["id"])
        elif verb == "close" and model.held:
            job, (limit, seconds) = model.held[0], facts
            delivery = held[job["id"]]
            backend.settle(
                [Settlement(delivery.id, delivery.token, Outcome.DONE, close_limits=((limit, seconds),))], f"{next(requests)}"
            )
            model.closed[limit] = max(model.closed.get(limit, 0), model.now + seconds)
            model.end(job, "done", ran=True)
        elif verb == "time":
            model.now += facts[0]
        elif verb == "define":
            model.defined[facts[0]] = facts[1]
            backend.define_limits({facts[0]: facts[1]}, {})
        elif verb == "override":
            backend.override_limit(*facts)
            if facts[1] is None:
                model.overrides.pop(facts[0], None)
                for each in model.closed:
                    if each == facts[0] or (":" not in facts[0] and each.partition(":")[0] == facts[0]):
                        model.closed[each] = 0.0
            else:
                model.overrides[facts[0]] = facts[1]
        elif verb == "rules":
            model.fair, most = facts
            model.most = most if model.fair else None
            backend.define_limits({}, {"t": Lines(model.fair, model.most)})
        counts = backend.counts(["t"])["t"]
        assert counts.ready + counts.limited == len(model.ready)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_the_memory_backend_chooses_as_the_rules_say(steps):
    forget("memory://lines")
    model = Reference()
    backend = MemoryBackend("memory://lines", BackendOptions(clock=lambda: model.now, lease=1e9))
    replay(steps, model, backend)
    assert backend.store.limits.values.keys() >= {limit for job in model.held for limit in job["slots"]}
