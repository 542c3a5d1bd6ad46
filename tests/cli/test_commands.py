"""The `jobs` command as a person or a script uses it: real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from jobs_core.cli.main import cli
from jobs_core.config_sources import load

from ..support.project import without_waits


def said(done, code=0):
    """Return a command's output, after a check of its exit code."""
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


# -- help ------------------------------------------------------------------------------------------


def test_help_is_grouped(project):
    text = said(project.run("--help"))
    for group in ("Set up", "Run", "Jobs", "Topics", "Plugin authors"):
        assert f"\n{group}:" in text
    assert "Exit codes" in text


def test_every_command_has_help_with_its_listed_summary(project):
    from jobs_core.cli.main import GROUPS

    script = (
        "import sys, click\n"
        "from jobs_core.cli.main import GROUPS, cli\n"
        "context = click.Context(cli)\n"
        "for commands in GROUPS.values():\n"
        "    for name in commands:\n"
        "        print(name, cli.get_command(context, name).help.splitlines()[0], sep='|')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first_lines = dict(line.split("|") for line in done.stdout.splitlines())
    assert set(first_lines) == {name for commands in GROUPS.values() for name in commands}
    assert all(line.endswith((".", ",", "functions,")) for line in first_lines.values()), first_lines


def test_a_mistyped_command_is_answered_with_the_nearest_name(project):
    assert "did you mean 'check'?" in said(project.run("chekc"), 2)
    assert "`jobsctl --help` lists the commands" in project.here("zzz", code=2)


@pytest.mark.parametrize(("job", "nearest"), [("add", "tasks.add"), ("tasks.ad", "tasks.add"), ("task.note", "tasks.note")])
def test_a_mistyped_job_is_answered_with_the_nearest_name(project, job, nearest):
    assert f"no job named {job!r} is registered here; the nearest names are {nearest}" in project.here("push", job, "1", code=2)


def test_the_version_is_printed(project):
    import jobs_core

    assert said(project.run("--version")) == f"jobs-core {jobs_core.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(project, shell):
    script = said(project.run("completion", shell))
    assert "_JOBS_COMPLETE" in script
    assert "builtin jobs" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_in_bash_the_wrapper_chooses_between_ours_and_the_builtin(project):
    script = said(project.run("completion", "bash"))
    wrapper = script[script.index("jobs() {") :]
    test = "jobsctl() { echo ours: $*; }\n" + wrapper + "\njobs check --show\nsleep 600 &\njobs -p > pids\nkill $!"
    done = subprocess.run(["bash", "-c", test], text=True, capture_output=True, cwd=project.root)
    assert done.stdout == "ours: check --show\n"
    assert (project.root / "pids").read_text().strip().isdigit()


# -- init and check --------------------------------------------------------------------------------


def test_init_writes_a_configuration_that_checks(project):
    (project.root / "jobs.toml").unlink()
    assert "Wrote jobs.toml" in said(project.run("init"))
    assert "1 warning" not in said(project.run("check"))
    assert "already exists: --force" in said(project.run("init"), 2)
    said(project.run("init", "--force", "--backend", "sqlite:///other.db", "--module", "tasks"))
    assert "other.db answers" in said(project.run("check"))


@pytest.mark.parametrize(
    ("source", "topics"),
    [
        (None, ["email", "default"]),
        ("no python(", ["email", "default"]),
        ("", ["default"]),
        ("@job\ndef a(): ...", ["default"]),
        ("raise SystemExit\n@job(topic='mail')\ndef a(): ...\n@job(topic='vip')\ndef b(): ...", ["mail", "vip", "default"]),
        ("@job(topic='default')\ndef a(): ...\n@job(topic='no topic!', retries=2)\ndef b(): ...", ["default"]),
        ("@job(topic=TOPIC)\ndef a(): ...\n@job(topic=5)\ndef b(): ...", ["default"]),
    ],
)
@pytest.mark.parametrize("file", ["tasks.py", "tasks/__init__.py"])
def test_init_serves_the_topics_of_the_module_and_suggests_start(source, topics, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(source)
    result = CliRunner().invoke(cli, ["init"])
    assert result.exit_code == 0, result.output
    assert "then `jobsctl start`" in result.output
    assert load(tmp_path / "jobs.toml", environ={}).config.pools["default"].topics == topics


def test_check_reports_success(project):
    project.push("note", "x")
    text = said(project.run("check"))
    for part in ("jobs.toml", "builtin", "tasks.add", "queue.db answers", "1 waiting message fits this code"):
        assert part in text


@pytest.mark.parametrize(
    ("toml", "code", "says"),
    [
        ("x = ", 2, "jobs.toml: not valid TOML"),
        ("[pools.mail.workers]\nmax = 'eight'", 2, 'jobs.toml: pools.mail.workers.max: expected int, got "eight"'),
        ('framework = "djangoo"', 2, "framework: there is no framework 'djangoo'"),
        ('[topics.x]\ndefault_job = "tasks.ad"', 2, "the nearest names are tasks.add"),
    ],
)
def test_check_reports_errors_with_the_fix(project, toml, code, says):
    project.configure(toml)
    assert says in said(project.run("check"), code)


@pytest.mark.parametrize(
    ("backend", "code", "says"),
    [
        ("kafka://localhost", 2, "there is no backend 'kafka'"),
        ("nonsense", 2, "expected a URL"),
        ("sqlite:////nowhere/at/all.db", 1, "does the directory exist"),
    ],
)
def test_check_reports_errors_of_the_backend(project, backend, code, says):
    project.configure(backend=f'backend = "{backend}"')
    assert says in said(project.run("check"), code)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1\n1 / 0", "broken.py:2\n"),
        ("def f(:", "broken.py:1"),
        ("from jobs_core import job\n@job\ndef f(x: type): pass", "argument 'x' of broken.f"),
        ("from jobs_core import job\n@job(retries=-1)\ndef f(): pass", "retries: expected a whole number"),
    ],
)
def test_a_failing_import_is_reported_with_the_last_line_of_the_module(project, source, says):
    (project.root / "broken.py").write_text(source)
    project.configure(modules="broken")
    for command in ("check", "worker"):
        text = said(project.run(command), 2)
        assert says in text
        assert "importlib" not in text


