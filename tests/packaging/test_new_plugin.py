"""`jobsctl new-plugin` makes packages that can be installed, and that pass their own tests, as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomli
from click.testing import CliRunner

from jobs_core.backends.base import INTERFACE_VERSION
from jobs_core.cli.main import cli
from jobs_core.cli.new_plugin import KINDS, TEMPLATES, files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a package of each kind, and an environment in `site` in which all of them are installed."""
    directory = tmp_path_factory.mktemp("plugins")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBS_")}
    packages = [str(directory / f"jobs-my-{kind}") for kind in KINDS]
    for kind in KINDS:
        command = [sys.executable, "-m", "jobs_core", "new-plugin", f"my-{kind}", "--kind", kind]
        subprocess.run(command, cwd=directory, check=True, capture_output=True, env=environment)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", directory / "site", *packages], check=True, cwd="/")
    return directory


def run(made: Path, kind: str, *arguments: str) -> str:
    """Run a module of Python in a package's directory, as its author would; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBS_")}
    environment |= {"PYTHONPATH": str(made / "site"), "JOBS_CONTRACT_EXAMPLES": "5"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=made / f"jobs-my-{kind}", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_passes_its_tests_as_it_was_made(made, kind):
    said = run(made, kind, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis")
    assert re.search(r"^\d+ passed in ", said, re.MULTILINE), said  # nothing failed, was skipped, or warned


@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_is_found_and_imports_its_parts_on_use(made, kind):
    script = f"""
import sys
from jobs_core.cli.main import run
assert run(["plugins"]) == 0
loaded = [name for name in sys.modules if name.startswith("jobs_my_{kind}.")]
assert loaded == [], loaded
"""
    (made / "look.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": f"{made / 'site'}{os.pathsep}{made}"}
    done = subprocess.run([sys.executable, "-m", "look"], cwd=made, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"jobs-my-{kind} 0.1.0" in done.stdout


def test_the_packages_follow_our_own_rules_of_format_and_lint(made):
    ruff = [sys.executable, "-m", "ruff"]
    rules = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    packages = [str(made / f"jobs-my-{kind}") for kind in KINDS]
    for check in (["format", "--diff"], ["check"]):
        done = subprocess.run([*ruff, *check, *rules, *packages], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_packages_are_typed_strictly(made):
    sources = [str(path) for kind in KINDS for path in (made / f"jobs-my-{kind}" / "src").iterdir()]
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", f"--cache-dir={made / 'cache'}"]
    done = subprocess.run([*mypy, *sources], capture_output=True, text=True, cwd=made)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_no_placeholder_is_left_and_every_text_belongs_to_a_file(kind):
    found = files(kind, "acme")
    assert not [name for name, text in found.items() if "${" in text or "$name" in text or "$key" in text]
    assert len(found) == len([*(TEMPLATES / kind).iterdir()]) + 2
    assert f"jobs_interface_version = {INTERFACE_VERSION}\n" in found["src/jobs_acme/__init__.py"]
    project = tomli.loads(found["pyproject.toml"])
    assert project["project"]["entry-points"]["jobs"] == {"acme": "jobs_acme"}


# -- refusals --------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["new-plugin", *arguments])
    assert result.exit_code == 2, result.output
    return result.output


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("jobs-acme", "backend", "leave out the jobs-"),
        ("redis", "loader", "jobs-redis is a distribution of this project"),
        ("core", "channel", "jobs-core is a distribution of this project"),
        ("sqlite", "backend", "is a backend of jobs itself"),
        ("slack", "channel", "is a channel of jobs itself"),
        *[
            (name, "backend", "expected lower-case letters")
            for name in ("Acme", "a_b", "a--b", "-", "a-", "1a", "a.b", "a" * 41)
        ],
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_reason(here, name, kind, says):
    assert says in " ".join(refused("--kind", kind, "--", name).split())
    assert list(here.iterdir()) == []


def test_our_distributions_are_the_reserved_names():
    from jobs_core.cli.new_plugin import OURS

    projects = [*ROOT.glob("plugins/*/pyproject.toml"), ROOT / "core/pyproject.toml"]
    names = {tomli.loads(path.read_text())["project"]["name"].removeprefix("jobs-") for path in projects}
    assert names | {"command"} == OURS  # jobs_command is a module of jobs-core


@pytest.mark.parametrize("taken", ["file", "directory", "link"])
def test_nothing_that_exists_is_overwritten(here, taken):
    target = here / "jobs-acme"
    if taken == "file":
        target.write_text("mine")
    elif taken == "directory":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    assert "jobs-acme already exists" in refused("acme", "--kind", "loader")
    assert [path.name for path in here.iterdir()] == ["jobs-acme"]


def test_a_package_is_written_whole_or_not_at_all(here, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left on device" in refused("acme", "--kind", "loader")
    assert list(here.iterdir()) == []


def test_another_directory_is_made_with_its_parents(here):
    assert CliRunner().invoke(cli, ["new-plugin", "acme", "--kind", "channel", "--directory", "a/b c"]).exit_code == 0
    assert (here / "a" / "b c" / "src" / "jobs_acme" / "channel.py").exists()
