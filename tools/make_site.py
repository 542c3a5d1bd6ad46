"""Build the documentation site into site/, without the network. A link that leads nowhere fails the build.

Pages link to files outside of docs/: to the READMEs of plugins and examples, to dashboards and manifests. The site gets these
too, below outside/. So the pages are first copied to .site/, with those links pointing to their places on the site.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = "outside/"
OTHER_PAGES = sorted(
    [
        *(
            ROOT / name
            for name in ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "core/README.md")
        ),
        *(ROOT / name for name in ("deploy/README.md", "examples/README.md")),
        *ROOT.glob("plugins/*/README.md"),
        *ROOT.glob("examples/*/README.md"),
    ]
)
LINK = re.compile(r"(?<=\]\()([^()\s:#]+)(?=[#)])")
BRACKETS = re.compile(r"^(#+ jobsctl .*)$", re.MULTILINE)
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_site(path: Path) -> str:
    """Return the place of a file of the repository on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return OUTSIDE + path.relative_to(ROOT).as_posix()


def linked(page: Path, target: str) -> Path:
    """Return the file to which a link of a page leads; a directory stands for its README."""
    path = (page.parent / target).resolve()
    return path / "README.md" if path.is_dir() else path


def page_on_site(page: Path, others: set[Path]) -> str:
    """Return the text of a page with its links as they are on the site; add files that are not pages to `others`."""
    here = posixpath.dirname(on_site(page))

    def replaced(match: re.Match[str]) -> str:
        path = linked(page, match[1])
        if not path.is_relative_to(ROOT) or not path.is_file():
            return match[1]  # the build reports it
        if path.suffix != ".md" and not path.is_relative_to(DOCS):
            others.add(path)
        return posixpath.relpath(on_site(path), here)

    parts = CODE.split(page.read_text(encoding="utf-8"))
    text = "".join(part if number % 2 else LINK.sub(replaced, part) for number, part in enumerate(parts))
    return BRACKETS.sub(lambda heading: heading[1].replace("[", "\\["), text)  # [ARGS] is no link


def prepare(work: Path) -> None:
    """Write the sources of the site, and its configuration, to `work`."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(DOCS, work / "docs")
    others: set[Path] = set()
    for page in [*DOCS.rglob("*.md"), *OTHER_PAGES]:
        place = work / "docs" / on_site(page)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page_on_site(page, others), encoding="utf-8")
    for path in others:
        place = work / "docs" / on_site(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (work / "mkdocs.yml").write_text(settings.replace("ROOT", str(ROOT)), encoding="utf-8")


def build(work: Path) -> subprocess.CompletedProcess[str]:
    """Build the site into `work`/site; return what the builder said."""
    prepare(work)
    zensical = Path(sysconfig.get_path("scripts")) / "zensical"
    command = [str(zensical), "build", "--clean", "--strict", "-f", "mkdocs.yml"]
    return subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


if __name__ == "__main__":
    done = build(ROOT / ".site")
    if done.returncode:
        print(re.sub(r"\x1b\[[\d;]*m", "", done.stdout))
    else:
        shutil.rmtree(ROOT / "site", ignore_errors=True)
        (ROOT / ".site" / "site").rename(ROOT / "site")
        print("The site is in site/: open site/index.html.")
    sys.exit(done.returncode)