def test_a_missing_module_is_reported_with_the_fix(project):
    project.configure(modules="tsks")
    assert 'there is no module "tsks"' in said(project.run("check"), 2)


def test_check_finds_queued_messages_that_no_longer_fit(project):
    project.push("note", "fine")
    project.push("add", "one")
    project.push("gone")
    text = said(project.run("check"), 1)
    assert "1 waiting in default would not run: argument 'a' of tasks.add: expected int, got str" in text
    assert "no job named 'tasks.gone'" in text


def test_check_shows_values_with_their_sources_and_without_secrets(project):
    project.configure('signing_keys = ["k1:geheimgeheimgeheim"]')
    text = said(project.run("check", "--show", JOBS_LEASE="1m"))
    assert 'lease\t"1m"\tJOBS_LEASE' in text
    assert "geheim" not in text
    rows = json.loads(project.run("check", "--show", "--json").stdout)
    assert {"key": "prefix", "value": '"jobs"', "source": "default"} in rows


def test_check_in_json(project):
    found = json.loads(project.run("check", "--json").stdout)
    assert {entry["check"] for entry in found} == {"configuration", "machine", "plugins", "application", "backend", "messages"}


def test_a_file_that_shadows_the_package_is_reported_with_the_fix(project):
    (project.root / "jobs_core.py").write_text("")
    script = f"{os.path.dirname(sys.executable)}/jobs"
    done = subprocess.run([script, "check"], cwd=project.root, text=True, capture_output=True, env=project.environment())
    assert "jobs_core.py hides the installed package jobs_core: rename it" in said(done, 2)
    done = subprocess.run(
        [script, "check"],
        cwd=project.root,
        text=True,
        capture_output=True,
        env=project.environment(PYTHONPATH=str(project.root)),
    )
    assert "hides the installed package jobs_core: rename it" in said(done, 2)


