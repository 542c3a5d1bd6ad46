"""One side of `bench.turns`: enqueue and drain no-op jobs under `jobsctl start` with its defaults; prints JSON.

Runs with the Python of the checkout under test, so it uses only names that every release has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

EVERY = 500
"""Number of enqueued jobs between two readings of the clock."""

TASKS = f"""
import os, time
from pathlib import Path
from jobs_core import job

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@job
def noop(number: int) -> None:
    if not number % {EVERY}:
        os.write(LEDGER, b"%r\\n" % time.monotonic())
"""


def main() -> None:
    url, one_by_one, bulk = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    directory = Path.cwd()
    (directory / "tasks.py").write_text(TASKS)
    toml = 'modules = ["tasks"]\n[pools.default]\ntopics = ["default"]\nworkers = 2\n[logs]\nfile = "jobs.log"\n'
    broker = None
    if url == "zeromq":
        from jobs_core.testing.services.broker import BrokerService

        broker = BrokerService(directory / "broker")
        broker.start()
        url = broker.url
    (directory / "jobs.toml").write_text(f'backend = "{url}"\n{toml}')
    sys.path.insert(0, str(directory))
    try:
        print(json.dumps(measure(directory, one_by_one, bulk)))
    finally:
        if broker is not None:
            broker.stop()


def measure(directory: Path, one_by_one: int, bulk: int) -> dict[str, float]:
    import tasks

    tasks.noop.enqueue(1)
    cpu, begin = time.process_time(), time.perf_counter()
    for _ in range(one_by_one):
        tasks.noop.enqueue(1)
    single, single_cpu = time.perf_counter() - begin, time.process_time() - cpu
    begin = time.perf_counter()
    for start in range(0, bulk, 1000):
        tasks.noop.enqueue_many([(number,) for number in range(start, start + 1000)])
    pushed = time.perf_counter() - begin
    ledger = directory / "ledger"
    supervisor = subprocess.Popen([sys.executable, "-m", "jobs_core", "start"], cwd=directory)
    while not ledger.exists() or len(ledger.read_bytes().splitlines()) < bulk // EVERY:
        if supervisor.poll() is not None:
            raise SystemExit(f"the supervisor ended with {supervisor.returncode}")
        time.sleep(0.05)
    moments = sorted(map(float, ledger.read_bytes().split()))
    supervisor.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(supervisor.pid, 0)
    return {
        "enqueue, jobs/s": one_by_one / single,
        "enqueue, CPU µs": single_cpu / one_by_one * 1e6,
        "bulk, jobs/s": bulk / pushed,
        "drain, jobs/s": (len(moments) - 1) * EVERY / (moments[-1] - moments[0]),
        "start to stop, CPU µs a job": (usage.ru_utime + usage.ru_stime) / (bulk + one_by_one) * 1e6,
        "exit status": float(status),
    }


if __name__ == "__main__":
    main()
