"""Every folder of examples/ does what its page says, started as a reader would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_first_steps(tmp_path):
    folder = shutil.copytree(ROOT / "examples" / "first_steps", tmp_path / "first_steps")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBS_")}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, text=True, capture_output=True, check=True, env=environment
        )
        return done.stdout

    assert run("shop.py").startswith("enqueued ")
    assert "to ada@example.com: Your order is on its way" in run("-m", "jobs_core", "worker", "--drain")


def test_first_steps_is_what_the_readme_shows():
    shown = (ROOT / "README.md").read_text()
    for name in ("tasks.py", "shop.py", "jobs.toml"):
        for line in (ROOT / "examples" / "first_steps" / name).read_text().splitlines():
            if line.startswith(("@job", "def ", "from ", "modules", "pools")):
                assert line in shown, f"{name}: {line}"
