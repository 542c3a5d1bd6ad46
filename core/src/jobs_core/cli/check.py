"""`jobsctl check`: test configuration, plugins, application and backend; each finding comes with its fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import click

from .. import boundary, guard
from ..app import App
from ..backends.base import Backend
from ..config import Config, Workers
from ..config_sources import Effective
from ..errors import BackendUnavailable, ConfigError, JobsError, PayloadStoreUnavailable, PluginError
from ..events import TopicUnserved
from ..loaders import importing
from ..machines import EVERYWHERE, sizes
from ..operating.explain import misfit
from ..operating.formatting import count
from ..operating.in_outbox import is_late, look, told
from ..operating.limits_check import lacking, problems
from ..operating.refused import entry_refused, refused_entries, size_refused
from ..payloads.store import open_store
from ..plugins import Plugins
from ..schedule import entries
from ..supervisor.housekeeper.alerts import channels, ineffective_limits, watched
from ..urls import redact
from ..webhooks.receivers import keys_of, url_of
from ..worker.main import prepare
from . import output
from .common import Context, exit_code, json_option, pass_context
from .exits import Exit
from .extensions import disable_fatal_plugins, reported
from .in_child import IMPORT_TIMEOUT, Say, TookTooLong, run_in_child
from .main import OURS
from .preflight import preflight, unused_results
from .start import DAEMON_LOG
from .types import DURATION
from .waiting import waiting

SAMPLE = 500
"""Most queued messages of a topic and state that are checked against the code."""


class _Checks:
    """Findings, which are printed as they are found; the worst one decides the exit code."""

    def __init__(self, quiet: bool, on_add: Callable[[str, str, str, Exit], None] = lambda *finding: None) -> None:
        self._on_add = on_add
        self.found: list[dict[str, str]] = []
        self.code = Exit.FINE
        self._quiet = quiet

    def add(self, mark: str, what: str, text: str, code: Exit = Exit.FAILED) -> None:
        text = boundary.storable(text, boundary.LONGEST_TRACEBACK)  # paths and errors may contain unpaired surrogates
        self._on_add(mark, what, text, code)
        state = {output.GOOD: "good", output.WARN: "warning"}.get(mark, "bad")
        self.found.append({"check": what, "state": state, "text": text})
        if mark == output.BAD and self.code is not Exit.USAGE:
            self.code = code
        if not self._quiet:
            for number, line in enumerate(text.splitlines() or [""]):
                output.echo(f"{mark if number == 0 else ' '} {what if number == 0 else '':<14}{line}")

    def run(self, what: str, check: Callable[[], Iterator[tuple[str, str]]]) -> bool:
        """Report the findings that a check yields; return False if one of them is bad."""
        good = True
        try:
            for mark, text in check():
                good = good and mark != output.BAD
                self.add(mark, what, text)
        except JobsError as error:
            self.add(output.BAD, what, str(error), exit_code(error))
            return False
        return good


@click.command("check")
@click.option("--show", "show_values", is_flag=True, help="Print every effective value and where it comes from.")
@click.option(
    "--import-timeout", type=DURATION, default=IMPORT_TIMEOUT, show_default=True, help="Longest time for the import, seconds."
)
@json_option
@pass_context
def check_command(context: Context, show_values: bool, import_timeout: float, as_json: bool) -> None:
    """Check configuration, plugins, application, backend, and whether queued messages fit this code.

    Run it before a deployment: waiting messages are checked against the signatures of the code in this directory.
    """
    if show_values:
        rows = context.effective.rows()
        if as_json:
            output.json([{"key": key, "value": value, "source": source} for key, value, source in rows])
        else:
            output.table(["key", "value", "from"], rows)
        return
    checks = _Checks(quiet=as_json)
    if checks.run("configuration", lambda: _configuration(context)):
        killers = disable_fatal_plugins(lambda: reported(Plugins.discover(), OURS))
        app = context.app
        checks.run("machine", lambda: _machine(app))
        checks.run("plugins", lambda: _plugins(app, killers))
        checks.run("alerts", lambda: _alerts(app))
        if app.config.webhooks:
            checks.run("webhooks", lambda: _webhooks(app, context.effective))
        checks.run("payloads", lambda: _payloads(app, context.effective))
        _check_application(checks, app, import_timeout)
        if app.config.payloads.url is not None:  # last, because the client of a bucket starts threads, and no fork may follow
            store = app.config.payloads.url
            checks.run("payloads", lambda: _store(store, context.effective))
    if as_json:
        output.json(checks.found)
    if checks.code:
        raise click.exceptions.Exit(checks.code)


def _marked(found: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield findings with the marks of the terminal."""
    for state, text in found:
        yield {"good": output.GOOD, "warning": output.WARN}.get(state, output.BAD), text


