"""A lifespan that is told to be given up: while it is being entered, and afterwards."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from jobs_core.worker.lifespan import Lifespan


@pytest.mark.parametrize("own", [False, True])
def test_only_resources_that_are_not_open_yet_are_given_up(own):
    done = []

    @asynccontextmanager
    async def manager():
        yield
        done.append("leaving")
        lifespan.give_up()  # a first signal that comes after the last job
        await asyncio.sleep(0.01)
        done.append("cleaned up")

    loop = None if own else asyncio.new_event_loop()
    lifespan = Lifespan(manager(), loop)
    assert lifespan.enter()
    lifespan.leave()
    assert done == ["leaving", "cleaned up"]
    if loop is not None:
        loop.close()


def test_one_that_is_being_entered_is_given_up():
    done = []

    @asynccontextmanager
    async def manager():
        lifespan.give_up()
        try:
            await asyncio.sleep(3600)
        finally:
            done.append("cancelled")
        yield

    loop = asyncio.new_event_loop()
    lifespan = Lifespan(manager(), loop)
    assert not lifespan.enter()
    assert done == ["cancelled"]
    loop.close()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), SystemExit("over")], ids=repr)
@pytest.mark.parametrize("when", ["start", "end"])
@pytest.mark.parametrize("own", [False, True])
def test_errors_that_end_a_process_end_neither_the_loop_nor_the_wait_for_it(own, when, error, caplog):
    @asynccontextmanager
    async def manager():
        if when == "start":
            raise error
        yield
        raise error

    loop = None if own else asyncio.new_event_loop()
    lifespan = Lifespan(manager(), loop)
    if when == "start":
        with pytest.raises(RuntimeError, match=rf"the application's lifespan raised {type(error).__name__}"):
            lifespan.enter()
    else:
        lifespan.enter()
        lifespan.leave()
        assert f"raised {type(error).__name__}" in caplog.text
    if loop is not None:
        assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"
        loop.close()
