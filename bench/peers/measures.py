"""The measurements, the same for every peer. Each returns figures by name."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter

import psycopg

from ..support import percentile
from .peers import RATE, Peer
from .run import Measure, PeerRun, run

START = 30.0
"""Longest time until the first job of a worker set, seconds."""


CPU = "CPU time per job, µs"
"""CPU seconds of workers and broker, or of producer and broker: other load on the machine hardly changes them."""


def drain(peer: Peer) -> dict[str, float]:
    """Measure no-op jobs that were enqueued before the workers start, from the first job to the last, without the start-up."""
    with run(peer) as made:
        made.produce("bulk", peer.drain)
        made.start()
        _until(made, 1, START)
        first, cpu, already = time.perf_counter(), made.cpu(), made.count()
        _until(made, peer.drain + 1, 10.0)  # and the one that connected the producer
        jobs, seconds = max(1, peer.drain + 1 - already), time.perf_counter() - first
        return {"jobs/s": jobs / seconds, CPU: (made.cpu() - cpu) / jobs * 1e6}


def enqueue(peer: Peer) -> dict[str, float]:
    """Measure no-op enqueues from one process, with no worker beside it."""
    with run(peer) as made:
        begin = made.cpu(workers=False)
        figures = {"one by one, jobs/s": peer.enqueue / made.produce("push", peer.enqueue)}
        figures[CPU] = (made.cpu(workers=False) - begin + made.producer_cpu) / peer.enqueue * 1e6
        if peer.bulk:
            figures["bulk, jobs/s"] = peer.bulk / made.produce("bulk", peer.bulk)
        if not peer.packages:
            figures["8 threads, jobs/s"] = 4 * peer.enqueue / made.produce("threads", 4 * peer.enqueue)
        return figures


def latency(peer: Peer) -> dict[str, float]:
    """Measure the time from the enqueueing call to the job's first line, with a producer that is warm and idle workers."""
    count = 200
    with run(peer) as made:
        made.start()
        made.produce("push", 20)  # lazy imports are done
        _until(made, 21, START)
        made.produce("stamp", count)
        _until(made, 21 + 1 + count, 10.0)
        delays = [float(delay) * 1e3 for delay in made.records()[-count:] if "." in delay]
        return {"p50, ms": percentile(delays, 0.50), "p99, ms": percentile(delays, 0.99)}


def many(peer: Peer) -> dict[str, float]:
    """Measure ten thousand waiting jobs of a second: from the first start to the last end, and the peak of memory."""
    count = 10_000
    with run(peer) as made:
        made.produce("nap", count)
        made.start()
        _until(made, 2, START)  # includes the connecting no-op
        first_start, peak = time.perf_counter() - 1.0, 0.0
        while made.count() < count + 1 and time.perf_counter() - first_start < 40.0:
            peak = max(peak, made.memory())
            time.sleep(0.1)
        seconds = time.perf_counter() - first_start
        return {"seconds": seconds, "peak memory, MB": peak, "done": made.count() - 1}


def kill(peer: Peer) -> dict[str, float]:
    """Kill the whole worker set three times during 2,000 jobs of 5 ms, and restart it at once each time.

    What the dead had taken comes back after the peer's own timeouts. While one peer waits for that, others may be killed.
    """
    count = 2000
    with run(peer) as made:
        with _killing:
            made.produce("work", count)
            made.start()
            for share in (0.2, 0.4, 0.6):
                _until(made, round(share * count), START)
                made.kill()
                made.start()
            begin = time.perf_counter()
            made.until(round(0.7 * count), START)  # the last worker set works
        wanted = count + 1  # and the no-op that connected the producer
        while (done := len({*made.records()})) < wanted and time.perf_counter() - begin < peer.patience:
            time.sleep(0.1)
        waited = time.perf_counter() - begin
        time.sleep(1.0)  # jobs that run twice may come last
        times = Counter(record for record in made.records() if record != "-1")
        figures = {"not run": count - len(times), "run twice or more": sum(n > 1 for n in times.values())}
        return figures | ({"s from the last kill to the last job": waited} if done == wanted else {})


