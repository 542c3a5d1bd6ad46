"""The rows for Redis: faults of its server, of the network, and of its neighbours."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from redis.crc import key_slot

from jobs_core.testing.services import free_port
from jobs_core.testing.services.redis import RedisServer, cluster, sentinels, urls

from ..support.project import until
from ..support.proxy import Proxy
from . import flows, limits
from .stage import LEASE, Row, SetUp, Stage
from .supervised import Supervision
from .troubles import flap, freeze_worker, in_turn, kill_busy_workers, kill_worker, lose_packets, lose_reply_to, slow_down

ALWAYS = ("--appendfsync", "always")
"""Acknowledged jobs are on disk. With everysec, a killed server may lose what it was about to write."""


SILENCE = 4.5
"""Seconds: longer than the time-out of any command, and three leases."""

AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A master waits five seconds for more replicas before it sends the first its data."""


class RedisStage(Stage):
    """A private server, reached through a proxy; in some rows, with a replica."""

    server: RedisServer
    replica: RedisServer


Trouble = Callable[[RedisStage], None]


def _row(act: Trouble, *options: str, times: int = 1) -> Row:
    """Return a row with an act as its fault, done this many times while jobs arrive."""
    return lambda directory, count: _server(directory, in_turn(*[act] * times), options)


@contextlib.contextmanager
def _server(directory: Path, trouble: Trouble, options: tuple[str, ...]) -> Iterator[tuple[Stage, Trouble]]:
    with RedisServer(directory / "redis", *options) as server, Proxy(server.port) as proxy:
        stage = RedisStage(directory / "project", f"redis://127.0.0.1:{proxy.port}/0")
        stage.server, stage.proxy = server, proxy
        with stage:
            yield stage, trouble


AT_ONCE_IN_A_WORKER = 5000


