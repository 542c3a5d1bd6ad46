"""A plugin's exceptions never get past its guard, except for a real interrupt; each is reported with the plugin's name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs_core import App, job
from jobs_core.backends.base import BackendOptions
from jobs_core.cli.extensions import reported, short_help
from jobs_core.cli.main import OURS
from jobs_core.config import Config
from jobs_core.errors import JobsError, PluginError
from jobs_core.job import Call
from jobs_core.registry import Registry
from jobs_core.worker.main import Worker, prepare

from ..support.project import without_waits

DEEDS = {
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "exit without a code": ("import sys; sys.exit()", "SystemExit"),
    "interrupt": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
    "interrupt of its own": ("raise type('Mine', (KeyboardInterrupt,), {})('stop')", "Mine: stop"),
    "base": ("raise BaseException('base')", "BaseException: base"),
    "generator": ("raise GeneratorExit('no more')", "GeneratorExit: no more"),
    "stop": ("raise StopIteration('no more')", "StopIteration: no more"),
    "bug": ("1 / 0", "ZeroDivisionError: division by zero"),
    "no text": ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "Odd"),
}

BACKEND = """
from jobs_core.backends.memory import MemoryBackend
class Bad(MemoryBackend):
    def counts(self, topics): DEED
@hookimpl
def jobs_queue_backends(): return {"bad": Bad}
"""
FRAMEWORK = """
from jobs_core.loaders.base import Bootstrapper
class Bad(Bootstrapper):
    def STEP(self): DEED
@hookimpl
def jobs_framework_bootstrappers(): return {"bad": lambda config: Bad()}
"""
LOADER = """
from jobs_core.loaders.base import JobLoader
class Bad(JobLoader):
    def load(self): DEED
@hookimpl
def jobs_job_loaders(): return {"bad": lambda config: Bad()}
"""
COMMAND = """
import click
class Bad(click.Command):
    def get_short_help_str(self, limit=45): DEED
