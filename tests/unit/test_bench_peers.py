"""The benchmarks' page: entries of peers fit together, and the tables are what the kept figures say."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter

import pytest
from bench import everything, goals, kept, page
from bench.peers import bloat, results, table
from bench.peers.brokers import BROKERS, Running
from bench.peers.measures import MEASURES
from bench.peers.peers import PEERS
from bench.peers.run import ADAPTERS, PeerRun
from bench.peers.venvs import OURS


def test_every_peer_has_its_adapter_its_broker_and_known_measures():
    for peer in PEERS:
        assert (ADAPTERS / f"{peer.adapter}.py").exists()
        assert peer.broker in BROKERS
        assert peer.broker in OURS
        assert set(peer.measures) <= set(MEASURES)


def test_no_two_peers_share_a_row():
    rows = Counter((peer.broker, measure, peer.name) for peer in PEERS for measure in peer.measures)
    assert [row for row, count in rows.items() if count > 1] == []


def test_every_part_has_its_place_in_the_page():
    text = page.PAGE.read_text()
    for name in (*goals.PARTS, *(f"peers on {broker}" for broker in BROKERS), "api", "web"):
        assert text.count(f"<!-- {name}: begin -->\n") == text.count(f"<!-- {name}: end -->\n") == 1
    assert page.README.read_text().count("<!-- figures: begin -->\n") == 1


def test_the_pages_are_what_the_kept_figures_say():
    assert page.written() == {path: path.read_text() for path in (page.PAGE, page.README)}


def test_the_kept_figures_name_no_place_of_the_machine():
    for path in kept.DIRECTORY.glob("*.json"):
        text = path.read_text()
        for private in ("/home", "/tmp", "/root", "/work", "127.0.0.1", "localhost", "@"):
            assert private not in text, path.name


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Return a function that keeps rounds of a measure of a peer; the page and the figures are temporary."""
    monkeypatch.setattr(kept, "DIRECTORY", tmp_path)
    monkeypatch.setattr(results, "versions", lambda peer: ["jobs-core 0.0"])

    def keep(broker, measure, name, **rounds):
        peer = next(peer for peer in PEERS if (peer.broker, peer.name) == (broker, name) and measure in peer.measures)
        results.begin(measure, [peer], forget=not results.load(broker).get(measure))
        for values in zip(*rounds.values(), strict=True):
            results.add(measure, peer, dict(zip(rounds, values, strict=True)), 1.0, 2.0)  # begun long ago

    return keep


def test_tables_are_written_between_their_broker_s_marks_alone(tmp_path, monkeypatch, measured):
    measured("rabbitmq", "drain", "jobs", **{"jobs/s": (1000.0, 3000.0, 2000.0)})
    measured("rabbitmq", "drain", "dramatiq", **{"jobs/s": (500.0,)})
    blocks = "".join(
        f"<!-- {name}: begin -->\nof {name}\n<!-- {name}: end -->\n" for name in ("peers on redis", "peers on rabbitmq")
    )
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.PAGE.write_text(blocks)
    written = page.written()[page.PAGE]
    assert "of peers on redis" in written
    assert "of peers on rabbitmq" not in written
    assert "| jobs | 2,000 (1,000–3,000) | quorum queues;" in written
    assert "#### No-op jobs, drained (1970-01-01)" in written
    assert "- No-op jobs a second: 2,000; best of the others 500 (Dramatiq), 4 times apart." in written


