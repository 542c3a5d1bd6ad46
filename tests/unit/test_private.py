"""Files that others could have put into our directories are not used; files that we create there are private."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from jobs_core import private
from jobs_core.app import App
from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.backends.sqlite.backend import SqliteBackend
from jobs_core.config import Config, Logs
from jobs_core.errors import BackendError, ConfigError
from jobs_core.ids import new_token
from jobs_core.supervisor.log.writer import LogWriter

FOREIGN = 12345


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def symbolic_link(path):
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def writable(bits):
    def make(path):
        path.mkdir()
        path.chmod(bits)

    return make


def a_file(path):
    path.write_text("")


def dangling(path):
    path.symlink_to(path.parent / "nowhere")


def foreign(path):
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, FOREIGN, FOREIGN)
    else:
        path.chmod(0o777)  # only root can give a directory away; this one is as bad


UNSAFE = {
    "a symbolic link": symbolic_link,
    "a dangling link": dangling,
    "a file": a_file,
    "another user's": foreign,
    **{f"mode {bits:04o}": writable(bits) for bits in (0o777, 0o1777, 0o770, 0o775, 0o720, 0o702, 0o2770)},
}


@pytest.fixture(params=UNSAFE.values(), ids=UNSAFE)
def unsafe(request):
    return request.param


def test_a_run_directory_that_is_not_private_is_refused(tmp_path, unsafe):
    unsafe(tmp_path / "run")
    with pytest.raises(ConfigError, match="run_dir: .* cannot be used"):
        private.directory_of_installation(tmp_path / "run")
    with pytest.raises(ConfigError, match="run_dir"):  # the default queue is in it
        App(Config(base_dir=tmp_path, run_dir="run")).new_backend()


@pytest.mark.parametrize("bits", [0o700, 0o750, 0o755, 0o711])
def test_a_directory_that_only_its_owner_can_write_to_is_used_as_it_is(tmp_path, bits):
    writable(bits)(tmp_path / "run")
    assert mode(private.directory_of_installation(tmp_path / "run")) == bits
    assert mode(private.directory_of_installation(tmp_path / "deep" / "new")) == 0o700


@pytest.mark.parametrize("command", ["start", "start --daemon"])
@pytest.mark.parametrize("where", [".jobs", ".jobs/workers"])
def test_no_supervisor_starts_in_a_directory_that_others_can_redirect(tmp_path, command, where):
    (tmp_path / "jobs.toml").write_text("[pools.default]\nworkers = 1\n")
    (tmp_path / where).parent.mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / where).symlink_to(tmp_path / "elsewhere")
    words = [sys.executable, "-m", "jobs_core", *command.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "symbolic link" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- SQLite's files --------------------------------------------------------------------------------


def push(path, topic="t"):
    backend = SqliteBackend(f"sqlite:///{path}", BackendOptions())
    backend.open(None)
    backend.push([Outgoing("a", topic, b"{}")], new_token())
    return backend


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o002, 0o077])
def test_the_files_of_a_queue_are_private_to_the_user_that_created_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        backend = push(tmp_path / "q.db")
        backend.wait(["t"], 0.0)
        files = [tmp_path / "q.db", *tmp_path.rglob("q.db-*"), *tmp_path.joinpath("q.db.wake").iterdir()]
        assert {path.name: mode(path) for path in files} == dict.fromkeys(["q.db", "q.db-wal", "q.db-shm", "t"], 0o600)
        assert mode(tmp_path / "q.db.wake") == 0o700
        backend.close()
    finally:
        os.umask(before)


def test_the_mode_of_a_queue_that_exists_is_kept(tmp_path):
    push(tmp_path / "q.db").close()
    (tmp_path / "q.db").chmod(0o640)
    push(tmp_path / "q.db").close()
    assert mode(tmp_path / "q.db") == 0o640


def test_a_directory_of_pipes_that_is_not_private_is_refused(tmp_path, unsafe):
    push(tmp_path / "q.db").close()
    for pipe in (tmp_path / "q.db.wake").iterdir():
        pipe.unlink()
    (tmp_path / "q.db.wake").rmdir()
    unsafe(tmp_path / "q.db.wake")
    with pytest.raises(BackendError, match=r"q\.db\.wake"):
        push(tmp_path / "q.db")


def test_an_administrator_may_look_into_another_users_queue(tmp_path):
    push(tmp_path / "q.db").close()
    if os.geteuid() == 0:  # only root can give files away
        for path in (tmp_path / "q.db", tmp_path / "q.db.wake"):
            os.chown(path, FOREIGN, FOREIGN)
    push(tmp_path / "q.db").close()


def test_an_open_file_keeps_its_locks_when_another_connection_is_made(tmp_path):
    backend = push(tmp_path / "q.db")
    private.create(tmp_path / "q.db")
    assert mode(tmp_path / "q.db") == 0o600
    backend.close()


# -- the log ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "becomes"), [(0o644, 0o600), (0o666, 0o600), (0o604, 0o600), (0o640, 0o640), (0o600, 0o600)])
def test_a_world_readable_log_is_made_private_and_a_group_may_be_given_access(tmp_path, bits, becomes):
    path = tmp_path / "jobs.log"
    path.write_text("before\n")
    path.chmod(bits)
    writer = LogWriter(Logs(file="jobs.log"), tmp_path)
    writer.write(b"after\n")
    writer.close()
    assert (mode(path), path.read_text()) == (becomes, "before\nafter\n")