# -- push ------------------------------------------------------------------------------------------


def test_push_reads_arguments_as_json_or_text(project):
    pushed = project.run("push", "tasks.add", "1", "--kw", "b=3", "--topic", "t", "--priority", "5", "--delay", "1h")
    assert "no pool serves" in pushed.stderr
    job_id = pushed.stdout.strip()
    record = json.loads(project.run("show", job_id, "--json").stdout)
    assert (record["topic"], record["priority"], record["state"]) == ("t", 5, "scheduled")
    assert (record["message"]["args"], record["message"]["kwargs"]) == ([1], {"b": 3})
    job_id = said(project.run("push", "tasks.note", '"12"')).strip()
    assert json.loads(project.run("show", job_id, "--json").stdout)["message"]["args"] == ["12"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["tasks.add"], 2, "missing 1 required positional argument: 'a'"),
        (["tasks.add", "x"], 2, "argument 'a' of tasks.add: expected int, got str"),
        (["tasks.ad", "1"], 2, "the nearest names are tasks.add"),
        ([], 2, "name a job"),
        (["tasks.add", "--kw", "nonsense"], 2, "expected NAME=VALUE"),
        (["tasks.add", "1", "--priority", "10"], 2, "0<=x<=9"),
        (["tasks.add", "1", "--delay", "soon"], 2, "expected a duration"),
        (["tasks.add", "1", "--json", "-"], 2, "leave out ARGS"),
        (["--json", "nowhere"], 2, "No such file"),
    ],
)
def test_push_refuses_with_the_fix(project, arguments, code, says):
    assert says in said(project.run("push", *arguments), code)
    assert json.loads(project.run("topics", "--json").stdout)["default"]["ready"] == 0


def test_push_takes_lines_of_json(project):
    lines = "\n".join(
        ['{"job":"tasks.add","args":[1],"topic":"t"}', "", '{"job":"tasks.note","kwargs":{"text":"x"},"delay":"1h"}']
    )
    text = said(project.run("push", "--json", "-", input=lines))
    assert "2 jobs enqueued" in text
    (project.root / "lines").write_text('[1]\n[2, 3]\n{"a": 4}\n' * 1500)
    done = project.run("push", "tasks.add", "--json", "lines")
    assert len(said(done).splitlines()) == 4501
    assert json.loads(project.run("topics", "--json").stdout)["default"]["ready"] == 4500


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2:"),
        ('{"job":"tasks.add","args":["x"]}', "line 2: argument 'a'"),
        ('{"job":"tasks.nope"}', "line 2: no job named"),
        ('{"args":[1]}', "line 2: names no job"),
        ('{"job":"tasks.add","argz":[1]}', "line 2: Object contains unknown field argz"),
    ],
)
def test_a_bad_line_is_reported_by_number_and_those_before_are_sent(project, line, says):
    text = said(project.run("push", "--json", "-", input='{"job":"tasks.add","args":[1]}\n' + line + "\n"), 2)
    assert says in text
    assert json.loads(project.run("topics", "--json").stdout)["default"]["ready"] == 1


# -- looking and acting ----------------------------------------------------------------------------


@pytest.fixture
def dead(project):
    job_id = project.push("fail", "boom", retries=0)
    project.worker("--drain").wait()
    return job_id


def test_topics_are_shown_with_the_pools_that_serve_them(project, dead):
    project.push("note", "x")
    project.push("note", "x", topic="nobodys")
    text = said(project.run("topics"))
    assert "default\t1\t0\t0\t1\t" in text
    assert re.search(r"nobodys\t1\t0\t0\t0\t\d+s\tnone\t", text)
    assert json.loads(project.run("topics", "--json").stdout)["default"]["pools"] == ["default"]


def test_pause_and_resume(project):
    project.push("note", "x")
    assert "is paused" in said(project.run("pause", "default"))
    assert "paused" in said(project.run("topics"))
    worker = project.worker()
    project.push("note", "other", topic="default")
    assert project.ledger() == []
    assert "is no longer paused" in said(project.run("resume", "default"))
    project.until_noted("note x", "note other")
    worker.stop()


