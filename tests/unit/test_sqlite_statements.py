"""The SQL of the SQLite backend, read in its source."""

import ast
import re
from pathlib import Path

import jobs_core.backends.sqlite

NUMBERED = re.compile(r"\?\d")


def strings(path):
    """Yield each string of a module with its line, parts of f-strings included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_no_statement_numbers_its_parameters():
    """Python 3.12.0 to 3.12.3 take `?1` for a name, and warn of each statement that is given a sequence."""
    modules = sorted(Path(jobs_core.backends.sqlite.__file__).parent.glob("*.py"))
    assert len(modules) > 10
    numbered = [f"{path.name}:{line}" for path in modules for line, text in strings(path) if NUMBERED.search(text)]
    assert not numbered, "write `?`, or `:name` with a dict"
