"""Pools that grow and shrink, with real workers."""

from __future__ import annotations

import itertools
import re

from ..support.project import Project
from ..support.supervised import Supervised

POOL = 'pools.default = { workers = { min = 1, max = 6 }, grow_age = "500ms", shrink_after = "1s" }'


def steps(supervised: Supervised) -> list[tuple[int, int]]:
    """Return every change of the pool's size, from and to, in order."""
    found = re.findall(r"pool default is (?:growing|shrinking) from (\d+) to (\d+) workers", supervised.process.output)
    return [(int(before), int(after)) for before, after in found]


def test_a_square_wave_of_load_is_met_in_steps_and_let_go(project: Project):
    project.configure(POOL)
    supervised = Supervised(project)
    for wave in range(2):
        project.push_many([("held", (f"{wave}",), {}) for _ in range(160)])
        supervised.until_serving(6)
        (project.root / "go").touch()
        project.until_empty()
        (project.root / "go").unlink()
        supervised.until_serving(1)
    assert supervised.stop() == 0
    assert project.times("end 0") == project.times("end 1") == 160
    assert len([line for line in project.ledger() if line.startswith("start")]) == 320, "a busy worker was made to leave"
    grown = [after > before for before, after in steps(supervised)]
    turns = sum(one != other for one, other in itertools.pairwise(grown))
    assert grown[0]
    assert turns == 3, steps(supervised)  # up, down, up, down: one per edge
    assert [after for before, after in steps(supervised) if after > before][:4] == [2, 3, 4, 6]


def test_busy_workers_are_not_made_to_leave(project: Project):
    project.configure(POOL)
    supervised = Supervised(project)
    project.push_many([("nap", (4.0, "long"), {}) for _ in range(4)])
    supervised.until(lambda board: sum("start" in line for line in project.ledger()) == 4)
    project.until_empty()
    assert project.times("end long") == 4
    assert sum(line.startswith("start") for line in project.ledger()) == 4
    supervised.until_serving(1)
    supervised.stop()


def test_one_pool_does_not_starve_another(project: Project):
    """The first is at its maximum and behind; the second still grows for its own backlog."""
    project.configure(
        'pools.greedy = { topics = ["greedy"], workers = { min = 1, max = 2 }, grow_age = "500ms" }\n'
        'pools.other = { topics = ["other"], workers = { min = 1, max = 3 }, grow_age = "500ms" }'
    )
    supervised = Supervised(project)
    project.push_many([("nap", (600.0, "greedy"), {"topic": "greedy"}) for _ in range(100)])
    supervised.process.until_said("pool greedy is growing from 1 to 2")
    project.push_many([("held", ("other",), {"topic": "other"}) for _ in range(20)])
    supervised.process.until_said("pool other is growing from 2 to 3")
    (project.root / "go").touch()
    project.until(lambda: project.times("end other") == 20)
    assert project.times("end greedy") == 0
    project.run("exit")
