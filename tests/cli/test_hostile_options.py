"""Every option and argument of every command with thirty hostile values: exit code 2 and a sentence, or it works.

There is no traceback, whatever the value. The options are found through click: a new one, of a plugin too, is tried without
being listed here. Commands run in this process; those that would run forever, or replace the process, are cut off where
they begin.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

import click
import pytest

from jobs_core.cli import contract, demo, diagnose, start, top, worker
from jobs_core.cli import main as command_line
from jobs_core.cli.exits import Exit
from jobs_core.plugins import Plugins

from ..support.inprocess import as_it_was

DEEP = "[" * 1200 + "]" * 1200
HOSTILE = [
    "", " ", "0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e308", "1e999", str(2**63), "9" * 400, "1" * 5000, "true", "null",
    "\udcff", "a\udcffb", "a\nb", "a\tb", "\x1b[31mred", "a\u202eb", "é", "x" * 100_000, "../../x", "/", "/dev/null/x", "a b",
    ".hidden", "a,b", "a,,b", "=", '{"a": 1}', DEEP, '{"a":' * 1200 + "1" + "}" * 1200, "--", "%s{0}", "nope://x", "☃" * 300,
]  # fmt: skip

NEEDED = {"job_id": "x", "job_ids": "x", "topic": "default", "pool": "default", "pid": "1", "workers": "1", "shell": "bash",
          "url": "memory://x", "job": "tasks.note", "names": "webhook", "args": "1", "limit": "stripe",
          "name": "x", "kind": "channel"}  # fmt: skip
"""Other parameters that a command requires."""


def commands(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = {" ".join(path): command for path, command in commands(command_line.cli)}
PARAMETERS = [
    (name, parameter.name)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if not getattr(parameter, "is_flag", False)
]


@pytest.fixture(scope="module")
def plugins():
    return Plugins.discover()


@pytest.fixture
def call(tmp_path, monkeypatch, plugins, capfd):
    """Run the command line here; return its exit code and its output."""
    (tmp_path / "tasks.py").write_text("from jobs_core import job\n@job\ndef note(*args, **kwargs): ...\n")
    (tmp_path / "jobs.toml").write_text('backend = "sqlite:///queue.db"\nmodules = ["tasks"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Plugins, "discover", lambda prefer=(): plugins)
    monkeypatch.setattr(start, "_become", lambda command: None)
    monkeypatch.setattr(start, "_in_the_background", lambda *arguments: None)
    monkeypatch.setattr(worker.Worker, "run", lambda self: None)
    monkeypatch.setattr(worker, "obeying", lambda stop: contextlib.nullcontext())
    monkeypatch.setattr(demo, "show", lambda *args, **kwargs: 0)
    monkeypatch.setattr(contract, "run_cases", lambda *args: 0)
    monkeypatch.setattr(contract, "measure", lambda url: [])
    monkeypatch.setattr(diagnose, "said", lambda arguments: "")
    monkeypatch.setattr(top.command.time, "sleep", lambda seconds: None)
    for name in [name for name in os.environ if name.startswith("JOBS_")]:
        monkeypatch.delenv(name)

    def call(*arguments):
        code = command_line.run(arguments, called="jobsctl")
        out, err = capfd.readouterr()
        return code, out + err

    with as_it_was():
        yield call


def line_of(command, wanted, value):
    """Return a command line that gives this value to that parameter, and valid values to the others."""
    options, arguments = [], []
    for parameter in command.params:
        if parameter.name == wanted:
            given = [value]
        elif parameter.required or (isinstance(parameter, click.Argument) and wanted in ("args", "workers")):
            given = [NEEDED[parameter.name]]
        else:
            continue
        if isinstance(parameter, click.Argument):
            arguments += given
        else:
            options += [
                f"{parameter.opts[0]}={given[0]}" if parameter.opts[0].startswith("--") else f"{parameter.opts[0]}{given[0]}"
            ]
    return [*options, "--", *arguments]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=[f"{name}: {parameter}" for name, parameter in PARAMETERS])
def test_a_hostile_value_is_a_usage_error_or_works(call, name, parameter):
    command = COMMANDS[name]
    ranged = next(each for each in command.params if each.name == parameter).type
    for value in HOSTILE:
        try:
            code, said = call(*name.split(), *line_of(command, parameter, value))
        except Exception as error:
            pytest.fail(f"{name} {parameter}={value[:60]!r}: {type(error).__name__}: {error}")
        assert code in set(Exit), f"{value[:60]!r}: {code}"
        assert "Traceback" not in said
        assert said or code == 0, f"{value[:60]!r}: {code} without a word"
        assert len(said) < 250_000
        if not value.isprintable() and "\udcff" in value:
            assert code == Exit.USAGE
        if isinstance(ranged, (click.IntRange, click.FloatRange)) and not value.lstrip("-").isdigit():
            assert code == Exit.USAGE or value == "0.5", f"{value[:60]!r}: {code}: {said}"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_name_of_the_configuration_is_a_usage_error(call, value):
    code, said = call("-c", value, "topics")
    assert code == Exit.USAGE, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["push", "tasks.note", "--delay", "soon"], "--delay"),
        (["push", "tasks.note", "--topic", "a b"], "invalid topic name"),
        (["push", "tasks.note", "--priority", "10"], "--priority"),
        (["push", "tasks.note", DEEP], "nested too deeply"),
        (["push", "tasks.note", "--kw", f"a={DEEP}"], "nested too deeply"),
        (["push", "tasks.note", "1e999"], "quote it"),
        (["push", "tasks.note", "\udcff"], "not valid UTF-8"),
        (["list", "default", "--limit", str(2**63)], "--limit"),
        (["list", ""], "invalid topic name"),
        (["pause", ""], "invalid topic name"),
        (["pause", "a b"], "invalid topic name"),
        (["resume", "../x"], "invalid topic name"),
        (["purge", "-y", "a\nb"], "invalid topic name"),
        (["dead", "list", "a b"], "invalid topic name"),
        (["dead", "retry", "--topic", "a b"], "invalid topic name"),
        (["worker", "--topics", ""], "invalid topic name"),
        (["worker", "--topics", ","], "invalid topic name"),
        (["worker", "--topics", "a,a"], "listed twice"),
        (["worker", "--concurrency", "10000000"], "--concurrency"),
        (["worker", "--mode", "threads", "--concurrency", "50000"], "at most 10,000 threads"),
        (["result", "x", "--wait", "nan"], "--wait"),
        (["result", "x", "--wait", "1e300"], "--wait"),
        (["top", "--interval", "nan"], "--interval"),
        (["scale", "default", "10000000"], "WORKERS"),
        (["show", ""], "ID"),
        (["init", "--force", "--module", 'a"b'], "--module"),
        (["init", "--force", "--backend", "nope"], "--backend"),
        (["demo", "--directory", "/dev/null/x"], "/dev/null/x"),
        (["-c", "", "check"], "--config"),
        (["-c", "x" * 5000, "check"], "--config"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_reported_with_exit_code_2(call, line, says):
    code, said = call(*line)
    assert (code, says in said) == (Exit.USAGE, True), f"{code}: {said[:2000]}"


def test_impossible_lines_are_reported_by_number(call, tmp_path):
    for line in (
        DEEP,
        f'{{"args": {DEEP}}}',
        '{"job": "tasks.note", "args": [1e999]}',
        "\x00",
        '{"job": 5}',
        "\udcff".encode("utf-8", "replace").decode(),
    ):
        (tmp_path / "lines").write_text(f"{line}\n")
        code, said = call("push", "--json", "lines")
        assert (code, "lines, line 1: " in said) == (Exit.USAGE, True), said[:500]


def test_a_job_that_is_due_beyond_the_calendar_is_listed_shown_and_explained(call, tmp_path):
    """No such job can be enqueued any more, but a store may hold an old one, or one of another producer."""
    job = call("push", "tasks.note", "--delay", "1h")[1].split()[0]
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as store, store:
        store.execute("UPDATE job SET due = 9e17, pushed_at = 9e17")
    for line in (
        ["list", "default", "--state", "scheduled"],
        ["list", "default", "--state", "scheduled", "--json"],
        ["show", job],
        ["show", job, "--json"],
        ["why", job],
        ["topics"],
    ):
        code, said = call(*line)
        assert code == Exit.FINE, f"{line}: {said}"
        assert job in said or line[0] != "list"