def test_list_and_show(project, dead):
    waiting = project.push("note", "kůň", priority=3)
    assert f"{waiting}\ttasks.note\t3\t1\t" in said(project.run("list", "default"))
    assert said(project.run("list", "default", "--state", "scheduled")) == ""
    assert dead in said(project.run("list", "default", "--state", "dead"))
    assert json.loads(project.run("list", "default", "--json").stdout)[0]["message"]["args"] == ["kůň"]
    text = said(project.run("show", dead))
    for part in ("tasks.fail", "dead", "failed", "ValueError: boom", "attempt 1"):
        assert part in text
    assert "unknown job nobody" in said(project.run("show", "nobody"), 1)


def test_show_of_an_unreadable_message_shows_its_bytes(project):
    job_id = project.push_raw(b"\xff\x1b[31m")
    text = said(project.run("show", job_id))
    assert "not JSON" in text
    assert "\\x1b[31m" in text
    assert "\x1b" not in text


def test_dead_letters_are_listed_retried_and_purged(project, dead):
    text = said(project.run("dead", "list"))
    assert f"{dead}\tdefault\ttasks.fail\t" in text
    assert "ValueError: boom" in text
    assert project.run("dead", "list", "other").stdout == ""
    assert "ValueError: boom" in said(project.run("dead", "show", dead))
    assert "1 job is ready again" in said(project.run("dead", "retry", dead))
    assert "is not dead, but ready" in said(project.run("dead", "show", dead), 1)
    assert f"{dead} is not in the dead letters: it is ready" in said(project.run("dead", "retry", dead), 1)
    project.worker("--drain").wait()
    assert "Pass --yes to skip this prompt" in said(project.run("dead", "retry", "--topic", "default"), 2)
    assert "1 job is ready again" in said(project.run("dead", "retry", "--topic", "default", "--yes"))
    project.worker("--drain").wait()
    assert "give ids, or a topic" in said(project.run("dead", "drop"), 2)
    assert "1 dead letter deleted" in said(project.run("dead", "drop", dead, "--yes"))
    assert said(project.run("dead", "list")) == ""


def test_purge_asks_and_deletes_queued_jobs(project, dead):
    project.push("note", "x")
    project.push("note", "x", delay=60.0)
    assert "Pass --yes to skip this prompt" in said(project.run("purge", "default"), 2)
    assert "1 job deleted" in said(project.run("purge", "default", "--state", "scheduled", "--yes"))
    assert "1 job deleted" in said(project.run("purge", "default", "--state", "all", "--yes"))
    counts = json.loads(project.run("topics", "--json").stdout)["default"]
    assert (counts["ready"], counts["scheduled"], counts["dead"]) == (0, 0, 1)


def test_results(project, dead):
    job_id = project.push("add", 1)
    assert "has not ended" in said(project.run("result", job_id), 1)
    project.worker("--drain").wait()
    assert said(project.run("result", job_id)) == "3\n"
    assert "is dead (failed)" in said(project.run("result", dead), 1)
    assert "is unknown" in said(project.run("result", "nobody"), 1)


def test_cancel(project, dead):
    waiting = project.push("note", "x", delay=60.0)
    text = said(project.run("cancel", waiting, dead, "nobody"), 1)
    assert f"{waiting} cancelled" in text
    assert f"{dead} is already dead" in text
    assert "nobody is unknown" in text
    assert "was cancelled" in said(project.run("result", waiting), 1)


# -- worker ----------------------------------------------------------------------------------------


def test_a_worker_refuses_unknown_pools_and_invalid_topics(project):
    assert "there is no pool 'x': the configuration has default" in said(project.run("worker", "--pool", "x"), 2)
    assert "invalid topic name" in said(project.run("worker", "--topics", "a b"), 2)


def test_a_worker_without_its_backend_says_so(project):
    (project.root / "queue.db").write_bytes(b"no database" * 1000)
    assert "damaged" in said(project.run("worker"), 69)


