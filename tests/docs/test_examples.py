"""The files that examples/ shares with the pages. That they work as their page says is tested in test_shell_blocks.py."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_first_steps_equals_the_readme():
    shown = (ROOT / "README.md").read_text()
    for name in ("tasks.py", "shop.py", "jobs.toml"):
        for line in (ROOT / "examples" / "first_steps" / name).read_text().splitlines():
            if line.startswith(("@job", "def ", "from ", "modules", "pools")):
                assert line in shown, f"{name}: {line}"
