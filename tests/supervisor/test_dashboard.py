"""`[http] dashboard = true`: the supervisor runs the dashboard as another child, whose fate does not touch the jobs."""

from __future__ import annotations

import http.client
import re
import socket
import urllib.error
import urllib.request
from http.cookiejar import CookieJar

import pytest

from jobs_core import hookimpl
from jobs_core.config import Config
from jobs_core.errors import ConfigError, PluginError
from jobs_core.plugins import PluginInfo, Plugins
from jobs_core.scoreboard.writer import start_ticks
from jobs_core.testing.services import free_port, freeze
from jobs_web.tokens import hash_of, new_token

from ..support.project import PATIENCE
from ..support.supervised import Supervised, gone, kill


class Shown(Supervised):
    """A supervisor with a dashboard."""

    def __init__(self, project, toml=""):
        self.port = free_port()
        self.toml = toml
        self.configure(project)
        super().__init__(project)

    def configure(self, project, toml=None):
        lines = self.toml if toml is None else toml
        project.configure(f'[http]\ndashboard = true\n[plugins.web]\nlisten = "127.0.0.1:{self.port}"\n{lines}')

    def page(self, path="/", **headers):
        """Return status and body, or None where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return None
        finally:
            connection.close()

    def until_served(self):
        return self.until(lambda board: self.page("/login") is not None and board.supervisor.dashboard_pid)


def opened(project) -> tuple[urllib.request.OpenerDirector, str]:
    """Return a browser in which the link of `jobsctl web link` was opened, and the page that it shows."""
    link = project.run("web", "link").stdout.strip()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    return browser, browser.open(link, timeout=PATIENCE).read().decode()


def test_the_supervisor_serves_it_a_link_logs_in_and_a_stop_ends_it(project):
    shown = Shown(project)
    pid = shown.until_served()
    ticks = start_ticks(pid)
    browser, page = opened(project)
    assert "local · admin" in page
    assert "Needs attention" in page
    assert f"dashboard {pid}" in project.run("status").stdout
    project.push("note", "runs")
    project.until_noted("note runs")
    assert shown.page("/")[0] == 303  # nobody else gets in
    assert shown.page("/login?key=local")[0] == 403
    assert shown.page("/api/v1/topics", Authorization="Bearer local")[0] == 401
    assert "login?key=" not in shown.process.output  # no secret in the log
    stream = browser.open(f"http://127.0.0.1:{shown.port}/live", timeout=PATIENCE)
    assert stream.readline() == b"retry: 2000\n"
    assert shown.stop() == 0
    assert b"retry" not in stream.read()  # it was ended, not cut
    assert gone(pid, ticks)
    assert shown.page() is None


def test_a_killed_dashboard_is_back_and_sessions_and_jobs_go_on_until_the_supervisor_is_killed(project):
    shown = Shown(project)
    first = shown.until_served()
    browser, _ = opened(project)
    workers = shown.pids()
    kill(first)
    shown.until(lambda board: board.supervisor.dashboard_pid not in (0, first))
    shown.until_served()
    assert "local · admin" in browser.open(f"http://127.0.0.1:{shown.port}/", timeout=PATIENCE).read().decode()
    assert shown.pids() == workers
    project.push("note", "on")
    project.until_noted("note on")
    pid = shown.board().supervisor.dashboard_pid
    ticks = start_ticks(pid)
    shown.kill()
    project.until(lambda: gone(pid, ticks))


def test_a_hanging_dashboard_delays_neither_a_reload_nor_a_stop_for_ever(project):
    shown = Shown(project)
    pid = shown.until_served()
    freeze(pid)
    assert shown.stop() == 0  # it is killed after three seconds


EXPOSED = '[http]\ndashboard = true\n[plugins.web]\nlisten = "0.0.0.0:9100"'


def test_a_reload_brings_the_new_settings_can_switch_it_off_and_on_and_refuses_to_expose_it(project):
    token = new_token()
    shown = Shown(project)
    first = shown.until_served()
    shown.configure(project, f'[plugins.web.tokens.anna]\nrole = "read"\nhash = "{hash_of(token)}"\n')
    assert project.run("reload").returncode == 0
    shown.until(lambda board: board.supervisor.dashboard_pid not in (0, first))
    shown.until_served()
    bearer = {"Authorization": f"Bearer {token}"}
    assert shown.page("/api/v1/topics", **bearer)[0] == 200
    shown.configure(project, f'[plugins.web.tokens.bob]\nrole = "read"\nhash = "{hash_of(new_token())}"\n')
    assert shown.page("/api/v1/topics", **bearer)[0] == 401  # without a reload
    assert project.run("web", "link").stdout == f"http://127.0.0.1:{shown.port}/\n"  # users have tokens now
    project.configure("")
    assert project.run("reload").returncode == 0
    shown.until(lambda board: board.supervisor.dashboard_pid == 0 and shown.page() is None)
    shown.configure(project)
    assert project.run("reload").returncode == 0
    pid = shown.until_served()
    project.configure(EXPOSED)
    refused = project.run("reload")
    assert refused.returncode != 0
    assert "can be reached from other machines" in refused.stderr
    assert shown.until_served() == pid


def test_an_address_in_use_is_reported_and_the_jobs_run(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        project.configure(f'[http]\ndashboard = true\n[plugins.web]\nlisten = "127.0.0.1:{port}"')
        supervised = Supervised(project)
        supervised.until(lambda board: board.supervisor.helper_errors)
        said = project.run("status").stdout
        assert f"! the dashboard is not served: plugins.web.listen: 127.0.0.1:{port} cannot be used" in said
        project.push("note", "runs")
        project.until_noted("note runs")


@pytest.mark.parametrize("command", ["start", "check"])
def test_settings_that_would_expose_it_are_refused_before_anything_starts(project, command):
    project.configure(EXPOSED)
    refused = project.run(command)
    assert refused.returncode != 0
    assert "plugins.web.listen: 0.0.0.0:9100 can be reached from other machines" in refused.stdout + refused.stderr


@pytest.mark.parametrize("command", ["start", "check"])
def test_without_the_plugin_the_command_names_it(project, command):
    project.configure("[http]\ndashboard = true")
    refused = project.run(command, JOBS_DISABLE_PLUGINS="web")
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert re.search(r"http\.dashboard: no plugin provides a dashboard: .*jobs-web.* is disabled by JOBS_DISABLE_PLUGINS", said)


def test_no_plugin_or_two_or_a_wrong_answer_is_an_error_that_names_the_fix():
    class Plugin:
        def __init__(self, answer):
            self.answer = answer

        @hookimpl
        def jobs_dashboard(self, config):
            return self.answer

    def found(*answers):
        plugins = Plugins([])
        for number, answer in enumerate(answers):
            plugins._add(Plugin(answer), PluginInfo(f"p{number}", "jobs-test", "1"))
        return plugins.dashboard(Config())

    with pytest.raises(ConfigError, match=r"pip install jobs-web, or leave it out"):
        found(None)
    with pytest.raises(PluginError, match="http.dashboard: .* returned int, expected a function or None"):
        found(5)
    with pytest.raises(PluginError, match="http.dashboard: it is provided by .*p0.* and .*p1.*: disable one"):
        found(print, print)
    assert found(None, print) is print
