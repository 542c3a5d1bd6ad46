"""The SQLite file itself: damaged, foreign, read-only, full, of another version, on the network."""

import contextlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs_core import App
from jobs_core.backends.base import Answer, BackendOptions, Checkpoint, Outcome, Outgoing, Settlement, State
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.backends.sqlite import connection as connection_module
from jobs_core.backends.sqlite.backend import parse_url
from jobs_core.backends.sqlite.connection import MIGRATIONS, SCHEMA_VERSION, Connection
from jobs_core.backends.sqlite.netfs import network_type
from jobs_core.backends.sqlite.wakeup import WakeUp, pipe_of
from jobs_core.config import Config
from jobs_core.errors import BackendError, BackendUnavailable, QueueFull
from jobs_core.ids import new_id
from jobs_core.urls import of_sqlite

from ..support.disk import small_disk

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
def open_(path):
    opened = []

    def open_(owner=None, query=""):
        backend = SqliteBackend(f"sqlite:///{path}{query}", BackendOptions())
        backend.open(owner)
        opened.append(backend)
        return backend

    yield open_
    for backend in opened:
        backend.close()


def push(backend, count=1, payload=b"payload"):
    jobs = [Outgoing(new_id(), "t", payload) for _ in range(count)]
    backend.push(jobs, new_id())
    return [job.id for job in jobs]


# -- cost ----------------------------------------------------------------------------------------


def test_reserving_costs_the_same_from_a_long_and_a_short_queue(open_):
    backend = open_("worker")
    steps = []
    with backend._connection.reading() as db:
        db.set_progress_handler(lambda: steps.append(1), 10)

    def cost():
        steps.clear()
        assert len(backend.reserve(["t"], 10, new_id())) == 10
        return len(steps)

    push(backend, 20)
    short = cost()
    push(backend, 5000)
    assert cost() < 2 * short


# -- URLs ------------------------------------------------------------------------------------------


