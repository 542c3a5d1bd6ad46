"""Real supervisors, workers and producers, which export to another process: contexts cross every border."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.support.http import fetch

RECEIVER = Path(__file__).with_name("receiver.py")
TELEMETRY = """
import os
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

def configure():
    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{os.environ['RECEIVER']}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    trace.set_tracer_provider(provider)
"""
TASKS = """
from pathlib import Path
from jobs_core import current_job, job

@job(topic="sync", retries=1, backoff=0.01)
def plain():
    if current_job().attempt == 1:
        raise ConnectionError("once")

@job(topic="threads")
def threaded():
    current_job().enqueue(followed)

@job(topic="async")
async def waits():
    await plain.aenqueue()

@job(topic="async")
async def followed():
    with Path("followed").open("a") as file:
        file.write("once\\n")

@job(topic="sync")
def ticks():
    Path("ticked").touch()
"""
SHOP = """
import telemetry, tasks
from opentelemetry import trace
from jobs_core import Flow

telemetry.configure()
with trace.get_tracer("shop").start_as_current_span("request"):
    tasks.plain.enqueue()
    tasks.threaded.enqueue()
    tasks.waits.enqueue()
    with Flow() as flow:
        flow.add(tasks.followed.call(), after=flow.add(tasks.plain.call()))
