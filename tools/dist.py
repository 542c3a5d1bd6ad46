"""Build every package twice, compare the bytes, check descriptions, and write checksums and a bill of materials into dist/.

`python tools/dist.py RELEASE` with the environment RELEASE of requirements-release.txt; `make dist` makes it first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import release

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
MATERIALS = "jobs.cdx.json"
SUMS = "SHA256SUMS"


def build(directory: Path, source: Path, epoch: int) -> None:
    """Build the wheel and the sdist of one package, as of a time in seconds since 1970."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "sdist",
        "--target",
        "wheel",
        "--directory",
        str(directory),
    ]
    subprocess.run(command, cwd=source, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every package in a directory, by its file's name."""
    files = sorted([*directory.glob("*.whl"), *directory.glob("*.tar.gz")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def different(first: Path, second: Path) -> list[str]:
    """Return the names of packages that two builds did not make alike."""
    one, other = sums(first), sums(second)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def exported(directory: Path) -> Path:
    """Return a copy of the commit's own files: what a checkout of the tag has, and nothing else that lies around."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive, check=True)
    return directory


def commit_time() -> int:
    """Return the time of the commit, in seconds since 1970."""
    return int(subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, capture_output=True).stdout)


def materials(packages: Path, tools: Path, work: Path) -> None:
    """Write the bill of materials: the packages, and everything that they need, at the pinned versions."""
    environment = work / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q", "--no-compile"]
    wheels = sorted(map(str, packages.glob("*.whl")))
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *wheels], check=True, cwd="/")
    command = [
        tools / "bin" / "cyclonedx-py",
        "environment",
        "--output-reproducible",
        "--output-file",
        packages / MATERIALS,
        python,
    ]
    subprocess.run(command, check=True)
    text = (packages / MATERIALS).read_text(encoding="utf-8")
    (packages / MATERIALS).write_text(
        text.replace(f"file://{packages}/", ""), encoding="utf-8"
    )  # where it was built is no matter


def main(tools: Path) -> int:
    epoch = commit_time()
    with tempfile.TemporaryDirectory(prefix="jobs-dist-") as work:
        shutil.rmtree(DIST, ignore_errors=True)
        for attempt, directory in (("first", DIST), ("second", Path(work) / "again")):
            sources = exported(Path(work) / f"{attempt}-export")
            for package in release.packages(sources):
                build(directory, package, epoch)
        if wrong := different(DIST, Path(work) / "again"):
            print(f"two builds made different files: {', '.join(wrong)}", file=sys.stderr)
            return 1
        subprocess.run([tools / "bin" / "twine", "check", "--strict", *sorted(DIST.iterdir())], check=True)
        materials(DIST, tools, Path(work))
    (DIST / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums(DIST).items()))
    release.stamp(ROOT, "dist")
    print(f"dist/: {len(sums(DIST))} packages, each built twice with the same bytes, {SUMS} and {MATERIALS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
