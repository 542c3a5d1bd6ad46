"""`jobsctl web` as users run it: a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def jobsctl(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs_core", *arguments]
    return subprocess.run(command, cwd=directory, text=True, capture_output=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs.toml").write_text('backend = "sqlite:///jobs.db"\n')
    return tmp_path


def test_the_printed_link_logs_in_and_term_ends_it(project):
    command = [sys.executable, "-m", "jobs_core", "web", "--listen", f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            line = process.stdout.readline()
            link = re.search(r"http://\S+", line)
            assert link, line + process.stdout.read()
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
            page = opener.open(link[0], timeout=60).read().decode()
            assert "Needs attention" in page
            assert "local · admin" in page
            other = urllib.request.urlopen(link[0].partition("login")[0], timeout=60).read().decode()
            assert "Needs attention" not in other
        finally:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_an_address_that_others_can_reach_needs_tokens(project):
    done = jobsctl(project, "web", "--listen", "0.0.0.0:9100")
    assert done.returncode == 2
    assert "plugins.web.listen: 0.0.0.0:9100 can be reached from other machines, and there are no tokens" in done.stderr


def test_a_used_address_is_reported(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = jobsctl(project, "web", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert "cannot be used: Address already in use" in done.stderr


def test_a_queue_inside_one_process_is_refused(tmp_path):
    (tmp_path / "jobs.toml").write_text('backend = "memory://"\n')
    assert "Choose a backend that processes share" in jobsctl(tmp_path, "web").stderr


def test_a_token_is_printed_with_lines_that_the_configuration_accepts(project):
    done = jobsctl(project, "web", "token", "anna", "--role", "operate")
    assert done.returncode == 0, done.stderr
    text, _, lines = done.stdout.partition("Add this to jobs.toml:")
    token = re.search(r"jobs_\S+", text)[0]
    assert token not in lines
    with (project / "jobs.toml").open("a") as file:
        file.write(lines)
    assert "tokens" not in jobsctl(project, "web", "--listen", "nonsense").stderr


def test_without_the_plugin_the_command_names_it(project, monkeypatch):
    monkeypatch.setenv("JOBS_DISABLE_PLUGINS", "web")
    done = jobsctl(project, "web")
    assert done.returncode == 2
    assert "the command 'web' comes with a plugin: pip install jobs-web" in done.stderr
