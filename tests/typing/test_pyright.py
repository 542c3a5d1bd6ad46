"""pyright agrees with mypy: the same errors in application code; and public names have types that it need not infer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).parent / "cases.py"
LINES = CASES.read_text(encoding="utf-8").splitlines()


def test_pyright_finds_the_errors_that_mypy_finds_and_reveals_the_same_types(tmp_path):
    # A project of its own: the configuration of this repository, if it had one, would not be that of an application.
    (tmp_path / "cases.py").write_text("\n".join(LINES), encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    found = [(each["range"]["start"]["line"], each) for each in json.loads(done.stdout)["generalDiagnostics"]]
    errors = {number: each["message"] for number, each in found if each["severity"] == "error"}
    expected = {number for number, line in enumerate(LINES) if re.search(r"# error: [a-z-]+$", line)}
    assert {LINES[number]: errors[number] for number in errors.keys() - expected} == {}
    assert [LINES[number] for number in sorted(expected - errors.keys())] == []
    revealed = {number: each["message"] for number, each in found if each["severity"] == "information"}
    for number, line in enumerate(LINES):
        wanted = re.search(r"# reveals: (\w+)$", line)  # the two write the types of functions differently
        if wanted:
            assert revealed[number].endswith(f' is "{wanted[1]}"'), line


EXPORTING = re.compile(r"jobs_core(\.errors|\.config|\.backend_kit|\.testing|\.backends\.(base|flows|limits))?\.\w+")
"""Names of what applications and backends import."""
INFERRED = {"jobs_core.testing.BackendContract"}
"""A class with some hundred test cases, which no caller uses."""


def test_each_name_that_applications_and_backends_import_has_a_type_that_no_checker_has_to_infer(tmp_path):
    """A name is incomplete if it is a class with an attribute whose type is inferred, or refers to such a class."""
    command = [sys.executable, "-m", "pyright", "--verifytypes", "jobs_core", "--ignoreexternal", "--outputjson"]
    path = (
        f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # with this option, pyright asks the `python` there for its paths
    )
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PATH": path})
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    named = [each for each in symbols if each["isExported"] and EXPORTING.fullmatch(each["name"])]
    assert len(named) > 150
    incomplete = {each["name"] for each in named if not each["isTypeKnown"]} - INFERRED
    assert not incomplete, "`pyright --verifytypes jobs_core --ignoreexternal` says which attribute"