ODD_NAMES = [
    "a%20b",
    "a%2Fb",
    "a%b",
    "%25",
    "what?",
    "a?durability=x",
    "a#b",
    "a b",
    "a&b=c",
    "a;b",
    "x@y:z",
    "ü",
    "%C3%BC",
    "'q'",
    "a+b",
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("how", ["default", "relative", "encoded", "as it is"])
def test_the_file_that_was_meant_is_opened_whatever_its_directory_is_called(tmp_path, name, how):
    directory = tmp_path / name
    (directory / ".jobs").mkdir(parents=True)
    file = directory / ".jobs" / "jobs.db"
    url = {
        "default": None,
        "relative": "sqlite:///.jobs/jobs.db",
        "encoded": of_sqlite(file),
        "as it is": f"sqlite:///{file}?durability=process",
    }[how]
    app = App(Config(backend=url, base_dir=directory))
    backend = app.new_backend()
    backend.open(None)
    backend.close()
    assert file.exists()
    assert set(tmp_path.rglob("*.db")) == {file}


def test_an_encoded_name_is_decoded_unless_it_is_there_as_written(tmp_path):
    decoded, literal = tmp_path / "my jobs.db", tmp_path / "my%20jobs.db"
    assert parse_url("sqlite:///my%20jobs.db", tmp_path)[0] == decoded
    decoded.touch()
    assert parse_url("sqlite:///my%20jobs.db", tmp_path)[0] == decoded
    literal.touch()
    assert parse_url("sqlite:///my%20jobs.db", tmp_path)[0] == literal


def test_relative_paths_start_at_the_configuration(tmp_path):
    backend = SqliteBackend("sqlite:///sub/queue.db", BackendOptions(base_dir=tmp_path))
    (tmp_path / "sub").mkdir()
    backend.open(None)
    assert (tmp_path / "sub" / "queue.db").exists()
    backend.close()


@pytest.mark.parametrize("url", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://host/x.db", "sqlite:///x?durability=none"])
def test_other_urls_are_refused_with_the_form(url):
    with pytest.raises(BackendError, match=r"sqlite:///|durability"):
        SqliteBackend(url, BackendOptions())


def test_durability_is_a_setting(open_):
    def level(backend):
        push(backend)
        with backend._connection.reading() as db:
            return db.execute("PRAGMA synchronous").fetchone()[0]

    assert level(open_()) == 2  # FULL
    assert level(open_(query="?durability=process")) == 1  # NORMAL


def test_a_workers_transactions_need_no_fsync_but_its_pushes_do(open_):
    worker = open_("w")
    push(worker)
    worker.reserve(["t"], 1, "r")
    with worker._connection.reading() as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 1
        push(worker)
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2


# -- bad files -------------------------------------------------------------------------------------


def test_a_corrupt_file_is_reported_with_the_fix(path, open_):
    path.write_bytes(b"this is no database at all, whatever its name says" * 100)
    with pytest.raises(BackendError, match=r"is damaged or not a SQLite database.*move it away"):
        open_()


def test_a_file_damaged_while_in_use_is_reported(path, open_):
    backend = open_()
    push(backend, 2000, b"x" * 200)
    backend.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(200_000))
    with pytest.raises(BackendError, match="damaged"):
        worker = open_("w")
        while worker.reserve(["t"], 500, new_id()):
            pass


def test_a_database_of_another_application_is_left_alone(path, open_):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(BackendError, match="not one of jobs"):
        open_()


def test_a_missing_directory_is_reported(tmp_path):
    with pytest.raises(BackendError, match="does the directory exist"):
        SqliteBackend(f"sqlite:///{tmp_path}/nowhere/queue.db", BackendOptions()).open(None)


def test_a_read_only_file_is_reported(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        directory = disk or tmp_path / "disk"
        url = f"sqlite:///{directory}/queue.db"
        backend = SqliteBackend(url, BackendOptions())
        backend.open(None)
        push(backend)
        backend.close()
        if disk:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        else:
            directory.joinpath("queue.db").chmod(0o400)
        with pytest.raises(BackendError, match=r"read-only|cannot be opened|Read-only"):
            backend.open(None)
            push(backend)
        backend.close()


def test_a_full_disk_refuses_pushes_and_lets_workers_drain(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        backend = SqliteBackend(f"sqlite:///{disk or tmp_path / 'disk'}/queue.db", BackendOptions())
        backend.open("w")
        if disk is None:
            with backend._connection.reading() as db:
                db.execute("PRAGMA max_page_count = 500")
        pushed = []
        with pytest.raises(QueueFull, match="the disk is full"):
            while True:
                pushed += push(backend, 10, os.urandom(4000))
        if disk:  # as an operator would: free some space
            subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        seen = []
        while deliveries := backend.reserve(["t"], 50, new_id()):
            seen += [delivery.id for delivery in deliveries]
            backend.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_id())
        assert seen == pushed
        backend.close()


def test_a_lock_held_by_another_program_is_unavailable_and_then_over(path, open_):
    backend = open_()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendUnavailable, match="locked by another process"):
        push(backend)
    other.execute("ROLLBACK")
    push(backend)
    other.close()


# -- versions --------------------------------------------------------------------------------------


def test_a_stored_file_of_an_earlier_schema_is_migrated_with_its_jobs(path, open_):
    for fixture in sorted(FIXTURES.glob("sqlite-schema-*.db")):
        shutil.copy(fixture, path)
        backend = open_("w")
        counts = backend.counts(["t"])["t"]
        assert (counts.ready, counts.scheduled, counts.dead, counts.reserved) == (2, 1, 1, 1), fixture.name
        with backend._connection.reading() as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        assert backend.release_owner("the-owner", ["reserved"], b"") == 1
        seen = {delivery.id: delivery for delivery in backend.reserve(["t"], 10, "r")}
        assert set(seen) == {"ready-1", "ready-2", "reserved"}
        assert seen["reserved"].redeliveries == 1
        backend.checkpoint([Checkpoint(job_id, delivery.token, b"here") for job_id, delivery in seen.items()])
        assert backend.get("ready-1").cursor == b"here"
        (dead,) = backend.browse("t", State.DEAD, 10)
        assert (dead.id, dead.reason, len(dead.errors)) == ("dead", "failed", 1)
        assert backend.fetch_result("done", 0.0).result == b'{"value":1}'
        backend.close()
        path.unlink()
        shutil.rmtree(f"{path}.wake")


def test_every_earlier_schema_has_a_migration_and_a_fixture():
    assert set(MIGRATIONS) == set(range(1, SCHEMA_VERSION))
    stored = {int(fixture.stem.rpartition("-")[2]) for fixture in FIXTURES.glob("sqlite-schema-*.db")}
    assert stored >= set(range(1, SCHEMA_VERSION + 1))


def test_cursors_left_by_a_release_that_does_not_know_them_are_deleted(path, open_):
    """A worker of schema 1 ends a job without its cursor; a later job must not get it, and the table must not grow."""
    backend = open_("w")
    push(backend)
    (delivery,) = backend.reserve(["t"], 1, "r")
    backend.checkpoint([Checkpoint(delivery.id, delivery.token, b"left")])
    with backend._connection.transaction() as tx:
        tx.db.execute("DELETE FROM reserved")
        tx.db.execute("DELETE FROM job")
    backend.housekeep(100)
    with backend._connection.reading() as db:
        assert db.execute("SELECT count(*) FROM checkpoint").fetchone()[0] == 0
        assert db.execute("SELECT value FROM meta WHERE key = 'readable_by'").fetchone()[0] == 1


def test_a_later_schema_is_refused_unless_it_says_we_can_read_it(path, open_):
    open_().close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    open_().close()
    db.execute("UPDATE meta SET value = ? WHERE key = 'readable_by'", (SCHEMA_VERSION + 1,))
    db.close()
    with pytest.raises(BackendError, match=f"later jobs-core .schema {SCHEMA_VERSION + 1}.*upgrade"):
        open_()


# -- network file systems --------------------------------------------------------------------------

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /mnt/share rw shared:20 - nfs4 server:/export rw
41 22 0:41 / /mnt/with\\040space rw - cifs //server/x rw
42 40 0:42 / /mnt/share/local rw master:1 - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x", None),
        ("/mnt/share/queue", "nfs4"),
        ("/mnt/with space/q", "cifs"),
        ("/mnt/share/local/q", None),
        ("/mnt/shared", None),
    ],
)
def test_network_file_systems_are_known_by_their_mounts(path, kind):
    assert network_type(Path(path), MOUNTS) == kind


