"""The unit that `jobsctl systemd` prints, as systemd reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_core.cli import main
from jobs_core.testing import services

from ..support.project import Project


@pytest.fixture(scope="module")
def analyze():
    """Return systemd's complaints about a unit; nothing if it accepts all of it."""
    program = services.program("systemd-analyze", "systemd")

    def analyze(text, directory):
        file = directory / "checked.service"
        file.write_text(text)
        done = subprocess.run([program, "verify", "--man=no", file], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return analyze


def printed(project, *arguments, **environment):
    done = project.run("systemd", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(text, key):
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "configuration",
    [
        "",
        'run_dir = "/run/shop"\nlogs.file = "/var/log/shop/jobs.log"',
        'run_dir = "/var/lib/shop/run"\nlogs.file = "logs/jobs.log"\npools.a.stop_timeout = "1h30m"',
    ],
)
def test_systemd_accepts_the_unit(project, tmp_path, analyze, configuration):
    project.configure(configuration)
    assert analyze(printed(project), tmp_path) == (0, "")
    assert analyze(printed(project, "--user", "www-data", "--write", "/srv/media", "--name", "x"), tmp_path) == (0, "")


def test_systemd_would_report_a_mistake(project, tmp_path, analyze):
    _, said = analyze(printed(project).replace("WatchdogSec", "WatchdogSek"), tmp_path)
    assert "WatchdogSek" in said


def test_systemd_accepts_paths_that_need_quoting(tmp_path, analyze):
    awkward = Project(tmp_path / 'my "shop" 100%n $HOME; \\x')
    text = printed(awkward)
    assert analyze(text, tmp_path) == (0, "")
    escaped = str(awkward.root).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    assert f'-c "{escaped}/jobs.toml" start'.replace("$", "$$") in text
    assert values(text, "ReadWritePaths") == [f'"{escaped}"']
    awkward.close()


def test_the_unit_matches_the_configuration(project):
    project.configure(
        '[pools.default]\nstop_timeout = "2m"\n[pools.slow]\nstop_timeout = "10.5s"\n[logs]\nfile = "/var/log/shop/a.log"'
    )
    text = printed(project, "--user", "nobody")
    command = f"{sys.executable} -m jobs_core -c {project.root}/jobs.toml"
    expected = {
        "Type": "notify",
        "User": "nobody",
        "WorkingDirectory": str(project.root),
        "ExecStart": f"{command} start",
        "ExecReload": f"{command} reload",
        "KillMode": "mixed",
        "TimeoutStopSec": "135",
        "Restart": "on-failure",
        "WatchdogSec": "30",
        "OOMPolicy": "continue",
        "LogsDirectory": "shop",
        "ReadWritePaths": str(project.root),  # the database lies beside the configuration
        "CapabilityBoundingSet": "",
    }
    assert {key: values(text, key) for key in expected} == {key: [value] for key, value in expected.items()}
    [prepare] = values(text, "ExecStartPre")
    assert prepare.startswith("+/usr/bin/install -d -m 0700 -o nobody -g ")
    assert prepare.endswith(f" {project.root}/.jobs")


def test_directories_that_systemd_makes_are_named_to_it(project):
    project.configure('run_dir = "/run/shop"', backend='backend = "sqlite:////var/lib/shop/queue/jobs.db"')
    text = printed(project)
    assert values(text, "RuntimeDirectory") == ["shop"]
    assert values(text, "StateDirectory") == ["shop/queue"]
    assert values(text, "ReadWritePaths") == values(text, "ExecStartPre") == []
    assert "/run/shop does not survive" not in text


def test_likely_problems_are_noted(project):
    project.configure('run_dir = "/run/shop"', backend="")
    text = printed(project, "--user", "root", JOBS_LEASE="20s")
    assert "NOTE: /run/shop does not survive a reboot" in text
    assert "NOTE: Jobs run as root here" in text
    assert "NOTE: Set in this shell but not part of the unit; put into the environment file below: JOBS_LEASE\n" in text


def test_the_owner_of_the_configuration_runs_it(project):
    if os.geteuid() != 0:
        pytest.skip("only root may give a directory away")
    os.chown(project.root, 65534, 65534)
    assert values(printed(project), "User") == ["nobody"]


def test_a_path_that_no_unit_can_name_is_refused(tmp_path):
    broken = Project(tmp_path / "two\nlines")
    done = broken.run("systemd")
    assert done.returncode == 2
    assert "a control or invisible character" in done.stderr
    broken.close()


def test_the_directories_of_an_embedded_broker_are_writable(project):
    broker = 'broker.embedded = true\nbroker.store = "sqlite:////srv/queue/broker.db"'
    project.configure(broker, backend='backend = "zmq+ipc:///run/shop-broker/socket"')
    text = printed(project)
    assert "/srv/queue" in values(text, "ReadWritePaths")[0].split()
    assert values(text, "RuntimeDirectory") == ["shop-broker"]
    project.configure('broker.embedded = true\nrun_dir = "/run/shop"', backend='backend = "zmq+tcp://127.0.0.1"')
    assert "/run/shop does not survive a reboot, nor do the jobs" in printed(project)


def test_systemd_accepts_the_unit_of_a_broker_that_the_docs_show(tmp_path, analyze):
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    (unit,) = re.findall(r"```ini\n(.*?jobsctl broker.*?)```", page, re.DOTALL)
    assert analyze(unit.replace("/srv/shop/.venv/bin/jobsctl", sys.executable), tmp_path) == (0, "")


# -- hostile names ---------------------------------------------------------------------------------

NEW_LINE = "root\nExecStartPre=/bin/evil"
INJECTIONS = [NEW_LINE, "root\rExecStartPre=/bin/evil", "a b", "a;b", "../../etc/passwd", "%h", "a\\", "", "-x", "a\x00b",
              "a\u2028b", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("option", ["--user", "--name"])
@pytest.mark.parametrize("value", INJECTIONS)
def test_a_name_is_a_name(tmp_path, monkeypatch, capfd, option, value):
    monkeypatch.chdir(tmp_path)
    assert main.run(["systemd", option, value], "jobsctl") == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert "\nExecStartPre" not in said.err


@pytest.mark.parametrize("bad", ["a\nExecStartPre=x", "a\rb", "a\x1bb", "a\u202eb", "a\x85b", "a\u2028b", "a\u200bb"])
@pytest.mark.parametrize("where", ["write", "run_dir", "logs.file", "base", "backend"])
def test_a_path_that_no_line_of_a_unit_can_hold_is_refused(tmp_path, monkeypatch, capfd, where, bad):
    base = tmp_path / (f"p{bad}" if where == "base" else "p")
    base.mkdir()
    values = {"run_dir": f"{where} = {json.dumps(bad)}", "logs.file": f"logs.file = {json.dumps(bad + '/jobs.log')}",
              "backend": f"backend = {json.dumps(f'sqlite:////var/tmp/{bad}/q.db')}"}  # fmt: skip
    (base / "jobs.toml").write_text(values.get(where, ""))
    monkeypatch.chdir(base)
    assert main.run(["systemd", *(["--write", f"/srv/{bad}"] if where == "write" else [])], "jobsctl") == 2
    assert capfd.readouterr().out == ""


def test_dollars_percents_and_backslashes_of_paths_are_escaped(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.toml").write_text("")
    assert main.run(["systemd", "--write", "/srv/$HOME/%h/a\\b; c"], "jobsctl") == 0
    said = capfd.readouterr().out
    assert '"/srv/$$HOME/%%h/a\\\\b; c"\n' in "".join(line + "\n" for line in said.splitlines() if "install" in line)
    assert '"/srv/$HOME/%%h/a\\\\b; c"' in next(line for line in said.splitlines() if line.startswith("ReadWritePaths="))
    (tmp_path / "a\\").mkdir()
    (tmp_path / "a\\" / "jobs.toml").write_text("")
    monkeypatch.chdir(tmp_path / "a\\")
    assert main.run(["systemd"], "jobsctl") == 2
