"""The image: hadolint accepts its Dockerfile, which says what the pages promise. `make image-steps` builds and runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "image" / "Dockerfile"


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments on one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    found = [line.split(maxsplit=1) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in found]


def last(steps, name):
    return [rest for each, rest in steps if each == name][-1]


def test_hadolint_accepts_the_dockerfile():
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_image_runs_as_a_user_of_its_own(steps):
    user = last(steps, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)  # as a number, which runAsNonRoot can check
    assert f"--uid {user.partition(':')[0]} " in " ".join(rest for _, rest in steps)
    assert [name for name, _ in steps].index("USER") > max(number for number, (name, _) in enumerate(steps) if name == "RUN")


def test_the_image_starts_the_supervisor_and_asks_status_for_its_health(steps):
    assert json.loads(last(steps, "CMD")) == ["jobsctl", "start"]
    assert json.loads(last(steps, "HEALTHCHECK").partition("CMD ")[2]) == ["jobsctl", "status"]
    assert last(steps, "STOPSIGNAL") == "SIGTERM"


def test_the_image_has_no_bytecode_to_write_and_a_run_directory_of_its_own(steps):
    environment = dict(entry.split("=", 1) for entry in last(steps, "ENV").split())
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert Path(environment["JOBS_RUN_DIR"]).parent == Path("/run/jobs")  # mounted directories belong to root


def test_the_image_contains_plugins_that_there_are(steps):
    plugins = last(steps, "ARG").partition("=")[2].strip('"').split()
    assert plugins
    assert [name for name in plugins if not (ROOT / "plugins" / name / "pyproject.toml").exists()] == []


def test_the_build_sees_what_it_copies_and_nothing_else(steps):
    ignored = (DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {rest.split()[0] for name, rest in steps if name == "COPY" and not rest.startswith("--from")}
    assert "*" in ignored
    assert kept == copied