def test_a_file_on_a_network_file_system_is_refused(path, monkeypatch):
    monkeypatch.setattr("jobs_core.backends.sqlite.connection.network_type", lambda directory: "nfs4")
    with pytest.raises(BackendError, match=r"network file system \(nfs4\)"):
        SqliteBackend(f"sqlite:///{path}", BackendOptions()).open(None)


# -- waking ----------------------------------------------------------------------------------------


def test_a_wake_up_without_a_waiter_costs_nothing(tmp_path):
    wake = WakeUp(tmp_path / "wake")
    wake.wake(["nobody"])
    assert list((tmp_path / "wake").iterdir()) == []
    wake.close()


def test_wake_ups_are_heard_once_and_only_for_the_topic(tmp_path):
    one, other = WakeUp(tmp_path / "wake"), WakeUp(tmp_path / "wake")
    one.listen(["a", "b"])
    other.wake(["c"])
    assert one.wait(0.0) == (False, False, False)
    for _ in range(5):
        other.wake(["b"])
    assert one.wait(1.0) == (True, False, False)
    assert one.wait(0.0) == (False, False, False)
    one.listen(["a"])
    other.wake(["b"])
    assert one.wait(0.0) == (False, False, False)
    one.close()
    other.wake(["a"])
    other.close()


@pytest.mark.parametrize("for_topics", [False, True])
def test_an_owner_is_called_by_name_whatever_it_waits_for(tmp_path, for_topics):
    one, other, caller = (WakeUp(tmp_path / "wake") for _ in range(3))
    one.listen_for("host/pool-1+2")
    other.listen_for("host/pool-1+3")
    caller.wake([pipe_of("host/pool-1+2"), pipe_of("nobody")])
    assert other.wait(0.0, for_topics=for_topics) == (False, False, False)
    assert one.wait(1.0, for_topics=for_topics) == (False, False, True)
    assert one.wait(0.0, for_topics=for_topics) == (False, False, False)
    one.close()
    other.forget("host/pool-1+3")
    assert list((tmp_path / "wake").iterdir()) == []
    caller.wake([pipe_of("host/pool-1+2"), pipe_of("host/pool-1+3")])
    other.close()
    caller.close()