@contextlib.contextmanager
def many_at_once_killed(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Kill workers with thousands of async jobs under way."""
    some = min(AT_ONCE_IN_A_WORKER, count // 4)
    options = ("--mode", "async", "--concurrency", str(AT_ONCE_IN_A_WORKER))
    with RedisServer(directory / "redis") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with Stage(directory / "project", url, options=options, job="awork", seconds=1.0) as stage:
            yield stage, kill_busy_workers(some)


# -- the server ------------------------------------------------------------------------------------


def kill_server(stage: RedisStage) -> None:
    stage.server.kill()
    stage.server.start()


def restart_server(stage: RedisStage) -> None:
    stage.server.shutdown()
    stage.server.start()


def long_outage(stage: RedisStage) -> None:
    """Refuse all connections for ten leases."""
    stage.server.kill()
    time.sleep(10 * LEASE)  # the outage itself
    stage.server.start()


def freeze_server(stage: RedisStage) -> None:
    """Stop the server for ten leases, with its connections open; afterwards all clocks but its own have moved on."""
    stage.server.signal(signal.SIGSTOP)
    time.sleep(10 * LEASE)  # the silence itself
    stage.server.signal(signal.SIGCONT)


def stall_server(stage: RedisStage, seconds: float = SILENCE) -> None:
    """Keep the server busy, so that it answers nothing."""
    with contextlib.suppress(OSError):
        stage.server.command("DEBUG", "SLEEP", str(seconds), timeout=0.2)
    until(stage.server.serves)


def stall_server_briefly(stage: RedisStage) -> None:
    """Keep the server busy for a lease."""
    stall_server(stage, LEASE)


def flush_scripts(stage: RedisStage) -> None:
    stage.server.command("SCRIPT", "FLUSH")


def fill_memory(stage: RedisStage) -> None:
    """Fill the memory while jobs wait: producers are refused, workers continue; then free it."""
    stage.server.command("CONFIG", "SET", "maxmemory", "1mb")
    until(lambda: stage.producer.errors)
    until(lambda: not stage.ledger.missing())
    stage.server.command("CONFIG", "SET", "maxmemory", "0")


def fill_disk(stage: RedisStage) -> None:
    """Let the append-only file grow no more; then let it grow again."""
    log = max(stage.server.append_only_files())
    told = stage.told()
    resource.prlimit(stage.server.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 1, resource.RLIM_INFINITY))
    stage.until_told("cannot save to its disk", told)
    resource.prlimit(stage.server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def turn_read_only(stage: RedisStage) -> None:
    """Make the server a replica of another master, and then a master again."""
    told = stage.told()
    stage.server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    stage.until_told("replica", told)
    stage.server.command("REPLICAOF", "NO", "ONE")


def hand_over(stage: RedisStage) -> None:
    """Exchange master and replica; connections to the old master stay open, and find that it refuses writes."""
    told = stage.told()
    until(lambda: stage.server.command("FAILOVER") == b"+OK")  # refused while the replica is not up to date
    stage.until_told("replica", told)
    stage.server, stage.replica = stage.replica, stage.server
    stage.proxy.target = "127.0.0.1", stage.server.port
    until(lambda: _is_master(stage.server))


# -- the way to it ---------------------------------------------------------------------------------


def kill_clients(stage: RedisStage) -> None:
    stage.server.command("CLIENT", "KILL", "TYPE", "normal")


lose_reply = lose_reply_to(b"EVALSHA")


# -- several servers -------------------------------------------------------------------------------


@contextlib.contextmanager
def _replicated(directory: Path, *options: str) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Yield a master and its replica, which has its data."""
    with (
        RedisServer(directory / "master", *AT_ONCE, *options) as master,
        RedisServer(directory / "replica", *AT_ONCE, *options, "--replicaof", "127.0.0.1", str(master.port)) as replica,
    ):
        until(lambda: master.command("WAIT", "1", "100") == b":1")
        yield master, replica


@contextlib.contextmanager
def handed_over(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Exchange master and replica twice: a planned failover."""
    with _replicated(directory) as (master, replica), Proxy(master.port) as proxy:
        stage = RedisStage(directory / "project", f"redis://127.0.0.1:{proxy.port}/0")
        stage.server, stage.proxy, stage.replica = master, proxy, replica
        with stage:
            yield stage, in_turn(hand_over, hand_over)


@contextlib.contextmanager
def failover(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Run a master, its replica and three sentinels, and kill the master. Pushes wait for the replica: nothing is lost."""
    with contextlib.ExitStack() as stack:
        master, replica = stack.enter_context(_replicated(directory))
        watchers = [stack.enter_context(one) for one in sentinels(directory, master)]
        until(lambda: all(_knows_all(one) for one in watchers))
        url = f"redis+sentinel://{urls(watchers)}/jobs?replicas=1"
        stage = stack.enter_context(Stage(directory / "project", url))

        def fail_over(stage: Stage) -> None:
            stage.under_load()
            master.kill()
            until(lambda: _is_master(replica), 180.0)  # a sentinel that stood still for 2 s does nothing for 30 s
            # The new master has no replica: start the old one as its replica.
            master.start("--replicaof", "127.0.0.1", str(replica.port))

        yield stage, fail_over


def _is_master(server: RedisServer) -> bool:
    """Return True if it has been promoted; a promotion closes all its connections, including that of this call."""
    try:
        return server.fact("role", "INFO", "replication") == "master"
    except ConnectionError:
        return False


def _knows_all(sentinel: RedisServer) -> bool:
    return "slaves=1,sentinels=3" in sentinel.text("INFO", "sentinel")


class ClusterStage(RedisStage):
    """Three masters."""

    nodes: list[RedisServer]

    def until_whole(self) -> None:
        until(lambda: all(node.fact("cluster_state", "CLUSTER", "INFO") == "ok" for node in self.nodes))


def _cluster(*acts: Callable[[ClusterStage], None]) -> Row:
    @contextlib.contextmanager
    def row(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
        nodes = cluster(directory, options=ALWAYS)
        try:
            stage = ClusterStage(directory / "project", f"redis+cluster://{urls(nodes)}")
            stage.nodes = nodes
            with stage:
                yield stage, in_turn(*acts)  # type: ignore[misc]  # the trouble is for this very kind of stage
        finally:
            for node in nodes:
                node.kill()

    return row


def kill_node(number: int) -> Callable[[ClusterStage], None]:
    def act(stage: ClusterStage) -> None:
        stage.nodes[number].kill()
        stage.nodes[number].start()
        stage.until_whole()

    return act


def move_slot(tag: str) -> Callable[[ClusterStage], None]:
    """Move all keys with a hash tag to another node; half way, neither has them all."""

    def act(stage: ClusterStage) -> None:
        stage.until_reached()  # a worker gives the reason once an outage: one still in the last outage would give none
        slot = key_slot(tag.encode())
        clients = [redis.Redis(port=node.port, decode_responses=True) for node in stage.nodes]
        ids = [client.execute_command("CLUSTER MYID") for client in clients]
        (source,) = (n for n, client in enumerate(clients) if client.execute_command("CLUSTER COUNTKEYSINSLOT", slot))
        target = (source + 1) % len(clients)
        told = stage.told()
        clients[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        clients[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])

        def move(keys: list[str]) -> None:
            for key in keys:
                clients[source].execute_command("MIGRATE", "127.0.0.1", stage.nodes[target].port, key, 0, 60_000)

        keys = clients[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
        move(keys[: len(keys) // 2])
        stage.until_told("on its way to another node", told)
        while keys := clients[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
            move(keys)
        for client in (clients[target], clients[source], *clients):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
        for client in clients:
            client.close()

    return act


@contextlib.contextmanager
def supervised(kind: type[Supervision], directory: Path, toml: str) -> Iterator[Supervision]:
    """Yield machines that share a server."""
    with RedisServer(directory / "redis", *ALWAYS) as server:

        def kill_and_start() -> None:
            server.kill()
            server.start()

        url = f"redis://127.0.0.1:{server.port}/0"
        with kind(directory / "machines", url, toml=toml, kill_broker=kill_and_start) as stage:
            yield stage


ROWS: dict[str, Row] = {
    "workers killed": _row(kill_worker, times=8),
    "workers killed, each with 5,000 jobs": many_at_once_killed,
    "worker frozen for two leases": _row(freeze_worker(2 * LEASE)),
    "server killed": _row(kill_server, *ALWAYS, times=5),
    "server restarted": _row(restart_server, times=3),
    "outage of ten leases": _row(long_outage, *ALWAYS),
    "server frozen for ten leases": _row(freeze_server),
    "server stalled for three leases": _row(stall_server),
    "scripts flushed": _row(flush_scripts, times=10),
    "memory full": _row(fill_memory),
    "disk full": _row(fill_disk),
    "server read-only for a while": _row(turn_read_only),
    "clients killed": _row(kill_clients, times=10),
    "connections flapping": _row(flap),
    "replies lost": _row(lose_reply, times=20),
    "packets lost in silence": _row(lose_packets(SILENCE)),
    "100 ms and more each way": _row(slow_down),
    "failover to the replica": handed_over,
    "failover by sentinels": failover,
    "cluster nodes killed": _cluster(*map(kill_node, range(3))),
    "cluster slots moved": _cluster(*map(move_slot, ("jobs:default", "jobs") * 3)),
    "1,000 limits, every process killed": limits.row(supervised),
    "10,000 flows, every process killed": flows.row(supervised),
}

EVERYTHING: tuple[Trouble, ...] = (
    kill_worker, lose_reply, kill_clients, flush_scripts, kill_server, lose_reply, turn_read_only, lose_packets(SILENCE),
    restart_server, lose_reply, kill_worker, slow_down, stall_server_briefly, lose_reply, kill_server,
)  # fmt: skip
"""Faults that one server can go through in one run, for `make test`."""


def everything_in_turn(directory: Path, count: int) -> SetUp:
    return _server(directory, in_turn(*EVERYTHING), ALWAYS)


def full(directory: Path, count: int) -> SetUp:
    return _server(directory, in_turn(fill_disk, fill_memory), ())


cluster_in_trouble = _cluster(move_slot("jobs:default"), kill_node(0), move_slot("jobs"))
