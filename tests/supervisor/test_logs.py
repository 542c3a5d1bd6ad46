"""The log of a real supervisor: the jobs' output, wherever they write it, and the messages to systemd."""

from __future__ import annotations

import json
import signal
import socket

import pytest

from ..support.project import Project, until

TASKS = """
import logging, logging.config, os, subprocess
from jobs_core import job

logging.config.dictConfig({
    "version": 1, "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
})

@job
def talk(number):
    print("printed", number)
    logging.getLogger("shop").info("logged %d", number)
    print("unfinished", number, end="")

@job
def program(text):
    subprocess.run(["sh", "-c", f"echo out {text}; echo err {text} >&2; cat"], check=True)
    subprocess.run(["true"], check=True)

@job(retries=0)
def crash():
    print("the last words")
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def shop(tmp_path):
    made = Project(tmp_path / "shop", TASKS)
    yield made
    made.close()


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("preload", ["true", "false"])
def test_the_output_of_jobs_is_logged_once_with_their_job(shop, preload):
    """Also if the application logs to standard error by itself, and if it is imported once or in each worker."""
    shop.configure(f'[logs]\nfile = "logs/jobs.log"\nformat = "json"\n[pools.default]\nworkers = 2\npreload = {preload}')
    log = shop.root / "logs" / "jobs.log"
    supervisor = shop.start("start")
    ids = shop.push_many([("talk", (number,), {}) for number in range(20)])
    shop.push("program", "ü\x1b[31m")
    until(lambda: sum(entry["logger"] in ("shop", "jobs.output") for entry in entries(log)) >= 62)
    assert supervisor.stop() == 0
    said = [entry for entry in entries(log) if entry["logger"] in ("shop", "jobs.output")]
    for number, job_id in enumerate(ids):
        mine = [entry for entry in said if entry.get("job_id") == job_id and "attempt" in entry]
        assert [entry["message"] for entry in mine] == [f"printed {number}", f"logged {number}", f"unfinished {number}"]
        assert {(entry["job"], entry["topic"], entry["attempt"]) for entry in mine} == {("tasks.talk", "default", 1)}
        assert all("-default-" in entry["worker"] for entry in mine)
    raw = [entry for entry in said if "attempt" not in entry]
    assert [entry["message"] for entry in raw] == ["out ü\\x1b[31m", "err ü\\x1b[31m"]
    assert all("-default-" in entry["worker"] for entry in raw)
    assert len(said) == 62, "no line twice"
    assert supervisor.output.startswith("jobs: running in the foreground, logging to ")
    assert len(supervisor.lines) == 1


@pytest.mark.parametrize("when", ["at import", "in a job"])
def test_no_logging_configuration_of_an_application_silences_a_failed_job(tmp_path, when):
    silence = 'logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL", "handlers": []}})'
    tasks = f"""
import logging.config
from jobs_core import job

{silence if when == "at import" else ""}

@job
def silences():
    {silence}

@job(retries=0)
def fails():
    raise ValueError("boom in the job")
"""
    project = Project(tmp_path / "silent", tasks)
    try:
        project.configure('[logs]\nfile = "jobs.log"')
        log = project.root / "jobs.log"
        supervisor = project.start("start")
        project.push("silences")
        project.push("fails")
        until(lambda: log.exists() and "boom in the job" in log.read_text())
        assert supervisor.stop() == 0
        assert log.read_text().count("is dead after 1 attempt ") == 1, "no line twice"
    finally:
        project.close()


def test_usr1_continues_in_a_new_file(shop):
    shop.configure('logs.file = "jobs.log"')
    log, moved = shop.root / "jobs.log", shop.root / "moved.log"
    supervisor = shop.start("start")
    shop.push("talk", 1)
    until(lambda: log.exists() and "unfinished 1" in log.read_text())
    log.rename(moved)
    supervisor.signal(signal.SIGUSR1)
    until(log.exists)
    shop.push("talk", 2)
    until(lambda: "unfinished 2" in log.read_text())
    assert supervisor.stop() == 0
    assert "printed 2" not in moved.read_text()


def test_the_last_output_of_a_worker_is_in_the_dead_letter(shop):
    shop.configure("max_redeliveries = 1")
    supervisor = shop.start("start")
    shop.push("crash")
    [dead] = until(shop.dead)
    report = next(error for error in map(json.loads, dead.errors) if error.get("log"))
    assert report["log"][-1].endswith("] the last words")
    assert supervisor.stop() == 0


def test_a_service_manager_is_told_of_start_reload_and_stop(shop, tmp_path):
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(30)
    shop.configure('logs.file = "jobs.log"')

    def told(word):
        while not (heard := listening.recv(4096).decode()).startswith(word):
            assert heard.split("=")[0] in ("WATCHDOG", "STATUS", "EXTEND_TIMEOUT_USEC", "READY"), heard
        return heard

    supervisor = shop.start("start", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="2000000")
    told("READY=1")
    told("WATCHDOG=1")
    assert shop.run("reload").returncode == 0
    told("RELOADING=1\nMONOTONIC_USEC=")
    told("READY=1")
    told("WATCHDOG=1")
    assert supervisor.stop() == 0
    told("STOPPING=1")
    listening.close()
