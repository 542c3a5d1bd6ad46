"""The rows for RabbitMQ: faults of its node, of the network, and of its neighbours."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs_core.testing.services.rabbitmq import RabbitMQNode

from ..support.project import Process, until
from ..support.proxy import Proxy
from .stage import Row, Stage
from .troubles import cut, flap, freeze_worker, in_turn, kill_busy_workers, kill_worker, lose_packets, lose_reply_to, slow_down

HEARTBEAT = 2
"""Seconds; pika notices silence after five more."""

TASKS = '''
"""Jobs that keep a ledger; some of them are a burden."""
import asyncio, os, time
from pathlib import Path
from jobs_core import current_job, job

RUNS, BURDENS = (
    os.open(Path(__file__).parent / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("runs", "burdens")
)

def record(what, file=RUNS):
    os.write(file, f"{what} {current_job().id}\\n".encode())

@job
def work(seconds: float = 0.0):
    record("start")
    time.sleep(seconds)
    record("end")

@job
async def awork(seconds: float = 0.0):
    record("start")
    await asyncio.sleep(seconds)
    record("end")

@job(retries=3, backoff=1.0)
def stumble():
    record("start")
    if not current_job().attempt > 1:
        raise ConnectionError("come back")
    record("end")

@job
def rest(seconds: float):
    record("start", BURDENS)
    time.sleep(seconds)
    record("end", BURDENS)

@job
def hold(seconds: float, pause: float = 0.0):
    """Hold the interpreter for about a second at a time, for ten seconds between pauses."""
    record("start", BURDENS)
    number, longest, end = 1_000_000, 0.0, time.monotonic() + seconds
    rests = time.monotonic() + 10.0
    while time.monotonic() < end:
        begin = time.monotonic()
        sum(range(number))
        held = time.monotonic() - begin
        number, longest = int(number / max(0.01, held)), max(longest, held)
        if begin > rests:
            time.sleep(pause)
            rests = time.monotonic() + 10.0
    os.write(BURDENS, f"longest {longest:.1f} s\\n".encode())
    record("end", BURDENS)

@job
def poison():
    os.abort()
'''


class RabbitMQStage(Stage):
    """A private virtual host, reached through a proxy."""

    node: RabbitMQNode
    nodes: Sequence[RabbitMQNode]
    """Of rows on a cluster."""


Trouble = Callable[[RabbitMQStage], None]


@contextlib.contextmanager
def _on_node(
    node: RabbitMQNode, directory: Path, trouble: Trouble, query: str, stage_options: Mapping[str, Any]
) -> Iterator[tuple[RabbitMQStage, Trouble]]:
    """Return a stage on a running node."""
    with Proxy(node.port) as proxy:
        url = node.url(node.make_vhost(), port=proxy.port)
        stage = RabbitMQStage(directory / "project", f"{url}?heartbeat={HEARTBEAT}{query}", **stage_options)
        (stage.project.root / "tasks.py").write_text(TASKS)
        stage.node, stage.proxy = node, proxy
        with stage:
            yield stage, trouble


def on(node: RabbitMQNode, trouble: Trouble, **stage_options: Any) -> Row:
    """Return a row on an existing node."""
    return lambda directory, count: _on_node(node, directory, trouble, "", stage_options)


def _row(act: Trouble, *, times: int = 1, query: str = "", config: str = "", **stage_options: Any) -> Row:
    """Return a row on a private node with an act as its fault, done this many times while jobs arrive."""

    @contextlib.contextmanager
    def row(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
        trouble = in_turn(*[act] * times)
        with (
            RabbitMQNode(directory / "rabbitmq", config=config) as node,
            _on_node(node, directory, trouble, query, stage_options) as set_up,
        ):
            yield set_up

    return row


def _three_nodes(trouble: Trouble) -> Row:
    """Return a row on a cluster of three nodes, each of which is named in the URL."""

    @contextlib.contextmanager
    def row(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
        with contextlib.ExitStack() as stack:
            nodes = [stack.enter_context(RabbitMQNode(directory / "rabbitmq-1"))]
            nodes += [stack.enter_context(RabbitMQNode(directory / f"rabbitmq-{n}", joins=nodes[0])) for n in (2, 3)]
            hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
            url = f"amqp://guest:guest@{hosts}/{nodes[0].make_vhost()}?heartbeat={HEARTBEAT}"
            stage = RabbitMQStage(directory / "project", url)
            (stage.project.root / "tasks.py").write_text(TASKS)
            stage.nodes = nodes
            with stage:
                yield stage, trouble

    return row


def at_once(jobs: int) -> dict[str, Any]:
    """Return options of a stage whose workers run this many jobs at once, for a second each."""
    return {"options": ("--mode", "async", "--concurrency", str(jobs)), "job": "awork", "seconds": 1.0}


# -- workers ---------------------------------------------------------------------------------------


def poison(stage: RabbitMQStage) -> None:
    """Enqueue a job that kills every worker that runs it: it is found and set aside, and its neighbours finish."""
    from jobs_core.message import new_message

    app = stage.project.app()
    message = new_message("tasks.poison", "default", [], {})
    app._producer.push([app.outgoing(message)], 30.0)

    def found() -> bool:
        for worker in list(stage.workers):
            if not worker.alive():
                stage.replace(worker)
        return message.id in stage.dead()

    until(found, 120.0)
    record = next(record for record in app.operate(lambda b: b.browse("default", _dead(), 100)) if record.id == message.id)
    assert record.reason == "crashed", record.reason


def _dead() -> object:
    from jobs_core.backends.base import State

    return State.DEAD


# -- the node --------------------------------------------------------------------------------------


def kill_node(stage: RabbitMQStage) -> None:
    stage.node.kill()
    stage.node.start()


def restart_application(stage: RabbitMQStage) -> None:
    stage.node.control("stop_app")
    stage.node.control("start_app")


def long_outage(stage: RabbitMQStage) -> None:
    stage.node.kill()
    time.sleep(15.0)  # the outage itself
    stage.node.start()


def stall_node(stage: RabbitMQStage) -> None:
    """Stop the node for a while: it does not answer."""
    stage.node.signal(signal.SIGSTOP)
    time.sleep(5 * HEARTBEAT)  # the stall itself
    stage.node.signal(signal.SIGCONT)


def memory_alarm(stage: RabbitMQStage) -> None:
    """Raise the memory alarm: producers wait or are refused, workers continue; then clear it."""
    stage.node.control("set_vm_memory_high_watermark", "absolute", "1")
    until(lambda: stage.producer.errors or stage.producer.sent >= stage.producer.count, 60.0)
    stage.node.control("set_vm_memory_high_watermark", "absolute", "1GB")


def disk_alarm(stage: RabbitMQStage) -> None:
    stage.node.control("set_disk_free_limit", "1000000GB")
    until(lambda: stage.producer.errors or stage.producer.sent >= stage.producer.count, 60.0)
    stage.node.control("set_disk_free_limit", "20MB")


def kill_nodes_in_turn(stage: RabbitMQStage) -> None:
    """Kill each node once, including the queues' leader and those of all connections; two of three are always up."""
    for number, node in enumerate(stage.nodes):
        stage.under_load(0.2 * (number + 1))
        node.kill()
        stage.progress(100)
        node.start()