def _pool_sizes(app: App) -> Iterator[tuple[str, str]]:
    """Yield the sizes that operators have set for pools of this configuration."""
    if "documents" not in app.new_backend().features:
        return
    refused: dict[str, str] = {}
    found = app.operate(lambda backend: sizes(app, backend, refused.__setitem__))
    for size in found:
        if size.pool in app.config.pools:
            everywhere = size.target == EVERYWHERE
            where, reset = ("all machines", "--all") if everywhere else (size.target, size.target)
            workers = count(size.workers, "worker")
            until = f"until `jobsctl machines auto {size.pool} {reset}`"
            yield output.WARN, f"pool {size.pool} is set to {workers} on {where} by {size.by}, {until}"
    for name, why in refused.items():
        yield output.WARN, size_refused(name, why)


def _check_application(checks: _Checks, app: App, import_timeout: float) -> None:
    """Run in a child the checks that need the application, because its import may end the process."""
    module = called = ""
    loading = True

    def work(say: Say) -> None:
        guard.on_call = lambda plugin, what: say({"call": f"{plugin}: {what}" if plugin else ""})
        importing.on_import = lambda name: say({"module": name})
        inside = _Checks(quiet=True, on_add=lambda *finding: say({"finding": finding}))
        loaded = inside.run("application", lambda: _application(app))
        say({"module": "", "loading": False})
        reachable = inside.run("backend", lambda: _backend(app))
        if loaded:
            inside.run("features", lambda: _marked(lacking(app)))
        if reachable and loaded:
            inside.run("limits", lambda: _marked(problems(app)))
            inside.run("pools", lambda: _pool_sizes(app))
            if app.config.outbox.url:
                inside.run("outbox", lambda: _outbox(app))
            inside.run("messages", lambda: _messages(app))
        if loaded:
            inside.run("schedule", lambda: _schedule(app, reachable))
            inside.run("plugins", lambda: ((output.WARN, text) for text in app.plugins.findings(app.config)))

    def hear(said: dict[str, Any]) -> None:
        nonlocal module, called, loading
        if "finding" in said:
            mark, what, text, code = said["finding"]
            checks.add(mark, what, text, Exit(code))
        module, called, loading = said.get("module", module), said.get("call", called), said.get("loading", loading)

    def what() -> str:
        if loading:
            return f"module {module} to be imported" if module else "the application to be imported"
        return f"{called} to return" if called else f"{redact(app.backend_url)} to answer"

    try:
        how = run_in_child(work, hear, what, lambda: import_timeout if loading else None)
    except TookTooLong as error:
        remedy = "start would wait for it as well; if it is only slow, allow more time with --import-timeout"
        checks.add(output.BAD, "application", importing.not_imported(module, import_timeout, error.place, remedy), Exit.USAGE)
        return
    if how:
        text = importing.ended_importing(module, how)
        if called and not (module and loading):  # a hook may import modules, too
            text = f"{called} ended the process ({how}), by os._exit or a crash in C code"
        checks.add(output.BAD, "application", text, Exit.USAGE)


def _configuration(context: Context) -> Iterator[tuple[str, str]]:
    effective = context.effective
    pools = ", ".join(f"{name} ({', '.join(pool.topics)})" for name, pool in effective.config.pools.items())
    yield output.GOOD, f"{effective.file or 'defaults: there is no jobs.toml here'}; pools: {pools}"
    yield output.GOOD, _encryption(effective.config)
    for key, source, advice in effective.secrets_in_file():
        page = "Keep passwords out of files and messages out of reach"
        yield output.WARN, f'{key} contains a secret, and stands in {source}: {advice}: see "{page}" in the documentation'
    for hider in (effective.config.base_dir / "jobs_core.py", effective.config.base_dir / "jobs_core"):
        if hider.exists() and not (hider / "hookspecs.py").exists():
            raise ConfigError(f"{hider} hides the installed package jobs_core: rename it")
    if os.environ.get("JOBS_FAILPOINT"):
        yield output.WARN, "JOBS_FAILPOINT is set: this process dies or stalls at the named point; it is for tests only"


