"""A queue that lives inside one process is not the command's to act on: commands refuse it, and say what to do instead."""

import pytest

from jobs_core.backends.memory import forget
from jobs_core.ids import new_token

LOST = """
from jobs_core import current_job, job

@job
def add(a: int): return a

@job
def follow():
    add.enqueue(1)
    current_job().enqueue(add, 2)
"""

ID = "0123456789abcdef"
ACTING = {
    "push": ["push", "tasks.add", "1"],
    "push lines": ["push", "--json", "lines"],
    "setup": ["setup"],
    "topics": ["topics"],
    "pause": ["pause", "default"],
    "resume": ["resume", "default"],
    "purge": ["purge", "default", "--yes"],
    "list": ["list", "default"],
    "show": ["show", ID],
    "why": ["why", ID],
    "result": ["result", ID],
    "cancel": ["cancel", ID],
    "dead list": ["dead", "list"],
    "dead show": ["dead", "show", ID],
    "dead retry": ["dead", "retry", ID],
    "dead drop": ["dead", "drop", "--yes", "default"],
    "dead actions": ["dead", "actions"],
    "limits": ["limits"],
    "limits set": ["limits", "set", "a", "--rate", "1/s"],
    "limits reset": ["limits", "reset", "a"],
    "payloads clean": ["payloads", "clean"],
}


@pytest.fixture
def own(project, tmp_path):
    """A project on memory, with a payload store that only the application's own process may clean."""
    name = f"memory://{new_token()}"
    (project.root / "tasks.py").write_text(LOST)
    (project.root / "lines").write_text('{"job": "tasks.add", "args": [1]}\n')
    project.configure(f'payloads.url = "file://{tmp_path}/bodies"', backend=f'backend = "{name}"')
    yield project
    forget(name)


@pytest.mark.parametrize("command", ACTING.values(), ids=ACTING)
def test_commands_refuse_a_queue_of_their_own_in_plain_words(own, command):
    said = own.here(*command, code=2)
    assert "memory:// lives inside one process, and this command is another" in said
    assert "sqlite:///jobs.db needs no server" in said
    assert "jobsctl run JOB" in said
    assert len(said.splitlines()) == 1  # no id that looks like success


def test_a_command_inside_the_process_of_the_queue_acts_on_it(own):
    app = own.app()
    app.operate(lambda backend: backend.counts(["default"]))
    own.here("push", "tasks.add", "1")
    assert app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 1


def test_run_says_that_jobs_enqueued_to_its_own_queue_are_lost(own):
    assert "will not run" not in own.here("run", "tasks.add", "1")
    assert "jobs: 2 jobs enqueued to memory:// will not run: this backend ends with this process" in own.here(
        "run", "tasks.follow"
    )


def test_check_warns_of_a_queue_that_lives_inside_one_process(own):
    assert "memory:// lives inside one process" in own.here("check")
