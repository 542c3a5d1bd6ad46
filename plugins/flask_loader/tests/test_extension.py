"""Views enqueue with the application's own configuration."""

from __future__ import annotations

import pytest
from flask import Flask

from jobs_core import ConfigError, current_app, job
from jobs_core.ids import new_token
from jobs_flask import JobsFlask
from jobs_flask.settings import settings


def flask_app(**config):
    app = Flask("shop")
    app.config.from_mapping(config)
    return app


def test_settings_are_nested_as_in_the_environment():
    app = flask_app(
        JOBS_BACKEND="memory://x", JOBS_LEASE=20, JOBS_CONFIG="other.toml", JOBS_POOLS={"a": {"workers": 1}},
        JOBS_POOLS__A__TOPICS=["mail"], OTHER="not ours",
    )  # fmt: skip
    assert settings(app) == {
        "backend": "memory://x",
        "lease": 20,
        "pools": {"a": {"workers": 1, "topics": ["mail"]}},
    }
    with pytest.raises(ConfigError, match="JOBS_LEASE__X: lease is a value elsewhere"):
        settings(flask_app(JOBS_LEASE=20, JOBS_LEASE__X=1))


def test_views_of_each_application_enqueue_to_its_configured_queue():
    urls = [f"memory://{new_token()}" for _ in range(2)]
    extension = JobsFlask()
    apps = [flask_app(JOBS_BACKEND=url) for url in urls]
    for app in apps:
        extension.init_app(app)
    note = job(name=f"note-{new_token(4)}")(lambda: None)

    for app in apps:
        app.add_url_rule("/", view_func=lambda: note.enqueue().id)
    ids = [app.test_client().get("/").text for app in apps]
    for app, url, mine, other in zip(apps, urls, ids, reversed(ids), strict=True):
        with app.app_context():
            assert current_app().config.backend == url
            assert current_app().find(mine) is not None
            assert current_app().find(other) is None
            assert current_app() is current_app()


def test_outside_of_any_context_the_application_tied_last_is_meant():
    app = flask_app(JOBS_BACKEND="memory://last")
    JobsFlask(app)
    assert current_app().config.backend == "memory://last"


def test_an_application_that_was_not_tied_uses_the_plain_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    JobsFlask(flask_app(JOBS_BACKEND="memory://tied"))
    with flask_app().app_context(), pytest.warns(RuntimeWarning, match="no jobs.toml in "):
        assert current_app().config.backend is None


def test_a_wrong_setting_is_reported_by_name():
    app = flask_app(JOBS_BACKND="memory://x")
    JobsFlask(app)
    with pytest.raises(ConfigError, match='app.config: backnd: unknown key; did you mean "backend"'):
        current_app()


def test_the_configuration_file_can_be_named_in_the_application(tmp_path):
    (tmp_path / "other.toml").write_text('prefix = "from-the-file"')
    app = flask_app(JOBS_CONFIG=str(tmp_path / "other.toml"), JOBS_BACKEND="memory://x")
    JobsFlask(app)
    assert current_app().config.prefix == "from-the-file"
