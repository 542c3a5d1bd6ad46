"""Walk through the release checklist: `python tools/release.py --check` prints each item, and what is missing.

It reads only, and builds and publishes nothing. `--stamp NAME` notes that a step passed on the tree of this commit; the
Makefile calls it. Items that no program can know are printed as reminders. docs/releasing.md explains them.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).parents[1]
STAMPS = ".stamps"

PASSED = {"test": "make test", "dist": "make dist", "image": "make image-steps"}
"""Steps that have to pass on the tree that is released, and the commands that note it."""

BY_HAND = (
    "`make torture`, `make redis-versions` and `make postgres-versions` passed (hours; on a quiet machine)",
    "`make test-all` and `make django-matrix` passed on every Python that the packages claim",
    "`make coming-from` and `make vm-steps` passed",
    "`git tag -s vVERSION` made a signed tag, and `git verify-tag vVERSION` accepts it",
)


class Item(NamedTuple):
    """One item of the checklist. `problem` is empty if it is done, and otherwise says what is missing and how to do it."""

    title: str
    problem: str


def packages(root: Path) -> list[Path]:
    """Return the directories of all packages that are released together."""
    return [root / "core", *sorted(path.parent for path in root.glob("plugins/*/pyproject.toml"))]


def project(package: Path) -> dict[str, Any]:
    """Return the table [project] of a package."""
    table: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    return {**table["project"], "version_file": table["tool"]["hatch"]["version"]["path"]}


def versions(root: Path) -> dict[str, str]:
    """Return the version of each package by its name."""
    found = {}
    for package in packages(root):
        about = project(package)
        text = (package / about["version_file"]).read_text(encoding="utf-8")
        match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
        found[about["name"]] = match[1] if match else ""
    return found


def version(root: Path) -> str:
    """Return the version of jobs-core, with which all others have to agree."""
    return versions(root)["jobs-core"]


def git(root: Path, *arguments: str) -> str:
    """Return what git says; empty if it fails."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()


def stamp(root: Path, name: str) -> bool:
    """Note that a step passed on the tree of this commit; return False if there are changes that are not committed."""
    if git(root, "status", "--porcelain"):
        return False
    (root / STAMPS).mkdir(exist_ok=True)
    (root / STAMPS / name).write_text(git(root, "rev-parse", "HEAD^{tree}") + "\n")
    return True


# -- the items -------------------------------------------------------------------------------------


def clean(root: Path) -> str:
    changed = git(root, "status", "--porcelain").splitlines()
    names = [line.split(maxsplit=1)[1] for line in changed[:3]]
    return f"not committed: {', '.join(names)}{' and others' if len(changed) > 3 else ''}" if changed else ""


def one_version(root: Path) -> str:
    found = versions(root)
    wrong = [f"{name} {number or 'without a version'}" for name, number in found.items() if number != found["jobs-core"]]
    return f"jobs-core is {found['jobs-core']}, but {', '.join(wrong)}" if wrong else ""


def changelog(root: Path) -> str:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    number = version(root)
    if not re.search(rf"^## {re.escape(number)}, \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        return f'CHANGELOG.md has no section "## {number}, YYYY-MM-DD"'
    unreleased = re.search(r"^## Unreleased\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    if unreleased and unreleased[1].strip():
        return f'CHANGELOG.md has entries under "## Unreleased": move them to {number}'
    return ""


def compatibility(root: Path) -> str:
    number = ".".join(version(root).split(".")[:2])
    text = (root / "docs" / "compatibility.md").read_text(encoding="utf-8")
    return "" if f"| {number} |" in text else f"docs/compatibility.md has no row for {number}"


def pages(root: Path) -> str:
    old = [f"docs/{name}" for name, write in script(root, "write_docs").PAGES.items() if _text(root / "docs" / name) != write()]
    if _text(root / "deploy/kubernetes/jobs.yaml") != script(root, "render_chart").manifests():
        old.append("deploy/kubernetes/jobs.yaml")
    return f"not as generated: {', '.join(old)} (`make docs`, tools/render_chart.py)" if old else ""


def chart(root: Path) -> str:
    text = _text(root / "deploy/helm/jobs/Chart.yaml")
    number = version(root)
    return "" if f'appVersion: "{number}"' in text else f"deploy/helm/jobs/Chart.yaml: appVersion is not {number}"


def pins(root: Path) -> str:
    pinned = {_name(line) for line in _text(root / "constraints.txt").splitlines() if "==" in line}
    needed = {_name(line) for line in _text(root / "requirements-dev.txt").splitlines() if line and not line.startswith("#")}
    for package in packages(root):
        about = project(package)
        needed |= {_name(line) for line in about.get("dependencies", ())}
    needed -= {_name(name) for name in versions(root)}
    missing = sorted(needed - pinned - {"tomli"})
    return f"constraints.txt does not pin {', '.join(missing)} (`make pins`)" if missing else ""


def passed(name: str) -> Callable[[Path], str]:
    def check(root: Path) -> str:
        noted = root / STAMPS / name
        if noted.exists() and noted.read_text().strip() == git(root, "rev-parse", "HEAD^{tree}"):
            return ""
        return f"{PASSED[name]} has not passed on this tree" + (", but on an earlier one" if noted.exists() else "")

    return check


def tag(root: Path) -> str:
    name = f"v{version(root)}"
    return f"the tag {name} exists already: raise the version" if git(root, "tag", "--list", name) else ""


ITEMS: dict[str, Callable[[Path], str]] = {
    "everything is committed": clean,
    "all packages have one version": one_version,
    "the changelog has a dated section for it": changelog,
    "the compatibility table has a row for it": compatibility,
    "the chart installs it": chart,
    "generated pages and manifests are up to date": pages,
    "every requirement is pinned": pins,
    "all tests passed": passed("test"),
    "every package was built twice with the same bytes": passed("dist"),
    "the image was built, and ran a job": passed("image"),
    "the version is new": tag,
}


def items(root: Path) -> Iterator[Item]:
    """Yield every item of the checklist."""
    for title, check in ITEMS.items():
        yield Item(title, check(root))


def script(root: Path, name: str) -> Any:
    """Import a script of tools/."""
    spec = importlib.util.spec_from_file_location(name, root / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--stamp"] and len(arguments) == 2:
        return 0 if stamp(ROOT, arguments[1]) else 1
    if arguments != ["--check"]:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    found = list(items(ROOT))
    for title, problem in found:
        print(f"[{' ' if problem else 'x'}] {title}" + (f"\n      {problem}" if problem else ""))
    for reminder in BY_HAND:
        print(f"[?] {reminder.replace('VERSION', version(ROOT))}")
    missing = sum(bool(problem) for _, problem in found)
    print(f"{missing} of {len(found)} items are missing." if missing else "Ready: do what is marked with [?], and publish.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
