"""The first `make demo` of a fresh checkout installs what the demonstration needs, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]

PYTHON = f"""\
#!/bin/sh
# A Python whose pip fetches nothing: it shows the new environment what this one has, and notes what it was asked for.
for word; do
    case "$word" in
        install)
            printf '%s\\n' "$@" >asked.txt
            echo {sysconfig.get_path("purelib")} >"$(echo .venv-demo/lib/python*/site-packages)/all.pth"
            exit ;;
    esac
done
exec {sys.executable} "$@"
"""


def test_the_first_demonstration_says_what_it_installs_and_builds_and_fetches_nothing_else(tmp_path):
    for name in ("core", "tools", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBS_")}
    command = ["sh", "tools/demo.sh", "no_venv", str(python), "0"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Making .venv-demo with ")
    assert " jobs are enqueued in " in done.stdout
    asked = (tmp_path / "asked.txt").read_text().split()
    assert asked[-2:] == ["-r", ".venv-demo/needs.txt"]
    assert "-e" not in asked
    needs = (tmp_path / ".venv-demo" / "needs.txt").read_text().splitlines()
    project = (ROOT / "core" / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert listed
    assert needs == [*re.findall(r'"(.*)"', listed[1]), "pillow>=10"]
    where = [str(tmp_path / ".venv-demo" / "bin" / "jobsctl"), "--version"]
    assert subprocess.run(where, cwd="/", check=True, capture_output=True, text=True).stdout.startswith("jobs-core ")
