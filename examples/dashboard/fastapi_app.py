"""The dashboard inside an ASGI application: `uvicorn fastapi_app:app`. The application says who may use it."""

from __future__ import annotations

import secrets

from fastapi import FastAPI, Response
from starlette.requests import Request

from jobs_web import create_app
from jobs_web.roles import ROLES, User

app = FastAPI()
sessions: dict[str, User] = {}  # your application has its own


@app.post("/login/{name}")
def log_in(name: str, response: Response) -> None:
    """Log in, in an example without passwords: the name is that of a role."""
    key = secrets.token_urlsafe()
    sessions[key] = User(name, ROLES[name])
    response.set_cookie("session", key, httponly=True, samesite="lax")


def authorize(request: Request) -> User | None:
    """Return the user of a request; None if nobody has logged in."""
    return sessions.get(request.cookies.get("session", ""))


app.mount("/jobs", create_app(authorize=authorize))
