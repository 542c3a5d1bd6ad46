"""The supervisor does without threads, the libraries of the command line, and the application."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from ..support.project import TASKS, Project
from ..support.supervised import Supervised


def test_the_supervisor_loads_no_command_line_no_event_loop_and_no_network():
    code = (
        "import sys, jobs_core.supervisor.__main__\n"
        "print([name for name in ('click', 'rich', 'asyncio', 'ssl', 'urllib.request', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_supervisor_has_one_thread_no_application_and_no_connection(project: Project):
    (project.root / "tasks.py").write_text(TASKS + "\nrecord('imported by', os.getpid())\n")
    supervised = Supervised(project)
    assert len(list(Path(f"/proc/{supervised.pid}/task").iterdir())) == 1
    state = supervised.board().supervisor
    assert state is not None
    assert project.ledger() == [f"imported by {state.template_pid}"]
    for link in Path(f"/proc/{supervised.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one that is closed meanwhile
            assert "queue.db" not in str(link.readlink())
    supervised.stop()
