"""The dashboard inside a Flask application: `flask --app flask_app run`. The application says who may use it."""

from __future__ import annotations

import secrets

from flask import Flask, session

from jobs_web.flask import blueprint
from jobs_web.roles import ROLES, User

app = Flask(__name__)
app.secret_key = secrets.token_bytes(32)  # of your application


@app.post("/login/<name>")
def log_in(name: str) -> str:
    """Log in, in an example without passwords: the name is that of a role."""
    session["user"] = name
    return "welcome\n"


def authorize() -> User | None:
    """Return the user of this request; None if nobody has logged in."""
    name = session.get("user")
    return User(name, ROLES[name]) if name in ROLES else None


app.register_blueprint(blueprint(authorize), url_prefix="/jobs")
