"""Click commands of a Flask application as jobs."""

from __future__ import annotations

import json
import logging
import sys

import click
import pytest
from flask import Flask, current_app
from flask.cli import AppGroup
from tests.support.project import Project

from jobs_core import ArgumentError, Config, JobDefinitionError
from jobs_core.config import Duration, ScheduleEntry
from jobs_core.testing import JobsQueue
from jobs_flask import flask_command

greet = flask_command("greet", retries=1)
user = flask_command("user create")
renamed = flask_command("greet", name="shop.hello")
leave = flask_command("leave")


@pytest.fixture
def app():
    app = Flask("shop")

    @app.cli.command("greet")
    @click.argument("names", nargs=-1)
    @click.option("--loudly/--softly", default=False)
    @click.option("-v", "--verbose", count=True)
    @click.option("--tag", "tags", multiple=True)
    @click.option("--at", nargs=2, type=float)
    @click.option("--config", "file", type=str)
    @click.option("--force", is_flag=True)
    def greet(**given: object) -> int:
        click.echo(json.dumps({"app": current_app.name, **given}))
        return 5  # no exit code

    users = AppGroup("user")

    @users.command("create")
    @click.argument("name")
    def create(name: str) -> None:
        click.secho(f"creating {name}", fg="red")
        click.echo("no mail server", err=True)
        print("by print")
        if name == "nobody":
            raise LookupError(name)

    app.cli.add_command(users)

    @app.cli.command("leave")
    @click.argument("how")
    @click.argument("code", type=int)
    @click.pass_context
    def leave(context: click.Context, how: str, code: int) -> None:
        click.echo("leaving", nl=False)
        if how == "click":
            context.exit(code)
        sys.exit(code)

    with app.app_context():
        yield app


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [(record.levelname, record.name, record.getMessage()) for record in caplog.records]


NOTHING = {"loudly": False, "verbose": 0, "tags": [], "at": None, "file": None, "force": False, "names": []}


@pytest.mark.parametrize(
    ("args", "kwargs", "seen"),
    [
        ((), {}, {}),
        (("Ada", "Bob"), {}, {"names": ["Ada", "Bob"]}),
        (("--loudly", 5), {}, {"names": ["--loudly", "5"]}),
        (("Ada",), {"loudly": True, "verbose": 3}, {"names": ["Ada"], "loudly": True, "verbose": 3}),
        ((), {"loudly": False, "force": False}, {}),
        ((), {"force": True, "file": "a b"}, {"force": True, "file": "a b"}),
        ((), {"tags": ["a", "b"], "at": [1, 2.5]}, {"tags": ["a", "b"], "at": [1.0, 2.5]}),
        ((), {"file": None, "tags": []}, {}),
    ],
)
def test_arguments_and_options_reach_the_command(app, jobs_queue, lines, args, kwargs, seen):
    greet.enqueue(*args, **kwargs)
    assert jobs_queue.drain() == 1
    ((level, logger, said),) = lines()
    assert (level, logger) == ("INFO", "jobs_flask.greet")
    assert json.loads(said) == {"app": "shop", **NOTHING, **seen}


def test_its_output_is_logged_line_by_line_up_to_its_failure(app, jobs_queue, lines, capsys):
    user.enqueue("nobody")
    with pytest.raises(LookupError):
        jobs_queue.drain()
    logger = "jobs_flask.user.create"
    assert lines() == [
        ("INFO", logger, "creating nobody"),
        ("WARNING", logger, "no mail server"),
        ("INFO", logger, "by print"),
    ]
    print("afterwards")
    assert capsys.readouterr() == ("afterwards\n", "")


@pytest.mark.parametrize("how", ["click", "sys"])
def test_an_exit_code_decides_about_success(app, jobs_queue, lines, how):
    jobs_queue.perform(leave, how, 0)
    assert lines() == [("INFO", "jobs_flask.leave", "leaving")]
    with pytest.raises(RuntimeError, match="flask leave exited with 3"):
        jobs_queue.perform(leave, how, 3)


@pytest.mark.parametrize(
    ("command", "args", "kwargs", "says"),
    [
        (greet, (), {"loud": True}, "flask greet: there is no option 'loud'; its options are loudly, verbose, tags"),
        (user, (), {}, "flask user create: Missing argument 'NAME'"),
        (user, ("a", "b"), {}, "unexpected extra argument"),
        (flask_command("user creat"), (), {}, "has no command 'user creat'; did you mean 'create'"),
        (flask_command("nothing at"), (), {}, "has no command 'nothing at'"),
        (flask_command("greet deeper"), (), {}, "has no command 'greet deeper'"),
    ],
)
def test_a_call_that_does_not_fit_fails_with_the_reason(app, jobs_queue, command, args, kwargs, says):
    with pytest.raises(ArgumentError, match=says):
        jobs_queue.perform(command, *args, **kwargs)


@pytest.mark.parametrize(("name", "options"), [(" ", {}), ("greet", {"queue": "mail"}), ("greet", {})])
def test_a_command_that_can_be_no_job_is_refused(name, options):
    with pytest.raises(JobDefinitionError):
        flask_command(name, **options)


def test_a_command_has_the_options_and_the_name_of_a_job(app):
    assert (greet.name, greet.options.retries, renamed.name, user.name) == ("flask.greet", 1, "shop.hello", "flask.user.create")
    entry = ScheduleEntry(job="flask.greet", every=Duration(3600), args=["Ada"], kwargs={"loudly": True})
    with JobsQueue(Config(schedule={"hello": entry})) as queue:
        queue.travel("1h")
        queue.assert_enqueued(greet, "Ada", loudly=True)
        queue.drain()


def test_commands_of_extensions_are_found(app, jobs_queue, lines):
    jobs_queue.perform(flask_command("routes", name="flask.routes.of.the.app"))
    assert any("static" in said for _, _, said in lines())


SHOP = """
import click
from flask import Flask
from jobs_flask import flask_command

app = Flask(__name__)
greet = flask_command("greet")

@app.cli.command("greet")
@click.argument("name")
def hello(name):
    click.echo(f"hello {name}")
"""


def test_a_command_runs_by_hand_and_in_the_schedule_with_the_application_set_up(tmp_path):
    project = Project(tmp_path / "shop")
    (project.root / "shop.py").write_text(SHOP)
    (project.root / "jobs.toml").write_text(
        'framework = "flask"\nbackend = "sqlite:///queue.db"\n[flask]\napp = "shop"\n'
        '[schedule.hello]\njob = "flask.greet"\nevery = "1h"\nargs = ["Ada"]\n'
    )
    done = project.run("run", "flask.greet", "Ada")
    assert (done.returncode, done.stdout) == (0, "null\n"), done.stderr
    assert "hello Ada" in done.stderr
    assert "flask.greet" in project.run("schedule").stdout
