"""`jobsctl web` behind a reverse proxy, which publishes it under a prefix: links, cookies, streams, users."""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.reverse_proxy import ReverseProxy

from jobs_core.testing.services import free_port
from jobs_web.serving import Prefixed

from .test_command import jobsctl, serving
from .test_mounted import EXAMPLE, Client

TLS = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}


@pytest.fixture(scope="module", params=["keeps the prefix", "strips the prefix"])
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ReverseProxy, str, Any]]:
    """A dashboard behind a proxy with TLS, the token of an admin, and the process."""
    directory = tmp_path_factory.mktemp("published")
    toml = 'backend = "sqlite:///jobs.db"\n[plugins.web]\nroot_path = "/jobs"\ntrusted_proxies = ["127.0.0.1"]\n'
    (directory / "jobs.toml").write_text(toml)
    told = jobsctl(directory, "web", "token", "anna", "--role", "admin").stdout
    (directory / "jobs.toml").write_text(toml + told.partition("Add this to jobs.toml:")[2])
    token = re.search(r"jobs_\S+", told)
    port = free_port()
    strip = request.param.startswith("strips")
    with (
        serving(directory, "--listen", f"127.0.0.1:{port}") as (_, process),
        ReverseProxy(port, prefix="/jobs", strip=strip, headers=TLS) as proxy,
    ):
        yield proxy, token[0], process


def logged_in(published: tuple[ReverseProxy, str, Any]) -> tuple[Client, http.client.HTTPMessage]:
    """Return a browser that has logged in, and the headers of the answer to its login."""
    proxy, token, _ = published
    client = Client(proxy.port)
    fields = client.fields("/jobs/login")
    status, headers, _ = client.form("/jobs/login", {**fields, "key": token}, Origin=f"https://127.0.0.1:{proxy.port}")
    assert (status, headers["location"]) == (303, "/jobs/")
    return client, headers


def test_a_login_leads_back_under_the_prefix_with_a_secure_cookie_for_it(published):
    client = Client(published[0].port)
    assert client.ask("GET", "/jobs/topics?q=x")[1]["location"] == "/jobs/login?next=%2Fjobs%2Ftopics%3Fq%3Dx"
    _, headers = logged_in(published)
    assert all(word in headers["set-cookie"] for word in ("Path=/jobs;", "Secure", "HttpOnly", "SameSite=lax"))


def test_links_files_and_forms_work_under_the_prefix(published):
    client, _ = logged_in(published)
    _, _, page = client.ask("GET", "/jobs/")
    links = set(re.findall(r'(?:href|src|action|data-live)="([^"#]+)"', page))
    assert [link for link in links if not link.startswith("/jobs/")] == []
    broken = {link: client.ask("GET", link)[0] for link in links if "logout" not in link and "/live" not in link}
    assert [link for link, status in broken.items() if status != 200] == []
    assert client.ask("GET", "/jobs/api/v1/topics", Authorization=f"Bearer {published[1]}")[0] == 200
    status, headers, _ = client.form("/jobs/logout", client.fields("/jobs/"))
    assert (status, headers["location"]) == (303, "/jobs/login")
    assert client.ask("GET", "/jobs/")[0] == 303


@pytest.mark.parametrize(
    ("prefix", "path", "inside"),
    [
        ("/jobs", "/jobs/", "/jobs/"),
        ("/jobs", "/", "/jobs/"),
        ("/jobs", "/jobs/jobs", "/jobs/jobs"),
        ("/jobs", "/jobs", "/jobs/jobs"),
        ("/shop", "/shop", "/shop"),
        ("/shop", "/topics", "/shop/topics"),
        ("/dead", "/dead/group", "/dead/dead/group"),
        ("/dead", "/dead/dead/group", "/dead/dead/group"),
        ("/a/b", "/a/b/static/x.css", "/a/b/static/x.css"),
        ("/api", "/api/v1/topics", "/api/api/v1/topics"),
        ("/shop", "/shopping", "/shop/shopping"),
    ],
)
def test_a_prefix_that_has_the_name_of_a_page_is_told_from_it(prefix, path, inside):
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope["root_path"], scope["path"]))

    asyncio.run(Prefixed(app, prefix)({"type": "http", "path": path}, None, None))  # type: ignore[arg-type]
    assert found == [(prefix, inside)]


def test_events_pass_as_they_happen(published):
    client, _ = logged_in(published)
    connection = http.client.HTTPConnection("127.0.0.1", published[0].port, timeout=60)
    cookie = f"jobs_session={client.cookies['jobs_session'][0]}"
    connection.request("GET", "/jobs/live", headers={"Cookie": cookie})
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline() == b"retry: 2000\n"
    response.close()
    connection.close()


def test_sessions_name_the_client_and_not_the_proxy(published, tmp_path_factory):
    logged_in(published)
    directory = Path(f"/proc/{published[2].pid}/cwd").resolve()
    assert "  from 192.0.2.7  " in jobsctl(directory, "web", "sessions").stdout


def test_the_users_of_a_proxy_on_a_unix_socket_have_their_roles(tmp_path):
    """As proxied.toml and nginx.conf of the example have it."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.move(tmp_path / "proxied.toml", tmp_path / "jobs.toml")
    with serving(tmp_path):
        for user, shown in (("ada", "ada · admin"), ("bob", "bob · read")):
            headers = {"X-Forwarded-User": user}
            with ReverseProxy(tmp_path / "web.sock", prefix="/jobs", strip=False, headers=headers) as proxy:
                status, _, page = Client(proxy.port).ask("GET", "/jobs/", X_Forwarded_User="root")
                assert status == 200
                assert shown in page
        with ReverseProxy(tmp_path / "web.sock", prefix="/jobs", strip=False, headers={"X-Forwarded-User": ""}) as proxy:
            assert Client(proxy.port).ask("GET", "/jobs/", X_Forwarded_User="ada")[0] == 401
