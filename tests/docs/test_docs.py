"""The documentation is true: generated pages are up to date, every block of Python runs, every name exists."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import jobs_core
from jobs_core import foreign, hookspecs
from jobs_core.cli.main import cli

from ..support.terminal import FOLLOWED

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "core/README.md", "examples/README.md")),
        *ROOT.glob("plugins/*/README.md"),
        *ROOT.glob("examples/*/README.md"),
        *ROOT.glob("docs/**/*.md"),
    ]
)


def page_id(path):
    return str(path.relative_to(ROOT))


def write_docs():
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "tools" / "write_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["hooks.md", "configuration.md", "cli.md", "envelope.schema.json"])
def test_reference_pages_match_the_code(name):
    assert (ROOT / "docs" / name).read_text() == write_docs().PAGES[name](), f"`make docs` writes docs/{name} anew"


def test_every_configuration_key_has_a_meaning():
    lines = (ROOT / "docs" / "configuration.md").read_text().splitlines()
    assert [line for line in lines if re.match(r"\| `.*\|\s+\|$", line)] == []


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_commands_in_the_text_exist_with_their_options(path):
    for text in re.findall(
        r"`(?:\w+=\S+ )?jobsctl ([^`]+)`", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    ):
        words = text.split()
        command: click.Command = cli
        while isinstance(command, click.Group) and words:
            word = words.pop(0)
            if word.startswith("-"):
                words = words if word in ("--help", "--version") else words[1:]  # -c FILE
                continue
            found = command.get_command(click.Context(command), word)
            assert found or re.match(r"[A-Z…(]", word) or word == "COMMAND", f"jobsctl {text}: there is no {word}"
            command = found or command
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--"}
        for word in words:
            option = re.match(r"--[\w-]+", word)
            assert not option or option[0] in known, f"jobsctl {text}: {command.name} has no {option[0]}"


@pytest.mark.parametrize("path", [page for page in PAGES if page not in FOLLOWED], ids=page_id)
def test_python_blocks_run(path, tmp_path):
    """Each block is a module; one that begins with `# name.py` is imported by the later ones under that name."""
    text = path.read_text()
    (tmp_path / "jobs.toml").touch()  # without one, the first enqueue of a process warns about where it keeps jobs
    for file, block in re.findall(r"```toml\n# (jobs\.toml)\n(.*?)```", text, re.DOTALL):
        (tmp_path / file).write_text(block)
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        named = re.match(r"# (\w+\.py)\n", block)
        name = named[1] if named else f"block_{number}.py"
        (tmp_path / name).write_text(block)
        if name.startswith("test_"):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
        else:
            command = [sys.executable, "-W", "error", "-c", f"import {name.removesuffix('.py')}"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBS_")}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{path.name}, block {number}:\n{block}\n{done.stdout}{done.stderr}"


def test_the_application_of_the_readme_works(tmp_path):
    text = (ROOT / "README.md").read_text()
    for language, name, block in re.findall(r"```(python|toml)\n# ([\w.]+)\n(.*?)```", text, re.DOTALL):
        assert language
        (tmp_path / name).write_text(block)
    text = "".join((tmp_path / name).read_text() for name in ("tasks.py", "jobs.toml", "shop.py"))
    lines = [line for line in text.splitlines() if line]
    assert len(lines) <= 12
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBS_")}

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, text=True, capture_output=True, check=True, env=environment
        )

    run("shop.py")
    assert "to ada@example.com: Your order is on its way" in run("-m", "jobs_core", "worker", "--drain").stdout


def test_the_readmes_first_screen_shows_the_way_in():
    first_screen = (ROOT / "README.md").read_text().splitlines()[:45]
    for part in ("make demo", "make test", "pip install jobs-core"):
        assert any(part in line for line in first_screen)


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    """A row names its broker; each of its figures begins a cell of a system in the tables of that broker."""
    measured = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = re.findall(r"^\| (Redis|RabbitMQ|PostgreSQL): (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 7
    for broker, row in rows:
        name = {"PostgreSQL": "postgres"}.get(broker, broker.lower())
        tables = re.search(rf"<!-- peers on {name}: begin -->(.*?)<!-- peers on {name}: end -->", measured, re.DOTALL)
        assert tables
        _, ours, best, celery = [cell.strip() for cell in row.split("|")] if row.count("|") == 3 else [*row.split("|"), ""]
        figure, system = re.fullmatch(r"([\d.,]+) \((\w+)(?: and \d+ more)?\)", best.strip()).groups()
        for who, number in (("jobs", ours.strip()), (system.lower(), figure), ("celery", celery.strip())):
            found = re.search(rf"^\| {who}[^|]*\|(.*\|)? {re.escape(number)}[ |]", tables[1], re.MULTILINE)
            assert found or not number, f"{broker}: {who} {number}"


def test_the_promises_of_the_readme_have_their_tests():
    tests = (ROOT / "tests" / "faults" / "test_promises.py").read_text()
    for number in range(1, 8):
        assert f"# -- {number}. " in tests


def test_the_first_change_of_the_contributors_tour_is_still_to_be_made():
    page = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    ((word, row),) = re.findall(r"add `(\w+)` to the row that begins with `(\w+)`", page)
    assert f"@job({word}=" in page
    assert word not in foreign.OPTIONS
    assert f'("{row} ' in Path(foreign.__file__).read_text()


def test_every_hook_is_used_by_our_code_or_named_in_contributing_as_one_that_is_not():
    places = [ROOT / "core" / "src" / "jobs_core" / "builtin.py", *(ROOT / "plugins").glob("*/src/**/*.py")]
    source = "".join(path.read_text() for path in places)
    hooks = {name for name in vars(hookspecs) if name.startswith("jobs_")}
    unused = {name for name in hooks if f"def {name}(" not in source}
    said = (ROOT / "CONTRIBUTING.md").read_text().partition("A new hook ships")[2].partition("\n- ")[0]
    assert unused == set(re.findall(r"`(jobs_\w+)`", said))


def test_every_class_that_the_internals_page_names_exists():
    text = (ROOT / "docs" / "internals.md").read_text()
    names = set(re.findall(r"`([A-Z][A-Za-z]+)`", text))
    source = "".join(
        Path(module.module_finder.path, f"{module.name.rpartition('.')[2]}.py").read_text()
        for module in pkgutil.walk_packages(jobs_core.__path__, "jobs_core.")
        if not module.ispkg
    )
    source += "".join(path.read_text() for path in (ROOT / "core" / "src" / "jobs_core").rglob("__init__.py"))
    missing = {name for name in names if not re.search(rf"class {name}\b", source)}
    assert missing == set()
    files = set(re.findall(r"\*\*([\w/]+\.py)\*\*", text))
    assert {file for file in files if not (ROOT / "core" / "src" / "jobs_core" / file).exists()} == set()


def test_the_table_of_backends_equals_their_features():
    from jobs_core.backends.base import ALL_FEATURES
    from jobs_core.backends.memory import MemoryBackend
    from jobs_core.backends.sqlite import SqliteBackend
    from jobs_core.errors import HAVING
    from jobs_postgres.backend import PostgresBackend
    from jobs_rabbitmq.backend import RabbitMQBackend
    from jobs_redis.backend import RedisBackend
    from jobs_redis.cluster import RedisClusterBackend
    from jobs_zeromq.backend import ZeromqBackend

    columns = (MemoryBackend, SqliteBackend, RedisBackend, RedisClusterBackend, ZeromqBackend, PostgresBackend, RabbitMQBackend)
    page = (ROOT / "docs" / "backends.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| \w+ \| (yes|no) \|", line)]
    claimed = {name: [cell == "yes" for cell in cells] for name, *cells in rows}
    assert claimed == {name: [name in column.features for column in columns] for name in ALL_FEATURES}
    shown = {
        "sqlite://": SqliteBackend,
        "redis://": RedisBackend,
        "zmq+tcp://": ZeromqBackend,
        "postgresql://": PostgresBackend,
    }
    for feature, named in HAVING.items():  # errors name those that have it
        assert named == (tuple(url for url, column in shown.items() if feature in column.features) or ("memory://",)), (
            f"HAVING in errors.py: {feature}"
        )


def test_no_file_names_a_machine_or_an_index():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split()
    forbidden = re.compile(r"(--(extra-)?index-url|files\.pythonhosted|/home/\w+/|/ro{2}t/)")
    for name in tracked:
        if name.endswith((".py", ".md", ".toml", ".txt", ".sh", ".sql", ".json")) and name != "tests/docs/test_docs.py":
            assert not forbidden.search((ROOT / name).read_text()), name


def test_the_schema_is_json():
    assert json.loads((ROOT / "docs" / "envelope.schema.json").read_text())["title"] == "jobs envelope, versions 1 and 2"


SOURCES = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]


def test_messages_name_pages_by_their_title_since_who_has_installed_a_package_has_no_docs_directory():
    """Docstrings may name files: who reads them has the sources."""
    titles = {line[2:] for page in PAGES for line in page.read_text().splitlines()[:1]}
    wrong, named = [], set()
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                wrong += [f"{source.name}:{node.lineno}"] if re.search(r"docs/[a-z-]+\.md", node.value) else []
                named |= set(re.findall(r'"([^"]+)" in the documentation', node.value))
    assert wrong == []
    assert named >= {"Backends", "Hooks"}
    assert named <= titles
