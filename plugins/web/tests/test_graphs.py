"""The graph of a flow: every member is in it, it stays small, and lines lead down."""

from __future__ import annotations

import random

import pytest

from jobs_core.backends.flows import After, MemberStatus
from jobs_web.graphs import MOST, WIDTH, drawn


def chain(length, state="done"):
    return [
        MemberStatus(f"m{number}", state, "shop.step", after=(After(f"m{number - 1}"),) if number else ())
        for number in range(length)
    ]


def wide(number, stage=""):
    after = After(stage, "stage") if stage else After("*", "all")
    return [
        MemberStatus("first", "done", "a"),
        *(MemberStatus(f"w{n}", "ready", "b", stage=stage, after=(After("first"),)) for n in range(number)),
        MemberStatus("last", "waiting", "c", after=(after,), finale=not stage),
    ]


def stages(number):
    return [
        MemberStatus(f"s{n}-{m}", "done", f"job {m}", stage=f"stage {n}", after=(After("s0-0"),) if n else ())
        for n in range(number)
        for m in range(3)
    ]


def tangle(number, seed):
    """A flow in which anything is after anything that was added before it."""
    chosen = random.Random(seed)
    states = ["done", "dead", "waiting", "reserved", "ready", "cancelled", "limited", "scheduled"]
    return [
        MemberStatus(
            f"m{n}",
            chosen.choice(states),
            f"job {n % 7}",
            stage=chosen.choice(["", "", "x", "y"]),
            after=tuple(
                After(f"m{chosen.randrange(n)}", ended=chosen.random() < 0.2) for _ in range(min(n, chosen.randrange(4)))
            ),
        )
        for n in range(number)
    ]


FLOWS = {
    "nothing": [],
    "one": chain(1),
    "a chain": chain(10),
    "a chain of a thousand": chain(1000),
    "a chain that waits": [*chain(400), *chain(500, "waiting")[400:], *chain(501, "dead")[500:]],
    "wide": wide(998),
    "a stage": wide(998, "thumbs"),
    "many stages": stages(333),
    **{f"tangle {seed}": tangle(10 ** (1 + seed % 3), seed) for seed in range(12)},
}


@pytest.mark.parametrize("members", FLOWS.values(), ids=FLOWS)
def test_every_member_is_drawn_once_in_a_small_graph_whose_lines_lead_down(members):
    graph = drawn(members)
    assert sorted(each.id for node in graph.nodes for each in node.members) == sorted(each.id for each in members)
    assert len(graph.nodes) <= MOST * 1.3
    for one in graph.nodes:
        assert 0 <= one.x <= graph.width - WIDTH
        for other in graph.nodes:
            assert one is other or one.y != other.y or abs(one.x - other.x) >= WIDTH, (one.label, other.label)
    for line in graph.lines:
        begin, end = line.path.removeprefix("M").partition("C")[0].split(), line.path.rpartition("C")[2].split()
        assert float(begin[1]) < float(end[-1])
    assert sum(number for _, number in graph.states) == len(members)


def test_lines_that_follow_from_others_are_left_out():
    graph = drawn([
        MemberStatus("a", "done"),
        MemberStatus("b", "done", after=(After("a"),)),
        MemberStatus("c", "ready", after=(After("a"), After("b"))),
    ])  # fmt: skip
    assert len(graph.lines) == 2


def test_the_finale_stands_below_all_others():
    graph = drawn(wide(3))
    rows = {node.id: node.row for node in graph.nodes}
    assert rows == {"first": 0, "w0": 1, "w1": 1, "w2": 1, "last": 2}
    assert len(graph.lines) == 6


def test_what_went_wrong_has_a_box_of_its_own_in_a_wide_row():
    members = wide(900)
    members[500] = MemberStatus("w499", "dead", "b", after=(After("first"),))
    graph = drawn(members)
    assert "w499" in {node.id for node in graph.nodes}
    assert "900" in graph.text or "899" in graph.text
    assert "1 dead" in graph.text


@pytest.mark.parametrize(
    "after", [(After("b"),), (After("a"),), (After("nobody"), After("none", "stage")), (After("*", "all"),)]
)
def test_a_flow_that_makes_no_sense_is_drawn_all_the_same(after):
    graph = drawn([MemberStatus("a", "odd", after=after), MemberStatus("b", "", after=(After("a"),))])
    assert len(graph.nodes) == 2
