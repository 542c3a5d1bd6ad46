"""Run Django's own tests of `django.tasks` with our backend in place of Django's.

The tests come from the source distribution of the installed Django, which is downloaded. Only the names of the two backends
are replaced; tests that do not apply are excluded by name (not_applicable.py). Run: python
plugins/django_loader/tests/djangos_own/run.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).parent))

from not_applicable import NOT_APPLICABLE

REPLACED = {
    "django.tasks.backends.dummy.DummyBackend": "jobs_backends.Queued",
    "django.tasks.backends.immediate.ImmediateBackend": "jobs_backends.Immediate",
    "from django.tasks.backends.dummy import DummyBackend": "from jobs_backends import Queued as DummyBackend",
    "from django.tasks.backends.immediate import ImmediateBackend": "from jobs_backends import Immediate as ImmediateBackend",
}


def fetch(into: Path) -> Path:
    """Return the source tree of the installed Django."""
    version = django.get_version()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "django", f"django=={version}"]
    subprocess.run([*command, "-d", into], check=True)
    (archive,) = into.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(into, filter="data")
    return next(path for path in into.iterdir() if path.is_dir())


def put_ours_in_place(tests: Path) -> None:
    """Replace the backends' names; remove the tests that do not apply, all of which must exist."""
    left_out = set(NOT_APPLICABLE)
    for path in tests.glob("test_*.py"):
        text = path.read_text()
        for theirs, ours in REPLACED.items():
            text = text.replace(theirs, ours)
        for name in sorted(left_out):
            module, _, test = name.partition(".")
            if module == path.stem:
                text += f"\ndel {test}\n"  # fails if Django no longer has such a test
        path.write_text(text)


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        source = fetch(Path(directory))
        put_ours_in_place(source / "tests" / "tasks")
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{source}"}
        environment = {key: value for key, value in environment.items() if not key.startswith("JOBS_")}
        command = [sys.executable, "runtests.py", "tasks", "--parallel", "1", "-v", "2"]
        done = subprocess.run(command, cwd=source / "tests", env=environment, text=True, capture_output=True)
    print(done.stdout, done.stderr, sep="\n")
    ran = next((int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("Ran ")), 0)
    for name, reason in NOT_APPLICABLE.items():
        print(f"does not apply: {name}: {reason}")
    total = ran + len(NOT_APPLICABLE)
    result = "OK" if done.returncode == 0 else "FAILED"
    left_out = len(NOT_APPLICABLE)
    print(f"{result}: {ran} of {total} run ({ran / total:.0%}), {left_out} do not apply (Django {django.get_version()})")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
