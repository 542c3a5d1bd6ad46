"""The comparison with other systems: its entries fit together, and writing one broker's tables leaves the others unchanged."""

from collections import Counter

from bench.peers import results, table
from bench.peers.brokers import BROKERS
from bench.peers.measures import MEASURES
from bench.peers.peers import PEERS
from bench.peers.run import ADAPTERS
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
