"""`jobsctl web` as users run it: a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from jobs_core.testing.services import free_port
from jobs_web.serving import listener
from jobs_web.settings import Settings
from jobs_web.supervised import Supervised
from jobs_web.tokens import hash_of, new_token


def jobsctl(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs_core", *arguments]
    return subprocess.run(command, cwd=directory, text=True, capture_output=True, timeout=120)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line but for what the command waits for, which it tells on a slow machine."""
    return next((line for line in iter(process.stdout.readline, "") if not line.startswith("jobs: waiting for ")), "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs.toml").write_text('backend = "sqlite:///jobs.db"\n')
    return tmp_path


def test_the_printed_link_logs_in_and_term_ends_it(project):
    command = [sys.executable, "-m", "jobs_core", "web", "--listen", f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            line = first_line(process)
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


@contextlib.contextmanager
def serving(directory: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `jobsctl web` until the block ends; yields what it has said, and the process."""
    command = [sys.executable, "-m", "jobs_core", "web", *options]
    with subprocess.Popen(command, cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            line = first_line(process)
            assert "the dashboard is at" in line, line + process.stdout.read()
            yield line, process
        finally:
            process.kill()


def test_a_stop_does_not_wait_for_those_who_wait_for_a_job(project):
    token, port = new_token(), free_port()
    settings = f'[plugins.web.tokens.shop]\nrole = "operate"\nhash = "{hash_of(token)}"\n'
    (project / "jobs.toml").write_text(f'backend = "sqlite:///jobs.db"\nmodules = ["shop"]\n{settings}')
    (project / "shop.py").write_text("from jobs_core import job\n\n\n@job\ndef pack(order): ...\n")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def ask(path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1{path}", body, headers)
        return urllib.request.urlopen(request, timeout=60)

    with serving(project, "--listen", f"127.0.0.1:{port}") as (_, process):
        with ask("/jobs", b'{"job": "shop.pack", "args": [1]}') as answer:
            job_id = json.load(answer)["id"]
        with ask(f"/jobs/{job_id}/events") as stream:
            while b"event: state" not in stream.readline():
                pass
            process.send_signal(signal.SIGTERM)
            stream.read()  # to its end, which is an orderly one
        assert process.wait(60) == -signal.SIGTERM  # uvicorn passes it on when it has ended
        assert "Cancel" not in process.stdout.read()  # uvicorn, of requests that it has to give up


class OnSocket(http.client.HTTPConnection):
    """A client of a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("jobs.example", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        with contextlib.closing(self), self.getresponse() as response:
            return response.status, response.read().decode()


def test_a_unix_socket_serves_has_its_mode_and_replaces_a_stale_one(project):
    path = project / "web.sock"
    with (project / "jobs.toml").open("a") as file:
        file.write(
            """
[plugins.web]
listen = "unix:web.sock"
socket_mode = "660"
trusted_proxies = ["unix"]
trusted_user_header = "X-Forwarded-User"
users = { anna = "operate" }
"""
        )
    for _ in range(2):  # the first one is killed, and leaves its socket
        with serving(project) as (line, _):
            assert line == "the dashboard is at unix:web.sock, path / (Ctrl-C ends it)\n"
            assert path.stat().st_mode & 0o777 == 0o660
            status, page = OnSocket(path).ask("/", X_Forwarded_User="anna")
            assert status == 200
            assert "anna · operate" in page
            assert OnSocket(path).ask("/")[0] == 401
            assert "another process is listening there" in jobsctl(project, "web").stderr
        assert path.is_socket()
    path.unlink()
    path.write_text("precious")
    assert "the file there is not a socket" in jobsctl(project, "web").stderr
    assert path.read_text() == "precious"


def test_a_token_that_is_deleted_from_the_file_and_a_session_that_is_ended_are_refused_at_once(project):
    """As operators do it, with the server of `jobsctl web`."""
    before = (project / "jobs.toml").read_text()
    told = jobsctl(project, "web", "token", "anna").stdout
    token, lines = re.search(r"jobs_\S+", told)[0], told.partition("Add this to jobs.toml:")[2]
    (project / "jobs.toml").write_text(before + lines)
    with serving(project, "--listen", f"127.0.0.1:{free_port()}") as (line, _):
        base = re.search(r"http://\S+", line)[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

        def page() -> str:
            return opener.open(base, timeout=60).read().decode()

        def log_in() -> None:
            form = re.search(r'name="token" value="([^"]+)"', page())[1]
            sent = urllib.parse.urlencode({"token": form, "key": token}).encode()
            assert "anna · read" in opener.open(f"{base}login", sent, timeout=60).read().decode()

        log_in()
        listed = jobsctl(project, "web", "sessions").stdout
        assert re.fullmatch(r"[0-9a-f]{12}  anna  since \S+ \S+  from 127.0.0.1  Python-urllib/\S+\n", listed)
        assert jobsctl(project, "web", "logout", listed.split()[0]).stdout == "ended 1 session\n"
        assert "anna · read" not in page()
        assert jobsctl(project, "web", "logout", "anna").returncode == 2
        log_in()
        (project / "jobs.toml").write_text(before + lines.replace("anna", "bob"))
        assert "anna · read" not in page()


def test_an_address_that_others_can_reach_needs_tokens(project):
    done = jobsctl(project, "web", "--listen", "0.0.0.0:9100")
    assert done.returncode == 2
    assert "plugins.web.listen: 0.0.0.0:9100 can be reached from other machines, and there are no tokens" in done.stderr


def test_a_used_address_is_reported(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = jobsctl(project, "web", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert "cannot be used: Address already in use" in done.stderr


def test_check_tries_the_address_of_the_supervised_dashboard_and_leaves_it_free(tmp_path):
    for listen in (f"127.0.0.1:{free_port()}", "unix:web.sock"):
        supervised = Supervised(Settings(listen=listen))
        supervised.try_address(tmp_path)
        supervised.try_address(tmp_path)
    assert not (tmp_path / "web.sock").exists()


def test_check_reports_a_used_address_of_the_supervised_dashboard(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (project / "jobs.toml").open("a") as file:
            file.write(f'[http]\ndashboard = true\n[plugins.web]\nlisten = "{listen}"\n')
        done = jobsctl(project, "check")
    assert done.returncode != 0
    assert f"plugins.web.listen: {listen} cannot be used: Address already in use" in done.stdout + done.stderr


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


def test_an_answer_in_two_parts_does_not_wait_for_an_acknowledgement(tmp_path):
    with (
        listener(Settings(listen=f"127.0.0.1:{free_port()}"), tmp_path) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
