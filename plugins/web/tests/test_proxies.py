"""What a proxy says about a request is believed if the proxy is trusted, and never if anybody else says it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from jobs_core import ConfigError
from jobs_web import live
from jobs_web.attempts import MOST_FAILURES
from jobs_web.proxies import TRUSTED, Proxies
from jobs_web.roles import ROLES
from jobs_web.routes import ROUTES, Kind, Route
from jobs_web.settings import read
from jobs_web.site import Site, asgi

from .support import Browser, Rig

HEADER = "X-Forwarded-User"
SETTINGS = {
    "trusted_user_header": HEADER,
    "trusted_proxies": ["10.0.0.0/8", "::1"],
    "users": {"anna": "admin", "bob@example.com": "operate", "*": "read"},
}


class Behind(Browser):
    """A browser whose requests arrive from an address."""

    def __init__(self, rig: Rig, site: Site, peer: str | None, *, on_socket: bool = False) -> None:
        super().__init__(rig)
        served = Proxies(asgi(site), site.settings.trusted_proxies, on_socket=on_socket)

        async def arriving(scope: Any, receive: Any, send: Any) -> None:
            await served({**scope, "client": (peer, 5) if peer else None}, receive, send)

        self._transport.app = arriving  # type: ignore[attr-defined]


def behind(rig: Rig, peer: str | None, *, on_socket: bool = False, **more: Any) -> Behind:
    settings = read({**SETTINGS, **more})
    return Behind(rig, Site(rig.app, settings), peer, on_socket=on_socket)


def scope_of(peer: str | None, headers: list[tuple[str, str]], trusted: list[str], *, on_socket: bool = False) -> Any:
    """Return what an application is given for a request."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(scope)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "scheme": "http", "client": (peer, 1) if peer else None, "headers": raw}
    asyncio.run(Proxies(app, trusted, on_socket=on_socket)(scope, None, None))  # type: ignore[arg-type]
    return given[0]


@pytest.mark.parametrize(
    ("name", "role"), [("anna", "admin"), ("bob@example.com", "operate"), ("carla", "read")], ids=["anna", "bob", "others"]
)
def test_a_trusted_proxy_names_the_user_and_the_table_gives_the_role(rig, name, role):
    page = behind(rig, "10.1.2.3").get("/", headers={HEADER: name}).text
    assert f"{name} · {role}" in page
    assert "log out" not in page


@pytest.mark.parametrize("peer", ["11.0.0.1", "127.0.0.1", "::2", "::ffff:11.0.0.1", "testclient", "", None])
def test_the_header_of_anybody_else_names_nobody(rig, peer):
    for headers in (
        {HEADER: "anna"},
        {HEADER: "anna", "X-Forwarded-For": "10.1.2.3"},
        {HEADER: "anna", "Forwarded": "for=10.1.2.3"},
    ):
        browser = behind(rig, peer)
        assert browser.get("/", headers=headers).status_code == 401
        assert browser.get("/api/v1/topics", headers=headers).status_code == 401


@pytest.mark.parametrize("peer", ["10.0.0.1", "::1", "::ffff:10.0.0.1"])
def test_a_network_and_an_address_are_trusted(rig, peer):
    assert behind(rig, peer).get("/", headers={HEADER: "anna"}).status_code == 200


def test_a_name_that_came_twice_is_refused_because_one_may_be_of_the_client(rig):
    response = behind(rig, "::1").get("/", headers=[(HEADER, "anna"), (HEADER, "carla")])
    assert response.status_code == 403
    assert "was sent twice: let the proxy replace it" in response.text


@pytest.mark.parametrize("name", ["X_Forwarded_User", "X-Forwarded-Users", "Remote-User"])
def test_a_header_of_another_name_names_nobody(rig, name):
    assert behind(rig, "::1").get("/", headers={name: "anna"}).status_code == 401


@pytest.mark.parametrize("name", ["a b", "anna, carla", "<b>", "x" * 65, "*", "anna\tx"])
def test_a_senseless_name_is_refused(rig, name):
    response = behind(rig, "::1").get("/", headers={HEADER: name})
    assert response.status_code == 403
    assert "has no role" in response.text
    assert "<b>" not in response.text.partition("<main")[2].replace("<b>x</b>", "")


def test_a_user_without_a_role_is_refused(rig):
    response = behind(rig, "::1", users={"anna": "read"}).get("/", headers={HEADER: "bob"})
    assert response.status_code == 403
    assert "plugins.web.users gives one" in response.text


def test_without_a_name_the_page_says_who_has_to_name_the_user(rig):
    response = behind(rig, "::1").get("/", headers={HEADER: ""})
    assert response.status_code == 401
    assert "the proxy in front of this dashboard has not said who you are" in response.text


def test_the_roles_of_named_users_are_those_of_tokens(rig):
    for name, role in (("anna", "admin"), ("carla", "read")):
        browser = behind(rig, "::1")
        page = browser.get("/topics", headers={HEADER: name})
        assert page.status_code == 200
        answer = browser.post("/limits/reset", data={"token": "x"}, headers={HEADER: name})
        assert ("needs the role" in answer.text) is (ROLES[role] < ROLES["admin"])
        assert answer.status_code == 403  # admin: the form has no token of this browser


WALKED = [route for route in ROUTES if route.role is not None]


def _tried(browser: Browser, route: Route, user: str) -> Any:
    path = re.sub(r"\{[^}]*\}", "x", route.path)
    if route.kind is Kind.API and route.method != "GET":
        return browser.request(route.method, path, json={}, headers={HEADER: user})
    return browser.request(route.method, path, data={} if route.method != "GET" else None, headers={HEADER: user})