def _machine(app: App) -> Iterator[tuple[str, str]]:
    preflight(app)
    log = app.config.logs.file or f"standard error (start --daemon: {app.run_dir / DAEMON_LOG})"
    yield output.GOOD, f"run directory {app.run_dir}; log to {log}"


def _plugins(app: App, killers: dict[str, str]) -> Iterator[tuple[str, str]]:
    infos = reported(app.plugins, OURS)
    yield output.GOOD, ", ".join(info.name for info in infos if not info.problems and not info.disabled)
    for info in infos:
        if info.name in killers:
            yield output.WARN, f"{info} {killers[info.name]}"
        elif info.disabled:
            yield output.WARN, f"{info} is disabled by JOBS_DISABLE_PLUGINS"
        for trouble in info.troubles:  # only a warning: the next checks fail if the configuration needs the plugin
            yield output.WARN, f"{info} {trouble}"
    for name in app.plugins.unknown_preferences():
        yield output.WARN, f"plugins.prefer: no plugin is named {name!r}"


def _payloads(app: App, effective: Effective) -> Iterator[tuple[str, str]]:
    """Check the codec."""
    settings = app.config.payloads
    if settings.compress is not None:
        try:
            app.payloads.codec(settings.compress, "payloads.compress")
        except (ConfigError, PluginError) as error:
            raise ConfigError(effective.located("payloads.compress", str(error))) from None
        yield output.GOOD, f"compressed by {settings.compress}"


def _store(url: str, effective: Effective) -> Iterator[tuple[str, str]]:
    """Write, read and delete a tiny blob in the payload store."""
    try:
        with waiting(f"the payload store {redact(url)} to answer"):
            tried = open_store(url, patient=False).check()
    except PayloadStoreUnavailable as error:
        raise ConfigError(effective.located("payloads.url", f"payloads.url: {error}")) from None
    how = "a blob was written, read and deleted" if tried else "the first blob creates it"
    yield output.GOOD, f"the payload store is {redact(url)}; {how}"


def _encryption(config: Config) -> str:
    """Return whether the arguments and results of each topic are encrypted; a job may say otherwise."""
    if not config.encryption_keys:
        return "arguments and results are not encrypted: there are no encryption_keys"
    topics = sorted({*config.topics, *config.served_topics()})
    plain = [name for name in topics if config.topic(name).encrypt is False]
    if config.defaults.encrypt is False:
        hidden = [name for name in topics if name not in plain]
        return f"arguments and results are encrypted only in the topics {', '.join(hidden)}" if hidden else _NONE_ENCRYPTED
    return "arguments and results are encrypted" + (f", but not in the topics {', '.join(plain)}" if plain else "")


_NONE_ENCRYPTED = "arguments and results are encrypted in no topic, although there are encryption_keys: encrypt = false"


def _alerts(app: App) -> Iterator[tuple[str, str]]:
    names, topics = list(channels(app.config, app.plugins)), watched(app.config)
    if names and not topics:
        yield output.WARN, "there are alert channels, but no topic has a limit: set topics.NAME.alert_above or alert_age"
    elif topics:
        yield output.GOOD, f"for {', '.join(topics)}, to {', '.join(names) or 'the log'}; `jobsctl alert test` tests them"


def _webhooks(app: App, effective: Effective) -> Iterator[tuple[str, str]]:
    """Read addresses and secrets, and tell what cannot happen."""
    config = app.config
    for name, settings in config.webhooks.items():
        try:
            keys_of(config, name)
            url = url_of(config, name)
        except ConfigError as error:
            raise ConfigError(effective.located(str(error).partition(": ")[0], str(error))) from None
        if url.startswith("http:"):
            yield (
                output.WARN,
                f"webhooks.{name}: its address begins with http://, so that anyone on the way can read the events",
            )
        if settings.events == ["backlog"] and not set(settings.topics or watched(config)) & set(watched(config)):
            yield output.WARN, f"webhooks.{name}: no topic has a limit: set topics.NAME.alert_above or alert_age"
    yield output.GOOD, f"events go to {', '.join(config.webhooks)}; `jobsctl webhooks test` tests them"


