"""Django projects on SQLite, and on a private PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import django
import pytest

from jobs_core.ids import new_token

sys.path.append(str(Path(__file__).parent))

from postgres import Postgres
from site_project import SQLITE, Site

collect_ignore = [] if django.VERSION >= (6, 0) else ["test_tasks.py"]  # django.tasks is new in 6.0


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that makes a project with a test's own settings."""
    made: list[Site] = []

    def make(**wishes: str) -> Site:
        made.append(Site(tmp_path / f"site{len(made)}", **wishes))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A project on SQLite."""
    return make_site()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Create the tables of a site's models in a database, once for each; return where."""
    made: dict[str, Path] = {}

    def migrate(database: str) -> Path:
        if database not in made:
            site = Site(tmp_path_factory.mktemp("migrated") / "site", database=database)
            done = site.manage("migrate", "--run-syncdb", "--verbosity", "0")
            assert done.returncode == 0, done.stderr
            made[database] = site.root
        return made[database]

    return migrate


@pytest.fixture(scope="session")
def template(postgres: Postgres, migrated: Callable[[str], Path]) -> str:
    """A database with the tables of the models, as a template for others."""
    migrated(postgres.database("shop_template"))
    return "shop_template"


@pytest.fixture
def postgres_name(postgres: Postgres, template: str) -> str:
    """A database with the tables, for one test."""
    name = f"shop_{new_token(4)}".lower().replace("-", "_")
    postgres.database(name, template)
    return name


@pytest.fixture
def on_postgres(make_site: Callable[..., Site], postgres: Postgres, postgres_name: str) -> Callable[..., Site]:
    """A project on PostgreSQL, with its tables."""
    return lambda **wishes: make_site(database=postgres.settings(postgres_name), **wishes)


@pytest.fixture(params=os.environ.get("DJANGO_TEST_DATABASES", "postgresql").split())
def on_database(
    request: pytest.FixtureRequest, make_site: Callable[..., Site], migrated: Callable[[str], Path]
) -> Callable[..., Site]:
    """A project with its tables: on PostgreSQL, and in `make django-matrix` on SQLite too."""
    if request.param == "postgresql":
        made: Callable[..., Site] = request.getfixturevalue("on_postgres")
        return made

    def make(**wishes: str) -> Site:
        site = make_site(**wishes)
        for file in migrated(SQLITE).glob("*.db"):
            shutil.copy(file, site.root)
        return site

    return make
