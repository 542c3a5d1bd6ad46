"""Each row of the table in docs/from-celery-canvas.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobs_core import Flow, FlowHandle, chain, current_job, group, job
from jobs_core.flows import Chain, Group
from jobs_core.registry import Registry
from jobs_core.testing import JobsQueue

PAGE = (Path(__file__).parents[2] / "docs" / "from-celery-canvas.md").read_text()
REGISTRY = Registry()
ran: list[Any] = []


def stored(name: str, *, store_result: bool = True) -> Any:
    @job(registry=REGISTRY, name=f"canvas.{name}", store_result=store_result)
    def run(*args: Any) -> Any:
        ran.append((name, *args))
        if "fail" in args:
            raise ZeroDivisionError
        return [name, *args]

    return run


add, a, b, c, d = (stored(name) for name in ("add", "a", "b", "c", "d"))
a_many = stored("a_many")


@job(registry=REGISTRY, name="canvas.one_adds")
def adds() -> None:
    """A link that is replaced by a group."""
    current_job().flow.add(group(a.call(n) for n in range(2)))
    ran.append("adds")


NAMES: dict[str, Any] = {
    "add": add,
    "a": a,
    "b": b,
    "c": c,
    "d": d,
    "a_many": a_many,
    "x": [(1, 2), (3, 4)],
    "group": group,
    "chain": chain,
}
EXPECTED: dict[str, list[Any]] = {
    "chain(a.call(1), b.step(), c.step()).enqueue()": [("a", 1), ("b", ["a", 1]), ("c", ["b", ["a", 1]])],
    "group(a.call(n) for n in x).enqueue()": [("a", (1, 2)), ("a", (3, 4))],
    "group(a.call(n) for n in x).then(b.step()).enqueue()": [
        ("a", [1, 2]),
        ("a", [3, 4]),
        ("b", [["a", [1, 2]], ["a", [3, 4]]]),
    ],
    "chain(a.call(), group([b.step(), c.step()]), d.step())": [
        ("a",),
        ("b", ["a"]),
        ("c", ["a"]),
        ("d", [["b", ["a"]], ["c", ["a"]]]),
    ],
    "group(a.call(n) for n in x)": [("a", [1, 2]), ("a", [3, 4])],
    "group(a.call(*n) for n in x)": [("a", 1, 2), ("a", 3, 4)],
    "group(a_many.call(x[n : n + 100]) for n in range(0, len(x), 100))": [("a_many", [[1, 2], [3, 4]])],
}


@pytest.fixture
def queue():
    ran.clear()
    with JobsQueue() as queue:
        for function in (add, a, b, c, d, a_many, adds):
            queue.app.registry.add(function)
        yield queue


def rows() -> dict[str, str]:
    return dict(re.findall(r"^\| (`.*?) \| (.*) \|$", PAGE.replace(r"\|", "¦"), re.MULTILINE))


def codes() -> list[str]:
    return [code for cell in rows().values() for code in re.findall(r"`([^`]+)`", cell)]


def plain(value: Any) -> Any:
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("code", EXPECTED, ids=range(len(EXPECTED)))
def test_the_translation_runs_as_in_celery(code, queue):
    assert code in codes()
    made = eval(code, dict(NAMES))
    if isinstance(made, (Chain, Group)):
        made.enqueue()
    queue.drain()
    assert plain(ran) == plain(EXPECTED[code])


def test_what_a_link_adds_runs_before_what_waits_for_its_group_or_stage(queue):
    chain(adds.call(), b.call()).enqueue()
    queue.drain()
    assert ran == ["adds", ("b",), ("a", 0), ("a", 1)]  # the next link waits for the link alone
    waits = {"chain(c.call(), group(adds.call()), b.call())": [("c",)], "group(adds.call()).then(b.call())": []}
    for code, before in waits.items():
        ran.clear()
        eval(code, {**NAMES, "adds": adds}).enqueue()
        queue.drain()
        assert ran == [*before, "adds", ("a", 0), ("a", 1), ("b",)]
    ran.clear()
    with Flow() as flow:
        flow.add(adds.call(), stage="pages")
        flow.add(b.call(), after="pages")
    queue.drain()
    assert ran == ["adds", ("a", 0), ("a", 1), ("b",)]


def test_a_link_may_add_the_next_one_which_then_gets_the_results_of_the_additions(queue):
    def split() -> None:
        current_job().flow.add(group(a.call(n) for n in range(2)).then(b.step()))

    chain(c.call(), job(registry=queue.app.registry, name="canvas.split")(split).call()).enqueue()
    queue.drain()
    assert ran == [("c",), ("a", 0), ("a", 1), ("b", [["a", 0], ["a", 1]])]


@pytest.mark.parametrize("arguments", [(), ("fail",)])
def test_link_and_link_error_are_members_of_which_one_runs(arguments, queue):
    with Flow(headers={"tenant": "acme"}) as flow:
        one = flow.add(a.using(retries=0).call(*arguments))
        flow.add(b.call(one.result))
        flow.add(c.call(), after=one, when="failed")
        flow.add(d.call(), after=flow.all, when="ended")
    queue.drain(raise_errors=False)
    assert ran == ([("a", "fail"), ("c",), ("d",)] if arguments else [("a",), ("b", ["a"]), ("d",)])


def test_options_of_a_call_and_immutable_links_are_as_in_the_table(queue):
    assert 'add.using(delay=10, topic="slow").call(2)' in codes()
    chain(add.call(2, 3), add.step(3), add.call(2, 3), b.call()).enqueue()
    group(add.using(delay=10, topic="slow").call(2)).enqueue()
    queue.drain(["default"])
    assert plain(ran) == plain([("add", 2, 3), ("add", ["add", 2, 3], 3), ("add", 2, 3), ("b",)])
    assert queue.drain(["slow"]) == 0
    queue.drain(["slow"], scheduled=True)
    assert ran[-1] == ("add", 2)


def test_handles_tell_progress_and_results_and_cancel(queue):
    handle = group(a.call(n) for n in range(2)).then(b.call()).enqueue()
    queue.drain()
    assert (handle.progress().done, handle.result(1)) == (3, ["b"])
    handle = group(a.call(n) for n in range(2)).enqueue()
    assert handle.cancel()
    assert queue.drain() == 0
    assert FlowHandle.of(handle.id).status() == "cancelled"