@hookimpl
def jobs_cli_commands(): return {"bad": Bad("bad")}
"""


def hook(name, arguments=""):
    return f"@hookimpl\ndef {name}({arguments}): DEED\n"


def factory(name):
    return f"def make(*given): DEED\n@hookimpl\ndef {name}(): return {{'bad': make}}\n"


def problems(plugins):
    return "\n".join(f"{info} {trouble}" for info in reported(plugins, OURS) for trouble in info.troubles)


def configured(plugins, **config):
    return App(Config(**{"backend": "memory://hostile", **config}), plugins=plugins, registry=Registry())


def error_of(action):
    with pytest.raises(JobsError) as raised:
        action()
    return str(raised.value)


def enqueued(plugins):
    app = configured(plugins)
    call = Call(job(name="hostile", registry=app.registry)(lambda: None), (), {})
    return error_of(lambda: app.enqueue(call))


def made(hook_name, *given):
    return lambda plugins: error_of(lambda: plugins.choose(hook_name, "bad", "key")(*given))


def prepared(**config):
    return lambda plugins: error_of(lambda: prepare(configured(plugins, **config)))


def served(plugins):
    app = configured(plugins, framework="bad", loader="modules")
    bootstrapper = prepare(app)
    return error_of(lambda: Worker(app, "default", app.config.pools["default"], bootstrapper).run())


def operated(plugins):
    return error_of(lambda: configured(plugins, backend="bad://x").operate(lambda backend: backend.counts(["x"])))


def shown(plugins):
    reported(plugins, OURS)
    ((command, info),) = plugins.provided("jobs_cli_commands")["bad"]
    return short_help("bad", command, info)


PLACES = {
    "import": ("DEED", problems),
    "module attribute": ("def __getattr__(name): DEED", problems),
    **{name: (hook(name), problems) for name in ("jobs_queue_backends", "jobs_job_loaders", "jobs_framework_bootstrappers")},
    **{name: (hook(name), problems) for name in ("jobs_alert_channels", "jobs_payload_codecs", "jobs_cli_commands")},
    "jobs_outboxes": (hook("jobs_outboxes"), problems),
    "outbox factory": (factory("jobs_outboxes"), made("jobs_outboxes", "bad://", "jobs")),
    "backend factory": (factory("jobs_queue_backends"), made("jobs_queue_backends", "bad://", BackendOptions())),
    "loader factory": (factory("jobs_job_loaders"), made("jobs_job_loaders", Config())),
    "framework factory": (factory("jobs_framework_bootstrappers"), made("jobs_framework_bootstrappers", Config())),
    "channel factory": (factory("jobs_alert_channels"), made("jobs_alert_channels", {})),
    "codec factory": (factory("jobs_payload_codecs"), made("jobs_payload_codecs")),
    "setup": (FRAMEWORK.replace("STEP", "setup"), prepared(framework="bad")),
    "before_fork": (FRAMEWORK.replace("STEP", "before_fork"), prepared(framework="bad")),
    "after_fork": (FRAMEWORK.replace("STEP", "after_fork"), served),
    "load": (LOADER, prepared(loader="bad")),
    "backend method": (BACKEND, operated),
    "help text": (COMMAND, shown),
    "jobs_before_enqueue": (hook("jobs_before_enqueue"), enqueued),
    "jobs_hold_enqueue": (hook("jobs_hold_enqueue"), enqueued),
}
LISTENERS = {
    "jobs_worker_started": "worker",
    "jobs_worker_stopping": "worker",
    "jobs_job_started": "run",
    "jobs_job_finished": "run outcome",
    "jobs_supervisor_started": "facts",
    "jobs_supervisor_stopping": "facts",
    "jobs_worker_crashed": "report",
    "jobs_topic_backlog": "topic counts",
    "jobs_broker_commands": "config",
}
GOOD = """
heard = []
@hookimpl
def jobs_worker_started(): heard.append(1)
"""


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("place", PLACES)
def test_errors_of_a_plugin_are_reported_by_its_name(discover, place, deed):
    source, exercise = PLACES[place]
    action, text = DEEDS[deed]
    said = exercise(discover(bad=source.replace("DEED", action), good=GOOD))
    assert "plugin 'bad' of jobs-bad 1.2.3" in said
    assert text in said


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("name", LISTENERS)
def test_a_listener_that_raises_anything_is_logged_by_name(discover, caplog, name, deed):
    action, _ = DEEDS[deed]
    plugins = discover(bad=hook(name).replace("DEED", action))
    plugins.notify(name, **dict.fromkeys(LISTENERS[name].split(), SimpleNamespace()))
    assert f"plugin 'bad' of jobs-bad 1.2.3: hook {name} failed" in caplog.text


@pytest.mark.parametrize("place", [name for name in PLACES if name != "module attribute"])
def test_a_real_interrupt_gets_past(discover, place):
    source, exercise = PLACES[place]
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT); sum(range(1000))"
    with pytest.raises(KeyboardInterrupt):
        exercise(discover(bad=source.replace("DEED", interrupt)))


WRONG = {
    "jobs_queue_backends": "5",
    "jobs_job_loaders": "{'bad': 5}",
    "jobs_framework_bootstrappers": "{5: print}",
    "jobs_alert_channels": "(name for name in 'ab')",
    "jobs_payload_codecs": "['zstd']",
    "jobs_outboxes": "['postgresql']",
    "jobs_cli_commands": "{'bad': print}",
}


@pytest.mark.parametrize("name", WRONG)
def test_check_reports_what_plugins_reports(project, install, name):
    install(bad=f"@hookimpl\ndef {name}(): return {WRONG[name]}\n")
    (bad,) = [info for info in json.loads(project.here("plugins", "--json", code=1)) if info["name"] == "bad"]
    assert bad["problems"]
    (found,) = [each for each in json.loads(project.here("check", "--json")) if bad["problems"][0] in each["text"]]
    assert found == {"check": "plugins", "state": "warning", "text": f"plugin 'bad' of jobs-bad 1.2.3 {bad['problems'][0]}"}


@pytest.mark.parametrize(
    ("hook_name", "kind", "given"),
    [
        ("jobs_queue_backends", "Backend", ("bad://", BackendOptions())),
        ("jobs_job_loaders", "JobLoader", (Config(),)),
        ("jobs_framework_bootstrappers", "Bootstrapper", (Config(),)),
        ("jobs_alert_channels", "AlertChannel", ({},)),
        ("jobs_payload_codecs", "PayloadCodec", ()),
        ("jobs_outboxes", "Outbox", ("bad://", "jobs")),
    ],
)
def test_a_factory_with_a_wrong_result_is_reported_by_name(discover, hook_name, kind, given):
    plugins = discover(bad=factory(hook_name).replace("DEED", "return {}"))
    with pytest.raises(PluginError, match=f"plugin 'bad' of .*: the factory of .* 'bad' returned dict, expected {kind}"):
        plugins.choose(hook_name, "bad", "key")(*given)


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("jobs_before_enqueue", "return 'text'", "returned str, expected Message or None"),
        ("jobs_hold_enqueue", "return 'held'", "returned str, expected bool or None"),
    ],
)
def test_an_enqueue_hook_with_a_wrong_result_is_reported_by_name(discover, name, answer, says):
    said = enqueued(discover(bad=hook(name).replace("DEED", answer)))
    assert f"plugin 'bad' of jobs-bad 1.2.3: hook {name} {says}" in said


@pytest.mark.parametrize("answer", ["'broker --port 5'", "['broker']", "[[5]]", "5"])
def test_invalid_broker_commands_are_reported_by_name(discover, answer):
    plugins = discover(bad=hook("jobs_broker_commands").replace("DEED", f"return {answer}"))
    with pytest.raises(PluginError, match="plugin 'bad' of .* returned something other than a list of command lines"):
        plugins.broker_commands(Config())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("@hookimpl\nasync def jobs_hold_enqueue(): return True", "jobs_hold_enqueue is an async def"),
        ("@hookimpl(wrapper=True)\ndef jobs_job_started(run): yield", "jobs_job_started is a hook wrapper"),
        ("@hookimpl(specname='jobs_nothing')\ndef f(): pass", "implements an unknown hook jobs_nothing"),
    ],
)
def test_a_hook_that_would_do_nothing_is_a_problem(discover, source, says):
    assert says in problems(discover(bad=source))


def test_a_url_is_hidden_in_errors_of_its_factory(discover):
    plugins = discover(
        bad="def make(url, options): raise ValueError(url)\n@hookimpl\ndef jobs_queue_backends(): return {'bad': make}"
    )
    said = error_of(lambda: plugins.choose("jobs_queue_backends", "bad", "backend")("bad://me:secret@host/", BackendOptions()))
    assert "ValueError: bad://" in said
    assert "secret" not in said


def test_a_slow_import_is_shown_with_its_time_and_warned_of(discover, monkeypatch):
    monkeypatch.setattr("jobs_core.plugins.SLOW", 0.0)
    plugins = discover(slow="")
    (slow,) = [info for info in reported(plugins, OURS) if info.name == "slow"]
    assert slow.seconds > 0
    assert "s to import" in slow.notes[0]


def test_a_name_that_two_provide_is_shown_for_both_and_the_core_keeps_its_own(discover):
    taken = "from jobs_core.backends.memory import MemoryBackend\n@hookimpl\ndef jobs_queue_backends(): return {NAMES}\n"
    one, two = (
        taken.replace("NAMES", f"'sqlite': MemoryBackend, '{name}': MemoryBackend, 'both': MemoryBackend") for name in "ab"
    )
    plugins = discover(one=one, two=two)
    said = problems(plugins)
    for name in ("plugin 'builtin'", "plugin 'one'", "plugin 'two'"):
        assert any(line.startswith(name) and "backend 'sqlite'" in line for line in said.splitlines())
    assert plugins.provider("jobs_queue_backends", "sqlite") is None  # the core's own
    with pytest.raises(PluginError, match=r'choose one with \[plugins\] prefer = \["one"\]'):
        plugins.choose("jobs_queue_backends", "both", "backend")


def test_a_preferred_plugin_takes_a_name_of_the_core(project, install):
    source = "from jobs_core.backends.memory import MemoryBackend\n@hookimpl\ndef jobs_queue_backends(): "
    install(mine=source + "return {'sqlite': MemoryBackend}")
    project.configure("[plugins]\nprefer = ['mine', 'nobody']\n")
    app = project.app()
    assert app.plugins.provider("jobs_queue_backends", "sqlite").name == "mine"
    assert app.new_backend().name == "memory"
    assert "no plugin is named 'nobody'" in project.here("check")
    assert project.app().config.prefer == ["mine", "nobody"]


def test_conflicting_command_names_are_reported(discover):
    source = (
        "import click\n@hookimpl\ndef jobs_cli_commands(): return {'status': click.Command('x'), 'both': click.Command('y')}"
    )
    said = problems(discover(one=source, two=source))
    assert "provides the command 'status', which is a command of jobs itself" in said
    assert "provides command 'both', as does plugin 'two'" in said


RAISING = """
import click
@click.command("bad")
@click.option("--how")
def bad(how): exec(how)
@hookimpl
def jobs_cli_commands(): return {"bad": bad}
"""


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        *((action, 2, text) for deed, (action, text) in DEEDS.items() if "exit" not in deed),
        ("raise SystemExit(3)", 3, "command 'bad' ended with exit code 3"),
        ("raise SystemExit('no paper')", 1, "command 'bad': no paper"),
    ],
)
def test_a_failing_command_is_reported_by_name(project, install, how, code, says):
    install(bad=RAISING)
    said = project.here("bad", "--how", how, code=code)
    assert "jobs: plugin 'bad' of jobs-bad 1.2.3: command 'bad'" in said
    assert says in said
    assert "Traceback" not in said


def test_a_successful_command_prints_nothing(project, install):
    install(bad=RAISING)
    assert project.here("bad", "--how", "raise SystemExit(0)") == ""
    assert project.here("bad", "--how", "print('mine')") == "mine\n"


NOISY = """
import os, subprocess, sys
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.loaders.base import AlertChannel, Bootstrapper, JobLoader
def noise():
    print("noise")
    sys.__stdout__.write("noise\\n")
    os.write(1, b"noise\\n")
    subprocess.run(["echo", "noise"])
