"""The pages of the staff: a login with SHOP_PASSWORD, and the dashboard of the jobs. Without a password, nobody gets in."""

from __future__ import annotations

import os
import secrets

from flask import Flask, abort, redirect, request, session
from flask.typing import ResponseReturnValue

from jobs_web.flask import blueprint
from jobs_web.roles import Role, User

FORM = """<!doctype html><title>Staff</title>
<form method="post"><label>Password <input name="password" type="password" autofocus></label> <button>Log in</button></form>"""


def add_to(app: Flask) -> None:
    """Add the login at /staff, and the dashboard at /jobs."""
    app.config["SESSION_COOKIE_SAMESITE"] = "Strict"
    app.add_url_rule("/staff", view_func=enter, methods=["GET", "POST"])
    app.register_blueprint(blueprint(user), url_prefix="/jobs")


def enter() -> ResponseReturnValue:
    """Log in. A shop on the internet would slow down those who guess."""
    if request.method == "GET":
        return FORM
    password = os.environ.get("SHOP_PASSWORD", "")
    if not password or not secrets.compare_digest(request.form.get("password", "").encode(), password.encode()):
        return FORM, 403
    session["staff"] = "staff"
    return redirect("/jobs/", 303)


def user() -> User:
    """Return who looks at the dashboard; who is not of the staff gets the login."""
    name = session.get("staff")
    if not name:
        abort(redirect("/staff", 303))
    return User(name, Role.OPERATE)
