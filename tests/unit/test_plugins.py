"""Plugins are found and called, and their failures survived."""

import subprocess
import sys

import pytest

from jobs_core import hookimpl, hookspecs
from jobs_core.backends.base import BackendOptions
from jobs_core.errors import PluginError
from jobs_core.plugins import Plugins, guarded

from ..support.project import PATIENCE


def info(plugins, name):
    return next(info for info in plugins.infos if info.name == name)


GOOD = """
from jobs_core.backends.memory import MemoryBackend
@hookimpl
def jobs_queue_backends(): return {"good": MemoryBackend}
"""


def test_the_core_goes_through_its_own_hooks():
    plugins = Plugins()
    assert set(plugins.provided("jobs_queue_backends")) == {"sqlite", "memory"}
    assert set(plugins.provided("jobs_job_loaders")) == {"modules"}
    assert info(plugins, "builtin").provides["backend"] == ["sqlite", "memory"]


def test_a_plugin_is_found_with_its_distribution_and_its_features(discover):
    plugins = discover(good=GOOD)
    made = plugins.choose("jobs_queue_backends", "good", "backend")("good://", BackendOptions())
    assert made.name == "memory"
    found = info(plugins, "good")
    assert (str(found), found.provides) == ("plugin 'good' of jobs-good 1.2.3", {"backend": ["good"]})


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise RuntimeError('kaputt')", "cannot be imported: RuntimeError: kaputt"),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
        ("@hookimpl\ndef jobs_queue_backend(): return {}", "unknown hook jobs_queue_backend; is jobs_queue_backends meant?"),
        ("@hookimpl\ndef jobs_queue_backends(whatever): return {}", "cannot be used"),
        ("@hookimpl\ndef jobs_queue_backends(): return ['x']", "returned list, expected a dict of name to factory"),
        ("@hookimpl\ndef jobs_queue_backends(): return {'x': 5}", "returned a factory that is not callable for 'x'"),
        ("@hookimpl\ndef jobs_queue_backends(): 1/0", "jobs_queue_backends raised ZeroDivisionError"),
        ("jobs_interface_version = 99", "is written for plugin interface 99"),
    ],
)
def test_a_broken_plugin_is_reported_and_harms_no_other(discover, source, problem):
    plugins = discover(bad=source, good=GOOD)
    assert plugins.choose("jobs_queue_backends", "good", "backend")
    (said,) = info(plugins, "bad").problems
    assert problem in said


def test_a_broken_plugin_that_is_needed_stops_the_start_by_name(discover):
    plugins = discover(redis="raise RuntimeError('kaputt')")
    with pytest.raises(PluginError, match=r"plugin 'redis' of jobs-redis 1.2.3 cannot be imported: RuntimeError: kaputt"):
        plugins.choose("jobs_queue_backends", "redis", "backend")


def test_a_plugin_can_be_disabled(discover):
    plugins = discover(disabled=["redis"], redis="raise RuntimeError('kaputt')")
    assert info(plugins, "redis").disabled
    with pytest.raises(PluginError, match="is disabled by JOBS_DISABLE_PLUGINS"):
        plugins.choose("jobs_queue_backends", "redis", "backend")


def test_an_unknown_name_is_answered_with_a_package_or_the_nearest_name():
    plugins = Plugins()
    with pytest.raises(PluginError, match="framework: there is no framework 'django': pip install jobs-django"):
        plugins.choose("jobs_framework_bootstrappers", "django", "framework")
    with pytest.raises(PluginError, match="did you mean 'sqlite'"):
        plugins.choose("jobs_queue_backends", "sqlitee", "backend")
    with pytest.raises(PluginError, match="installed: modules"):
        plugins.choose("jobs_job_loaders", "zzz", "loader")


def test_two_plugins_that_provide_one_name_are_distinguished(discover):
    plugins = discover(one=GOOD, two=GOOD)
    with pytest.raises(PluginError, match="plugin 'one' of jobs-one 1.2.3 and plugin 'two'.*JOBS_DISABLE_PLUGINS"):
        plugins.choose("jobs_queue_backends", "good", "backend")


def test_a_failing_listener_is_logged_by_name_and_the_others_are_called(discover, caplog):
    listener = "heard = []\n@hookimpl\ndef jobs_worker_started(worker): heard.append(worker)\n"
    plugins = discover(bad="@hookimpl\ndef jobs_worker_started(): 1/0", good=listener)
    plugins.notify("jobs_worker_started", worker="w")
    assert sys.modules["plugin_good"].heard == ["w"]
    assert "plugin 'bad' of jobs-bad 1.2.3: hook jobs_worker_started failed" in caplog.text


def test_an_implementation_gets_the_arguments_it_names(discover):
    plugins = discover(few="@hookimpl\ndef jobs_job_finished(outcome): return outcome")
    (implementation,) = plugins.implementations("jobs_job_finished")
    assert guarded(implementation, run=1, outcome=2) == 2


OBSERVED = """
import importlib, logging, os, pkgutil, signal, sys, threading, warnings
from pathlib import Path
import ctypes, pytest, hypothesis  # newer releases of libffi, which ctypes loads, keep their own file open

def state():
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook, warnings.showwarning, sys.meta_path[:]
    loggers = logging.root.handlers[:], logging.root.level, logging.getLogger("jobs").handlers[:]
    descriptors = sorted(os.listdir("/dev/fd"))
    return threading.enumerate(), handlers, hooks, loggers, descriptors, dict(os.environ), list(warnings.filters), os.umask(0)

os.umask(0)
import jobs_core
before = state()
for module in pkgutil.walk_packages(jobs_core.__path__, "jobs_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = state()
assert before == after, (before, after)
"""


def test_importing_the_core_starts_and_changes_nothing_in_the_process():
    subprocess.run([sys.executable, "-c", OBSERVED], check=True, timeout=PATIENCE)


def test_hooks_can_be_traced(discover, monkeypatch, capsys):
    monkeypatch.setenv("JOBS_TRACE_HOOKS", "1")
    discover(good=GOOD).provided("jobs_queue_backends")
    assert "jobs: hook jobs_queue_backends in plugin 'good' of jobs-good 1.2.3" in capsys.readouterr().err


def test_every_hook_is_documented_typed_and_says_whether_it_is_fatal():
    for name, spec in vars(hookspecs).items():
        if name.startswith("jobs_"):
            assert "Fatal:" in spec.__doc__, name
            assert "Called in" in spec.__doc__ or "Called when" in spec.__doc__, name
            assert "return" in spec.__annotations__, name


def test_the_plugins_of_this_process_are_discovered(monkeypatch):
    monkeypatch.setenv("JOBS_DISABLE_PLUGINS", "a, b")
    assert info(Plugins.discover(), "builtin").hooks


def test_hookimpl_marks():
    @hookimpl
    def jobs_worker_started():
        pass

    assert jobs_worker_started.jobs_impl
