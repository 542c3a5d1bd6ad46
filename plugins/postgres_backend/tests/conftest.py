"""One server for the whole test run, with its own schema for every test."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from jobs_core.ids import new_token
from jobs_core.testing.services.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer("-c", "fsync=off") as server:
        yield server


@pytest.fixture
def schema(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a schema that does not exist yet, and is dropped after the test."""
    name = f"test_{new_token(6).lower().replace('-', '_')}"
    yield name
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'.encode())


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, schema: str) -> str:
    return f"{postgres_server.url}?schema={schema}"
