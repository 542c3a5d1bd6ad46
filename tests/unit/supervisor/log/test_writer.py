"""The log file: rotation, reopening, full disks, and paths that must not be written to."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_core.config import Logs
from jobs_core.errors import ConfigError
from jobs_core.supervisor.log import file
from jobs_core.supervisor.log.writer import LogWriter
from jobs_core.units import Size


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "jobs.log"


@pytest.fixture
def open_log(path, tmp_path):
    made = []

    def open_log(**settings):
        made.append(LogWriter(Logs(**{"file": "logs/jobs.log", **settings}), tmp_path))
        return made[-1]

    yield open_log
    for writer in made:
        writer.close()


@pytest.fixture
def disk(monkeypatch):
    """Simulate a disk on which `disk.room` bytes can be written, None for any number; then it is full."""

    class Disk:
        room = None

    real = os.write

    def write(fd, data):
        if Disk.room is None:
            return real(fd, data)
        if Disk.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(fd, data[: Disk.room])
        Disk.room -= written
        return written

    monkeypatch.setattr(file.os, "write", write)
    return Disk


def test_the_file_and_its_directory_are_made_and_only_we_may_read_it(open_log, path):
    writer = open_log()
    writer.write(b"one\ntwo\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.get_inheritable(writer.fileno())
    assert (writer.wants_write(), writer.full(), writer.waiting()) == (False, False, False)


def test_a_file_that_is_there_is_added_to_and_an_unfinished_line_of_before_is_ended(open_log, path):
    path.parent.mkdir()
    path.write_bytes(b"whole\ntor")
    open_log().write(b"new\n")
    assert path.read_bytes() == b"whole\ntor\nnew\n"


def test_rotation_gives_each_file_the_next_number_and_drops_the_last(open_log, path):
    writer = open_log(max_size=Size(10), keep=2)
    for number in range(5):
        writer.write(b"line %d\n" % number)
    assert path.read_bytes() == b"line 4\n"
    assert (path.parent / "jobs.log.1").read_bytes() == b"line 3\n"
    assert (path.parent / "jobs.log.2").read_bytes() == b"line 2\n"
    assert len(list(path.parent.iterdir())) == 3


def test_keeping_none_starts_the_file_over(open_log, path):
    writer = open_log(max_size=Size(10), keep=0)
    for number in range(3):
        writer.write(b"line %d\n" % number)
    assert path.read_bytes() == b"line 2\n"
    assert len(list(path.parent.iterdir())) == 1


def test_a_size_of_zero_leaves_rotation_to_something_else(open_log, path):
    writer = open_log(max_size=Size(0))
    for _ in range(3):
        writer.write(b"x" * 1000 + b"\n")
    assert path.stat().st_size == 3003
    assert len(list(path.parent.iterdir())) == 1


def test_a_block_larger_than_a_file_stays_whole(open_log, path):
    writer = open_log(max_size=Size(10))
    writer.write(b"a\n")
    writer.write(b"b\n" * 20)
    writer.write(b"c\n")
    assert (path.read_bytes(), (path.parent / "jobs.log.1").read_bytes()) == (b"c\n", b"b\n" * 20)


def test_a_file_that_something_else_emptied_is_not_rotated(open_log, path):
    writer = open_log(max_size=Size(10))
    writer.write(b"line 1\n")
    os.truncate(path, 0)
    writer.write(b"line 2\n")
    assert path.read_bytes() == b"line 2\n"
    assert len(list(path.parent.iterdir())) == 1


def test_a_failed_rotation_loses_nothing_is_reported_and_retried(open_log, path, monkeypatch):
    writer = open_log(max_size=Size(100))
    writer.write(b"x" * 90 + b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(file.os, "replace", _refuse)
        writer.write(b"y" * 90 + b"\n")
    assert b"cannot be rotated: Permission denied" in path.read_bytes()
    writer.write(b"z" * 90 + b"\n")
    assert path.read_bytes() == b"z" * 90 + b"\n"
    assert b"x" * 90 in (path.parent / "jobs.log.1").read_bytes()
    assert b"y" * 90 in (path.parent / "jobs.log.1").read_bytes()


def test_a_rotation_that_cannot_open_the_new_file_continues_in_the_old_one(open_log, path, monkeypatch):
    writer = open_log(max_size=Size(100))
    writer.write(b"x" * 90 + b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(file.os, "open", _refuse)
        writer.write(b"y" * 90 + b"\n")
    writer.write(b"z" * 90 + b"\n")
    whole = b"".join(file.read_bytes() for file in (path.parent / "jobs.log.2", path) if file.exists())
    assert [whole.count(letter * 90) for letter in (b"x", b"y", b"z")] == [1, 1, 1]


def _refuse(*arguments, **options):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_reopen_writes_to_a_new_file_after_logrotate_moved_the_old_one(open_log, path):
    writer = open_log()
    writer.write(b"old\n")
    path.rename(path.with_suffix(".moved"))
    writer.write(b"still old\n")
    writer.reopen()
    writer.write(b"new\n")
    assert path.with_suffix(".moved").read_bytes() == b"old\nstill old\n"
    assert path.read_bytes() == b"new\n"


def test_reopen_that_fails_goes_on_in_the_old_file_and_says_so(open_log, path, monkeypatch):
    writer = open_log()
    moved = path.with_suffix(".moved")
    path.rename(moved)
    with monkeypatch.context() as patch:
        patch.setattr(file.os, "open", _refuse)
        writer.reopen()
    writer.write(b"more\n")
    assert b"cannot be reopened, continuing in the old file: Permission denied" in moved.read_bytes()
    assert moved.read_bytes().endswith(b"more\n")


def test_a_full_disk_keeps_lines_until_there_is_room(open_log, path, disk):
    writer = open_log()
    writer.write(b"before\n")
    disk.room = 3
    writer.write(b"torn in the middle\n")
    writer.write(b"after\n")
    assert path.read_bytes() == b"before\ntor"
    assert writer.waiting()
    disk.room = None
    writer.flush()
    assert path.read_bytes() == b"before\ntorn in the middle\nafter\n"
    assert not writer.waiting()


def test_lines_beyond_the_bound_are_replaced_by_their_count(open_log, path, disk, monkeypatch):
    monkeypatch.setattr(file, "LARGEST_BACKLOG", 20)
    writer = open_log()
    disk.room = 0
    for number in range(10):
        writer.write(b"line %d\n" % number)
    disk.room = None
    writer.write(b"room\n")
    kept, *rest = path.read_bytes().decode().splitlines()[1:]
    assert path.read_bytes().startswith(b"line 0\nline 1\n")
    assert kept == "line 1"
    assert len(rest) == 2
    assert f"8 log lines were lost while {path} could not be written" in rest[0]
    assert rest[1] == "room"


def test_a_line_that_the_old_file_had_no_room_for_is_whole_in_the_new_one(open_log, path, disk):
    writer = open_log()
    disk.room = 10
    writer.write(b"whole\nlonger\nlast\n")
    moved = path.with_suffix(".moved")
    path.rename(moved)
    disk.room = None
    writer.reopen()
    assert (moved.read_bytes(), path.read_bytes()) == (b"whole\n", b"longer\nlast\n")


def test_no_rotation_cuts_a_line_that_the_full_disk_left_unfinished(open_log, path, disk):
    writer = open_log(max_size=Size(20))
    disk.room = 12
    writer.write(b"whole\nlonger line\n")
    writer.write(b"next\n")
    disk.room = None
    writer.flush()
    assert (path.parent / "jobs.log.1").read_bytes() == b"whole\nlonger line\n"
    assert path.read_bytes() == b"next\n"


def test_a_device_that_is_always_full_stops_no_process():
    writer = LogWriter(Logs(file="/dev/full"), Path())
    for _ in range(100):
        writer.write(b"x" * 100_000 + b"\n")
    assert writer.waiting()
    writer.close()


FILL_A_DISK = """
import resource, subprocess, sys
from pathlib import Path
from jobs_core.config import Logs
from jobs_core.supervisor.log.writer import LogWriter
directory, way = Path(sys.argv[1]), sys.argv[2]
if way == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
writer = LogWriter(Logs(file="jobs.log"), directory)
lines = [b"%07d " % number + b"x" * 92 + b"\\n" for number in range(2000)]
for line in lines:
    writer.write(line)
