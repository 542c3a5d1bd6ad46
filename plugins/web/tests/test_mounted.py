"""The dashboard inside applications, which say who may use it: the programs of examples/dashboard, on real servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import django
import pytest
from tests.support.project import until

from jobs_core import App
from jobs_core.config import Config
from jobs_core.testing.services import free_port
from jobs_web import live
from jobs_web.roles import ROLES
from jobs_web.routes import ROUTES, Kind, Route

EXAMPLE = Path(__file__).parents[3] / "examples" / "dashboard"
FILLED = re.compile(r"\{[^}]*\}")
WALKED = [route for route in ROUTES if route.role is not None and not route.path.endswith(("/live", "/events"))]

USERS = """
from django.contrib.auth.models import Group, User
operators = Group.objects.create(name="operators")
User.objects.create_user("read", password="read", is_staff=True)
User.objects.create_user("operate", password="operate", is_staff=True).groups.add(operators)
User.objects.create_superuser("admin", password="admin")
User.objects.create_user("former", password="former", is_staff=True)
"""


class Client:
    """A browser of one user, which keeps cookies by path."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, tuple[str, str]] = {}  # name → value, path

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = [f"{name}={value}" for name, (value, where) in self.cookies.items() if path.startswith(where)]
        if sent:
            given["Cookie"] = "; ".join(sent)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, given)
            response = connection.getresponse()
            text = "" if "event-stream" in response.headers.get("content-type", "") else response.read().decode()
        for cookie in response.headers.get_all("set-cookie", []):
            name, _, rest = cookie.partition("=")
            value = rest.partition(";")[0].strip('"')
            path_of = re.search(r"[Pp]ath=([^;]+)", rest)
            self.cookies[name] = (value, path_of[1] if path_of else "/")
            if "Max-Age=0" in rest:
                del self.cookies[name]
        return response.status, response.headers, text

    def form(self, path: str, fields: dict[str, str], **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        return self.ask("POST", path, urlencode(fields), Content_Type="application/x-www-form-urlencoded", **headers)

    def fields(self, page: str) -> dict[str, str]:
        """Return the hidden fields of the first form of a page."""
        text = self.ask("GET", page)[2]
        form = re.search(r"<form method=\"post\".*?</form>", text, re.DOTALL)
        assert form, text
        return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0]))


class Mounted:
    """A running application with the dashboard under /jobs."""

    def __init__(self, name: str, port: int, log_in: Callable[[Client, str], None]) -> None:
        self.name = name
        self.port = port
        self._log_in = log_in
        self.streams = name == "fastapi" or (name == "django-asgi" and django.VERSION >= (5, 0))

    def client(self, user: str = "") -> Client:
        made = Client(self.port)
        if user:
            self._log_in(made, user)
        return made


def _by_name(client: Client, user: str) -> None:
    assert client.ask("POST", f"/login/{user}")[0] == 200


def _in_admin(client: Client, user: str) -> None:
    text = client.ask("GET", "/admin/login/")[2]
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', text)
    assert token
    fields = {"csrfmiddlewaretoken": token[1], "username": user, "password": user, "next": "/jobs/"}
    assert client.form("/admin/login/", fields)[0] == 302


def _uvicorn(application: str, port: int) -> list[str]:
    return ["-m", "uvicorn", application, "--port", str(port), "--log-level", "warning"]


VARIANTS: dict[str, tuple[Callable[[int], list[str]], Callable[[Client, str], None]]] = {
    "fastapi": (lambda port: _uvicorn("fastapi_app:app", port), _by_name),
    "flask": (lambda port: ["-m", "flask", "--app", "flask_app", "run", "--port", str(port)], _by_name),
    "django-wsgi": (lambda port: ["django_app.py", "runserver", "--noreload", str(port)], _in_admin),
    "django-asgi": (lambda port: _uvicorn("django_app:asgi", port), _in_admin),
}


@pytest.fixture(scope="module", params=VARIANTS)
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    directory = tmp_path_factory.mktemp("mounted")
    shutil.copytree(EXAMPLE, directory, dirs_exist_ok=True)
    command, log_in = VARIANTS[request.param]
    if request.param.startswith("django"):
        for made in (["migrate", "-v0"], ["shell", "-c", USERS]):
            subprocess.run(
                [sys.executable, "django_app.py", *made], cwd=directory, check=True, capture_output=True, timeout=240
            )
    app = App(Config(backend=f"sqlite:///{directory}/jobs.db", base_dir=directory))
    app.operate(lambda backend: backend.pause("default"))  # so that pages have a topic
    app.close()
    port = free_port()
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen([sys.executable, *command(port)], cwd=directory, stdout=log, stderr=log) as process,
    ):
        try:
            site = Mounted(request.param, port, log_in)
            until(lambda: process.poll() is not None or _answers(port))
            assert process.poll() is None, (directory / "log").read_text()
            yield site
        finally:
            process.kill()


def _answers(port: int) -> bool:
    try:
        Client(port).ask("GET", "/jobs/")
    except OSError:
        return False
    return True


