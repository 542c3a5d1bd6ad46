"""The systemd units in deploy/: systemd accepts them, and they are those that the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_core.testing.services import program

ROOT = Path(__file__).parents[2]
UNITS = {"shop-jobs-broker.service": "deployment.md", "shop-jobs-web.service": "dashboard.md"}
"""The page that shows each unit."""


def test_every_unit_is_tried():
    assert sorted(UNITS) == sorted(each.name for each in (ROOT / "deploy" / "systemd").iterdir())


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(tmp_path, name):
    unit = ROOT / "deploy" / "systemd" / name
    command = tmp_path / "jobsctl"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    file = tmp_path / name
    file.write_text(unit.read_text().replace("/srv/shop/.venv/bin/jobsctl", str(command)).replace("User=shop", "User=daemon"))
    verify = [program("systemd-analyze", "systemd"), "verify", "--man=no", file]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "page"), UNITS.items())
def test_the_unit_is_the_one_of_the_documentation(name, page):
    (shown,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert (ROOT / "deploy" / "systemd" / name).read_text().partition("\n")[2] == shown


def test_the_guide_for_one_machine_leads_to_a_unit_that_systemd_accepts(tmp_path):
    """The page's configuration and its command; the directories of jobs and of the supervisor are made by systemd."""
    page = (ROOT / "docs" / "vm.md").read_text()
    (configuration,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (arguments,) = re.findall(r"jobsctl systemd (.*) > /etc/systemd/system/shop-jobs.service", page)
    (tmp_path / "jobs.toml").write_text(configuration)
    (tmp_path / "tasks.py").touch()
    command = [sys.executable, "-m", "jobs_core", "systemd", *arguments.replace("--user shop", "--user daemon").split()]
    unit = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=True).stdout
    assert "StateDirectory=shop-jobs\n" in unit
    assert "RuntimeDirectory=shop-jobs\n" in unit
    assert "EnvironmentFile=-/etc/default/shop-jobs\n" in unit
    file = tmp_path / "shop-jobs.service"
    file.write_text(unit)
    verify = [program("systemd-analyze", "systemd"), "verify", "--man=no", file]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
