"""Releases: packages are built with the same bytes each time, and the checklist finds what is missing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tool(name: str):
    """Import a script of tools/, as Python does when it is run: with its directory on the path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


release, dist = tool("release"), tool("dist")


def test_two_builds_of_a_package_have_the_same_bytes(tmp_path):
    for place in ("one", "other"):
        copy = tmp_path / place / "sentry"
        shutil.copytree(ROOT / "plugins" / "sentry", copy, ignore=shutil.ignore_patterns("__pycache__"))
        for path in copy.rglob("*.py"):
            path.touch()  # neither the time nor the place of a checkout is in the packages
        dist.build(tmp_path / place, copy, 1_800_000_000)
    assert len(dist.sums(tmp_path / "one")) == 2
    (wheel,) = (tmp_path / "one").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert "jobs_sentry-0.1.0.dist-info/licenses/LICENSE" in files.namelist()
    assert dist.different(tmp_path / "one", tmp_path / "other") == []


def test_a_difference_between_two_builds_is_named(tmp_path):
    for place, text in (("one", b"a"), ("other", b"b")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "jobs_core-0.1.0.tar.gz").write_bytes(text)
    (tmp_path / "one" / "jobs_web-0.1.0.tar.gz").touch()
    assert dist.different(tmp_path / "one", tmp_path / "other") == ["jobs_core-0.1.0.tar.gz", "jobs_web-0.1.0.tar.gz"]


# -- the checklist on this tree --------------------------------------------------------------------

ALWAYS = ("all packages have one version", "the compatibility table has a row for it", "the chart installs it",
          "generated pages and manifests are up to date", "every requirement is pinned")  # fmt: skip
"""Items that hold on every commit. The others are for a release."""


@pytest.mark.parametrize("title", ALWAYS)
def test_an_item_that_always_holds_is_done(title):
    assert release.ITEMS[title](ROOT) == ""


def test_the_packages_are_those_of_the_tree():
    assert release.versions(ROOT).keys() == {
        "jobs-core", "jobs-django", "jobs-fastapi", "jobs-flask", "jobs-opentelemetry", "jobs-postgres", "jobs-rabbitmq",
        "jobs-redis", "jobs-sentry", "jobs-web", "jobs-zeromq",
    }  # fmt: skip


def test_every_package_contains_the_licence():
    text = (ROOT / "LICENSE").read_text()
    assert all((package / "LICENSE").read_text() == text for package in release.packages(ROOT))


def test_the_compatibility_table_has_the_oldest_versions_that_the_packages_accept():
    text = (ROOT / "docs" / "compatibility.md").read_text()
    said = dict(re.findall(r"^\| (jobs-\w+) \| (\w[\w-]* [\d.]+)(?:;[^|]*)? \|", text, re.MULTILINE))
    for package in release.packages(ROOT):
        about = release.project(package)
        needed = [re.sub(r"\[.*?\]|,.*", "", line).replace(">=", " ") for line in about["dependencies"] if ">=" in line]
        if about["name"] != "jobs-core":
            assert said.pop(about["name"]) in needed
        oldest = about["requires-python"].removeprefix(">=")
        assert f"| {oldest} to " in text
    assert said == {}


def test_the_steps_that_are_noted_are_targets_that_note_them():
    makefile = (ROOT / "Makefile").read_text()
    for name, command in release.PASSED.items():
        target = command.removeprefix("make ")
        recipe = makefile.partition(f"\n{target}:")[2].partition("\n\n")[0]
        assert f"--stamp {name}" in recipe or "tools/dist.py" in recipe


# -- the checklist on a small tree -----------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A repository with a core and a plugin, ready for version 0.2.0 but for what runs."""
    for place, name in (("core", "core"), ("plugins/web", "web")):
        (tmp_path / place).mkdir(parents=True)
        text = f'[project]\nname = "jobs-{name}"\ndependencies = ["click>=8"]\n[tool.hatch.version]\npath = "version.py"\n'
        (tmp_path / place / "pyproject.toml").write_text(text)
        (tmp_path / place / "version.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.2.0, 2027-01-31\n\n- Something.\n")
    (tmp_path / "constraints.txt").write_text("Click==8.5.1\n")
    (tmp_path / "requirements-dev.txt").write_text("# tools\nclick\n")
    (tmp_path / ".gitignore").write_text(".stamps/\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(tree, *arguments):
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=tree, check=True, capture_output=True)


def commit(tree):
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "--allow-empty", "-m", "Change")


def problem(title, tree):
    return release.ITEMS[title](tree)


def test_a_file_that_is_not_committed_is_named(tree):
    assert problem("everything is committed", tree) == ""
    (tree / "CHANGELOG.md").write_text("")
    assert "CHANGELOG.md" in problem("everything is committed", tree)


def test_a_package_with_another_version_is_named(tree):
    assert problem("all packages have one version", tree) == ""
    (tree / "plugins/web/version.py").write_text('__version__ = "0.1.9"\n')
    assert problem("all packages have one version", tree) == "jobs-core is 0.2.0, but jobs-web 0.1.9"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("## Unreleased\n\n## 0.2.0, 2027-01-31\n", ""),
        ("## Unreleased\n\n## 0.2.0, unreleased\n", "no section"),
        ("## Unreleased\n\n- More.\n\n## 0.2.0, 2027-01-31\n", "under"),
        ("## 0.12.0, 2027-01-31\n", "no section"),
    ],
)
def test_the_changelog_has_to_have_a_dated_section_and_nothing_unreleased(text, says, tree):
    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n{text}")
    found = problem("the changelog has a dated section for it", tree)
    assert (says in found) if says else found == ""


def test_a_requirement_without_a_pin_is_named(tree):
    assert problem("every requirement is pinned", tree) == ""
    (tree / "requirements-dev.txt").write_text("click\nruff\n")
    assert "ruff" in problem("every requirement is pinned", tree)


def test_a_step_counts_for_the_tree_on_which_it_passed_and_no_other(tree):
    assert "has not passed" in problem("all tests passed", tree)
    assert release.stamp(tree, "test")
    assert problem("all tests passed", tree) == ""
    commit(tree)  # without a change: the same tree
    assert problem("all tests passed", tree) == ""
    (tree / "more").write_text("")
    assert not release.stamp(tree, "test")  # what ran is not what is committed
    commit(tree)
    assert "on an earlier one" in problem("all tests passed", tree)


def test_a_version_that_has_a_tag_is_refused(tree):
    assert problem("the version is new", tree) == ""
    git(tree, "tag", "v0.2.0")
    assert "v0.2.0 exists" in problem("the version is new", tree)