def _tried(client: Client, route: Route) -> tuple[int, http.client.HTTPMessage, str]:
    path = "/jobs" + FILLED.sub("x", route.path)
    if route.kind is Kind.API and route.method != "GET":
        return client.ask(route.method, path, "{}", Content_Type="application/json")
    return client.ask("GET", path) if route.method == "GET" else client.form(path, {})


def test_every_route_refuses_those_who_have_not_logged_in(mounted):
    client = mounted.client()
    let_in = []
    for route in WALKED:
        status, headers, _ = _tried(client, route)
        to_login = status == 302 and "/login/?next=/jobs/" in headers["location"]
        if not (status == 401 or (to_login and mounted.name.startswith("django"))):
            let_in.append((route.method, route.path, status))
    assert let_in == []


@pytest.mark.parametrize("role", ROLES)
def test_every_route_refuses_users_whose_role_is_too_low(mounted, role):
    client = mounted.client(role)
    wrong = []
    for route in WALKED:
        status, _, text = _tried(client, route)
        refused = status == 403 and "this needs the role" in text
        if refused is not (ROLES[role] < route.role) or status in (401, 302, 500):
            wrong.append((route.method, route.path, status))
    assert wrong == []


def test_a_form_acts_once_with_the_token_of_the_dashboard_and_says_so(mounted):
    client = mounted.client("admin")
    fields = client.fields("/jobs/topics")
    assert client.form("/jobs/topics/resume", {**fields, "token": "x"})[0] == 403
    other = mounted.client("operate")
    assert other.form("/jobs/topics/resume", fields)[0] == 403  # of another browser
    assert client.form("/jobs/topics/resume", fields, Origin="https://evil.example")[0] == 403
    status, headers, text = client.form("/jobs/topics/resume", fields)
    assert (status, headers["location"].partition("?")[0]) == (303, "/jobs/topics"), text
    assert {name: where for name, (_, where) in client.cookies.items() if name.startswith("jobs_")} == {
        "jobs_session": "/jobs", "jobs_said": "/jobs",
    }  # fmt: skip
    said = r'<p class="finding said good"'
    assert re.search(said, client.ask("GET", "/jobs/topics")[2])
    assert not re.search(said, client.ask("GET", "/jobs/topics")[2])
    client.form("/jobs/topics/pause", fields)


def test_pages_links_and_files_stay_under_the_prefix(mounted):
    client = mounted.client("read")
    _, headers, page = client.ask("GET", "/jobs/")
    assert "Needs attention" in page
    assert headers["content-security-policy"].startswith("default-src 'none'")
    links = set(re.findall(r'(?:href|src|action|data-live)="([^"#]+)"', page))
    assert links
    assert [link for link in links if not link.startswith("/jobs/")] == []
    files = [link for link in links if "/static/" in link]
    assert [client.ask("GET", link)[0] for link in files] == [200] * 3
    assert client.ask("GET", "/jobs/nowhere")[0] == 404
    assert client.ask("GET", "/jobs/login")[0] == 404  # the application has the login


def test_pages_follow_by_a_stream_where_the_server_has_an_event_loop_and_ask_elsewhere(mounted):
    client = mounted.client("read")
    page = client.ask("GET", "/jobs/topics")[2]
    status, headers, text = client.ask("GET", "/jobs/live")
    if mounted.streams:
        assert 'data-live="/jobs/live"' in page
        assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    else:
        assert 'data-live=""' in page
        assert status == 501
        assert "no streams" in text


def test_streams_that_clients_have_left_end_so_that_others_find_room(mounted):
    if not mounted.streams or mounted.name == "fastapi":
        return  # there, it is the server who ends them
    client = mounted.client("read")
    assert [client.ask("GET", "/jobs/live")[0] for _ in range(live.MOST + 20)] == [200] * (live.MOST + 20)


def test_a_large_body_arrives_and_one_that_is_too_large_is_refused(mounted):
    client = mounted.client("operate")
    line = json.dumps({"job": "shop_jobs.confirm", "args": ["x" * 100_000]})
    status, _, text = client.ask("POST", "/jobs/api/v1/jobs", "\n".join([line] * 30), Content_Type="application/x-ndjson")
    assert status in (200, 201), text
    assert len(json.loads(text)["ids"]) == 30
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a server may answer before it has read everything
        status, _, text = client.ask("POST", "/jobs/api/v1/jobs", " " * 10_000_100, Content_Type="application/json")
        assert status == 413, text


def test_headers_of_a_proxy_name_nobody(mounted):
    status, _, text = mounted.client().ask("GET", "/jobs/topics", X_Forwarded_User="admin", Remote_User="admin")
    assert status in (401, 302)
    assert "default" not in text


def test_users_who_are_no_longer_staff_or_active_are_out_at_once(mounted):
    if not mounted.name.startswith("django"):
        return  # their users are only names
    former, admin = mounted.client("former"), mounted.client("admin")
    assert former.ask("GET", "/jobs/")[0] == 200
    change = "/admin/auth/user/4/change/"
    fields = {"username": "former", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    for more, expected in (({"is_active": "on"}, 403), ({"is_staff": "on"}, 302)):
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', admin.ask("GET", change)[2])
        assert admin.form(change, {"csrfmiddlewaretoken": token[1], **fields, **more})[0] == 302
        assert former.ask("GET", "/jobs/")[0] == expected
