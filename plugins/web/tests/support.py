"""An application with a dashboard, and browsers of its users."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from tests.support.project import PATIENCE

from jobs_core import App
from jobs_core.config import Config, Pool
from jobs_core.ids import new_token as new_name
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker
from jobs_web.roles import ROLES
from jobs_web.settings import Settings, Token
from jobs_web.site import Site, asgi
from jobs_web.tokens import hash_of, new_token

BASE = "https://jobs.example"


class Browser(TestClient):
    """A browser, which keeps cookies and does not follow redirects by itself."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        super().__init__(rig.asgi, base_url=BASE, follow_redirects=False, **options)

    def token_of(self, page: str = "/login") -> str:
        """Return the form token of a page."""
        found = re.search(r'name="token" value="([^"]+)"', self.get(page).text)
        assert found, "the page has no form"
        return found[1]

    def submit(self, path: str, _page: str = "/login", **fields: str) -> Any:
        """Send a form with its token."""
        return self.post(path, data={"token": self.token_of(_page), **fields})

    def log_in(self, token: str) -> Any:
        return self.submit("/login", key=token)

    def text(self, path: str) -> str:
        """Return a page, which must be there."""
        response = self.get(path)
        assert response.status_code == 200, response.text
        return str(response.text)


class Rig:
    """An application with a dashboard."""

    def __init__(
        self, url: str, base_dir: Path, app: Mapping[str, Any] | None = None, plugins: Plugins | None = None, **settings: Any
    ) -> None:
        config = Config(backend=url, base_dir=base_dir, pools={"default": Pool(topics=["default", "mail"])}, **(app or {}))
        self.app = App(config, plugins=plugins or Plugins([]), registry=Registry())
        self.tokens = {name: new_token() for name in ROLES}
        users = {name: Token(name, hash_of(token)) for name, token in self.tokens.items()}
        self.site = Site(self.app, Settings(**{"tokens": users, **settings}))
        self.asgi = asgi(self.site)

    def close(self) -> None:
        """Close the application, once no reading that a page has begun would use it again."""
        for thread in threading.enumerate():
            if thread.name in ("jobs-web-reading", "jobs-web-risks"):
                thread.join(PATIENCE)
        self.app.close()

    def browser(self, role: str = "") -> Browser:
        """Return a browser; with a role, of a user who has logged in."""
        made = Browser(self)
        if role:
            assert made.log_in(self.tokens[role]).status_code == 303
        return made

    def drain(self) -> None:
        """Run all jobs that are ready."""
        pool = Pool(topics=["default", "mail"])
        Worker(self.app, "default", pool, None, owner=f"web-{new_name()}", drain=True).run()

    def refresh(self) -> None:
        """Forget what the site has read."""
        self.site.forget()