_killing = threading.Lock()


def cold(peer: Peer) -> dict[str, float]:
    """Measure a process that imports the jobs, enqueues one and ends, as a cron job does, with idle workers."""
    with run(peer) as made:
        made.start()
        made.once()  # writes the bytecode, and waits for the workers; not counted
        found = [made.once() for _ in range(7)]
        middle = [percentile([each[place] * 1e3 for each in found], 0.5) for place in range(3)]
    return dict(zip(("from its start, ms", "from the call, ms", "CPU time of the process, ms"), middle, strict=True))


def memory(peer: Peer) -> dict[str, float]:
    """Measure the memory of the whole worker set: idle after a few jobs, and idle after a drain."""
    with run(peer) as made:
        made.start()
        made.produce("push", 20)
        _until(made, 21, START)
        time.sleep(2.0)
        figures = {"processes": float(len(made.processes())), "idle, MB": made.memory()}
        made.produce("bulk", peer.drain)
        _until(made, 21 + 1 + peer.drain, 10.0)
        time.sleep(1.0)
        return figures | {"after a drain, MB": made.memory()}


def group(peer: Peer) -> dict[str, float]:
    """Measure groups of 1,000 no-op jobs and one of 10,000, each with a job after it, through workers that are warm."""
    return _groups(peer, "group")


def results(peer: Peer) -> dict[str, float]:
    """Measure the same, where the job after the group takes the results of all."""
    return _groups(peer, "results")


def _groups(peer: Peer, what: str) -> dict[str, float]:
    rounds, figures = 5, {}
    with run(peer) as made:
        made.start()
        made.produce("push", 20)
        _until(made, 21, START)
        for count, times in ((1000, rounds), (10_000, 1)):
            gaps, rates, cpu = [], [], []
            for _ in range(times):
                already, used = made.count() + 1, made.cpu()  # and the one that connects the producer
                made.produce(what, count)
                _until(made, already + count + 1, START)
                found = made.records()[already:]
                ends = sorted(float(record[1:]) for record in found if record[0] == "m")
                after = next(float(record[1:]) for record in found if record[0] == "c")
                gaps.append((after - ends[-1]) * 1e3)
                rates.append(count / (after - ends[0]))
                cpu.append((made.cpu() - used + made.producer_cpu) / count * 1e6)
            figures[f"{count:,}: last end to next start, ms"] = percentile(gaps, 0.5)
            figures[f"{count:,}: jobs/s"] = percentile(rates, 0.5)
            figures[f"{count:,}: {CPU}"] = percentile(cpu, 0.5)
    return figures


def limit(peer: Peer) -> dict[str, float]:
    """Measure 10,000 jobs of 5 ms of which 10 may run at once, through workers that could run 32."""
    count = 10_000
    with run(peer) as made:
        made.produce("limited", count)
        made.start()
        _until(made, 2, START)  # includes the connecting no-op
        used, done = made.cpu(), made.count()
        _until(made, 2 * count + 1, 20.0)
        cpu = (made.cpu() - used) / (count - done / 2) * 1e6
        found = sorted((float(record[1:]), record[0] == "s") for record in made.records() if record[0] in "se")
        running, most, busy = 0, 0, 0.0
        for (now, starts), (then, _) in itertools.pairwise(found):
            running += 1 if starts else -1
            most = max(most, running)
            busy += running * (then - now)
        seconds = found[-1][0] - found[0][0]
        return {"most at once": most, "jobs/s": count / seconds, "at once, mean": busy / seconds, CPU: cpu}