def test_a_worker_logs_json_where_asked(project):
    project.configure('[logs]\nformat = "json"')
    project.push("fail", retries=0)
    worker = project.start("worker", "--drain")
    assert worker.wait() == 0
    entries = [json.loads(line) for line in worker.lines]
    assert {"WorkerStarted", "JobDied", "WorkerStopped"} <= {entry.get("event") for entry in entries}


def test_a_worker_ends_though_a_job_has_left_threads_that_do_not(project):
    (project.root / "tasks.py").write_text(
        "import asyncio, threading\nfrom jobs_core import job\n\n@job(timeout=0.2, retries=0)\nasync def leaves():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n    await asyncio.to_thread(threading.Event().wait)\n"
    )
    project.push("leaves")
    worker = project.start("worker", "--drain")
    assert worker.wait() == 0
    assert "work submitted to an executor has not ended within 2.5 s" in worker.lines[-1]


# -- plugins, contract, demo -----------------------------------------------------------------------


def test_plugins_are_shown(project):
    assert "builtin\tjobs-core" in said(project.run("plugins"))
    assert json.loads(project.run("plugins", "--json").stdout)[0]["provides"]["backend"] == ["sqlite", "memory"]


def test_contract_runs_and_measures(project):
    text = said(project.run("contract", "sqlite:///contract.db", "-k", "payload or release"))
    assert " passed" in text
    figures = json.loads(project.run("contract", "memory://", "--bench", "--json").stdout)
    assert {"push, 100 at a time", "push to waiting worker, median"} <= {row["what"] for row in figures}


def test_the_demonstration_runs(project):
    text = said(project.run("demo", "--directory", str(project.root / "demo")))
    assert "Where to look next" in text
    assert len(list((project.root / "demo" / "outbox").iterdir())) == 179


def test_the_demonstration_runs_for_the_given_time_and_its_commands_can_be_pasted(project):
    begin = time.monotonic()
    text = said(project.run("demo", "--directory", str(project.root / "it's here"), "--seconds", "2"))
    assert time.monotonic() - begin >= 2
    commands = [line for line in text.splitlines() if re.match(r"  \S*(jobsctl|python|ls) ", line)]
    assert len(commands) == 7  # three to look at jobs, four to look back
    for command in set(commands) - {command for command in commands if command.endswith((" top", " status"))}:
        done = subprocess.run(command, shell=True, cwd="/", text=True, capture_output=True)
        assert (done.returncode, without_waits(done.stderr)) == (0, ""), command


def test_a_closed_pipe_is_not_an_error(project):
    done = subprocess.run(
        f"{sys.executable} -m jobs_core check --show | head -n 1", shell=True, cwd=project.root, text=True, capture_output=True
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["machines", "stop", "vm"], "no such command 'stop'; commands are list, show, quiet, resume, "),
        (["limits", "show", "partner"], "no such command 'show'; commands are list, set, reset"),
        (["schedule", "foo"], "no such command 'foo'; commands are list, add, "),
        (["schedule", "foo", "--json"], "no such command 'foo'; commands are list, add, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistyped_subcommand_is_named_with_those_that_exist(project, arguments, says):
    text = project.here(*arguments, code=2)
    assert says in text
    assert " list [OPTIONS]" not in text


def test_a_limit_is_listed_without_the_word_list(project):
    assert "no such command" not in project.here("limits", "partner", "--limit", "5")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("progress", "what a job tells is shown by: jobsctl follow ID"),
        ("merge", "`jobsctl --help` lists the commands"),
        ("purg", "did you mean 'purge'?"),
        ("cancle", "did you mean 'cancel'?"),
        ("folow", "did you mean 'follow'?"),
    ],
)
def test_a_command_that_deletes_is_suggested_for_its_misspelling_only(project, word, says):
    text = project.here(word, "0198", code=2)
    assert says in text
    assert word in ("purg", "cancle") or ("purge" not in text and "cancel" not in text)
