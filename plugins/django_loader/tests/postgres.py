"""A private PostgreSQL with the parts of Django's DATABASES."""

from __future__ import annotations

import psycopg

from jobs_core.testing.services.postgres import PostgresServer


class Postgres(PostgresServer):
    """A server inside a `with` block."""

    def __init__(self) -> None:
        super().__init__("-c", "fsync=off", user="shop")

    def query(self, text: str) -> list[tuple[object, ...]]:
        """Return the rows of one statement, on a separate connection."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="shop", dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(text)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str, template: str = "template0") -> str:
        """Create a database, empty or from a template; return Django's settings for it, as text."""
        self.query(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.settings(name)

    def settings(self, name: str) -> str:
        """Return Django's settings for a database, as text."""
        return repr(
            {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": name,
                "HOST": "127.0.0.1",
                "PORT": self.port,
                "USER": "shop",
                "OPTIONS": {"application_name": "shop"},
            }
        )

    def connections(self, name: str) -> list[int]:
        """Return the server's processes that serve Django's connections to a database."""
        rows = self.query(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'shop'")
        return [int(str(pid)) for (pid,) in rows]
