"""A run that does not end at its timeout counts as one attempt with that reason, however it is ended, and charges no other."""

from __future__ import annotations

import msgspec

from jobs_core import State

from ..support.project import TASKS, Project
from ..support.supervised import Supervised

MORE = """
import itertools

def began(text):
    record("start", text, current_job().attempt, current_job().redeliveries)

@job(timeout=0.3, retries=1, backoff=0.01)
def swallows(text: str):
    began(text)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

@job(timeout=0.3, retries=1, backoff=0.01)
def sleeps(text: str):
    began(text)
    time.sleep(600)

@job(timeout=0.3, retries=1, backoff=0.01)
def holds(text: str):
    began(text)
    sum(itertools.repeat(1, 10**12))  # C code that neither lets other threads run nor hears signals

@job(timeout=3.5, retries=1, backoff=0.01)
async def blocks(text: str):
    began(text)
    Path("blocks").touch()
    time.sleep(600)

@job(timeout=0.3, retries=1, backoff=0.01)
async def ignores(text: str):
    began(text)
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@job(timeout=30, retries=0)
async def waits(text: str):
    began(text)
    await asyncio.sleep(1.0)
    record("end", text)

@job(timeout=3.0, retries=0)
def plain_beside(text: str):
    began(text)
    while not Path("blocks").exists():
        time.sleep(0.01)
    record("end", text)

@job(timeout=3.0, retries=0)  # the time that a busy machine has until `blocks` runs
async def waits_beside(text: str):
    began(text)
    if not Path("blocked").exists():
        Path("blocked").touch()
        await asyncio.sleep(600)
    record("end", text)
"""

POOLS = """
[pools.default]
timeout_grace = "300ms"
[pools.held]
topics = ["held"]
timeout_grace = "300ms"
[pools.threads]
topics = ["threads"]
mode = "threads"
concurrency = 4
timeout_grace = "300ms"
[pools.loop]
topics = ["loop"]
mode = "async"
concurrency = 4
timeout_grace = "300ms"
[pools.blocked]
topics = ["blocked"]
mode = "async"
concurrency = 4
timeout_grace = "300ms"
"""


def test_a_run_that_is_ended_for_its_timeout_is_one_attempt_and_its_neighbours_are_charged_nothing(project: Project):
    (project.root / "tasks.py").write_text(TASKS + MORE)
    project.configure(POOLS)
    watched = Supervised(project)
    cases = {"swallows": "default", "holds": "held", "sleeps": "threads", "ignores": "loop"}
    for job, topic in cases.items():
        project.push(job, job, topic=topic)
    for topic in ("threads", "loop"):
        project.push("waits", f"beside in {topic}".replace(" ", "-"), topic=topic)
    # Their time is up, and they are not guilty: another one has blocked the loop.
    project.push("waits_beside", "innocent", topic="blocked")
    project.until(lambda: (project.root / "blocked").exists())
    in_loop = [("plain_beside", "ends"), ("blocks", "blocks"), ("plain_beside", "begins")]
    project.push_many([(name, (text,), {"topic": "blocked"}) for name, text in in_loop])
    for job, topic in {**cases, "blocks": "blocked"}.items():
        project.until(lambda topic=topic: project.dead(topic), 60.0)
        (letter,) = project.dead(topic)
        starts = [line.split()[2:] for line in project.ledger() if line.startswith(f"start {job} ")]
        assert starts == [["1", "0"], ["2", "0"]], (job, starts)
        assert (letter.reason, letter.attempt, letter.crashes) == ("timeout", 2, 0), job
        (_, error) = [msgspec.json.decode(each) for each in letter.errors]
        assert f"in {job}" in error["traceback"], "the stack of the run that did not end"
    beside = ("innocent", "ends", "begins", "beside-in-threads", "beside-in-loop")
    project.until_noted(*(f"end {text}" for text in beside))
    for text in beside:
        starts = [line.split()[2:] for line in project.ledger() if line.startswith(f"start {text} ")]
        assert {tuple(start) for start in starts} == {("1", "0")}, (text, starts)

    # Likewise for a job that an operator cancels by force.
    (forced, asked) = project.push_many([("nap", (600, text), {"topic": "threads"}) for text in ("forced", "asked")])
    app = project.app()
    project.until(lambda: {"start forced", "start asked"} <= {line.rpartition(" ")[0] for line in project.ledger()})
    assert app.cancel(asked) is State.RESERVED
    assert app.cancel(forced, force=True) is State.RESERVED
    project.until(lambda: app.status(forced) is State.CANCELLED)
    project.until(lambda: app.status(asked) is State.CANCELLED)
    assert watched.stop() == 0