def test_a_thousand_wake_ups_do_not_block(tmp_path):
    one, other = WakeUp(tmp_path / "wake"), WakeUp(tmp_path / "wake")
    one.listen(["a"])
    for _ in range(100_000):
        other.wake(["a"])
    assert one.wait(1.0)[0]
    one.close()
    other.close()


def test_a_push_of_another_process_wakes_within_milliseconds(path, open_):
    worker = open_("w")
    script = (
        "import sys, time; from jobs_core.backends.sqlite import SqliteBackend; from jobs_core.backends.base import *\n"
        f"b = SqliteBackend('sqlite:///{path}', BackendOptions()); b.open(None)\n"
        "for n in range(30):\n"
        "    sys.stdin.readline(); b.push([Outgoing(str(n), 't', str(time.time()).encode())], str(n))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
    delays = []
    for _ in range(30):
        threading.Timer(0.005, lambda: (child.stdin.write("\n"), child.stdin.flush())).start()
        while not (deliveries := worker.reserve(["t"], 1, new_id())):
            worker.wait(["t"], 20.0)
        delays.append(time.time() - float(deliveries[0].payload))
        worker.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_id())
    child.stdin.close()
    child.wait()
    assert sorted(delays)[15] < 0.5  # a bound that polling at LONGEST_WAIT would miss; the exact figure is a benchmark's


def test_a_waiting_worker_uses_no_processor_time(open_):
    worker = open_("w")
    before = time.process_time()
    worker.wait(["t"], 2.0)
    assert time.process_time() - before < 0.1


# -- committed first, synced later -------------------------------------------------------------------


@pytest.fixture
def connect(path):
    connected = []

    def connect(durability="power"):
        connection = Connection(path, BackendOptions(), durability=durability)
        connection.open()
        connected.append(connection)
        return connection

    yield connect
    for connection in connected:
        connection.close()


@pytest.fixture
def synced(monkeypatch):
    """Record the paths that are synced; those with an error in `failures` are refused."""
    paths, failures = [], []

    def sync(descriptor):
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if failures:
            raise failures.pop()

    monkeypatch.setattr(connection_module, "_sync_data", sync)
    sync.paths, sync.failures = paths, failures
    return sync


def note(connection, topic):
    with connection.transaction(durable=False) as tx:
        tx.db.execute("INSERT INTO paused VALUES (?)", (topic,))