def rate(peer: Peer) -> dict[str, float]:
    """Measure 2,500 no-op jobs of which 500 may start in a second, over all workers."""
    count, wanted = 2500, int(RATE)
    with run(peer) as made:
        made.produce("rated", count)
        made.start()
        _until(made, 2, START)
        used = made.cpu()
        _until(made, count + 1, 20.0)
        cpu = (made.cpu() - used) / count * 1e6
        found = sorted(float(record[1:]) for record in made.records() if record[0] == "m")
        ahead, most = 0, 0
        for place, now in enumerate(found):  # most in any second
            while found[ahead] <= now - 1.0:
                ahead += 1
            most = max(most, place - ahead + 1)
        return {f"most in a second ({wanted} allowed)": most, "jobs/s": (count - 1) / (found[-1] - found[0]), CPU: cpu}


def idle(peer: Peer) -> dict[str, float]:
    """Measure what a worker set costs in 10 seconds in which it has nothing to do: at the server, and CPU of both."""
    seconds = 10.0
    statements = """
        SELECT (SELECT coalesce(sum(calls), 0)::float FROM pg_stat_statements(false) WHERE toplevel AND dbid = d.oid),
               (SELECT (xact_commit + xact_rollback)::float FROM pg_stat_database WHERE datid = d.oid)
          FROM pg_database AS d WHERE datname = %s"""
    with run(peer) as made, psycopg.connect(made.server, autocommit=True) as looking:
        made.start()
        made.produce("push", 20)
        _until(made, 21, START)
        time.sleep(3.0)  # they have settled down
        name = [made.broker.rpartition("/")[2]]
        before, cpu, begin = looking.execute(statements, name).fetchone() or (), made.cpu(), time.perf_counter()
        time.sleep(seconds)
        after, lasted = looking.execute(statements, name).fetchone() or (), time.perf_counter() - begin
        calls, transactions = ((late - early) / lasted for early, late in zip(before, after, strict=True))
        used = (made.cpu() - cpu) / lasted
        return {"statements/s": calls, "transactions/s": transactions, "CPU time a second, ms": used * 1e3}


def commits(peer: Peer) -> dict[str, float]:
    """Measure 64 writers that commit a row, alone and with a job in the same transaction; a worker set runs the jobs."""
    seconds, processes, threads = 6.0, 4, 16
    figures = {}
    with run(peer) as made, psycopg.connect(made.broker, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer integer)")
        made.start()
        made.produce("push", 1)
        _until(made, 2, START)
        for what, url, more in (
            ("without a job", made.broker, ()),
            ("with a job, notify = on", made.broker, ("enqueue",)),
            ("with a job, notify = off", f"{made.broker}?notify=off", ("enqueue",)),
        ):
            figures[f"{what}, commits/s"] = made.write(url, processes, str(threads), str(seconds), *more) / seconds
    return figures


def _until(made: PeerRun, count: int, patience: float) -> None:
    if not made.until(count, patience):
        raise RuntimeError(f"{made.peer.name} stopped at {made.count()} of {count}:\n{made.log()}")


MEASURES: dict[str, Measure] = {
    "drain": drain,
    "enqueue": enqueue,
    "latency": latency,
    "many": many,
    "cold": cold,
    "memory": memory,
    "kill": kill,
    "group": group,
    "results": results,
    "limit": limit,
    "rate": rate,
    "idle": idle,
    "commits": commits,
}
ROUNDS = dict.fromkeys(("cold", "memory", "kill", "many", "group", "results", "limit", "rate", "idle", "commits"), 1) | {
    "latency": 2
}
"""Rounds of the measurements that are slow, or have rounds of their own; the others have three."""
SECONDS = {
    "drain": 8, "enqueue": 4, "latency": 6, "cold": 8, "memory": 8, "kill": 12, "many": 20, "group": 25, "results": 25,
    "limit": 20, "rate": 12, "idle": 17, "commits": 25,
}  # fmt: skip
"""About how long a row takes, all included: to tell beforehand."""
TOGETHER = {"kill": 8}
"""Peers that may run at once, most of which only wait."""
