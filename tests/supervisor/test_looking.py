"""A real supervisor seen from outside: probes, metrics, `status`, `top`, `stack`; none of them disturbs it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from jobs_core.scoreboard.writer import start_ticks
from jobs_core.testing.services import freeze
from jobs_core.testing.services.redis import RedisServer

from ..support.project import PATIENCE
from ..support.stopwatch import Stopwatch
from ..support.supervised import Supervised, gone, kill

OPENMETRICS = "application/openmetrics-text"


class Watched(Supervised):
    """A supervisor with an HTTP child on a unix socket."""

    def __init__(self, project, toml="", **more):
        project.configure(f'{toml}\n[http]\nlisten = "unix:http.sock"', **more)
        super().__init__(project)

    def get(self, target, accept=""):
        """Return status and body."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.project.root / "http.sock"))
            connection.sendall(f"GET {target} HTTP/1.1\r\nAccept: {accept}\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    def until_answers(self, target, status):
        self.project.until(lambda: self._may_get(target) == status)

    def _may_get(self, target):
        try:
            return self.get(target)[0]
        except OSError:
            return None

    def metric(self, sample, **labels):
        """Return the sum of a metric's samples with these labels, read by an independent parser."""
        families = parse_openmetrics(self.get("/metrics", OPENMETRICS)[1])
        return sum(
            each.value
            for family in families
            for each in family.samples
            if each.name == sample and labels.items() <= each.labels.items()
        )

    def status(self):
        return json.loads(self.project.run("status", "--json").stdout)


# -- probes --------------------------------------------------------------------------------------


def test_a_hanging_broker_makes_a_supervisor_unready_within_10_s_and_leaves_it_alive(project, tmp_path):
    with RedisServer(tmp_path / "redis") as server:
        watched = Watched(project, backend=f'backend = "redis://127.0.0.1:{server.port}"')
        watched.until_answers("/readyz", 200)
        assert watched.metric("jobs_backend_up") == 1
        freeze(server.pid)
        watch = Stopwatch()
        try:
            while watched.get("/readyz")[0] == 200:
                assert watched.get("/livez")[0] == 200
                assert watch.seconds < 10
            while "backend: it " not in watched.get("/readyz")[1]:  # workers may first report that they are offline
                assert watched.get("/livez")[0] == 200
                assert watch.seconds < 10
            watch.stop()
            assert watched.get("/livez")[0] == 200
            assert watched.metric("jobs_backend_up") == 0
            assert any("the backend has not answered" in trouble for trouble in watched.status()["troubles"])
        finally:
            os.kill(server.pid, signal.SIGCONT)
        watched.until_answers("/readyz", 200)
        assert watched.stop() == 0


def test_readiness_follows_an_operators_commands_and_liveness_does_not(project):
    watched = Watched(project)
    watched.until_answers("/readyz", 200)
    assert watched.get("/startupz")[0] == 200
    assert project.run("quiet").returncode == 0
    project.until(lambda: "taking: an operator told it to take no new jobs\n" in watched.get("/readyz")[1])
    assert watched.get("/readyz")[0] == 503
    assert watched.get("/livez")[0] == watched.get("/startupz")[0] == 200
    assert project.run("quiet", "--off").returncode == 0
    watched.until_answers("/readyz", 200)


def test_probes_end_with_a_killed_supervisor(project):
    watched = Watched(project)
    watched.until_answers("/livez", 200)
    http = watched.until(lambda board: board.supervisor.http_pid)
    ticks = start_ticks(http)
    watched.kill()
    project.until(lambda: gone(http, ticks))
    assert project.run("status").returncode == 3


def test_a_killed_http_child_is_back_and_ends_with_the_rest(project):
    watched = Watched(project)
    watched.until_answers("/readyz", 200)
    first = watched.until(lambda board: board.supervisor.http_pid)
    kill(first)
    watched.until(lambda board: board.supervisor.http_pid not in (0, first))
    watched.until_answers("/readyz", 200)
    assert watched.stop() == 0
    assert watched._may_get("/livez") is None


def test_an_address_in_use_is_reported_and_the_jobs_run(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        project.configure(f'[http]\nlisten = "127.0.0.1:{port}"')
        supervised = Supervised(project)
        supervised.until(lambda board: board.supervisor.helper_errors)
        assert (
            f"! probes and metrics are not served: http.listen: 127.0.0.1:{port} cannot be used" in project.run("status").stdout
        )
        project.push("note", "runs")
        project.until_noted("note runs")


def test_an_address_that_cannot_be_stops_a_start_and_a_reload(project):
    project.configure('[http]\nlisten = ":9000"')
    refused = project.run("start")
    assert refused.returncode == 2
    assert 'has no host: write "127.0.0.1:9000"' in refused.stderr
    watched = Watched(project)
    watched.until_answers("/readyz", 200)
    project.configure('[http]\nlisten = ":9000"')
    refused = project.run("reload")
    assert refused.returncode == 2
    assert "has no host" in refused.stderr
    assert watched.get("/readyz")[0] == 200
    watched.process.signal(signal.SIGHUP)
    watched.until(lambda board: "has no host" in board.supervisor.last_refusal)
    assert watched.get("/readyz")[0] == 200


# -- metrics -------------------------------------------------------------------------------------


def test_counters_never_go_back_and_end_exact_while_workers_come_and_go(project):
    watched = Watched(project, "[pools.default]\nworkers = 3\nmax_jobs = 7")
    jobs = 300
    project.push_many([("note", (f"n{number}",), {}) for number in range(jobs)])
    labels = {"topic": "default", "job": "tasks.note", "outcome": "done"}
    seen = [0.0]

    def all_are_done(_):
        seen.append(watched.metric("jobs_finished_total", **labels))
        assert seen[-1] >= seen[-2], seen
        return seen[-1] >= jobs

    watched.until(all_are_done, 2 * PATIENCE)
    watched.until(lambda board: not any(worker.state == "releasing" for worker in board.supervisor.workers))
    assert watched.metric("jobs_finished_total", **labels) == jobs
    assert watched.metric("jobs_run_seconds_count", topic="default", job="tasks.note") == jobs
    assert watched.metric("jobs_wait_seconds_count", topic="default", job="tasks.note") == jobs
    assert watched.metric("jobs_worker_restarts_total", pool="default", reason="max_jobs") > jobs / 7 / 2
    assert watched.metric("jobs_worker_crashes_total") == 0
    assert watched.status()["jobs"]["done"] == jobs


def test_a_job_that_kills_its_workers_shows_in_metrics_and_status(project):
    tasks = (project.root / "tasks.py").read_text()
    (project.root / "tasks.py").write_text(tasks + "\n@job\ndef crash():\n    os.kill(os.getpid(), 11)\n")
    watched = Watched(project, "max_redeliveries = 2")
    job_id = project.push("crash")
    project.until(lambda: len(project.dead()) == 1)
    project.until(lambda: watched.metric("jobs_finished_total", job="(not run)", outcome="dead") == 1)
    assert watched.metric("jobs_worker_crashes_total") == 2
    assert watched.metric("jobs_redelivered_total") == 2
    text = project.run("status").stdout
    assert re.search(rf"\(default\): killed by SIGSEGV, peak memory \d+ MB; ran tasks.crash {job_id}\n", text), text
    assert "Crashes (2 in all)" in text


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_counters_continue_when_the_supervisor_restarts(project, end):
    tasks = (project.root / "tasks.py").read_text()
    (project.root / "tasks.py").write_text(tasks + "\n@job\ndef crash():\n    os.kill(os.getpid(), 11)\n")
    watched = Watched(project, "max_redeliveries = 2")
    project.push("crash")
    project.push("note", "one")
    project.until(lambda: len(project.dead()) == 1)
    project.until_noted("note one")
    done = {"job": "tasks.note", "outcome": "done"}
    watched.until(lambda board: watched.metric("jobs_finished_total", **done) == 1)
    http = watched.until(lambda board: board.supervisor.http_pid)
    assert project.run("reload").returncode == 0
    watched.until(lambda board: board.supervisor.reloads.get("done") == 1 and board.supervisor.crashed == 2)
    watched.until(lambda board: board.supervisor.http_pid not in (0, http))  # the old one resets the connections that it has
    watched.until_answers("/readyz", 200)
    names = ("jobs_worker_crashes_total", "jobs_redelivered_total", "jobs_worker_restarts_total")
    before = {name: watched.metric(name) for name in names}
    assert before["jobs_worker_crashes_total"] == 2
    getattr(watched, end)()
    again = Watched(project, "max_redeliveries = 2")
    again.until_answers("/readyz", 200)
    assert all(again.metric(name) >= value for name, value in before.items())
    assert again.metric("jobs_worker_crashes_total") == 2
    assert again.metric("jobs_reload_total", result="done") == 1
    again.until(lambda board: again.metric("jobs_finished_total", **done) == 1)


# -- status, top, stack --------------------------------------------------------------------------


def test_status_names_the_job_that_each_worker_runs(project):
    watched = Watched(
        project, "[pools.default]\nworkers = 2\n[pools.many]\ntopics = ['many']\nmode = 'async'\nconcurrency = 500"
    )
    job_id = project.push("nap", 600, "long")
    project.push_many([("anap", (600, "x"), {"topic": "many"}) for _ in range(300)])
    watched.until(lambda board: sum(view.running_count for view in board.workers) == 301)
    watched.until(lambda board: board.backlog and board.backlog.topics["many"].reserved == 300)
    found = watched.status()
    (busy,) = [worker for worker in found["workers"] if worker["pool"] == "default" and worker["running_count"]]
    assert busy["pid"] == watched.worker_of("long")
    assert busy["state"] == "busy"
    assert [(entry["id"], entry["job"]) for entry in busy["running"]] == [(job_id, "tasks.nap")]
    assert {pool["name"] for pool in found["pools"]} == {"default", "many"}
    assert found["topics"]["many"]["reserved"] == 300
    assert found["troubles"] == []
    project.until(lambda: all(worker["memory"] for worker in watched.status()["workers"]))
    text = project.run("status").stdout
    assert "3 workers, 2 busy with 301 jobs" in text
    assert re.search(r"300 jobs \d+ s", text)
    assert "and 291 more" in text
    page = project.run("top", "--once", "--interval", "0.1").stdout
    assert "3 workers, 2 busy with 301 jobs" in page
    assert "last minute" in page


def test_stack_shows_the_tasks_of_an_async_worker_and_the_line_where_a_sync_one_hangs(project):
    watched = Watched(project, "[pools.default]\n[pools.many]\ntopics = ['many']\nmode = 'async'\nconcurrency = 500")
    project.push("nap", 600, "long")
    project.push_many([("anap", (600, "x"), {"topic": "many"}) for _ in range(300)])
    watched.until(lambda board: sum(view.running_count for view in board.workers) == 301)
    pids = {view.header.pool: view.header.pid for view in watched.workers()}
    hanging = project.run("stack", str(pids["default"])).stdout
    assert re.search(
        r"Current thread MainThread \(0x\w+\) \(most recent call first\):\n  File \".*tasks.py\", line \d+ in nap\n", hanging
    )
    assert "no code of the application: jobs-courier" in hanging
    many = project.run("stack", str(pids["many"])).stdout
    assert "\n300 tasks:\n" in many
    group = many.split("\n300 tasks:\n")[1].splitlines()
    assert [line.rpartition(" in ")[2] for line in group[:2]] == ["sleep", "anap"]
    assert group[2].startswith("  … and ")
    for stranger in (watched.pid, watched.board().supervisor.template_pid, os.getpid()):
        assert project.run("stack", str(stranger)).returncode == 2
    assert set(pids.values()) == watched.pids()  # all processes are alive


def test_a_worker_that_cannot_boot_is_distinguished_from_one_that_crashes(project):
    tasks = (project.root / "tasks.py").read_text()
    (project.root / "tasks.py").write_text(tasks + "\nif Path('broken').exists():\n    raise RuntimeError('no database')\n")
    watched = Watched(project, "[pools.default]\npreload = false")
    (project.root / "broken").touch()
    kill(next(iter(watched.pids())))
    watched.until(lambda board: board.supervisor.pools[0].cannot_boot)
    text = project.run("status").stdout
    assert re.search(r"^! pool default: its workers cannot boot(; next try in .*)?: .*no database", text, re.MULTILINE), text
    project.until(lambda: watched.get("/readyz")[0] == 503)
    assert "pool default: no worker is serving" in watched.get("/readyz")[1]
    assert watched.get("/livez")[0] == 200
    (project.root / "broken").unlink()
    watched.until_answers("/readyz", 200)
    project.until(lambda: "cannot boot;" not in project.run("status").stdout)


def test_a_stopping_supervisor_names_the_jobs_that_it_waits_for(project):
    watched = Watched(project)
    project.push("nap", 600, "long")
    project.until(lambda: any(line.startswith("start long") for line in project.ledger()))
    watched.until_answers("/readyz", 200)
    watched.process.signal(signal.SIGTERM)
    watched.until_answers("/readyz", 503)
    assert "taking: it is stopping\n" in watched.get("/readyz")[1]
    text = project.run("status").stdout
    assert text.startswith("jobs 0.1.0 is stopping: up ")
    assert re.search(r"stopping +tasks.nap \d+ s", text), text
    watched.process.signal(signal.SIGQUIT)
    watched.process.wait()
