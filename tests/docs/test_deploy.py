"""The files in deploy/: their queries use metrics and labels that we export, and Prometheus itself evaluates them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jobs_core.backends.outbox import OutboxState
from jobs_core.cli.main import OURS
from jobs_core.scoreboard.state import LimitFigures, read_board
from jobs_core.supervisor.http import metrics
from jobs_core.testing.services import program

from ..supervisor.test_metrics import full
from ..support.board import FakeBoard
from ..support.http import fetch
from ..support.project import Project, until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "jobs.rules.yml"
OF_PROMETHEUS = {"up": {"job", "instance"}}
"""Series that Prometheus makes itself, with their labels; `instance` is on all."""


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> dict[str, float]:
    """Every series that a busy installation exports, as PromQL writes it, with its value."""
    board = FakeBoard(tmp_path_factory.mktemp("board") / "run")
    full(board)
    board.backlog.has_lines = True
    board.backlog.limits = [LimitFigures("stripe", 2, 5), LimitFigures("stripe:acme", 1, 3)]
    board.backlog.flows = {"waiting": 3, "active": 2, "done": 1, "dead": 0, "cancelled": 0}
    board.backlog.outbox = OutboxState(3, 12.5, 1)
    board.write()
    text = metrics.exposition(read_board(board.run_dir), lease=30, openmetrics=True)
    board.close()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {**sample.labels, "instance": "web1:9000"}
            found[sample.name + "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"] = (
                sample.value
            )
    return found


TASKS = """
from jobs_core import job

@job
def works():
    pass

@job(limits="few")
def limited():
    pass
"""

ELSEWHERE = {"jobs_worker_restarts_total", "jobs_outbox_oldest_age_seconds"}
"""Metrics with samples only after something that does not happen here, or with a database that is not here."""


def test_every_metric_in_these_files_is_exported_by_a_running_supervisor(tmp_path):
    project = Project(tmp_path / "project", TASKS)
    try:
        project.configure(
            '[http]\nlisten = "unix:http.sock"\n[limits.few]\nconcurrency = 1\n'
            '[pools.default]\ntopics = ["default"]\nworkers = 1\n'
        )
        project.start("start").until_said(" ready: ")
        project.here("push", "tasks.works")
        project.here("push", "tasks.limited")
        used = {name for query in QUERIES.values() for name in re.findall(r"\b((?:jobs|process)_\w+)", query)}

        def missing() -> set[str]:
            text = fetch(project.root / "http.sock", "/metrics", {"Accept": metrics.OPENMETRICS})
            exported = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
            return used - exported - ELSEWHERE

        until(lambda: not missing())
    finally:
        project.close()


@pytest.fixture
def promtool() -> str:
    return program("promtool", "prometheus")


def dashboard() -> Iterator[tuple[str, str]]:
    """Yield the title and each query of every panel, with the dashboard's variables filled in."""
    board = json.loads((DEPLOY / "grafana" / "jobs.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = re.sub(r"\$(topic|job|pool)", ".*", target["expr"].replace("$__rate_interval", "5m"))
            yield f"{panel['title']} {target['refId']}", query


def queries() -> Iterator[tuple[str, str]]:
    yield from dashboard()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    keda = yaml.safe_load((DEPLOY / "kubernetes" / "keda.yaml").read_text())
    yield from ((f"keda {n}", trigger["metadata"]["query"]) for n, trigger in enumerate(keda["spec"]["triggers"]))
    _, adapter = yaml.safe_load_all((DEPLOY / "kubernetes" / "hpa.yaml").read_text())
    for rule in adapter["rules"]["external"]:
        yield "hpa", rule["metricsQuery"].replace("<<.LabelMatchers>>", 'topic="mail"')


QUERIES = dict(queries())


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_uses_metrics_and_labels_that_are_exported(series, name):
    known: dict[str, set[str]] = {**OF_PROMETHEUS}
    for each in series:
        metric, _, labels = each.partition("{")
        known.setdefault(metric, set()).update(re.findall(r"(\w+)=", labels))
    query = QUERIES[name]
    used = re.findall(r"\b((?:jobs|process)_\w+|up\b)(?:\{([^}]*)\})?", query)
    assert used, query
    for metric, selectors in used:
        assert metric in known, f"{name}: {metric} is not exported"
        assert set(re.findall(r"(\w+)=~?\"", selectors)) <= known[metric]
    grouped = {
        label.strip() for labels in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", query) for label in labels.split(",")
    }
    assert grouped <= set().union(*(known[metric] for metric, _ in used))


def test_prometheus_finds_data_for_every_panel(series, promtool, tmp_path):
    """Series as we export them, growing if they are counters; every query of the dashboard has a result."""
    growing = ("_total", "_bucket", "_count", "_sum")
    inputs = [
        {"series": name, "values": f"{value:g}+{10 if name.partition('{')[0].endswith(growing) else 0}x60"}
        for name, value in series.items()
    ]
    tests = [
        {"expr": f"count({query}) > bool 0", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": 1}]}
        for _, query in dashboard()
    ]
    file = tmp_path / "panels.test.yml"
    document = {"rule_files": [], "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": tests}]}
    file.write_text(yaml.safe_dump(document))
    done = subprocess.run([promtool, "test", "rules", str(file)], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alert_rules_pass_their_tests(promtool):
    for command in (["check", "rules", RULES.name], ["test", "rules", "jobs.rules.test.yml"]):
        done = subprocess.run([promtool, *command], cwd=RULES.parent, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire():
    tests = yaml.safe_load(RULES.with_name("jobs.rules.test.yml").read_text())["tests"]
    fired = {each["alertname"] for test in tests for each in test.get("alert_rule_test", ()) if each["exp_alerts"]}
    rules = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert fired == rules


def test_every_command_that_an_alert_names_exists():
    named = set(re.findall(r"jobsctl (\w+)", RULES.read_text()))
    assert named
    assert named <= set(OURS)


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    panels = json.loads((DEPLOY / "grafana" / "jobs.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for one, other in itertools.combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
