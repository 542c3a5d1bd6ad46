"""An application in its own directory, and real processes of the `jobs` command in it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs_core import App, set_current_app
from jobs_core.cli import main as command_line
from jobs_core.cli import waiting as waits
from jobs_core.config_sources import load
from jobs_core.testing.services import until_frozen

from . import forked
from .inprocess import as_it_was

PATIENCE = 60.0
"""Longest wait for an event that has to happen, seconds."""

LONGEST_RUN = 4 * PATIENCE
"""Seconds after which a command that does not end has failed: on a busy machine some take a minute, and pytest ends a test
after five."""

LONGEST_TURN = 0.5
"""Seconds that one look of such a wait counts for at most."""

USUAL = waits.FIRST
"""Seconds after which a command says what it waits for, unless the test sets them."""

TASKS = '''
"""Jobs that write to a ledger: one line a record, one write a line."""
import asyncio, os, time
from pathlib import Path
from jobs_core import Discard, Retry, Snooze, current_job, job

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

@job
def note(text: str = "x"):
    record("note", text)

@job(store_result=True)
def add(a: int, b: int = 2) -> int:
    return a + b

@job
def nap(seconds: float, text: str = "x"):
    record("start", text, os.getpid())
    time.sleep(seconds)
    record("end", text)

@job
def doze(seconds: float, text: str = "x"):
    """A nap in which signals are noticed: one that comes between the last bytecode and a long sleep waits for its end."""
    record("start", text, os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    record("end", text)

@job
def held(text: str):
    """Run until there is a file `go`."""
    record("start", text, os.getpid())
    while not (Path(__file__).parent / "go").exists():
        time.sleep(0.01)
    record("end", text)

@job
async def anap(seconds: float, text: str = "x"):
    record("start", text, os.getpid())
    await asyncio.sleep(seconds)
    record("end", text)

@job(retries=2, backoff=0.01)
def fail(text: str = "no"):
    record("fail", current_job().attempt)
    raise ValueError(text)

@job(retries=5, backoff=0.01)
def fail_twice():
    record("attempt", current_job().attempt)
    if current_job().attempt < 3:
        raise ConnectionError("come back")

@job(acks="early")
def early(text: str = "x"):
    record("early", text)
    raise ValueError("lost by choice")

@job(timeout=0.3, retries=0)
def endless(text: str = "x"):
    record("start", text)
    while True:
        time.sleep(0.01)

@job(retries=0)
def spin(seconds: float, text: str = "x"):
    record("start", text)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    record("end", text)
'''


def without_waits(text: str) -> str:
    """Return a command's output without the lines about waiting that a slow machine adds."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("jobs: waiting for "))


