"""The supervisor's children: their channels and pipes, the forks that start them, and one `wait` for the end of all.

A child is started by a fork of the supervisor itself, or its descriptors are sent to a template that starts it. Either
way its end arrives by SIGCHLD, and its output through two pipes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import NoReturn

from msgspec import Struct

from ..system import linux
from ..system.channel import Channel
from ..system.loop import Loop
from ..system.messages import FromChild, ToChild
from .child_setup import Ends
from .pipes import ChildOutput


class Ended(Struct, frozen=True):
    """The end of a process."""

    pid: int
    exit_code: int | None  # None if a signal ended it
    signal: int  # 0 if no signal ended it
    peak_memory: int  # bytes

    @property
    def signal_name(self) -> str:
        """Return the name of the signal, such as SIGKILL; empty if no signal ended the process."""
        if not self.signal:
            return ""
        with contextlib.suppress(ValueError):
            return signal.Signals(self.signal).name
        return f"signal {self.signal}"

    def __str__(self) -> str:
        if self.signal:
            hint = ", by kill -9 or possibly out of memory" if self.signal == signal.SIGKILL else ""
            return f"killed by {self.signal_name}{hint}"
        return f"exit code {self.exit_code}"


class Child:
    """One child process of any role. `pid` is 0 until it is known."""

    def __init__(
        self, name: str, output: ChildOutput, on_message: Callable[[FromChild], None], on_end: Callable[[Ended], None]
    ) -> None:
        self.name = name
        self.pid = 0
        self.channel: Channel[FromChild] | None = None
        self.output = output
        self.on_message = on_message
        self.on_end = on_end
        self.kill_pending = False

    def send(self, message: ToChild) -> bool:
        """Send the child a message; return False if it does not listen."""
        return self.channel is not None and self.channel.send(message)

    def kill(self) -> None:
        """Kill the child and its process group at once, or as soon as the child has a process."""
        self.kill_pending = True
        if self.pid:
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(self.pid, signal.SIGKILL)


class Children:
    """All children of the supervisor, their starts and their ends. Belongs to the supervisor's only thread."""

    def __init__(self, loop: Loop, take_output: Callable[[Child, bool], None]) -> None:
        self._loop = loop
        self._take_output = take_output
        self._by_pid: dict[int, Child] = {}
        self._unclaimed: dict[int, Ended] = {}  # pid → end that came before the report of the start
        self._reading: set[Child] = set()

    # -- starting ----------------------------------------------------------------------------------

    def prepare(
        self, name: str, on_message: Callable[[FromChild], None], on_end: Callable[[Ended], None]
    ) -> tuple[Child, Ends]:
        """Create everything of a child except its process. Pass the ends to the process that starts it, then close them."""
        ours, theirs = Channel[FromChild].pair(FromChild)
        try:
            output, log, raw = ChildOutput.create()
        except OSError:
            ours.close()
            os.close(theirs)
            raise
        child = Child(name, output, on_message, on_end)
        child.channel = ours
        self._reading.add(child)
        self._loop.watch(ours.fileno(), lambda: self._receive(child))
        self.resume_reading(child)
        return child, Ends(theirs, log, raw)

    def fork(
        self,
        name: str,
        entry: Callable[[Ends], NoReturn],
        on_message: Callable[[FromChild], None],
        on_end: Callable[[Ended], None],
        keep: Sequence[int] = (),
    ) -> Child:
        """Start a child by a fork of this process; `entry` never returns. Raises OSError if no process can be created."""
        child, ends = self.prepare(name, on_message, on_end)
        try:
            pid = os.fork()
        except OSError:
            ends.close()
            self.forget(child)
            raise
        if pid == 0:
            try:
                linux.close_all_but({0, 1, 2, *ends, *keep})
                entry(ends)
            finally:
                os._exit(1)
        ends.close()
        self.started(child, pid)
        return child

    def started(self, child: Child, pid: int) -> None:
        """Record the child's process, which may have ended already."""
        child.pid = pid
        self._by_pid[pid] = child
        ended = self._unclaimed.pop(pid, None)
        if ended is not None:
            self._report_end(ended)
        elif child.kill_pending:
            child.kill()

    # -- ending ------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Reap every process that has ended, adopted orphans included."""
        while True:
            try:
                waiting = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if waiting is None:
                return
            pid = waiting.si_pid
            if pid in self._by_pid:
                # Its process id is not reused until it is reaped: kill whatever it left in its group.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            ended = Ended(pid, code if code >= 0 else None, -code if code < 0 else 0, usage.ru_maxrss * 1024)
            if pid in self._by_pid:
                self._report_end(ended)
            else:
                self._unclaimed[pid] = ended
                if len(self._unclaimed) > 1000:
                    del self._unclaimed[next(iter(self._unclaimed))]

    def _report_end(self, ended: Ended) -> None:
        child = self._by_pid.pop(ended.pid)
        self._receive(child)  # its last messages
        self._take_output(child, True)
        self.forget(child)
        child.on_end(ended)

    def forget(self, child: Child) -> None:
        """Close the supervisor's descriptors of a child."""
        if child in self._reading:
            self.pause_reading(child)
            self._reading.discard(child)
            child.output.close()
        self.close_channel(child)

    # -- messages and output -----------------------------------------------------------------------

    def _receive(self, child: Child) -> None:
        while child.channel is not None:
            try:
                message, _ = child.channel.receive(wait=False)
            except BlockingIOError:
                return
            except ValueError:  # a job has written into a descriptor that is not its own: its worker continues
                continue
            if message is None:
                self.close_channel(child)
                return
            child.on_message(message)

    def close_channel(self, child: Child) -> None:
        """Close the supervisor's end of a child's channel, which tells a template to exit."""
        if child.channel is not None:
            self._loop.unwatch(child.channel.fileno())
            child.channel.close()
            child.channel = None

    def pause_reading(self, child: Child) -> None:
        """Stop reading a child's output; the child waits once its pipe is full."""
        self._loop.unwatch(child.output.log_fd)
        self._loop.unwatch(child.output.raw_fd)

    def resume_reading(self, child: Child) -> None:
        """Read a child's output as it arrives."""
        self.pause_reading(child)
        output = child.output
        for descriptor, ended in ((output.log_fd, output.log_ended), (output.raw_fd, output.raw_ended)):
            if not ended:
                self._loop.watch(descriptor, lambda: self._take_output(child, False))

    def readers(self) -> list[Child]:
        """Return every child whose output may still arrive."""
        return list(self._reading)
