"""A child's output: records, prints, interruptions, a full pipe."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from jobs_core import App, logs
from jobs_core.config import Config, Pool
from jobs_core.errors import JobTimeout
from jobs_core.job import Call, job
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.runs.running import running
from jobs_core.supervisor.processes.pipes import ChildOutput
from jobs_core.uninterrupted import INTERRUPT
from jobs_core.worker import log_pipe
from jobs_core.worker.main import Worker

from ...support.project import PATIENCE
from ..supervisor.log.writers import child

EVIL = 'x\n2026-01-01 00:00:00.000 ERROR   [1] forged\r\x1b[31m\u2028y\x9b\u202e\x00 {"level":"error"} job_id=1]'


class Run:
    """The attributes of a run that a log line shows."""

    def __init__(self, job_id="0192", job="shop.pay", topic="money", attempt=1):
        self.delivery = type("Delivery", (), {"id": job_id, "topic": topic, "attempt": attempt})()
        self.job = type("Job", (), {"name": job})()


def said(act, format_="text", worker="w1"):
    """Return the log lines and raw lines of a child that runs `act`."""
    pipes, pid = child(act, format_, worker)
    block, raw = b"", []
    while not (pipes.log_ended and pipes.raw_ended):
        waiting = [fd for fd, ended in ((pipes.log_fd, pipes.log_ended), (pipes.raw_fd, pipes.raw_ended)) if not ended]
        ready = select.select(waiting, [], [], 20)[0]
        assert ready, "the child does not end"
        if pipes.log_fd in ready:
            block += pipes.read_log()
        if pipes.raw_fd in ready:
            raw += pipes.read_raw()
    pipes.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, raw
    return block.decode().split("\n")[:-1], raw


def inside(run, act):
    token = running.set(run)
    try:
        act()
    finally:
        running.reset(token)


def test_a_record_says_worker_job_topic_and_attempt():
    def act():
        inside(Run(), lambda: logging.getLogger("shop").warning("low on %s", "paper"))
        logging.getLogger("shop").info("outside")

    lines, raw = said(act)
    assert lines[0].endswith(" WARNING [w1 job_id=0192 job=shop.pay topic=money attempt=2] low on paper")
    assert lines[1].endswith(" INFO    [w1] outside")
    assert raw == []


def test_a_print_is_a_record_with_the_job_that_printed():
    def act():
        inside(Run(), lambda: print("paid", 12, "euros"))
        inside(Run(), lambda: print("two\nlines\n\n", file=sys.stderr))
        sys.stdout.buffer.write("bytes ü\n".encode())

    lines, raw = said(act, "json")
    entries = [json.loads(line) for line in lines]
    assert [entry["message"] for entry in entries] == ["paid 12 euros", "two", "lines", "bytes ü"]
    assert [entry.get("job_id") for entry in entries] == ["0192"] * 3 + [None]
    first = {key: entries[0][key] for key in ("level", "logger", "worker", "job", "topic", "attempt")}
    assert first == {
        "level": "info", "logger": "jobs.output", "worker": "w1", "job": "shop.pay", "topic": "money", "attempt": 2,
    }  # fmt: skip
    assert raw == []


def test_output_that_bypasses_python_goes_to_the_raw_pipe():
    def act():
        os.write(1, b"from C\n")
        subprocess.run(["sh", "-c", "echo out; echo err >&2"], check=True)
        subprocess.run(["echo", "given"], stdout=sys.stdout, check=True)
        sys.__stderr__.write("original\n")
        sys.__stderr__.flush()

    lines, raw = said(act)
    assert lines == []
    assert raw == ["from C", "out", "err", "given", "original"]


def test_lines_of_two_jobs_do_not_mix_and_an_unfinished_one_ends_with_its_job():
    one, two = Run("1"), Run("2")

    def act():
        inside(one, lambda: print("half", end=""))
        inside(two, lambda: print("whole"))
        inside(two, lambda: print("left", end=""))
        inside(one, lambda: print(" and half"))
        log_pipe.end_lines(two)
        assert not log_pipe.partial
        print("at the end of the process", end="")

    lines, _ = said(act)
    assert [line.partition("[w1 ")[2].partition(" ")[0] for line in lines[:3]] == ["job_id=2", "job_id=1", "job_id=2"]
    assert [line.partition("] ")[2] for line in lines] == ["whole", "half and half", "left", "at the end of the process"]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_values_of_messages_forge_no_line_no_field_and_no_terminal_sequence(format_):
    def act():
        def job():
            log = logging.getLogger("shop")
            log.info("%s", EVIL)
            print(EVIL)
            try:
                raise ValueError(EVIL)
            except ValueError:
                log.exception("failed: %s", EVIL)

        inside(Run(EVIL, EVIL, EVIL), job)
        os.write(2, EVIL.encode() + b"\n")

    lines, raw = said(act, format_)
    raw_lines = [logs.for_raw_line(text, format_, worker="w1", pid=7).decode().rstrip("\n") for text in raw]
    assert len(raw_lines) == 2
    for line in (*lines, *raw_lines):
        assert line.isprintable(), line
        assert len(line.splitlines()) == 1
        if format_ == "json":
            entry = json.loads(line)
            assert entry["level"] in ("info", "error")
            assert entry["logger"] in ("shop", "jobs.output")
            assert entry["worker"] == "w1"
        else:
            assert not line.startswith("2026-01-01"), line
    if format_ == "text":
        heads = [line for line in lines if not line.startswith("    | ")]
        assert all(' [w1 job_id="x\\n2026-01-01 00:00:00.000 ERROR' in line for line in heads)
        assert len(heads) == 4
    else:
        assert json.loads(lines[0])["message"] == EVIL
        assert json.loads(lines[0])["job"] == EVIL


def test_halves_of_characters_and_records_that_cannot_be_formatted_cost_nothing():
    class Bad:
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    def act():
        log = logging.getLogger("shop")
        log.info("half \udce4 %s", "a character")
        log.info("%d of %s", "three")
        log.info(Bad())
        log.info("%s", Bad())
        print("half \ud800")

    for format_ in ("text", "json"):
        lines, raw = said(act, format_)
        assert raw == []
        assert len(lines) == 5
        assert "\\udce4 a character" in lines[0]
        assert "cannot be filled in" in lines[1]
        assert "test_log_pipe.py" in lines[1]
        assert "cannot be formatted: RuntimeError" in lines[2] + lines[3] or "cannot be filled in" in lines[3]
        assert "half \\ud800" in lines[4]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_record_that_is_too_long_loses_its_middle(format_):
    lines, _ = said(lambda: logging.getLogger("shop").info("begin%send", "ü" * 1_000_000), format_)
    assert sum(len(line.encode()) for line in lines) <= log_pipe.LONGEST_RECORD
    whole = "\n".join(lines)
    assert "begin" in whole
    assert "characters left out" in whole
    assert "end" in whole
    if format_ == "json":
        assert json.loads(lines[0])["level"] == "info"
    else:
        assert all(line.startswith("    | ") for line in lines[1:])


def test_a_printed_line_that_is_too_long_is_cut_into_several():
    lines, _ = said(lambda: print("x" * 50_000))
    assert [len(line.partition("] ")[2]) for line in lines] == [16384, 16384, 16384, 848]


def test_an_application_that_sets_up_logging_of_its_own_makes_no_circle():
    def act():
        logging.basicConfig(force=True, format="own %(message)s", stream=sys.stderr)
        logging.getLogger("shop").warning("logged")
        print("printed")

    lines, _ = said(act)
    assert [line.partition("] ")[2] for line in lines] == ["own logged", "printed"]


def test_each_record_is_logged_once_and_handlers_for_other_targets_stay(tmp_path):
    def act():
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {
                    "console": {"class": "logging.StreamHandler"},
                    "file": {"class": "logging.FileHandler", "filename": tmp_path / "own.log"},
                },
                "root": {"handlers": ["console", "file"], "level": "INFO"},
                "loggers": {"shop": {"handlers": ["console"]}, "alone": {"handlers": ["console"], "propagate": False}},
            }
        )
        log_pipe.take_over()
        logging.getLogger("shop.cart").info("once")
        logging.getLogger("alone").info("by itself")

    lines, _ = said(act, "json")
    assert [(entry["logger"], entry["message"]) for entry in map(json.loads, lines)] == [
        ("shop.cart", "once"),
        ("jobs.output", "by itself"),
    ]
    assert (tmp_path / "own.log").read_text() == "once\n"


def test_programs_may_treat_standard_output_as_they_are_used_to():
    def act():
        sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
        assert sys.stdout.encoding == "utf-8"
        assert not sys.stdout.isatty()
        assert sys.stdout.fileno() == 1
        with pytest.raises(TypeError):
            sys.stdout.write(b"bytes")
        sys.stdout.close()
        print("still there", flush=True)

    assert said(act)[0][0].endswith("still there")


def test_a_level_above_info_leaves_prints_out():
    def act():
        logging.getLogger().setLevel("WARNING")
        print("no")
        logging.getLogger("shop").info("no")
        logging.getLogger("shop").warning("yes")

    assert [line[-3:] for line in said(act)[0]] == ["yes"]


def full_pipe():
    """Pipes whose log pipe is full, and a handler that writes there."""
    pipes, log_fd, raw_fd = ChildOutput.create()
    os.close(raw_fd)
    handler = log_pipe.PipeHandler(log_fd, "text", "w1")
    try:
        while True:
            os.write(log_fd, b"y" * 4095 + b"\0")
    except BlockingIOError:
        return pipes, log_fd, handler


def record(text, *, name="shop"):
    return logging.makeLogRecord({"name": name, "msg": text, "levelname": "INFO", "levelno": 20})


def drain(pipes, until):
    got = b""
    while until not in got:
        assert select.select([pipes.log_fd], [], [], 10)[0], got[-200:]
        got += pipes.read_log()
    return got


def test_an_interruption_leaves_every_record_whole_and_the_handler_free():
    """A job that is interrupted while it waits for the log ends at once; the record that it had begun is completed."""
    pipes, log_fd, handler = full_pipe()

    def interrupt(signum, frame):
        raise JobTimeout("enough")

    previous = signal.signal(INTERRUPT, interrupt)
    main = threading.main_thread().ident
    try:
        for room in (0, 1):  # nothing of the record is in the pipe, or its first page
            for _ in range(room):
                os.read(pipes.log_fd, 4096)
            timer = threading.Timer(0.1, signal.pthread_kill, (main, INTERRUPT))
            timer.start()
            with pytest.raises(JobTimeout):
                handler.handle(record(f"begin {room} " + "x" * 20_000 + " end"))
            timer.join()
        threads = [threading.Thread(target=handler.handle, args=(record(f"after {number}"),)) for number in range(4)]
        for thread in threads:
            thread.start()
        got = b""
        while any(thread.is_alive() for thread in threads):
            if select.select([pipes.log_fd], [], [], 0.01)[0]:
                got += pipes.read_log()
        got += pipes.read_log()
        assert b"begin 0" not in got
        assert got.count(b"begin 1 " + b"x" * 20_000 + b" end\n") == 1
        assert got.count(b"] after ") == 4
    finally:
        signal.signal(INTERRUPT, previous)
        pipes.close()
        os.close(log_fd)


def test_interruptions_at_any_moment_tear_no_line():
    """The same with a busy reader and hundreds of interruptions, wherever they strike."""
    pipes, log_fd, raw_fd = ChildOutput.create()
    handler = log_pipe.PipeHandler(log_fd, "text", "w1")
    got = []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            if select.select([pipes.log_fd], [], [], 0.01)[0]:
                got.append(pipes.read_log())

    def strike():
        while not stop.is_set():
            time.sleep(0.0007)
            signal.pthread_kill(threading.main_thread().ident, INTERRUPT)

    armed = False

    def interrupt(signum, frame):
        if armed:
            raise JobTimeout("enough")

    previous = signal.signal(INTERRUPT, interrupt)
    threads = [threading.Thread(target=read), threading.Thread(target=strike)]
    for thread in threads:
        thread.start()
    whole, struck = [], 0
    for number in range(1500):
        try:
            armed = True
            handler.handle(record(f"<{number} " + "x" * (number % 7 * 3000) + ">"))
            armed = False
            whole.append(number)
        except JobTimeout:
            armed = False
            struck += 1
    armed = False
    handler.handle(record("the last"))
    signal.signal(INTERRUPT, signal.SIG_IGN)
    os.close(log_fd)
    deadline = time.monotonic() + 10
    while not pipes.log_ended and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    signal.signal(INTERRUPT, previous)
    pipes.close()
    os.close(raw_fd)
    lines = b"".join(got).decode().splitlines()
    assert lines[-1].endswith("] the last")
    numbers = []
    for line in lines[:-1]:
        body = line.partition("] <")[2]
        number = int(body.partition(" ")[0])
        assert body == f"{number} " + "x" * (number % 7 * 3000) + ">"
        numbers.append(number)
    assert numbers == sorted(set(numbers))
    assert set(whole) <= set(numbers)
    assert struck > 20


def test_the_courier_does_not_wait_long_for_a_log_without_a_reader(monkeypatch):
    monkeypatch.setattr(log_pipe, "COURIER_PATIENCE", 0.05)
    pipes, log_fd, handler = full_pipe()
    threads = [
        threading.Thread(target=handler.handle, args=(record(f"from the courier {number}"),), name="jobs-courier")
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    reader = threading.Thread(target=lambda: got.append(drain(pipes, b"now\n")))
    got = []
    reader.start()
    handler.handle(record("now"))
    reader.join(PATIENCE)
    assert b"3 log lines were left out: the log could not be written for a while\n" in got[0]
    assert b"from the courier" not in got[0]
    pipes.close()
    os.close(log_fd)


def test_a_supervisor_that_is_gone_is_no_error():
    pipes, log_fd, raw_fd = ChildOutput.create()
    handler = log_pipe.PipeHandler(log_fd, "text", "w1")
    pipes.close()
    handler.handle(record("to nobody"))
    handler.flush()
    os.close(log_fd)
    os.close(raw_fd)


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_every_record_made_in_a_run_contains_its_job_in_a_real_worker(tmp_path, mode):
    """Jobs, their threads and tasks; printed and logged, with one unfinished line."""

    def act():
        log = logging.getLogger("shop")
        registry = Registry()

        @job(name="shop.plain", registry=registry)
        def plain(number):
            log.info("logged %d", number)
            print("printed", number, end="")

        @job(name="shop.tasks", registry=registry)
        async def tasks(number):
            log.info("logged %d", number)
            await asyncio.to_thread(print, "printed", number)

        app = App(Config(backend="memory://output"), plugins=Plugins(), registry=registry)
        for number in range(20):
            app.enqueue(Call(plain if number % 2 else tasks, (number,), {}))
        Worker(app, "default", Pool(mode=mode, concurrency=5), None, drain=True).run()

    lines, raw = said(act, "json")
    assert raw == []
    entries = [entry for line in lines if (entry := json.loads(line))["logger"] in ("shop", "jobs.output")]
    by_job = {}
    for entry in entries:
        assert (entry["topic"], entry["attempt"], entry["worker"]) == ("default", 1, "w1")
        by_job.setdefault((entry["job_id"], entry["job"]), []).append(entry["message"])
    assert sorted(name for _, name in by_job) == ["shop.plain"] * 10 + ["shop.tasks"] * 10
    numbers = [messages[0].partition(" ")[2] for messages in by_job.values()]
    assert list(by_job.values()) == [[f"logged {number}", f"printed {number}"] for number in numbers]
    assert sorted(map(int, numbers)) == list(range(20))
