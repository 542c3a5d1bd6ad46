"""The output of a child, as the supervisor reads it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jobs_core.supervisor.processes import pipes as module
from jobs_core.supervisor.processes.pipes import ChildOutput


@pytest.fixture
def child():
    """Return the supervisor's side and the child's two descriptors; `None` stands for a closed one."""
    pipes, *writers = ChildOutput.create()
    yield pipes, *writers
    pipes.close()
    for fd in writers:
        try:
            os.close(fd)
        except OSError:
            continue


def test_only_whole_records_are_handed_on(child):
    pipes, log, _ = child
    assert pipes.read_log() == b""
    os.write(log, b"one\n\0two\n    | trace")
    assert pipes.read_log() == b"one\n"
    os.write(log, b"back\n")
    assert pipes.read_log() == b""
    os.write(log, b"\0three\n\0")
    assert pipes.read_log() == b"two\n    | traceback\nthree\n"


def test_at_the_end_a_record_that_was_cut_short_is_a_line_too(child):
    pipes, log, _ = child
    os.write(log, b"one\n\0kil")
    os.close(log)
    assert pipes.read_log() == b"one\n"
    assert not pipes.log_ended
    assert pipes.read_log() == b"kil\n"
    assert pipes.log_ended


def test_an_endless_record_takes_bounded_memory(child, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_RECORD", 100_000)
    pipes, log, _ = child
    got = b""
    for _ in range(20):
        os.write(log, b"x" * 60_000)
        got += pipes.read_log()
        assert len(pipes._record) <= 100_000
    assert len(got) >= 1_000_000
    assert set(got.split(b"\n")[:-1]) == {b"x" * 120_000}


def test_raw_lines_cannot_forge_others_nor_drive_a_terminal(child):
    pipes, _, raw = child
    os.write(raw, "a\x1b[2Jb\rc\u2028d\u202ee\x9bf\tg\0h\n".encode() + b"bad \xff\xfe utf-8\r\n\n  \nlast")
    assert pipes.read_raw() == ["a\\x1b[2Jb\\rc\\u2028d\\u202ee\\x9bf\\tg\\x00h", "bad \ufffd\ufffd utf-8"]
    os.close(raw)
    assert pipes.read_raw() == ["last"]
    assert pipes.raw_ended


def test_a_raw_line_without_end_is_cut_but_not_inside_a_character(child, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 10)
    pipes, _, raw = child
    os.write(raw, "äöüäöüäöü€€€€".encode())
    lines = pipes.read_raw()
    os.write(raw, b"\n")
    lines += pipes.read_raw()
    assert "".join(lines) == "äöüäöüäöü€€€€"
    assert max(len(line.encode()) for line in lines) <= 10


def test_the_tail_is_the_last_lines_of_both_in_order(child):
    pipes, log, raw = child
    os.write(log, b"".join(b"logged %d\n\0" % number for number in range(30)))
    pipes.read_log()
    os.write(raw, b"Fatal Python error: Segmentation fault\n")
    pipes.read_raw()
    os.write(log, b"after " + b"x" * 5000 + b"\n\0")
    pipes.read_log()
    tail = pipes.tail()
    assert tail[:18] == [f"logged {number}" for number in range(12, 30)]
    assert tail[18] == "Fatal Python error: Segmentation fault"
    assert tail[19].startswith("after xxx")
    assert len(tail[19]) == module.TAIL_WIDTH
    assert len(tail) == 20


def test_the_last_output_of_a_dead_child_is_read_although_its_subprocess_holds_the_pipes(child):
    pipes, log, raw = child
    os.write(log, b"first\n\0")
    assert pipes.read_log() == b"first\n"
    os.write(log, b"second\n\0thi")
    os.write(raw, b"raw\npartial")
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(log, raw))
    os.close(log)
    os.close(raw)
    assert pipes.read_last() == (b"second\nthi\n", ["raw", "partial"])
    assert pipes.log_ended
    assert pipes.raw_ended
    holder.communicate(b"\n")