class Project:
    """The directory, its configuration, and the processes started in it."""

    def __init__(self, root: Path, tasks: str = TASKS) -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "tasks.py").write_text(tasks)
        self.configure()
        self._processes: list[Process] = []
        self._apps: list[App] = []

    def configure(self, text: str = "", *, backend: str = 'backend = "sqlite:///queue.db"', modules: str = "tasks") -> None:
        """Write jobs.toml: top-level keys first, as TOML requires."""
        (self.root / "jobs.toml").write_text(f'{backend}\nmodules = ["{modules}"]\n{text}\n')

    def app(self) -> App:
        """Return the application of this directory, for the test's own process; it names its jobs without importing them."""
        made = App(load(self.root / "jobs.toml", environ={}).config)
        self._apps.append(made)
        return made

    def push(self, job: str, *args: Any, **options: Any) -> str:
        """Enqueue by name, as a producer in another language would; return the id."""
        return self.push_many([(job, args, options)])[0]

    def push_many(self, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> list[str]:
        from jobs_core.message import new_message

        app = self._apps[0] if self._apps else self.app()
        messages = [
            new_message(f"tasks.{job}", options.pop("topic", "default"), args, options.pop("kwargs", {}), **options)
            for job, args, options in calls
        ]
        app._producer.push([app.outgoing(message) for message in messages], PATIENCE)
        return [message.id for message in messages]

    def push_raw(self, payload: bytes, topic: str = "default") -> str:
        """Put bytes into a queue that no encoder of ours has seen."""
        from jobs_core.backends.base import Outgoing
        from jobs_core.ids import new_id

        app = self._apps[0] if self._apps else self.app()
        job_id = new_id()
        app._producer.push([Outgoing(job_id, topic, payload)], 5.0)
        return job_id

    # -- processes -------------------------------------------------------------------------------

    def run(self, *arguments: str, input: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the `jobs` command to its end: forked where it can be (see `forked.py`)."""
        if _forkable(arguments, environment):
            return forked.run(
                arguments, cwd=self.root, env=self.environment(**environment), input=input or "", timeout=LONGEST_RUN
            )
        command = [sys.executable, "-m", "jobs_core", *arguments]
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**environment),
            input=input,
            text=True,
            capture_output=True,
            timeout=LONGEST_RUN,
        )

    def here(self, *arguments: str, code: int | None = 0, called: str = "jobsctl", **environment: str) -> str:
        """Run the `jobs` command in this process, which is faster; return its output. Its exit code must be `code`, if
        given."""
        said = io.StringIO()
        first = PATIENCE if waits.FIRST == USUAL else waits.FIRST  # a slow machine's waits are not reported
        with (
            as_it_was(),
            unittest.mock.patch.object(waits, "FIRST", first),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            os.environ.clear()
            os.environ.update(self.environment(**environment))
            os.chdir(self.root)
            exit_code = command_line.run(arguments, called=called)
        assert code is None or exit_code == code, f"exit {exit_code}\n{said.getvalue()}"
        return said.getvalue()

    def start(self, *arguments: str, **environment: str) -> Process:
        """Start the `jobs` command and leave it running until the test ends: forked where it can be."""
        if not _forkable(arguments, environment):
            return self.start_python("-m", "jobs_core", *arguments, **environment)
        process = Process.of(forked.start(arguments, cwd=self.root, env=self.environment(**environment)))
        self._processes.append(process)
        return process

    def start_python(self, *arguments: str, **environment: str) -> Process:
        """Likewise any Python program."""
        return self.start_program(sys.executable, *arguments, **environment)

    def start_program(self, *command: str, **environment: str) -> Process:
        """Likewise any program."""
        process = Process([*command], self.root, self.environment(**environment))
        self._processes.append(process)
        return process

    def worker(self, *arguments: str, **environment: str) -> Process:
        """Start a worker; return once it serves."""
        process = self.start("worker", *arguments, **environment)
        process.until_said(" serves ")
        return process

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBS_", "PYTEST_"))}
        return {**kept, "PYTHONWARNINGS": "error", **more}

    # -- the ledger ------------------------------------------------------------------------------

    def ledger(self) -> list[str]:
        path = self.root / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def times(self, line: str) -> int:
        """Return how often a line stands in the ledger."""
        return Counter(self.ledger())[line]

    def until(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        return until(condition, patience)

    def until_noted(self, *lines: str) -> None:
        """Wait until the ledger holds these lines."""
        self.until(lambda: set(lines) <= set(self.ledger()))

    def until_empty(self, *topics: str) -> None:
        """Wait until nothing is ready, scheduled or reserved."""
        app = self._apps[0] if self._apps else self.app()
        names = topics or ("default",)
        self.until(
            lambda: (
                not any(
                    count.ready or count.scheduled or count.reserved
                    for count in app.operate(lambda backend: backend.counts(names)).values()
                )
            )
        )

    def dead(self, topic: str = "default") -> list[Any]:
        from jobs_core.backends.base import State

        app = self._apps[0] if self._apps else self.app()
        return app.operate(lambda backend: backend.browse(topic, State.DEAD, 1000))

    def close(self) -> None:
        for process in self._processes:
            process.close()
        for app in self._apps:
            app.close()
        set_current_app(None)


class Process:
    """A child whose output is read as it comes."""

    def __init__(
        self, command: list[str], directory: Path, environment: dict[str, str], *, stdin: int = subprocess.DEVNULL
    ) -> None:
        process: subprocess.Popen[str] = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._follow(process)

    @classmethod
    def of(cls, process: forked.Forked) -> Process:
        """Return the process object of a forked one."""
        made = cls.__new__(cls)
        made._follow(process)
        return made

    def _follow(self, process: subprocess.Popen[str] | forked.Forked) -> None:
        self._process = process
        self.pid = process.pid
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def until_said(self, text: str, times: int = 1, patience: float = PATIENCE) -> str:
        """Wait for a line that contains `text`; return it. Fails with the output if the process ends before."""

        def said() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._changed:
            self._changed.wait_for(lambda: len(said()) >= times or not self._reader.is_alive(), patience)
            assert len(said()) >= times, f"never said {text!r}:\n{self.output}"
            return said()[times - 1]

    def type(self, text: str) -> None:
        """Write to its standard input, which is a pipe in this case."""
        assert self._process.stdin
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            until_frozen(self._process.pid)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def stop(self) -> int:
        """Stop it gracefully; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self.wait()

    def alive(self) -> bool:
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self.alive():
            self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def _forkable(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return True if a forked process shows the same.

    It does not for a supervisor, whose children have their own command line and imports, nor for settings that Python reads
    before it starts.
    """
    return not {"start", "restart"} & set(arguments) and not any(name.startswith("PYTHON") for name in environment)


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Poll until a condition holds; return its value. The pause is between looks at another process, not a guess at its
    speed. A turn counts for LONGEST_TURN at most: in a longer one, this machine stood still."""
    passed, at = 0.0, time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        assert passed < patience, f"did not come about within {patience:g} s"
        time.sleep(0.005)
        before, at = at, time.monotonic()
        passed += min(at - before, LONGEST_TURN)
