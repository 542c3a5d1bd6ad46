"""A Flask application and its jobs are found."""

from __future__ import annotations

import pytest

from jobs_core import App, Config, ConfigError
from jobs_core.errors import LoadError
from jobs_core.plugins import Plugins
from jobs_core.registry import default_registry
from jobs_core.worker.main import prepare
from jobs_flask.application import application
from jobs_flask.loader import FlaskLoader

FACTORY = """
from flask import Flask
def create_app(kind="plain"):
    app = Flask(__name__)
    app.config["KIND"] = kind
    return app
"""


def config(tmp_path, path, **more):
    return Config(framework="flask", plugins={"flask": {"app": path}}, base_dir=tmp_path, **more)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("", "plain"), (":create_app", "plain"), (":create_app('odd')", "odd"), (".py:create_app", "plain")]
)
def test_an_application_is_named_as_flask_names_it(tmp_path, module, suffix, kind):
    name = module(FACTORY)
    assert application(config(tmp_path, f"{name}{suffix}")).config["KIND"] == kind


def test_an_application_is_built_once(tmp_path, module):
    settings = config(tmp_path, module(FACTORY))
    assert application(settings) is application(settings)


@pytest.mark.parametrize(
    ("table", "error", "said"),
    [
        ({}, ConfigError, 'flask.app: set the application, as `flask --app` does: .flask. app = "shop:create_app"'),
        ({"app": 5}, ConfigError, "flask.app: set the application"),
        ({"ap": "x"}, ConfigError, 'flask.ap: unknown key; did you mean "app"'),
        ({"app": "nowhere_at_all"}, LoadError, 'flask.app: there is no module "nowhere_at_all"'),
        ({"app": "NAME:nothing"}, LoadError, "flask.app: Failed to find attribute 'nothing'"),
        ({"app": "NAME:broken"}, LoadError, r"(?s)flask.app: .NAME:broken. cannot be built:.*1 / 0.*ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(tmp_path, module, table, error, said):
    name = module(FACTORY + "def broken():\n    return 1 / 0\n")
    table = {key: value.replace("NAME", name) if isinstance(value, str) else value for key, value in table.items()}
    with pytest.raises(error, match=said.replace("NAME", name)):
        application(Config(plugins={"flask": table}, base_dir=tmp_path))


def test_jobs_of_the_application_and_of_its_blueprints_are_found(tmp_path, module):
    job = "from jobs_core import job\n@job\ndef {}(): pass\n"
    name = module(
        """
from flask import Flask
def create_app():
    app = Flask(__name__)
    from .orders.views import orders
    app.register_blueprint(orders)
    return app
""",
        jobs=job.format("nightly"),
        orders__in____init__="",
        orders__in__views="from flask import Blueprint\norders = Blueprint('orders', __name__)\n",
        orders__in__tasks=job.format("confirm"),
        more=job.format("another"),
    )
    loaded = FlaskLoader(config(tmp_path, name, modules=[f"{name}.more"])).load()
    assert loaded == [f"{name}.jobs", f"{name}.orders.tasks", f"{name}.more"]
    for job_name in ("jobs.nightly", "orders.tasks.confirm", "more.another"):
        assert default_registry.get(f"{name}.{job_name}")


def test_a_failing_job_module_is_reported_with_the_users_own_line(tmp_path, module):
    name = module(FACTORY, jobs="\nimport nowhere_at_all\n")
    with pytest.raises(LoadError, match=rf"(?s)the module \"{name}.jobs\" cannot be imported:.*jobs.py:2"):
        FlaskLoader(config(tmp_path, f"{name}:create_app")).load()


def test_the_framework_brings_its_loader_and_its_bootstrapper_by_entry_point(tmp_path, module):
    name = module(FACTORY, jobs="from jobs_core import job\n@job\ndef nightly(): pass\n")
    app = App(config(tmp_path, f"{name}:create_app", backend="memory://flask"), plugins=Plugins.discover())
    assert type(prepare(app)).__name__ == "FlaskBootstrapper"
    assert default_registry.get(f"{name}.jobs.nightly")


def test_a_worker_that_would_listen_elsewhere_than_views_send_does_not_start(tmp_path, module):
    name = module(FACTORY.replace("return app", 'app.config["JOBS_BACKEND"] = "memory://elsewhere"\n    return app'))
    with pytest.raises(LoadError, match="app.config sets JOBS_BACKEND, which this process was started without"):
        application(config(tmp_path, name))
    application(config(tmp_path, name, backend="memory://elsewhere"))
