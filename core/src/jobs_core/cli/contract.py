"""`jobsctl contract`: test a backend against the contract, or measure figures that can be compared between backends."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from . import output
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .types import TEXT, URL
from .waiting import waiting

_CASES = """
import os
import pytest
from jobs_core.testing import BackendContract

class TestContract(BackendContract):
    @pytest.fixture
    def backend_url(self):
        from jobs_core.testing.contract.stores import fresh
        return fresh(os.environ["JOBS_CONTRACT_URL"])
"""

CASE_TIMEOUT = 180
"""Longest time of one case, in seconds; a case that takes longer fails, and the stacks of all threads are shown."""


@click.command("contract")
@click.argument("url", type=URL)
@click.option("--bench", is_flag=True, help="Measure the backend instead: push, reserve and settle, wake-up.")
@click.option("--large", is_flag=True, help="With --bench: also measure with large flows, 100,000 limited jobs, 100,000 keys.")
@click.option("-k", "expression", metavar="EXPRESSION", type=TEXT, help="Only the cases whose names match, as in pytest.")
@json_option
@pass_context
def contract_command(context: Context, url: str, bench: bool, large: bool, expression: str | None, as_json: bool) -> None:
    """Run the backend contract against URL, an empty store that nothing else uses: it is written to and emptied.

    Needs pip install "jobs-core[testing]".
    """
    if large and not bench:
        fail("--large has no effect without --bench: add --bench", Exit.USAGE)
    if bench:
        with waiting("the measurements to end"):
            figures = measure(url, large=large)
        if as_json:
            output.json(figures)
        else:
            output.table(["what", "figure", "unit"], [(row["what"], row["figure"], row["unit"]) for row in figures])
        return
    raise click.exceptions.Exit(run_cases(url, expression))


def measure(url: str, *, large: bool) -> list[dict[str, Any]]:
    """Return the figures of a backend."""
    from ..testing.contract.bench import measure as figures

    return figures(url, large=large)


def run_cases(url: str, expression: str | None) -> Exit:
    """Run the contract with pytest."""
    try:
        import hypothesis  # noqa: F401  # imported here only to name a missing package
        import pytest
        import pytest_timeout  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        fail(f'{error.name} is not installed: pip install "jobs-core[testing]"', Exit.USAGE)
    os.environ["JOBS_CONTRACT_URL"] = url
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "test_contract.py"
        file.write_text(_CASES)
        arguments = [str(file), "-q", "-p", "no:cacheprovider", "--rootdir", directory, "--import-mode=importlib"]
        arguments += [f"--timeout={CASE_TIMEOUT}", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = pytest.ExitCode(pytest.main([*arguments, *(["-k", expression] if expression else [])]))
    return {pytest.ExitCode.OK: Exit.FINE, pytest.ExitCode.USAGE_ERROR: Exit.USAGE}.get(code, Exit.FAILED)
