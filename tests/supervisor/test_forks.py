"""State that a worker does not share with others of the same template, and what it does before it ends."""

from __future__ import annotations

from ..support.project import TASKS, Project, until
from ..support.supervised import Supervised

FLUSHING = (
    TASKS
    + """
import atexit, tempfile
SHARED = tempfile.TemporaryDirectory()
atexit.register(lambda: record("flushed", os.getpid()))

@job
def register(text: str):
    record("worker", os.getpid())
    atexit.register(lambda: record("own", os.path.isdir(SHARED.name)))
"""
)

DRAWING = (
    TASKS
    + """
import random, secrets, tempfile, uuid
import numpy.random
random.seed(1)

def draw():
    yield random.random()
    yield random.getrandbits(64)
    yield next(tempfile._get_candidate_names())
    yield uuid.uuid4()
    yield secrets.token_hex()
    yield numpy.random.rand()

list(draw())  # whatever is made on first use is made in the template
uuid.uuid1()

@job
def drawn():
    record("drawn", os.getpid(), *draw())
    while not (Path(__file__).parent / "go").exists():
        time.sleep(0.01)
"""
)

NUMPY = """
from random import Random
_rand = Random(1)
seed, rand = _rand.seed, _rand.random
"""
"""The part of numpy that matters here: a module-level generator that knows nothing of forks."""


def test_exit_functions_run_in_every_worker_that_ends_by_itself(project: Project):
    (project.root / "tasks.py").write_text(FLUSHING)
    project.configure("pools.default.max_jobs = 2")
    supervised = Supervised(project)
    for number in (1, 2, 3):
        project.push("register", "x")
        until(lambda number=number: len(of(project, "worker")) == number)
    assert project.run("reload").returncode == 0
    until(lambda: len(of(project, "flushed")) >= 2)
    project.push("register", "x")
    until(lambda: len(of(project, "worker")) == 4)
    supervised.stop()
    assert set(of(project, "worker")) <= set(of(project, "flushed"))
    assert len(of(project, "flushed")) == len(set(of(project, "flushed"))), "once in each"
    assert of(project, "own") == ["True"] * 4, "and nobody has removed what the template made"


def of(project: Project, kind: str) -> list[str]:
    return [line.split()[1] for line in project.ledger() if line.startswith(f"{kind} ")]


def test_no_two_workers_draw_the_same_random_numbers(project: Project):
    (project.root / "tasks.py").write_text(DRAWING)
    (project.root / "numpy").mkdir()
    (project.root / "numpy" / "__init__.py").touch()
    (project.root / "numpy" / "random.py").write_text(NUMPY)
    project.configure("pools.default.workers = 3")
    supervised = Supervised(project)
    project.push_many([("drawn", (), {}) for _ in range(3)])
    until(lambda: len(of(project, "drawn")) == 3)
    (project.root / "go").touch()
    rows = [line.split()[1:] for line in project.ledger() if line.startswith("drawn")]
    for column in zip(*rows, strict=True):
        assert len(set(column)) == 3, rows
    supervised.stop()