# -- the way to it ---------------------------------------------------------------------------------


def close_connections(stage: RabbitMQStage) -> None:
    stage.node.control("close_all_connections", "test")


lose_confirm = lose_reply_to(b"jobs.default")
"""The node has the message, but its confirm is lost: the message is sent again."""


def nothing(stage: RabbitMQStage) -> None:
    """Do nothing: the jobs are the fault."""


# -- long jobs -------------------------------------------------------------------------------------


def long_jobs(seconds: float, pause: float = 0.0) -> Trouble:
    """Run one job that waits and one that holds the interpreter lock, for this long each: no connection is lost.

    `pause` is the time between two stretches of ten seconds that hold it.
    """

    def trouble(stage: RabbitMQStage) -> None:
        from jobs_core.message import new_message

        app = stage.project.app()
        long = [new_message("tasks.rest", "default", [seconds], {}), new_message("tasks.hold", "default", [seconds, pause], {})]
        app._producer.push([app.outgoing(message) for message in long], 30.0)
        extra = stage.project.worker()
        stage.workers.append(extra)
        burdens = stage.project.root / "burdens"
        until(lambda: burdens.read_text().count("end ") >= len(long), seconds + 60.0)
        said = burdens.read_text()  # with the longest stretch: on a busy machine, a second becomes several
        told = "\n".join(worker.output for worker in stage.workers)
        assert all(said.count(message.id) == 2 for message in long), f"a long job ran twice: {said}\n{told}"
        for worker in stage.workers:
            assert not lost(worker), worker.output

    return trouble


def lost(worker: Process) -> bool:
    """Return True if a worker has reported that it lost the broker."""
    return any(word in worker.output for word in ("cannot be reached", "fallen silent", "does not answer"))


ROWS: dict[str, Row] = {
    "workers killed": _row(kill_worker, times=8),
    "workers killed, each with 5,000 jobs": _row(kill_busy_workers(5000), **at_once(5000)),
    "worker frozen until given up": _row(freeze_worker(4 * HEARTBEAT)),
    "a job that kills its workers": _row(poison),
    "node killed": _row(kill_node, times=3),
    "node killed, classic queues": _row(kill_node, times=3, query="&queues=classic"),
    "node's application restarted": _row(restart_application, times=2),
    "each of three nodes killed": _three_nodes(kill_nodes_in_turn),
    "outage of 15 s and a boot": _row(long_outage),
    "node stalled": _row(stall_node),
    "memory alarm": _row(memory_alarm),
    "disk alarm": _row(disk_alarm),
    "connections closed by the operator": _row(close_connections, times=5),
    "connections flapping": _row(flap),
    "confirms lost": _row(lose_confirm, times=20),
    "packets lost in silence": _row(lose_packets(5 * HEARTBEAT)),
    "100 ms and more each way": _row(slow_down),
    "every job fails once": _row(nothing, job="stumble"),
    "jobs of 60 s at a heartbeat of 2 s, one holding the interpreter": _row(long_jobs(60.0)),
}

ASIDE: dict[str, Row] = {
    "jobs of two hours at a heartbeat of 2 s, one holding the interpreter": _row(
        long_jobs(7200.0, pause=50.0), config=f"consumer_timeout = {3 * 3600 * 1000}\n"
    ),
}
"""Rows that take too long to run by default."""

SHORT: tuple[Trouble, ...] = (kill_worker, cut, lose_confirm, close_connections, kill_worker, kill_node, lose_confirm, cut)
"""Short rows: `make test` runs them all in one go."""

__all__ = ["HEARTBEAT", "ROWS", "SHORT", "at_once", "in_turn", "kill_busy_workers", "long_jobs", "lose_packets", "on", "poison"]
