"""Faults that every broker knows: of the workers, and of the network. They work on a stage of any backend."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TypeVar

from ..support.project import until
from .stage import Stage

S = TypeVar("S", bound=Stage)


def in_turn(*acts: Callable[[S], None]) -> Callable[[S], None]:
    """Cause several faults, spread over the run."""

    def trouble(stage: S) -> None:
        for n, act in enumerate(acts, 1):
            stage.under_load(n / (len(acts) + 1))
            act(stage)
            stage.progress()

    return trouble


# -- workers ---------------------------------------------------------------------------------------


def kill_worker(stage: Stage) -> None:
    victim = stage.workers[0]
    victim.kill()
    stage.replace(victim)


def kill_busy_workers(jobs: int) -> Callable[[Stage], None]:
    """Kill two workers, one after the other, each while this many more jobs are under way."""

    def act(stage: Stage) -> None:
        for _ in range(2):
            before = stage.ledger.running()  # runs that a kill ended count as running forever
            stage.until_running(before + jobs)
            kill_worker(stage)

    return act


def freeze_worker(seconds: float) -> Callable[[Stage], None]:
    """Stop a worker until its lease expires: its jobs go to the other one, and it may settle nothing."""

    def act(stage: Stage) -> None:
        victim = stage.workers[0]
        victim.signal(signal.SIGSTOP)
        time.sleep(seconds)  # the silence itself
        victim.signal(signal.SIGCONT)

    return act


# -- the way to the broker ---------------------------------------------------------------------------


def cut(stage: Stage) -> None:
    stage.proxy.cut()


def flap(stage: Stage) -> None:
    """Cut the connections twenty times in four seconds, or for as long as there are jobs."""
    for _ in range(20):
        stage.proxy.cut()
        time.sleep(0.2)  # the pace of the flapping
        if stage.finished():
            break


def lose_reply_to(request: bytes) -> Callable[[Stage], None]:
    """Lose the reply to a request with these bytes: the broker has done what it asks."""

    def act(stage: Stage) -> None:
        stage.proxy.drop_reply(request)
        until(lambda: stage.proxy.dropped.is_set() or stage.finished(), 60.0)

    return act


def lose_packets(seconds: float) -> Callable[[Stage], None]:
    """Lose all bytes for longer than any time-out, with connections open."""

    def act(stage: Stage) -> None:
        stage.proxy.black_hole()
        time.sleep(seconds)  # the silence itself
        stage.proxy.heal()

    return act


def slow_down(stage: Stage) -> None:
    """Delay all bytes by a tenth of a second each way, for one job in fifty."""
    stage.proxy.delay(0.1, jitter=0.05)
    stage.progress(stage.producer.count // 50)
    stage.proxy.delay(0.0)