def test_the_table_of_the_readme_compares_the_best_rows_of_each_system(measured):
    def rows(*names):
        return {name: {"settings": "", "figures": {"jobs/s": [float(rate)]}} for name, rate in names}

    records = {broker: {} for broker in BROKERS}
    assert table.best(records) == []
    records["redis"] = {
        "drain": rows(("jobs", 50), ("jobs, two workers", 90), ("celery", 3), ("celery, tuned", 5), ("huey", 7), ("rq", 7)),
        "enqueue": {
            name: {"settings": "", "figures": {"one by one, jobs/s": [rate]}} for name, rate in (("jobs", 2.0), ("rq", 4.0))
        },
        "latency": {name: {"settings": "", "figures": {"p50, ms": [ms]}} for name, ms in (("jobs", 0.5), ("celery", 1.25))},
        "kill": {name: {"settings": "", "figures": {"not run": [lost]}} for name, lost in (("jobs", 0), ("celery", 9))},
    }
    records["rabbitmq"] = {"drain": rows(("jobs", 1), ("celery", 1))}
    records["postgres"] = {"drain": rows(("jobs", 1), ("oban", 1)), "enqueue": records["redis"]["enqueue"]}
    lines = table.best(records)
    assert lines[2] == "| Redis: no-op jobs a second | 90 | 7 (RQ and 1 more) | 5 |".replace("RQ", "Huey")
    assert lines[3] == "| Redis: enqueues a second, one by one | 2 | 4 (RQ) | |"
    assert lines[4] == "| Redis: from enqueue to start, ms | 0.50 | 1.25 (Celery) | 1.25 |"
    assert len(lines) == 2 + 7


def test_a_missed_goal_is_marked():
    what, (sign, bound) = next(iter(goals.GOALS.items()))
    worse = bound * 2 if sign == "≤" else bound / 2
    assert page.ours({what: [worse]}).endswith("**missed** |")
    assert "missed" not in page.ours({what: [bound]})


def test_every_part_of_a_session_names_what_there_is():
    for part in everything.PARTS.values():
        module, *words = part.command.split()
        assert importlib.util.find_spec(module)
        assert {word for word in words if word.isalpha()} <= {*MEASURES, *BROKERS}
    measured = {measure for peer in PEERS if peer.broker == "redis" for measure in peer.measures}
    assert measured == {word for part in ("redis", "features") for word in everything.PARTS[part].command.split()} & {*MEASURES}


def test_every_goal_belongs_to_a_part_that_is_measured():
    assert {*goals.PART_OF.values()} == {*goals.PARTS}
    assert {*goals.PART_OF} == {*goals.SCENARIOS}


def test_the_curve_has_a_point_for_each_minute():
    samples = [bloat.Sample(10.0 * n, 1000 * n, 0.5 * n, 2.0, 0, 1.0) for n in range(14)]
    points = bloat.points(samples)
    assert [(point["minute"], point["jobs"], point["rate"], point["cpu"]) for point in points] == [
        (1.0, 6000, 100.0, 500.0),
        (2.0, 12000, 100.0, 500.0),
    ]


def test_the_curve_is_kept_in_the_order_of_the_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(bloat, "RESULTS", tmp_path)
    monkeypatch.setattr(bloat, "DATA", tmp_path / "kept")
    names = [peer.name for peer in PEERS if peer.bloat]
    for name in reversed(names):
        samples = [bloat.Sample(0.0, 0, 0.0, 1.0, 0, 1.0), bloat.Sample(60.0, 600, 6.0, 1.0, 9, 2.0)]
        found = {"settings": "as usual", "versions": [], "fields": bloat.Sample._fields, "samples": samples}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    bloat.keep()
    curves = json.loads((tmp_path / "kept").read_text())
    assert [each["name"] for each in curves] == names
    assert curves[0]["points"][0]["rate"] == pytest.approx(10.0)


def test_a_worker_set_includes_processes_that_show_a_title_in_place_of_their_environment(tmp_path):
    ours = next(peer for peer in PEERS if peer.name == "jobs" and peer.broker == "redis")
    child = "import setproctitle, sys; setproctitle.setproctitle('x' * 2000); print('here', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    made = PeerRun(ours, tmp_path, Running("redis://127.0.0.1:1/0", tmp_path))
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as worker:
        made.workers.append(worker)
        try:
            assert worker.stdout
            assert worker.stdout.readline() == b"here\n"
            assert len(made.processes()) == 2
        finally:
            made.kill()
    assert made.processes() == []
