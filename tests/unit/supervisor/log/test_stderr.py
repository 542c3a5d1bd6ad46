"""Standard error as the log: a slow reader, or one that stopped, does not stop the supervisor."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import termios
import threading

import pytest

from jobs_core.config import Logs
from jobs_core.supervisor.log import stderr
from jobs_core.supervisor.log.stderr import LogStream, pieces
from jobs_core.supervisor.log.writer import LogWriter

from ....support.project import PATIENCE

BLOCK = b"".join(b"a line that is %03d\n" % number for number in range(500))


def note(text):
    return f"note: {text}\n".encode()


@pytest.fixture(params=["pipe", "socket", "terminal", "pipe by looking first"])
def stream(request, monkeypatch):
    """Return a stream, its other end, and the descriptor that was passed in."""
    if request.param == "socket":
        ours, theirs = (end.detach() for end in socket.socketpair())
    elif request.param == "terminal":
        theirs, ours = pty.openpty()
        attributes = termios.tcgetattr(ours)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(ours, termios.TCSANOW, attributes)
    else:
        theirs, ours = os.pipe()
    if request.param == "pipe by looking first":
        with monkeypatch.context() as patch:
            patch.setattr(stderr.os, "open", lambda *arguments: (_ for _ in ()).throw(PermissionError()))
            made = LogStream(ours, note)
    else:
        made = LogStream(ours, note)
    yield made, theirs, ours
    made.detach()
    for fd in (ours, theirs):
        os.close(fd)


def read_until(theirs, made, enough):
    """Return what arrives while the loop would call `flush` whenever there is room."""
    got = b""
    while not enough(got):
        ready, writable, _ = select.select([theirs], [made.fileno()] if made.wants_write() else [], [], 10)
        assert ready or writable
        if ready:
            got += os.read(theirs, 65536)
        if writable:
            made.flush()
    return got


def test_an_output_without_a_reader_blocks_nothing(stream):
    made, theirs, _ = stream
    written = 0
    while not made.full():
        made.write(BLOCK)
        written += 1
    assert made.wants_write()
    total = len(BLOCK) * written
    assert read_until(theirs, made, lambda got: len(got) >= total) == BLOCK * written
    assert not made.full()
    assert not made.wants_write()


def test_the_shared_descriptor_stays_blocking(stream):
    made, _, ours = stream
    made.write(BLOCK)
    assert not fcntl.fcntl(ours, fcntl.F_GETFL) & os.O_NONBLOCK


def test_lines_that_are_never_read_are_counted_and_the_count_is_logged(stream, monkeypatch):
    monkeypatch.setattr(stderr, "FULL", 200_000)
    made, theirs, _ = stream
    for _ in range(200):
        made.write(BLOCK)
    got = read_until(theirs, made, lambda got: b"note" in got and not made.wants_write())
    while select.select([theirs], [], [], 0)[0]:
        got += os.read(theirs, 65536)
    *lines, rest = got.split(b"\n")
    assert rest == b""
    [said] = [line for line in lines if line.startswith(b"note: ")]
    lost = int(said.split()[1])
    assert lost > 0
    assert len(lines) - 1 + lost == 200 * 500
    assert lines[:-1] == (BLOCK * 200).split(b"\n")[: len(lines) - 1]


def test_a_stopped_terminal_delays_no_process_and_loses_no_line():
    theirs, ours = pty.openpty()
    made = LogStream(ours, note)
    termios.tcflow(ours, termios.TCOOFF)  # as Ctrl-S does
    for _ in range(20):
        made.write(BLOCK)
    assert made.wants_write()
    assert not select.select([], [made.fileno()], [], 0)[1]
    termios.tcflow(ours, termios.TCOON)
    expected = (BLOCK * 20).replace(b"\n", b"\r\n")
    assert read_until(theirs, made, lambda got: len(got) >= len(expected)) == expected
    made.detach()
    os.close(ours)
    os.close(theirs)


def test_a_reader_that_has_gone_is_not_an_error():
    theirs, ours = os.pipe()
    made = LogStream(ours, note)
    os.close(theirs)
    made.write(BLOCK)
    made.write(BLOCK)
    assert not made.wants_write()
    assert not made.full()
    made.close()
    os.close(ours)


def test_a_closed_standard_error_is_not_an_error():
    theirs, ours = os.pipe()
    os.close(theirs)
    os.close(ours)
    made = LogStream(ours, note)
    made.write(BLOCK)
    assert not made.wants_write()
    made.detach()


def test_a_file_as_standard_error_is_written_at_once_and_never_watched(tmp_path):
    fd = os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT)
    made = LogStream(fd, note)
    made.write(BLOCK)
    assert (tmp_path / "stderr").read_bytes() == BLOCK
    assert not made.wants_write()
    made.close()
    os.fstat(fd)
    os.close(fd)


def test_a_full_disk_under_standard_error_is_waited_out():
    fd = os.open("/dev/full", os.O_WRONLY)
    made = LogStream(fd, note)
    made.write(BLOCK)
    assert made.waiting()
    assert not made.wants_write()
    made.close()
    os.close(fd)


def test_close_gives_a_slow_reader_its_time(stream):
    made, theirs, _ = stream
    while not made.wants_write():
        made.write(BLOCK)
    got = []
    reader = threading.Thread(target=lambda: got.append(_read_all(theirs)))
    reader.start()
    made.write(b"the last line\n")
    made.close()
    reader.join(PATIENCE)
    assert got[0].endswith(b"the last line\n")


def _read_all(fd):
    got = b""
    while not got.endswith(b"the last line\n"):
        assert select.select([fd], [], [], 10)[0]
        got += os.read(fd, 65536)
    return got


def test_without_a_file_the_writer_is_standard_error(capfd):
    writer = LogWriter(Logs(), stderr)
    writer.write(b"hello\n")
    writer.reopen()
    writer.close()
    assert capfd.readouterr().err == "hello\n"


def test_pieces_end_at_the_ends_of_lines_where_they_can():
    block = b"short\n" * 2000 + b"x" * 10_000 + b"\n" + b"end\n"
    cut = pieces(block)
    assert b"".join(cut) == block
    assert max(map(len, cut)) <= stderr.PIECE
    assert sum(not piece.endswith(b"\n") for piece in cut) == 2