assert writer.waiting()
assert (directory / "jobs.log").stat().st_size <= 65536
if way == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    subprocess.run(["mount", "-o", "remount,size=1m", directory], check=True)
writer.flush()
assert not writer.waiting()
assert (directory / "jobs.log").read_bytes() == b"".join(lines)
print("kept whole")
"""


@pytest.mark.parametrize("way", ["disk", "limit"])
def test_a_disk_that_is_really_full(tmp_path, way):
    """On a file system of 64 KB, where mounting is permitted; and always with the limit of a file's size."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]
    if way == "disk" and (os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode):
        pytest.skip("a file system can be mounted by root alone")
    try:
        done = subprocess.run([sys.executable, "-c", FILL_A_DISK, tmp_path, way], capture_output=True, text=True)
    finally:
        if way == "disk":
            subprocess.run(["umount", tmp_path], check=True)
    assert (done.stdout, done.stderr) == ("kept whole\n", "")


def test_a_symbolic_link_is_refused_with_the_fix(open_log, path, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"logs.file = .*jobs.log.*symbolic link.*use the real file"):
        open_log()


def test_a_place_that_cannot_be_written_is_an_error_of_the_configuration(open_log, tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(ConfigError, match="logs.file .* cannot be written: .*standard error"):
        open_log()
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        LogWriter(Logs(file=str(tmp_path)), tmp_path)


def test_a_fifo_without_a_reader_stops_no_process(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = LogWriter(Logs(file="fifo"), tmp_path)
    for _ in range(100):
        writer.write(b"x" * 10_000 + b"\n")
    writer.close()


def test_a_child_closes_without_writing(open_log, path, disk):
    writer = open_log()
    disk.room = 0
    writer.write(b"kept\n")
    pid = os.fork()
    if pid == 0:
        disk.room = None
        writer.detach()
        os._exit(0)
    os.waitpid(pid, 0)
    disk.room = None
    writer.flush()
    assert path.read_bytes() == b"kept\n"
