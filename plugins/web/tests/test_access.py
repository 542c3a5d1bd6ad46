"""Who may do what: every route by every role, logins, sessions, forms of other sites."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

from jobs_core import ConfigError
from jobs_web import create_app, live, login
from jobs_web.attempts import MOST_CLIENTS, MOST_FAILURES, WINDOW, Attempts
from jobs_web.errors import TooMany
from jobs_web.guard import LARGEST_FORM
from jobs_web.guesses import Guesses, network_of
from jobs_web.roles import ROLES, Role, User
from jobs_web.routes import ROUTES, Kind
from jobs_web.settings import Settings, read
from jobs_web.site import POLICY, Site, asgi
from jobs_web.tokens import PREFIX, Seal, hash_of, key_in, new_token

from .support import Browser

FILLED = re.compile(r"\{[^}]*\}")


PAGES = [route for route in ROUTES if route.kind is Kind.PAGE]  # test_api.py tries the others


@pytest.fixture(autouse=True)
def no_streams(monkeypatch):
    """Let the stream of changes, which would not end, be refused once everything else is checked."""
    monkeypatch.setattr(live, "MOST", 0)


def _tried(browser, route):
    path = FILLED.sub("x", route.path)
    return browser.get(path) if route.method == "GET" else browser.submit(path)


@pytest.mark.parametrize("route", PAGES, ids=[f"{route.method}-{route.path}" for route in PAGES])
@pytest.mark.parametrize("role", ["", *ROLES])
def test_every_route_refuses_users_whose_role_is_too_low(rig, route, role):
    response = _tried(rig.browser(role), route)
    allowed = route.role is None or (bool(role) and ROLES[role] >= route.role)
    if allowed:
        assert response.status_code != 401
        assert "needs the role" not in response.text
    elif role:
        assert response.status_code == 403
        assert f"this needs the role {route.role.word}" in response.text
    else:  # a page leads to the login, an action does not
        to_login = response.status_code == 303 and response.headers["location"].startswith("/login?next=")
        assert to_login if route.method == "GET" else response.status_code == 401


def test_only_the_login_is_open_to_everybody():
    assert {route.path for route in PAGES if route.role is None} == {"/login", "/logout"}
    assert [route.path for route in ROUTES if route.role is None and route not in PAGES] == [
        "/api/v1/openapi.json",
        "/api/v1/health",
    ]


def test_actions_need_more_than_the_role_that_looks():
    assert [route.path for route in ROUTES if route.changes and route.role is Role.READ] == []


def test_what_deletes_or_changes_machines_limits_and_the_schedule_needs_the_role_admin():
    assert {route.path for route in PAGES if route.changes and route.role is Role.ADMIN} == {
        "/job/drop", "/jobs/drop", "/dead/drop", "/limits/override", "/limits/reset", "/schedule/save", "/schedule/remove",
        "/schedule/pause", "/schedule/resume", "/machines/quiet", "/machines/resume", "/machines/reload", "/machines/stacks",
        "/machines/scale",
    }  # fmt: skip


def test_read_only_refuses_every_change(make_rig):
    browser = make_rig(read_only=True).browser("admin")
    answers = {route.path: _tried(browser, route) for route in PAGES if route.changes}
    assert [path for path, answer in answers.items() if answer.status_code != 403 or "read-only" not in answer.text] == []


def test_every_answer_has_the_headers_that_protect_users(rig):
    browser = rig.browser("read")
    style = re.search(r"/static/style[^\"]+", browser.text("/"))
    for path in ("/", "/login", "/nowhere", style[0]):
        headers = browser.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == ("public, max-age=31536000, immutable" if "static" in path else "no-store")


def test_the_policy_allows_nothing_inline_and_no_other_host():
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_templates_have_no_inline_script_or_style(rig):
    for path in ("/", "/login"):
        page = rig.browser("admin").get(path).text
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", page)


# -- logins ----------------------------------------------------------------------------------------


def test_a_token_logs_in_and_out(rig):
    browser = rig.browser()
    assert browser.get("/").status_code == 303
    assert browser.log_in(rig.tokens["operate"]).headers["location"] == "/"
    page = browser.text("/")
    assert "operate · operate" in page
    assert browser.submit("/logout", _page="/").status_code == 303
    assert browser.get("/").status_code == 303


def test_a_login_goes_back_to_where_it_came_from_inside_the_dashboard_only(rig):
    browser = rig.browser()
    assert browser.get("/?since=6h").headers["location"] == "/login?next=%2F%3Fsince%3D6h"
    token = rig.tokens["read"]
    assert browser.submit("/login", key=token, next="/?since=6h").headers["location"] == "/?since=6h"
    for bad in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\r\nx: y"):
        assert browser.submit("/login", key=token, next=bad).headers["location"] == "/"


@pytest.mark.parametrize("wrong", ["", "jobs_wrong", "ü" * 50, "x" * 10_000])
def test_a_wrong_token_is_refused(rig, wrong):
    response = rig.browser().log_in(wrong)
    assert response.status_code == 403
    assert "no such token" in response.text


def test_a_wrong_token_is_asked_for_again_on_the_way_to_the_same_page(rig):
    page = rig.browser().submit("/login", key="wrong", next="/topics?q=a").text
    assert 'name="key"' in page
    assert 'name="next" value="/topics?q=a"' in page


def test_an_action_after_the_session_has_ended_leads_to_the_login_and_back_to_its_page(rig):
    browser = rig.browser()
    for referrer, after in (("https://jobs.example/topics?q=a", "%2Ftopics%3Fq%3Da"), ("https://evil.example/topics", "")):
        response = browser.post("/topics/pause", data={"topic": "default"}, headers={"referer": referrer})
        assert response.status_code == 401
        assert "your session has ended, and nothing was done" in response.text
        assert re.findall(r'href="/login(?:\?next=)?([^"]*)"', response.text) == [after]


def test_a_token_in_an_address_logs_nobody_in(rig):
    response = rig.browser().get(f"/login?key={rig.tokens['admin']}")
    assert response.status_code == 403
    assert "enter the token here" in response.text
    assert rig.browser().get("/login?key=wrong").status_code == 403


def test_too_many_wrong_tokens_have_to_wait(rig):
    browser = rig.browser()
    statuses = [browser.log_in("wrong").status_code for _ in range(MOST_FAILURES + 1)]
    assert statuses == [403] * MOST_FAILURES + [429]
    refused = browser.log_in(rig.tokens["admin"])
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW


def test_wrong_tokens_from_a_shared_address_slow_the_logins_of_others_and_lock_nobody_out(rig, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(login.asyncio, "sleep", sleep)
    wrong = rig.browser()
    for _ in range(MOST_FAILURES):
        wrong.log_in("wrong")
    assert slept == []
    assert rig.browser().log_in(rig.tokens["admin"]).status_code == 303
    assert rig.browser().log_in("wrong").status_code == 403
    assert slept == [login.SLOW] * 2


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/v1/topics"), ("POST", "/api/v1/jobs"), ("GET", "/topics")])
def test_programs_that_guess_tokens_wait_and_valid_tokens_of_their_address_work(rig, caplog, method, path):
    caplog.set_level(logging.INFO, "jobs.web.audit")
    browser = rig.browser()

    def ask(token, path=path):
        return browser.request(method, path, headers={"Authorization": f"Bearer {token}"})

    assert {ask(f"jobs_{number}").status_code for number in range(MOST_FAILURES)} == {303 if path == "/topics" else 401}
    before = len(caplog.records)
    for number in range(3):
        refused = ask(f"jobs_more_{number}")
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= WINDOW
        assert "this token is wrong" in refused.text
    (line,) = [record.getMessage() for record in caplog.records[before:] if record.name == "jobs.web.audit"]
    assert "too many wrong tokens from testclient" in line
    assert ask(rig.tokens["admin"]).status_code not in (401, 429)
    assert ask("jobs_wrong", "/api/v1/health").status_code != 429
    assert rig.browser("read").get("/").status_code == 200, "nor does it keep anybody from logging in"


def test_guesses_are_counted_in_bounded_memory_and_logged_once_a_minute(caplog):
    now = 0.0
    guesses = Guesses(lambda: now)

    def refused(client):
        try:
            guesses.failed(client)
        except TooMany as error:
            return error.wait
        return 0

    assert [refused("10.0.0.1") for _ in range(MOST_FAILURES + 2)] == [0] * MOST_FAILURES + [60, 60]
    assert refused("10.0.0.2") == 0, "another address"
    now = WINDOW - 1
    assert refused("10.0.0.1") == 1
    now = WINDOW + 1
    assert [refused("10.0.0.1") for _ in range(MOST_FAILURES + 1)] == [0] * MOST_FAILURES + [60]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "1 request is refused with 429 since the last such line",
        "3 requests are refused with 429 since the last such line",
    ]
    for number in range(MOST_CLIENTS + 10):
        guesses.failed(f"client {number}")
    assert len(guesses._attempts._failed) == MOST_CLIENTS
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")


def test_a_slash_at_the_end_leads_to_the_page_whatever_host_the_request_names(rig):
    browser = rig.browser("read")
    for path, to in (("/topics/", "/topics"), ("/dead/group/?id=a%2Fb", "/dead/group?id=a%2Fb"), ("/topics//", "/topics")):
        response = browser.get(path, headers={"host": "evil.example"})
        assert (response.status_code, response.headers["location"]) == (307, to)
    for path in ("//evil.example/", "/nowhere/", "/topics/pause/", "/"):
        assert browser.get(path).headers.get("location") is None, path


def test_attempts_are_counted_for_each_client_and_forgotten():
    now = 0.0
    attempts = Attempts(lambda: now)
    for _ in range(MOST_FAILURES):
        assert attempts.wait("a") == 0.0
        attempts.failed("a")
    assert attempts.wait("a") == WINDOW
    assert attempts.wait("b") == 0.0
    now = WINDOW + 1
    assert attempts.wait("a") == 0.0


def test_the_cookie_is_secure_http_only_and_same_site(rig):
    cookie = rig.browser().log_in(rig.tokens["read"]).headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"))


def test_the_cookie_works_on_this_machine_without_tls(rig):
    browser = Browser(rig)
    browser.base_url = "http://127.0.0.1:9100"
    assert "Secure" not in browser.log_in(rig.tokens["read"]).headers["set-cookie"]


def test_a_login_changes_the_session(rig):
    browser = rig.browser()
    before = browser.token_of()
    browser.log_in(rig.tokens["read"])
    assert browser.token_of("/") != before


@pytest.mark.parametrize("change", ["seal", "purpose", "expired"])
def test_a_cookie_that_we_did_not_write_is_nobody(rig, change):
    value = ["nonce", "admin", hash_of(rig.tokens["admin"])[-16:]]
    seal = Seal(b"x" * 32) if change == "seal" else rig.site.seal
    cookie = seal.seal("said" if change == "purpose" else "session", value, -1 if change == "expired" else 60)
    browser = rig.browser()
    browser.cookies.set("jobs_session", cookie)
    assert browser.get("/").status_code == 303
    rig.site.sessions.begin("nonce", "admin", "here", "")
    browser.cookies.set("jobs_session", rig.site.seal.seal("session", value, 60))
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize("cookie", ["", ".", "a.b", "%00", "x" * 4000, "e30.e30"])
def test_a_senseless_cookie_is_nobody(rig, cookie):
    browser = rig.browser()
    browser.cookies.set("jobs_session", cookie)
    assert browser.get("/").status_code == 303


def test_a_new_token_ends_the_sessions_of_the_old_one(rig, tmp_path):
    browser = rig.browser("admin")
    changed = {"admin": {"role": "admin", "hash": hash_of(new_token())}}
    browser.app = asgi(Site(rig.app, read({"tokens": changed})))
    browser._transport.app = browser.app
    assert browser.get("/").status_code == 303


def test_the_key_of_sessions_is_kept_and_private(tmp_path):
    key = key_in(tmp_path)
    assert key == key_in(tmp_path)
    assert (tmp_path / "web.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "web.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="shorter than 32 bytes"):
        key_in(tmp_path)


# -- forms -----------------------------------------------------------------------------------------


def test_a_form_needs_its_token(rig):
    browser = rig.browser("admin")
    assert browser.post("/logout").status_code == 415
    assert browser.post("/logout", data={"token": "wrong"}).status_code == 403
    other = rig.browser("admin")
    assert browser.post("/logout", data={"token": other.token_of("/")}).status_code == 403
    assert browser.submit("/logout", _page="/").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}, {"origin": "null"}],
    ids=lambda headers: "-".join(headers.values()),
)
def test_a_form_of_another_site_is_refused_even_with_the_token(rig, headers):
    browser = rig.browser("admin")
    response = browser.post("/logout", data={"token": browser.token_of("/")}, headers=headers)
    assert response.status_code == 403
    assert "another site" in response.text


def test_a_form_of_our_own_is_accepted_with_either_header(rig):
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": "https://jobs.example"}):
        browser = rig.browser("admin")
        assert browser.post("/logout", data={"token": browser.token_of("/")}, headers=headers).status_code == 303


def test_a_huge_or_broken_form_is_refused(rig):
    browser = rig.browser("admin")
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert browser.post("/logout", content=b"a" * (LARGEST_FORM + 1), headers=kind).status_code == 413
    assert browser.post("/logout", content=b"a=%ff", headers=kind).status_code == 400
    assert browser.post("/logout", content=b"&".join([b"a=1"] * 3000), headers=kind).status_code == 400
    assert browser.post("/logout", data={"token": "x"}, files={"a": b"x"}).status_code == 415


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"listen": "9100"}, "listen"),
        ({"listen": ":9100"}, "listen"),
        ({"root_path": "jobs"}, "root_path"),
        ({"root_path": "/jobs/"}, "root_path"),
        ({"session": 1}, "session"),
        ({"colour": "red"}, "colour"),
        ({"tokens": {"a b": {"role": "read", "hash": "sha256:" + "0" * 64}}}, "name"),
        ({"tokens": {"a": {"role": "root", "hash": "sha256:" + "0" * 64}}}, "role"),
        ({"tokens": {"a": {"role": "read", "hash": "jobs_secret"}}}, "hash"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_and_no_secret_is_shown(table, expected):
    with pytest.raises(ConfigError, match="plugins.web") as error:
        read(table)
    assert expected in str(error.value)
    assert "jobs_secret" not in str(error.value)


def test_only_loopback_counts_as_this_machine():
    addresses = ("127.0.0.1:1", "[::1]:1", "localhost:1", "0.0.0.0:1", "web1:1")
    assert [listen for listen in addresses if Settings(listen=listen).is_local] == ["127.0.0.1:1", "[::1]:1", "localhost:1"]


def test_a_token_is_long_random_and_stored_as_a_hash():
    one, other = new_token(), new_token()
    assert one != other
    assert one.startswith(PREFIX)
    assert len(one) >= 43
    assert one not in hash_of(one)


def test_a_mounted_dashboard_that_nobody_could_use_is_refused(rig):
    with pytest.raises(ConfigError, match="nobody could use the dashboard"):
        create_app(rig.app)


def test_the_application_that_mounts_it_decides_who_may_use_it(rig):
    users = {"anna": User("anna", Role.READ)}
    browser = Browser(rig)
    browser._transport.app = create_app(rig.app, authorize=lambda request: users.get(request.headers.get("x-user", "")))
    assert browser.get("/").status_code == 401
    page = browser.get("/", headers={"x-user": "anna"})
    assert page.status_code == 200
    assert "anna · read" in page.text
    assert "log out" not in page.text
    assert browser.get("/login", headers={"x-user": "anna"}).status_code == 404


def test_a_form_of_one_user_is_none_of_another_who_has_the_same_cookie(rig):
    browser = Browser(rig)
    browser._transport.app = create_app(rig.app, authorize=lambda request: User(request.headers["x-user"], Role.OPERATE))
    token = re.search(r'name="token" value="([^"]+)"', browser.get("/topics", headers={"x-user": "mallory"}).text)
    assert token
    form = {"topic": "default", "token": token[1]}
    assert browser.post("/topics/pause", data=form, headers={"x-user": "anna"}).status_code == 403
    assert browser.post("/topics/pause", data=form, headers={"x-user": "mallory"}).status_code == 303


def test_logins_leave_audit_lines_without_tokens(rig, caplog):
    caplog.set_level(logging.INFO, "jobs.web.audit")
    rig.browser().log_in("jobs_wrong")
    rig.browser("operate")
    assert [record.getMessage() for record in caplog.records if record.name == "jobs.web.audit"] == [
        "login from testclient refused: no such token",
        "operate logged in from testclient with role operate",
    ]


@pytest.mark.parametrize("header", ["Origin", "Referer"])
def test_a_header_that_is_no_url_is_no_fault(rig, caplog, header):
    response = rig.browser().post("/topics/pause", headers={header: "http://["})
    assert response.status_code in (401, 403)
    assert not [record for record in caplog.records if record.name == "jobs.web"]


def test_a_client_that_leaves_within_its_form_is_no_fault(rig, caplog):
    headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"host", b"jobs.example")]
    scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": headers, "client": ("::1", 1)}
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(rig.asgi({**scope, "scheme": "https", "root_path": ""}, receive, send))
    assert sent[0]["status"] == 400
    assert not [record for record in caplog.records if record.name == "jobs.web"]
