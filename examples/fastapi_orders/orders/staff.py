"""The pages of the staff: a login with SHOP_PASSWORD, and the dashboard of the jobs. Without a password, nobody gets in."""

from __future__ import annotations

import os
import secrets
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.middleware.sessions import SessionMiddleware

from jobs_web import create_app
from jobs_web.roles import Role, User

FORM = """<!doctype html><title>Staff</title>
<form method="post"><label>Password <input name="password" type="password" autofocus></label> <button>Log in</button></form>"""


def add_to(app: FastAPI) -> None:
    """Add the login at /staff, and the dashboard at /jobs."""
    app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SHOP_SECRET") or secrets.token_hex(32), same_site="strict")
    app.add_api_route("/staff", ask, response_class=HTMLResponse)
    app.add_api_route("/staff", enter, methods=["POST"], response_model=None)
    app.mount("/jobs", create_app(authorize=user))


def ask() -> str:
    return FORM


async def enter(request: Request) -> RedirectResponse | HTMLResponse:
    """Log in. A shop on the internet would slow down those who guess."""
    given = parse_qs((await request.body()).decode()).get("password", [""])[0]
    password = os.environ.get("SHOP_PASSWORD", "")
    if not password or not secrets.compare_digest(given.encode(), password.encode()):
        return HTMLResponse(FORM, 403)
    request.session["staff"] = "staff"
    return RedirectResponse("/jobs/", 303)


def user(request: Request) -> User | None:
    """Return who looks at the dashboard; None refuses."""
    name = request.session.get("staff")
    return User(name, Role.OPERATE) if name else None