@pytest.mark.parametrize(("name", "role"), [("anna", "admin"), ("bob@example.com", "operate"), ("carla", "read")])
def test_every_route_refuses_named_users_whose_role_is_too_low_and_names_of_anybody_else(rig, monkeypatch, name, role):
    monkeypatch.setattr(live, "MOST", 0)  # a stream would not end: refused once everything else is checked
    browser, spoofing = behind(rig, "10.1.2.3"), behind(rig, "127.0.0.1")
    wrong = []
    for route in WALKED:
        answer = _tried(browser, route, name)
        refused = answer.status_code == 403 and "this needs the role" in answer.text
        if refused is not (ROLES[role] < route.role) or answer.status_code == 401:
            wrong.append((route.method, route.path, answer.status_code))
        if _tried(spoofing, route, name).status_code != 401:
            wrong.append((route.method, route.path, "let in by a name of anybody"))
    assert wrong == []


def test_a_named_user_may_use_the_api_and_other_sites_may_not_use_them(rig):
    browser = behind(rig, "::1")
    assert browser.get("/api/v1/topics", headers={HEADER: "carla"}).status_code == 200
    told = browser.post("/api/v1/topics/default/pause", headers={HEADER: "anna", "Origin": "https://evil.example"})
    assert told.status_code == 403
    assert "another site" in told.text


def test_tokens_work_beside_the_header(rig):
    site = Site(rig.app, read({**SETTINGS, "tokens": _tokens(rig)}))
    browser = Behind(rig, site, "10.0.0.1")
    assert browser.get("/").status_code == 303  # to the login
    assert browser.log_in(rig.tokens["operate"]).status_code == 303
    assert "operate · operate" in browser.get("/").text
    assert "anna · admin" in browser.get("/", headers={HEADER: "anna"}).text
    bearer = {"Authorization": f"Bearer {rig.tokens['read']}", HEADER: "anna"}
    assert browser.post("/api/v1/topics/default/pause", headers=bearer).status_code == 403  # the token decides


def _tokens(rig: Rig) -> dict[str, dict[str, str]]:
    return {name: {"role": token.role, "hash": token.hash} for name, token in rig.site.settings.tokens.items()}


def test_the_header_names_nobody_where_an_application_contains_the_dashboard(rig):
    browser = Browser(rig)
    browser._transport.app = asgi(Site(rig.app, read({**SETTINGS, "tokens": _tokens(rig), "trusted_proxies": ["127.0.0.1"]})))
    assert browser.get("/", headers={HEADER: "anna"}).status_code == 303


# -- addresses and schemes -----------------------------------------------------------------------


def test_a_unix_socket_is_trusted_only_if_the_configuration_says_so():
    assert scope_of(None, [], ["unix"], on_socket=True)[TRUSTED] is True
    assert scope_of(None, [], ["unix"])[TRUSTED] is False  # a connection by TCP that is gone has no address, either
    assert scope_of(None, [], ["10.0.0.1"], on_socket=True)[TRUSTED] is False


def test_the_client_is_the_last_address_that_no_trusted_proxy_has():
    headers = [("X-Forwarded-For", "6.6.6.6, 7.7.7.7"), ("X-Forwarded-For", "10.0.0.2")]
    assert scope_of("10.0.0.1", headers, ["10.0.0.0/8"])["client"][0] == "7.7.7.7"
    assert scope_of("9.9.9.9", headers, ["10.0.0.0/8"])["client"][0] == "9.9.9.9"


def test_a_client_cannot_forge_its_address_to_try_more_tokens(rig):
    browser = behind(rig, "10.0.0.1", tokens=_tokens(rig))
    token = browser.token_of()
    statuses = [
        browser.post("/login", data={"token": token, "key": "wrong"}, headers={"X-Forwarded-For": f"6.6.6.{number}, 7.7.7.7"})
        for number in range(MOST_FAILURES + 1)
    ]
    assert [each.status_code for each in statuses] == [403] * MOST_FAILURES + [429]


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "http, https", "https"),
        ("10.0.0.1", "gopher", "http"),
        ("9.9.9.9", "https", "http"),
    ],
)
def test_the_scheme_is_what_a_trusted_proxy_says(peer, said, scheme):
    assert scope_of(peer, [("X-Forwarded-Proto", said)], ["10.0.0.0/8"])["scheme"] == scheme


def test_the_cookie_is_secure_behind_a_proxy_with_tls_on_this_machine_too(rig):
    for peer, said, secure in (("::1", "https", True), ("::1", "http", False), ("9.9.9.9", "https", False)):
        browser = behind(rig, peer, tokens=_tokens(rig))
        browser.base_url = "http://127.0.0.1:9100"
        cookie = browser.get("/login", headers={"X-Forwarded-Proto": said}).headers["set-cookie"]
        assert ("Secure" in cookie) is secure


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trusted_proxies": []}, "everybody could send it"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "is every address"),
        ({"trusted_proxies": ["::/0"]}, "is every address"),
        ({"trusted_proxies": ["*"]}, "trusted_proxies"),
        ({"trusted_proxies": ["proxy.example"]}, "trusted_proxies"),
        ({"users": {}}, "nobody has a role"),
        ({"users": {"anna": "root"}}, "plugins.web.users.anna"),
        ({"users": {"a b": "read"}}, "expected a name"),
        ({"trusted_user_header": ""}, "no proxy names a user"),
        ({"trusted_user_header": "X User"}, "trusted_user_header"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(f"{key}={given}" for key, given in value.items()),
)
def test_a_setting_that_would_let_anybody_in_or_nobody_is_refused(change, expected):
    with pytest.raises(ConfigError, match="plugins.web") as error:
        read({**SETTINGS, **change})
    assert expected in str(error.value)