def in_the_file_itself(path, copy):
    """Return the paused topics that a machine would find that had lost the log."""
    subprocess.run(["cp", path, copy], check=True)  # to open it here and close it would end SQLite's locks
    with contextlib.closing(sqlite3.connect(copy)) as db:
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return []
        return [topic for (topic,) in db.execute("SELECT topic FROM paused ORDER BY topic")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc which file a descriptor is of")
def test_committed_jobs_are_synced_on_request(path, connect, synced):
    connection = connect()
    note(connection, "a")
    assert synced.paths == []
    connection.sync()
    connection.disconnect()  # as before a fork: the log may be another file afterwards
    note(connection, "b")
    connection.sync()
    assert synced.paths == [f"{path}-wal"] * 2


def test_a_store_that_need_not_survive_the_machine_is_not_synced(connect, synced):
    connection = connect("process")
    note(connection, "a")
    connection.sync()
    assert synced.paths == []


def test_unsynced_pages_are_written_to_the_file_itself(path, tmp_path, connect, synced):
    connection = connect()
    note(connection, "a")
    assert in_the_file_itself(path, tmp_path / "before.db") == []
    synced.failures.append(OSError(5, "Input/output error"))
    connection.sync()
    assert in_the_file_itself(path, tmp_path / "after.db") == ["a"]
    connection.sync()
    assert len(synced.paths) == 2


def test_a_failed_sync_is_not_hidden_by_a_later_successful_sync_of_the_log(path, tmp_path, connect, synced, monkeypatch):
    """The kernel reports a page that it could not write once, and then forgets it."""
    connection = connect()
    note(connection, "a")
    synced.failures.append(OSError(5, "Input/output error"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM paused").fetchone()
        note(connection, "b")  # which the reader keeps out of the file
        monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.05)
        with pytest.raises(BackendUnavailable, match="cannot be synced"):
            connection.sync()
        with pytest.raises(BackendUnavailable, match="cannot be synced"):
            connection.sync()
        reader.execute("ROLLBACK")
    connection.sync()
    assert in_the_file_itself(path, tmp_path / "after.db") == ["a", "b"]
    assert len(synced.paths) == 1


# -- a file that another program has written to ------------------------------------------------------

FOREIGN_CODE = {
    "a library to load": "CREATE TRIGGER evil BEFORE DELETE ON reserved BEGIN SELECT load_extension('/tmp/evil.so'); END",
    "no end": "CREATE TRIGGER evil AFTER INSERT ON reserved BEGIN SELECT sum(n) FROM "
    "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c); END",
    "a failure": "CREATE TRIGGER evil BEFORE UPDATE ON job BEGIN SELECT RAISE(ABORT, 'no'); END",
    "a view": "CREATE VIEW evil AS SELECT * FROM job",
}


def execute(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize("code", FOREIGN_CODE.values(), ids=FOREIGN_CODE)
def test_a_file_with_foreign_code_is_refused_with_the_objects_to_remove(path, open_, code):
    push(open_())
    execute(path, code)
    with pytest.raises(BackendError, match="'evil': it would run in every operation"):
        open_("worker")
    execute(path, f"DROP {'VIEW' if 'VIEW' in code else 'TRIGGER'} evil")
    assert len(open_("worker").reserve(["t"], 1, new_id())) == 1


@pytest.mark.parametrize("code", [FOREIGN_CODE["a library to load"], FOREIGN_CODE["a failure"]], ids=["load", "abort"])
def test_code_that_comes_later_makes_an_error_of_ours_and_harms_no_job(path, open_, code):
    backend = open_("worker")
    push(backend)
    (delivery,) = backend.reserve(["t"], 1, new_id())
    execute(path, code)
    settlement = Settlement(delivery.id, delivery.token, Outcome.RETRY)
    for _ in range(2):
        with pytest.raises(BackendError, match="queue.db"):
            backend.settle([settlement], new_id())
    execute(path, "DROP TRIGGER evil")
    assert backend.settle([settlement], new_id()) == [Answer.SETTLED]


COLUMNS = ["id", "topic", "rank", "ready_at", "due", "attempt", "redeliveries", "crashes", "deferrals", "pushed_at", "errors"]
VALUES = ["NULL", "'x'", "x'ff00'", "9223372036854775807", "-1", "1e308", "''", "cast(x'ff' AS TEXT)"]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_row_that_we_never_wrote_makes_errors_of_ours_alone(path, open_, column):
    backend = open_("worker")
    for value in VALUES:
        push(backend)
        with contextlib.suppress(sqlite3.IntegrityError):
            execute(path, f"UPDATE OR IGNORE job SET {column} = {value}")
        with contextlib.suppress(BackendError):
            for delivery in backend.reserve(["t"], 10, new_id()):
                backend.settle([Settlement(delivery.id, delivery.token, Outcome.RETRY, error=b"{}")], new_id())
        for ask in (
            lambda: backend.browse("t", State.READY, 10),
            lambda: backend.counts(["t"]),
            lambda: backend.housekeep(100),
        ):
            with contextlib.suppress(BackendError):
                ask()
        execute(path, "DELETE FROM job", "DELETE FROM ready", "DELETE FROM reserved")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns about a fork beside threads, which is tested here
def test_a_fork_waits_for_connections_that_other_threads_are_making(path):
    stop = threading.Event()

    def use() -> None:
        with contextlib.suppress(BackendUnavailable):  # this many openings at once may find the file locked
            backend = SqliteBackend(f"sqlite:///{path}?durability=process", BackendOptions())
            backend.open(None)
            backend.push([Outgoing(new_id(), "t", b"{}")], new_id())
            backend.close()

    def churn() -> None:
        while not stop.is_set():
            use()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                try:
                    use()
                    grandchild = os.fork()  # with the remains of the parent's threads
                    if grandchild:
                        os.waitpid(grandchild, 0)
                finally:
                    os._exit(0)
            ended = os.pidfd_open(child)
            try:
                assert select.select([ended], [], [], 60)[0], "the child hangs"
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os.close(ended)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
