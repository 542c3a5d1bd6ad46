"""Finding an application and the jobs in it."""

from __future__ import annotations

import pytest

from jobs_core import Config, ConfigError
from jobs_core.errors import LoadError
from jobs_fastapi.application import application, runs_lifespan
from jobs_fastapi.loader import FastAPILoader

APP = """
from fastapi import FastAPI
from starlette.applications import Starlette
app = FastAPI(title="named")
plain = Starlette()
def create_app():
    return FastAPI(title="built")
def broken():
    return 1 / 0
class Holder:
    app = app
"""


def config(tmp_path, path, **more):
    return Config(framework="fastapi", plugins={"fastapi": {"app": path, **more}}, base_dir=tmp_path)


@pytest.mark.parametrize(
    ("suffix", "title"),
    [("", "named"), (":app", "named"), (":create_app", "built"), (":create_app()", "built"), (":Holder.app", "named")],
)
def test_an_application_is_named_as_for_uvicorn(tmp_path, module, suffix, title):
    assert application(config(tmp_path, f"{module(APP)}{suffix}")).title == title


def test_an_application_of_starlette_will_do(tmp_path, module):
    assert not hasattr(application(config(tmp_path, f"{module(APP)}:plain")), "title")


def test_an_application_is_built_once(tmp_path, module):
    settings = config(tmp_path, f"{module(APP)}:create_app")
    assert application(settings) is application(settings)


@pytest.mark.parametrize(
    ("table", "error", "text"),
    [
        ({}, ConfigError, 'fastapi.app: set the application, as for uvicorn: .fastapi. app = "shop.main:app"'),
        ({"app": 5}, ConfigError, "fastapi.app: set the application"),
        ({"ap": "x"}, ConfigError, 'fastapi.ap: unknown key; did you mean "app"'),
        ({"app": "x", "colour": 1}, ConfigError, "fastapi.colour: unknown key; the keys are app, lifespan"),
        ({"app": "nowhere_at_all"}, LoadError, 'fastapi.app: there is no module "nowhere_at_all"'),
        ({"app": "json"}, LoadError, 'json has none of app, application, create_app, make_app: name it, as "json:name"'),
        ({"app": "NAME:nothing"}, LoadError, "fastapi.app: NAME has no nothing"),
        ({"app": "NAME:Holder"}, LoadError, "fastapi.app: NAME:Holder is type, expected a FastAPI or Starlette application"),
        ({"app": "NAME:broken"}, LoadError, r"(?s)fastapi.app: .NAME:broken. cannot be built:.*1 / 0.*ZeroDivisionError"),
    ],
)
def test_errors_name_their_fix(tmp_path, module, table, error, text):
    name = module(APP)
    table = {key: value.replace("NAME", name) if isinstance(value, str) else value for key, value in table.items()}
    with pytest.raises(error, match=text.replace("NAME", name)):
        application(Config(plugins={"fastapi": table}, base_dir=tmp_path))


def test_lifespan_is_true_or_false(tmp_path):
    assert runs_lifespan(config(tmp_path, "x"))
    assert not runs_lifespan(config(tmp_path, "x", lifespan=False))
    with pytest.raises(ConfigError, match="fastapi.lifespan: expected true or false, got 'no'"):
        runs_lifespan(config(tmp_path, "x", lifespan="no"))


def test_jobs_of_the_application_and_of_its_endpoints_are_found(tmp_path, module):
    job = "from jobs_core import job\n@job\ndef {}(): pass\n"
    router = "from fastapi import APIRouter\nrouter = APIRouter()\n@router.get('/')\ndef view(): pass\n"
    name = module(
        "",
        main="from fastapi import FastAPI\nfrom .mail.views import router\nfrom .admin.views import sub\n"
        "app = FastAPI()\napp.include_router(router)\napp.mount('/admin', sub)\n",
        tasks=job.format("beside"),
        mail__in____init__="",
        mail__in__views=router,
        mail__in__jobs=job.format("deeper"),
        admin__in____init__="",
        admin__in__views="from fastapi import FastAPI\nsub = FastAPI()\n@sub.get('/')\ndef view(): pass\n",
        admin__in__tasks=job.format("mounted"),
    )
    found = FastAPILoader(config(tmp_path, f"{name}.main:app")).load()
    assert sorted(found) == [f"{name}.admin.tasks", f"{name}.mail.jobs", f"{name}.tasks"]