trace.get_tracer_provider().shutdown()
"""
POOLS = """
[pools.one]
topics = ["sync"]
workers = 1
[pools.two]
topics = ["threads"]
workers = 1
mode = "threads"
[pools.three]
topics = ["async"]
workers = 1
mode = "async"
"""


class Spans:
    """The spans that the receiver has been sent."""

    def __init__(self, file: Path, port: str) -> None:
        self._file = file
        self.port = port

    def all(self) -> list[dict]:
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []

    def find(self, name: str, job: str = "") -> list[dict]:
        return [span for span in self.all() if span["name"] == name and job in ("", span["job"].removeprefix("tasks."))]


@pytest.fixture
def start(project) -> Callable[..., tuple]:
    """Start a receiver and a project with telemetry."""

    def start(settings: str = "", more: str = "", preload: str = "true") -> tuple:
        made = project(TASKS)
        pools = POOLS.replace("workers = 1", f"workers = 1\npreload = {preload}")
        (made.root / "telemetry.py").write_text(TELEMETRY)
        (made.root / "shop.py").write_text(SHOP)
        made.configure(f'[plugins.opentelemetry]\nsetup = "telemetry:configure"\n{settings}{pools}{more}')
        receiver = made.start_python(str(RECEIVER), str(made.root / "spans"))
        port = receiver.until_said("listens at ").rpartition(" ")[2]
        return made, Spans(made.root / "spans", port)

    return start


@pytest.mark.parametrize("preload", ["true", "false"])
def test_context_crosses_producers_forks_pools_retries_follow_ups_and_flows(start, preload):
    project, spans = start(preload=preload)
    project.start("start", RECEIVER=spans.port).until_said(" ready: ")
    shop = project.start_python("shop.py", RECEIVER=spans.port)
    assert shop.wait() == 0, shop.output
    project.until(lambda: (project.root / "followed").exists() and (project.root / "followed").read_text() == "once\n" * 2)
    project.until_empty("sync", "threads", "async")
    assert spans.find("process sync") == [], "exported before the worker's end"
    project.here("stop")

    (request,) = spans.find("request")
    sends = {span["job"]: span for span in spans.all() if span["name"].startswith("send") and span["parent"] == request["span"]}
    for job, topic in {"threaded": "threads", "waits": "async"}.items():
        (run,) = spans.find(f"process {topic}", job)
        assert (run["parent"], run["links"]) == ("", [sends[f"tasks.{job}"]["span"]])
        assert run["trace"] != request["trace"]
    (waits,) = spans.find("process async", "waits")
    (again,) = [span for span in spans.find("send sync") if span["parent"] == waits["span"]]
    for origin in (sends["tasks.plain"], again):
        runs = [span for span in spans.find("process sync", "plain") if span["links"] == [origin["span"]]]
        assert sorted((run["attempt"], run["outcome"]) for run in runs) == [(1, "retry"), (2, "done")]
    (threaded,) = spans.find("process threads")
    creates = {span["span"]: span["parent"] for span in spans.find("create async")}
    assert sorted(creates.values()) == sorted([threaded["span"], request["span"]])
    assert sorted(run["links"] for run in spans.find("process async", "followed")) == sorted([span] for span in creates)
    (member,) = spans.find("create sync")
    assert member["parent"] == request["span"]
    assert len([span for span in spans.find("process sync", "plain") if span["links"] == [member["span"]]]) == 2


def test_jobs_of_the_schedule_are_linked_to_the_housekeepers_spans_and_with_parent_in_its_traces(start):
    project, spans = start("parent = true\n", '[schedule.tick]\njob = "tasks.ticks"\nevery = "1s"\n')
    project.start("start", RECEIVER=spans.port).until_said(" ready: ")
    project.until((project.root / "ticked").exists)
    project.here("stop")
    creates = {span["span"]: span for span in spans.find("create sync")}
    runs = spans.find("process sync", "ticks")
    assert runs
    assert all(run["parent"] in creates and run["trace"] == creates[run["parent"]]["trace"] for run in runs)


def test_metrics_of_the_supervisor_name_the_trace_of_a_run_that_the_receiver_was_sent(start):
    project, spans = start(more='\n[http]\nlisten = "unix:http.sock"\n')
    project.start("start", RECEIVER=spans.port).until_said(" ready: ")
    assert project.start_python("shop.py", RECEIVER=spans.port).wait() == 0
    project.until_empty("sync", "threads", "async")

    def traces() -> set[tuple[str, str]]:
        text = fetch(project.root / "http.sock", "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples if each.exemplar]
        assert {each.name for each in samples} <= {"jobs_run_seconds_bucket"}
        return {(each.labels["job"], each.exemplar.labels["trace_id"]) for each in samples}

    project.until(lambda: len({job for job, _ in traces()}) == 4)
    found = traces()
    assert "trace_id" not in fetch(project.root / "http.sock", "/metrics", {"Accept": "text/plain"})
    project.here("stop")
    ran = {(span["job"], span["trace"]) for span in spans.all() if span["name"].startswith("process ")}
    assert found <= ran


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        ("from opentelemetry.sdk.trace import TracerProvider; from opentelemetry import trace; trace.set_tracer_provider("
         "TracerProvider())", ""),
        ("pass", "no spans are recorded: there is no tracer provider, telemetry:configure has set none"),
        ("raise ValueError('no endpoint')", "telemetry:configure raised ValueError: no endpoint"),
        (None, "plugins.opentelemetry.setup: module telemetry has no function 'configure'"),
    ],
    ids=["good", "sets nothing", "fails", "is missing"],
)  # fmt: skip
def test_check_calls_setup_and_says_if_nothing_would_be_recorded(project, setup, told):
    made = project(TASKS)
    (made.root / "telemetry.py").write_text(f"def configure():\n    {setup}\n" if setup else "")
    made.configure('[plugins.opentelemetry]\nsetup = "telemetry:configure"\n')
    done = made.run("check")
    assert done.returncode == 0, "a warning is no failure"
    assert told in done.stdout
    assert ("! plugins" in done.stdout) is bool(told)


def test_a_setup_that_ends_the_process_of_check_is_named(project):
    made = project(TASKS)
    (made.root / "telemetry.py").write_text("import os\ndef configure():\n    os._exit(3)\n")
    made.configure('[plugins.opentelemetry]\nsetup = "telemetry:configure"\n')
    done = made.run("check")
    assert done.returncode == 2
    assert "hook jobs_check ended the process (exit code 3)" in done.stdout
