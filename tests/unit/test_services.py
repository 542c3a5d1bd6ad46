"""Programs can run servers for tests without pytest."""

import json
import subprocess
import sys

import pytest

CODE = """
import sys
sys.modules["pytest"] = None
from jobs_core.testing.services import ServiceError, free_port, program
assert free_port()
try:
    program("no-such-server", "no-such-package")
except ServiceError as error:
    print(error)
try:
    from jobs_core.testing import BackendContract
except ImportError as error:
    print(error)
"""


def test_services_run_without_pytest_and_the_contract_names_its_requirements():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "no-such-server is not installed: apt-get install no-such-package",
        'BackendContract needs pytest, which is not installed: pip install "jobs-core[testing]"',
    ]


def test_no_two_processes_get_the_same_port_and_no_connection_takes_one():
    from jobs_core.testing.services import PORTS, free_port

    found = [free_port() for _ in range(50)]
    first = f"from jobs_core.testing import services as it; it._numbers = iter(range({PORTS.index(found[0])}, 99999))"
    code = f"{first}; print([it.free_port() for _ in range(50)])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len({*found, *json.loads(other)}) == 100
    assert max(PORTS) + 10_000 < 32_768  # from here on, unless a machine has other settings


def test_in_a_test_a_server_that_is_missing_skips_it_and_fails_in_ci(monkeypatch):
    from jobs_core.testing.services import program

    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install it"):
        program("no-such-server", "it")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install it"):
        program("no-such-server", "it")