noise()
class Noisy(Bootstrapper, JobLoader, AlertChannel):
    def setup(self): noise()
    def before_fork(self): noise()
    def load(self):
        noise()
        return []
    def send(self, *alert): noise()
def make(*given):
    noise()
    return Noisy()
def backend(url, options):
    noise()
    return SqliteBackend(url.replace("noisy", "sqlite"), options)
"""
for_hook = "@hookimpl\ndef {}():\n    noise()\n    return {{'noisy': {}}}\n".format
NOISY += "".join(for_hook(name, "make") for name in ("jobs_job_loaders", "jobs_framework_bootstrappers", "jobs_alert_channels"))
NOISY += for_hook("jobs_queue_backends", "backend")


def test_output_of_plugins_does_not_mix_with_json(project, install):
    install(noisy=NOISY)
    project.configure(
        "framework = 'noisy'\nloader = 'noisy'\n[topics.x]\nalert_above = 1\n[alerts.channels]\nnoisy = {}\n",
        backend="backend = 'noisy:///queue.db'",
    )
    for command in ("plugins", "check", "topics"):
        done = project.run(command, "--json", PYTHONPATH=os.environ["PYTHONPATH"])
        assert done.returncode == 0, done.stdout + done.stderr
        json.loads(done.stdout)
        assert done.stderr.count("noise") >= 4
    assert "sent" in project.run("alert", "test", PYTHONPATH=os.environ["PYTHONPATH"]).stdout


def test_a_producer_continues_whatever_an_unneeded_plugin_does_at_import(project, install):
    install(bad="print('noise'); raise SystemExit(3)")
    code = "import tasks; print(tasks.note.enqueue('x').created)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("place", ["import", "jobs_cli_commands", "backend factory", "setup"])
@pytest.mark.parametrize("deed", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_plugin_that_ends_the_process_is_named_by_check(project, install, place, deed):
    install(bad="import os\n" + PLACES[place][0].replace("DEED", deed))
    needed = {"backend factory": "backend = 'bad://x'", "setup": "backend = 'sqlite:///q.db'\nframework = 'bad'"}
    project.configure(backend=needed.get(place, "backend = 'sqlite:///q.db'"))
    if place in needed:
        said = project.here("check", code=2)
    else:
        assert "plugin 'bad' of jobs-bad 1.2.3" in project.here("check")
        said = project.here("plugins", code=1)
        assert "left out here" in said
    assert "bad" in said
    assert "exit code 3" in said or "SIGKILL" in said


@pytest.mark.parametrize("command", [["topics"], ["push", "tasks.note"], ["start"], ["worker"], []])
def test_a_plugin_whose_import_ends_the_process_is_named_by_whatever_it_ends(project, install, command):
    install(bad="import os; os._exit(3)")
    code = "import tasks; tasks.note.enqueue('x')"
    line = [sys.executable, *(["-m", "jobs_core", *command] if command else ["-c", code])]
    done = subprocess.run(line, cwd=project.root, capture_output=True, text=True, env=os.environ)
    told = "jobs: the import of plugin 'bad' of jobs-bad 1.2.3 ended this process: it called os._exit(3)\n"
    assert (done.returncode, without_waits(done.stderr)) == (3, told)


def test_start_logs_plugin_errors(project, install):
    install(bad="raise SystemExit(3)", odd="@hookimpl\ndef jobs_queue_backends(): return 5")
    supervisor = project.start("start", PYTHONPATH=os.environ["PYTHONPATH"])
    supervisor.until_said("plugin 'bad' of jobs-bad 1.2.3 cannot be imported: it ends the process: SystemExit: 3")
    supervisor.until_said("plugin 'odd' of jobs-odd 1.2.3 jobs_queue_backends returned int")


def test_the_documented_command_reaches_configuration_and_queue(project, install):
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    source = page.partition("# oldest.py\n")[2].partition("```")[0]
    install(oldest=source)
    project.configure("[topics.default]\nalert_age = '5m'\n")
    project.push("note", "x")
    assert re.search(r"default: \d+ s \(alert at 5m\), 1 ready", project.here("oldest"))
    assert "mail: 0 s (alert at nothing), 0 ready" in project.here("-c", "jobs.toml", "oldest", "mail")
