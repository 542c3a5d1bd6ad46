"""A type checker passes correct application code, and finds each error on its line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api", reason="mypy is a development tool")
CASES = Path(__file__).parent / "cases.py"


@pytest.fixture(autouse=True)
def _recursion_as_it_was():
    """Restore the recursion limit: mypy raises it for good, and other tests nest up to it."""
    limit = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(limit)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where mypy keeps what it knows of the product, for both tests."""
    return tmp_path_factory.mktemp("mypy")


def test_expected_type_errors_are_found_and_no_others(cache):
    """A line that ends in `# error: code` must have that error, every other line none."""
    output, errors, _ = api.run(
        ["--strict", "--no-error-summary", "--show-error-codes", f"--cache-dir={cache}", "--config-file=", str(CASES)]
    )
    assert errors == ""
    found: dict[int, set[str]] = {}
    for line in output.splitlines():
        match = re.match(r".*cases\.py:(\d+): error: .*\[([a-z-]+)\]$", line)
        if match:
            found.setdefault(int(match[1]), set()).add(match[2])
        else:
            assert ": note: " in line or "Revealed" in line, line
    expected = {}
    for number, line in enumerate(CASES.read_text().splitlines(), 1):
        match = re.search(r"# error: ([a-z-]+)$", line)
        if match:
            expected[number] = match[1]
    assert found.keys() == expected.keys()
    assert {number: code for number, code in expected.items() if code not in found[number]} == {}


def test_revealed_types_are_the_expected_ones(cache):
    output, _, _ = api.run(["--strict", "--no-error-summary", f"--cache-dir={cache}", "--config-file=", str(CASES)])
    revealed = {int(m[1]): m[2] for m in re.finditer(r'cases\.py:(\d+): note: Revealed type is "(.*)"', output)}
    for number, line in enumerate(CASES.read_text().splitlines(), 1):
        match = re.search(r"# reveals: (.*)$", line)
        if match:
            assert revealed[number].replace("builtins.", "") == match[1]
