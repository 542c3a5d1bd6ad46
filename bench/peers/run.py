"""The environment of one measurement: a broker, a directory, a ledger, and a peer's processes in its own environment."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .brokers import BROKERS, Running
from .peers import RATE, Peer
from .venvs import environment

RECORD = 24
ADAPTERS = Path(__file__).parent / "adapters"


class Once(NamedTuple):
    """Seconds of a process that enqueues one job."""

    from_process: float
    """From the start of the process to that of the job."""
    from_call: float
    """From the enqueueing call to the start of the job."""
    cpu: float


class PeerRun:
    """One measurement; see the module. Processes lead their own sessions, so that a whole worker set can be killed."""

    def __init__(self, peer: Peer, directory: Path, broker: Running) -> None:
        self.peer, self.directory, self.broker, self.broker_directory = peer, directory, broker.url, broker.directory
        self.producer_cpu = 0.0
        """CPU seconds of the last producer, without the start of its process."""
        self.ledger = directory / "ledger"
        self.workers: list[subprocess.Popen[bytes]] = []
        limits = f'[limits.ten]\nconcurrency = 10\n[limits.rate]\nrate = "{RATE}/s"\n' if peer.broker == "redis" else ""
        (directory / "jobs.toml").write_text(f'backend = "{self.broker}"\nmodules = ["jobs_app"]\n{limits}')
        for command in peer.setup:
            subprocess.run(self._words(command), cwd=directory, env=self.environment, capture_output=True, check=True)

    @functools.cached_property
    def programs(self) -> Path:
        """The directory of the peer's programs."""
        return environment(self.peer)

    @property
    def server(self) -> str:
        """The URL of a database of PostgreSQL in which no peer does anything."""
        return f"{self.broker.rpartition('/')[0]}/postgres"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ADAPTERS),
            "BENCH_BROKER": self.broker,
            "BENCH_LEDGER": str(self.ledger),
            **{name: value.format(broker=self.broker) for name, value in self.peer.environment.items()},
        }

    def _words(self, command: str) -> list[str]:
        return shlex.split(command.format(broker=self.broker, adapters=ADAPTERS))

    # -- producers -------------------------------------------------------------------------------

    def _producer(self, what: str, count: int) -> list[str]:
        return [str(self.programs / "python"), "-m", "produce", self.peer.adapter, what, str(count)]

    def produce(self, what: str, count: int, timeout: float = 120.0) -> float:
        """Enqueue; return the seconds that it took, without the start of the process."""
        done = subprocess.run(
            self._producer(what, count),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.peer.name} cannot {what}:\n{done.stderr[-3000:]}")
        cpu, seconds = done.stdout.split()[-2:]
        self.producer_cpu = float(cpu)
        return float(seconds)

    def write(self, url: str, processes: int, *arguments: str) -> int:
        """Run writers, whose jobs go to `url`; return how many commits they made."""
        environment = {**self.environment, "JOBS_BACKEND": url}
        command = [str(self.programs / "python"), "-m", "writers", *arguments]
        running = [
            subprocess.Popen(
                command, cwd=self.directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(processes)
        ]
        for process in running:
            assert process.stdout
            process.stdout.readline()
        for process in running:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return sum(int(process.communicate()[0]) for process in running)

    @contextlib.contextmanager
    def producing(self, what: str, count: int) -> Iterator[subprocess.Popen[bytes]]:
        """Enqueue beside the block, which ends the producer."""
        with (self.directory / "producer.log").open("ab") as log:
            producer = subprocess.Popen(
                self._producer(what, count), cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )
        try:
            yield producer
        finally:
            producer.kill()
            producer.wait()

    def once(self) -> Once:
        """Enqueue one job in a new process, and wait for its start."""
        already, before, begin = self.count(), resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        done = subprocess.run(
            [self.programs / "python", "-m", "once", self.peer.adapter],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not self.until(already + 1, 30.0):
            raise RuntimeError(f"{self.peer.name} did not run the job:\n{self.log()}")
        started = float(self.records()[-1])
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Once(started - begin, started - float(done.stdout.split()[-1]), cpu)

    # -- workers ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker set."""
        with (self.directory / "workers.log").open("ab") as log:
            for command in self.peer.workers:
                self.workers.append(
                    subprocess.Popen(
                        self._words(command),
                        cwd=self.directory,
                        env=self.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def kill(self) -> None:
        """Send SIGKILL to every process of the worker set at once."""
        family = self.processes()
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
        for pid in {*family, *self.processes()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for worker in self.workers:
            worker.wait()
        self.workers.clear()

    def processes(self) -> list[int]:
        """Return all processes of the worker set, in whatever sessions: those with our ledger in their environment, and the
        descendants of what we started, some of which show a title in place of their environment."""
        marked = f"BENCH_LEDGER={self.ledger}".encode()
        found = [pid for worker in self.workers for pid in _family(worker.pid)]
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if marked in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return sorted({*found})

    def cpu(self, *, workers: bool = True) -> float:
        """Return the CPU seconds used so far by the broker and by the worker set; a busy machine does not change them."""
        found = self._broker_processes() | set(self.processes() if workers else ())
        total = 0
        for pid in found:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))  # of the process, and of its children that have ended
        return total / os.sysconf("SC_CLK_TCK")

    def _broker_processes(self) -> set[int]:
        """Return all processes of the broker: those that name its directory in their command or (RabbitMQ) in their
        environment, and (PostgreSQL) their children, which show something else there."""
        mark = str(self.broker_directory).encode()
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "cmdline").read_bytes() or mark in (path / "environ").read_bytes():
                    found.update(_family(int(path.name)))
        return found - {os.getpid()}

    def memory(self) -> float:
        """Return the proportional memory of the worker set in MB: shared pages are counted once."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(text.partition("\nPss:")[2].split()[0])
        return total / 1024

    # -- what the jobs have left ------------------------------------------------------------------

    def count(self) -> int:
        return self.ledger.stat().st_size // RECORD if self.ledger.exists() else 0

    def records(self) -> list[str]:
        return self.ledger.read_text().split() if self.ledger.exists() else []

    def until(self, count: int, patience: float, pause: float = 0.001) -> bool:
        """Wait until this many records exist; return False after `patience` seconds without a new one."""
        last, since = self.count(), time.monotonic()
        while (now := self.count()) < count:
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                return False
            time.sleep(pause)
        return True

    def log(self) -> str:
        path = self.directory / "workers.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    with contextlib.suppress(OSError):
        children = [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
        yield pid
        for child in children:
            yield from _family(int(child))


@contextlib.contextmanager
def run(peer: Peer) -> Iterator[PeerRun]:
    """Run a peer on an empty broker, with its files in memory where the machine supports that."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="jobs-peers-", dir=parent) as files,
        tempfile.TemporaryDirectory(prefix="jobs-broker-") as data,
        BROKERS[peer.broker](Path(data)) as broker,
    ):
        made = PeerRun(peer, Path(files), broker)
        try:
            yield made
        finally:
            made.kill()


Measure = Callable[[Peer], dict[str, float]]