def _application(app: App) -> Iterator[tuple[str, str]]:
    prepare(app)
    jobs = list(app.registry)
    if not jobs:
        yield output.WARN, 'no job is defined: list the modules with @job functions, modules = ["shop.tasks"]'
        return
    yield output.GOOD, f"{count(len(jobs), 'job')}: {', '.join(job.name for job in jobs[:8])}{' …' if len(jobs) > 8 else ''}"
    if app.config.encryption_keys:
        for value, how in ((False, "are not encrypted"), (True, "are encrypted")):
            if names := [job.name for job in jobs if job.options.encrypt is value]:
                yield output.GOOD, f"arguments and results of {', '.join(names)} {how}, by @job(encrypt={value})"
    served = app.config.served_topics()
    for topic, senders in app.destinations().items():
        if app.config.is_unserved(topic):
            yield output.WARN, str(TopicUnserved(topic, 0, senders))
    for name, settings in app.config.topics.items():
        if settings.default_job:
            app.registry.find(settings.default_job)  # raises UnknownJob with the nearest names
        if name not in served:
            yield output.GOOD, f"topic {name} is produce-only: no pool serves it"


def _outbox(app: App) -> Iterator[tuple[str, str]]:
    state, advice = look(app)
    yield (
        output.WARN if is_late(state) else output.GOOD,
        told(state) + (": `jobsctl outbox` lists them" if state.refused else ""),
    )
    for line in advice:
        yield output.WARN, line


def _schedule(app: App, reachable: bool) -> Iterator[tuple[str, str]]:
    if reachable and "documents" in app.new_backend().features:
        for name, why in refused_entries(app).items():
            yield output.WARN, entry_refused(name, why)
    found = entries(app)
    if not found:
        return
    yield (
        output.GOOD,
        f"{count(len(found), 'entry', 'entries')}: {', '.join(f'{entry.name} ({entry.expression})' for entry in found)}",
    )
    if reachable and "unique" not in app.new_backend().features:
        yield (
            output.WARN,
            "this backend has no unique keys: with several machines, a scheduled job may be enqueued several times",
        )


def _backend(app: App) -> Iterator[tuple[str, str]]:
    backend = app.new_backend()
    try:
        with app.blaming_backend():
            backend.open(None)
            backend.counts(sorted(app.config.served_topics()))
        yield output.GOOD, f"{redact(app.backend_url)} answers"
        if "multiprocess" not in backend.features:
            yield (
                output.WARN,
                f"{backend.name}:// lives inside one process: no other process sees its jobs, and start refuses it",
            )
        yield from _ages(app, backend)
        if unused := unused_results(app):
            yield output.WARN, unused
        with app.blaming_backend():
            advice = list(backend.advice())
        for line in advice:
            yield output.WARN, line
    except BackendUnavailable as error:
        shown = redact(app.backend_url)
        raise BackendUnavailable(str(error) if shown in str(error) else f"{shown}: {error}") from None
    finally:
        with app.blaming_backend():
            backend.close()


def _ages(app: App, backend: Backend) -> Iterator[tuple[str, str]]:
    for problem in ineffective_limits(app.config, backend):
        yield output.BAD, problem
    scaling = [name for name, pool in app.config.pools.items() if isinstance(pool.workers, Workers)]
    if scaling and "ages" not in backend.features:
        pools = ", ".join(scaling)
        yield output.WARN, f"{backend.name}:// does not report how long jobs wait: {pools} can grow by their number alone"


def _messages(app: App) -> Iterator[tuple[str, str]]:
    """Check the waiting messages against the code that is about to be deployed."""
    looked, problems = app.operate(lambda backend: _misfits(app, backend))
    for topic, reason, number in problems:
        yield output.BAD, f"{number:,} waiting in {topic} would not run: {reason}"
    if not problems:
        yield (
            output.GOOD,
            (f"{count(looked, 'waiting message')} {'fits' if looked == 1 else 'fit'} this code")
            if looked
            else "no messages are waiting",
        )


def _misfits(app: App, backend: Backend) -> tuple[int, list[tuple[str, str, int]]]:
    if "browse" not in backend.features:
        return 0, []
    looked = 0
    found: dict[tuple[str, str], int] = {}
    for topic in backend.topics():
        for state in backend.queued_states:
            for record in backend.browse(topic, state, SAMPLE):
                looked += 1
                reason = misfit(app, record)
                if reason:
                    found[topic, reason] = found.get((topic, reason), 0) + 1
    return looked, [(topic, reason, number) for (topic, reason), number in found.items()]
