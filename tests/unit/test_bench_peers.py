"""The comparison with other systems: its entries fit together, and writing one broker's tables leaves the others unchanged."""

import json
import subprocess
import sys
from collections import Counter

import pytest
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


def test_every_broker_has_a_place_in_the_page():
    page = table.PAGE.read_text()
    for broker in BROKERS:
        assert page.count(table.BEGIN.format(broker)) == page.count(table.END.format(broker)) == 1


def test_tables_are_written_between_their_broker_s_marks_alone(tmp_path, monkeypatch):
    ours = next(peer for peer in PEERS if peer.name == "jobs" and peer.broker == "rabbitmq")
    monkeypatch.setattr(results, "FILE", tmp_path / "results" / "peers.json")
    monkeypatch.setattr(results, "versions", lambda peer: ["jobs-core 0.0"])
    results.begin("drain", [ours], forget=True)
    for rate in (1000.0, 3000.0, 2000.0):
        results.add("drain", ours, {"jobs/s": rate})
    page = "".join(f"{table.BEGIN.format(name)}of {name}\n{table.END.format(name)}" for name in ("redis", "rabbitmq"))
    monkeypatch.setattr(table, "PAGE", tmp_path / "page.md")
    table.PAGE.write_text(page)
    table.write()
    written = table.PAGE.read_text()
    assert "of redis" in written
    assert "of rabbitmq" not in written
    assert "| jobs | 2,000 (1,000–3,000) | quorum queues;" in written


def test_rows_are_compared_within_their_rounds():
    ours = {
        "settings": "a",
        "figures": {"jobs/s": [300.0, 100.0, 500.0]},
        "rounds": [{"begun": n, "load": 9.0} for n in (1, 2, 3)],
    }
    peer = {"settings": "b", "figures": {"jobs/s": [100.0, 50.0]}, "rounds": [{"begun": n, "load": 21.0} for n in (1, 3)]}
    text = table._table("Title", {"jobs": ours, "peer": peer}, compared=True)
    assert "| jobs | 300 (100–500) | – | a |" in text
    assert "| peer | 75 (50–100) | 6.50 (3–10) | b |" in text
    assert "Load average of the machine meanwhile: 9 to 21." in text


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
        kept = {"settings": "as usual", "versions": [], "fields": bloat.Sample._fields, "samples": samples}
        (tmp_path / f"{name}.json").write_text(json.dumps(kept))
    bloat.keep()
    kept = json.loads((tmp_path / "kept").read_text())
    assert [each["name"] for each in kept] == names
    assert kept[0]["points"][0]["rate"] == pytest.approx(10.0)


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
