"""Read a Celery application: its settings, tasks and beat schedule. Celery itself imports it, as `celery -A` does."""

from __future__ import annotations

import ast
import contextlib
import datetime
import importlib
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import boundary
from ..errors import LoadError
from ..loaders.importing import load_error
from ..message import MAX_RETRIES
from ..options import DEFAULT_RETRIES, DEFAULT_TOPIC
from ..topics import topic_error
from ..units import count, format_duration, format_rate, shown
from ..urls import redact, scheme
from . import celery_code
from .plan import EntryDraft, JobDraft, Plan, Table

HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")

SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "amqp": "amqp",
    "pyamqp": "amqp",
    "amqps": "amqps",
    "sentinel": "redis+sentinel",
}
"""Schemes of Celery's broker, and ours."""


def read(target: str, directory: Path) -> Plan:
    """Return the plan for the application that `celery -A TARGET` would take; `directory` is searched for calls of tasks.

    Raises LoadError if Celery is missing, or the application cannot be imported.
    """
    app = _application(target)
    reader = _Reader(app, target, directory)
    with boundary.exit_told(f'the Celery application "{target}"'):
        return reader.plan()


def _application(target: str) -> Any:
    """Return the application with all its tasks, those of other modules included."""
    try:
        find_app = importlib.import_module("celery.app.utils").find_app
    except ImportError as error:
        raise LoadError(
            f"Celery cannot be imported ({error}): run this command in the environment of the Celery application, "
            "where `pip install jobs-core` adds it"
        ) from None
    try:
        with boundary.exit_told(f'the import of the Celery application "{target}"'):
            app = find_app(target)
            app.loader.import_default_modules()
            app.finalize()
    except BaseException as error:
        if boundary.passes(error):
            raise
        raise load_error(f'the Celery application "{target}" cannot be imported', error) from error
    return app


class _Reader:
    """Reads one application; what it finds about the whole goes to `remarks`."""

    def __init__(self, app: Any, target: str, directory: Path) -> None:
        self._app = app
        self._conf = app.conf
        self._directory = directory
        self._default_queue = str(app.conf.task_default_queue)
        self._keeps_results = bool(app.conf.result_backend) and not str(app.conf.result_backend).startswith("disabled")
        self._tasks = {name: task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")}
        self._limits: dict[str, str] = {}
        self._topics: dict[str, None] = {DEFAULT_TOPIC: None}
        self._plan = Plan(target)

    def plan(self) -> Plan:
        plan = self._plan
        plan.jobs = [self._job(name, task) for name, task in self._tasks.items()]
        plan.schedule = [self._entry(str(name), entry) for name, entry in sorted((self._conf.beat_schedule or {}).items())]
        plan.tables = [each for each in self._tables() if each.settings or each.remarks]
        plan.calls = sorted(celery_code.calls(self._directory, {job.function for job in plan.jobs}, self._tasks))
        plan.remarks += self._remarks()
        return plan

    # -- jobs --------------------------------------------------------------------------------------

    def _job(self, name: str, task: Any) -> JobDraft:
        function = getattr(task, "_orig_run", None) or task.run
        function = inspect.unwrap(function)
        plain = getattr(function, "__func__", function)
        named = getattr(plain, "__name__", name.rpartition(".")[2])
        draft = JobDraft(name=name, module=str(task.__module__), function=named)
        itself, retried = self._read_code(draft, plain, bound=inspect.ismethod(function))
        draft.options["name"] = _quoted(name)
        self._placing(draft, task)
        self._retries(draft, task, retried)
        self._limiting(draft, task)
        if self._keeps_results and task.ignore_result:
            draft.options["store_result"] = "False"
        if task.expires is not None:
            draft.options["expires"] = _source(task.expires)
        self._class_remarks(draft, task, itself)
        return draft

    def _read_code(self, draft: JobDraft, function: Any, bound: bool) -> tuple[str, bool]:
        """Add the function's head and the changes in it; return the parameter that is the task, and whether it retries."""
        try:
            lines, first = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
            file = inspect.getsourcefile(function) or ""
        except (OSError, TypeError, SyntaxError):
            draft.head = f"def {draft.function}(...):"
            draft.remarks.append("its code cannot be read: look there for what it takes from Celery")
            return "", False
        with contextlib.suppress(ValueError):
            file = str(Path(file).relative_to(self._directory))
        draft.file, draft.line = file, first
        definition = next((node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))), None)
        if definition is None:  # a lambda
            draft.head = f"def {draft.function}(...):"
            return "", False
        places = definition.args.posonlyargs or definition.args.args
        itself = places[0].arg if bound and places else ""
        if itself:
            draft.changes = sorted(celery_code.changes_in_task(definition, itself, file, first))
            del places[0]
        elif celery_code.is_using(tree, draft.function, "retry"):
            itself = draft.function
            draft.changes = sorted(celery_code.changes_in_task(definition, itself, file, first))
        keyword = "async def" if isinstance(definition, ast.AsyncFunctionDef) else "def"
        returns = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
        draft.head = f"{keyword} {definition.name}({ast.unparse(definition.args)}){returns}:"
        return itself, bool(itself) and celery_code.is_using(tree, itself, "retry")

    def _placing(self, draft: JobDraft, task: Any) -> None:
        """Add the topic and the priority."""
        queue = self._default_queue
        with contextlib.suppress(Exception):  # a router of the application, which may want more than a name
            route = self._app.amqp.router.route({}, draft.name)
            queue = str(getattr(route.get("queue"), "name", None) or route.get("queue") or queue)
        queue = str(getattr(task, "queue", None) or queue)
        if topic := self._topic(queue, draft.remarks):
            draft.options["topic"] = _quoted(topic)
        if task.priority is not None:
            draft.options["priority"] = str(max(0, min(9, int(task.priority))))
            if str(self._conf.broker_url or "").startswith(("redis", "sentinel")):
                draft.remarks.append("on Redis, Celery runs 0 first; here 9 is first")

    def _topic(self, queue: str, remarks: list[str]) -> str:
        """Return the topic for a queue; "" for the default one."""
        if queue == self._default_queue:
            return ""
        if error := topic_error(queue):
            remarks.append(f"its queue {queue!r} is no name for a topic: {error}")
            return ""
        self._topics[queue] = None
        return queue

    def _retries(self, draft: JobDraft, task: Any, retried: bool) -> None:
        """Add what is retried, how often and after how long. Celery retries nothing unasked; here every error is retried."""
        automatic = _exceptions(getattr(task, "autoretry_for", ()))
        if not automatic and not retried:
            draft.options["retries"] = "0"
            return
        given = dict(getattr(task, "retry_kwargs", None) or {})
        most = given.get("max_retries", task.max_retries)
        if most is None:
            draft.options["retries"] = str(MAX_RETRIES)
            draft.remarks.append(f"Celery retries it without end; here {MAX_RETRIES:,} retries are the most")
        elif most != DEFAULT_RETRIES:
            draft.options["retries"] = str(int(most))
        if factor := getattr(task, "retry_backoff", False) if automatic else False:
            first, longest = float(factor), float(getattr(task, "retry_backoff_max", 600))
            draft.options["backoff"] = f"Backoff(first={first:g}, longest={longest:g})"
        else:
            wait = float(given.get("countdown", task.default_retry_delay))
            draft.options["backoff"] = f"Backoff(first={wait:g}, factor=1)"
            draft.remarks.append("the wait is random, up to `first`, so that retries do not come all at once")
        draft.imports.add("from jobs_core import Backoff")
        if not automatic:
            draft.options["retry_on"] = "()"
            draft.remarks.append(
                "only `raise Retry()` retries it, as only self.retry() did; leave retry_on out to retry every error"
            )
        elif not {Exception, BaseException} & set(automatic):
            draft.options["retry_on"] = _names(automatic, draft)
        if never := _exceptions(getattr(task, "dont_autoretry_for", ())):
            draft.options["discard_on"] = _names(never, draft)

    def _limiting(self, draft: JobDraft, task: Any) -> None:
        """Add the timeout and the rate."""
        limit = task.soft_time_limit or task.time_limit
        if limit and limit != (self._conf.task_soft_time_limit or self._conf.task_time_limit):
            draft.options["timeout"] = _source(limit)
        if rate := _rate(task.rate_limit):
            self._limits[draft.function] = rate
            draft.options["limits"] = _quoted(draft.function)
            draft.remarks.append("Celery's rate limit is one worker's; here it counts on all machines together")

    def _class_remarks(self, draft: JobDraft, task: Any, itself: str) -> None:
        """Add what a class of tasks does around the run."""
        base = self._app.Task
        hooks = [each for each in HOOKS if getattr(type(task), each, None) is not getattr(base, each, None)]
        if hooks:
            draft.remarks.append(f"{', '.join(hooks)} of its class: write a middleware, on_done or on_dead")
        if not getattr(task, "_decorated", False) and not isinstance(getattr(type(task), "run", None), staticmethod):
            draft.remarks.append("it is a class: write its `run` as a function")
        if task.serializer in ("pickle", "yaml"):
            draft.remarks.append(
                f"its arguments were {task.serializer}: here they are JSON, converted to the types of the parameters"
            )

    # -- schedule ----------------------------------------------------------------------------------

    def _entry(self, name: str, entry: Any) -> EntryDraft:
        said = entry if isinstance(entry, dict) else {each: getattr(entry, each, None) for each in ("task", "schedule", "args")}
        task = str(said.get("task"))
        draft = EntryDraft(name, {"job": task})
        if task not in self._tasks:
            draft.remarks.append("the application has no such task")
        self._time(draft, said.get("schedule"))
        for key, given in (("args", list(said.get("args") or ())), ("kwargs", dict(said.get("kwargs") or {}))):
            if given and _is_json(given):
                draft.settings[key] = given
            elif given:
                draft.remarks.append(
                    f"{key}: TOML cannot hold {shown(given)}: give the parameters defaults, or schedule another job"
                )
        options = dict(said.get("options") or {})
        if topic := self._topic(str(options.pop("queue", None) or self._default_queue), draft.remarks):
            draft.settings["topic"] = topic
        if options:
            draft.remarks.append(f"options of the entry that belong to the job here: {', '.join(sorted(options))}")
        return draft

    def _time(self, draft: EntryDraft, when: Any) -> None:
        """Add when the entry is due."""
        if isinstance(when, (int, float)):
            when = datetime.timedelta(seconds=when)
        if isinstance(when, datetime.timedelta):
            draft.settings["every"] = format_duration(when.total_seconds())
        elif all(hasattr(when, f"_orig_{field}") for field in _CRON):
            fields = [_cron(getattr(when, f"_orig_{field}")) for field in _CRON]
            draft.settings["cron"] = " ".join(fields)
            zone = str(getattr(when, "tz", None) or self._app.timezone)
            if zone.upper() != "UTC":
                draft.settings["tz"] = zone
            if not fields[2].startswith("*") and not fields[4].startswith("*"):
                draft.remarks.append("both day fields are restricted: in Celery both must match, here either is enough")
        elif isinstance(getattr(when, "run_every", None), datetime.timedelta):
            draft.settings["every"] = format_duration(when.run_every.total_seconds())
            if getattr(when, "relative", False):
                draft.remarks.append("here it ticks at the multiples of the interval")
        else:
            draft.remarks.append(f"{type(when).__name__} has no equal here: enqueue the next run from the job, with `at`")

    # -- settings ----------------------------------------------------------------------------------

    def _tables(self) -> Iterator[Table]:
        conf = self._conf
        top = Table("", {})
        self._backend(top)
        top.settings["modules"] = sorted({job.module for job in self._plan.jobs})
        yield top
        defaults = Table("defaults", {})
        if self._keeps_results and not conf.task_ignore_result:
            defaults.settings["store_result"] = True
            defaults.remarks.append("store_result: as Celery does with a result backend; leave it out if nobody reads results")
        if limit := conf.task_soft_time_limit or conf.task_time_limit:
            defaults.settings["timeout"] = format_duration(float(limit))
            defaults.remarks.append(
                "timeout: as a soft time limit, it raises an exception in the job. The hard limit is the pool's "
                "`timeout_grace`: how long a job may ignore that before its worker is replaced"
            )
        if early := [job.name for job in self._plan.jobs if not self._tasks[job.name].acks_late]:
            defaults.remarks.append(
                f"Celery acknowledges {count(len(early), 'job')} of these before the run, and a worker that dies loses them. "
                'Here they run again, so they have to be idempotent. acks = "early" keeps the old way, for all jobs or, as an '
                "option, for one"
            )
        yield defaults
        yield self._pool()
        if self._keeps_results and conf.result_expires:
            kept = conf.result_expires
            lasts = kept.total_seconds() if isinstance(kept, datetime.timedelta) else float(kept)
            for topic in self._topics:
                if lasts != 86400:
                    yield Table(f"topics.{topic}", {"result_ttl": format_duration(lasts)})
        for name, rate in sorted(self._limits.items()):
            yield Table(f"limits.{name}", {"rate": rate})

    def _backend(self, top: Table) -> None:
        url = str(self._conf.broker_url or self._conf.broker_write_url or "")
        ours = SCHEMES.get(scheme(url))
        if not url:
            top.remarks.append('backend: the application names no broker; such as backend = "redis://localhost:6379/0"')
        elif ours is None:
            top.remarks.append(f"backend: {redact(url)} has no equal; there are Redis, PostgreSQL, RabbitMQ, SQLite and ZeroMQ")
        elif ours == "redis+sentinel" or "@" in url or "?" in url or ";" in url or "," in url:
            top.remarks.append(f"backend: set JOBS_BACKEND to the address of Celery's broker, {redact(url)}, as {ours}://…")
        else:
            top.settings["backend"] = f"{ours}://{url.partition('://')[2]}"
        if ours:
            top.remarks.append(
                "prefix: both systems may share one broker while you move: the names of their keys and queues differ"
            )

    def _pool(self) -> Table:
        conf = self._conf
        pool = Table(
            "pools.default", {"topics": dict.fromkeys(self._topics, 1) if len(self._topics) > 1 else list(self._topics)}
        )
        pool.settings["workers"] = int(conf.worker_concurrency or 0) or 1
        if not conf.worker_concurrency:
            pool.remarks.append("workers: Celery starts one process a CPU unless told; write how many this machine is to have")
        if conf.worker_pool in ("threads", "gevent", "eventlet"):
            pool.settings |= {"mode": "threads", "concurrency": pool.settings["workers"], "workers": 1}
            if conf.worker_pool != "threads":
                pool.remarks.append(f'mode: {conf.worker_pool} has no equal; mode = "async" runs thousands of `async def` jobs')
        if most := conf.worker_max_tasks_per_child:
            pool.settings["max_jobs"] = int(most)
        if memory := conf.worker_max_memory_per_child:
            pool.settings["max_memory"] = f"{int(memory)}KB"
        return pool

    def _remarks(self) -> Iterator[str]:
        conf = self._conf
        if conf.task_always_eager:
            yield "task_always_eager is set: in tests, `jobs_core.testing` runs jobs in place"
        kind = str(conf.beat_scheduler or "")
        if "DatabaseScheduler" in kind or "redbeat" in kind:
            yield f"the schedule is in {kind}, which is not read here: `jobsctl schedule add` makes entries at run time"
        if not self._tasks:
            yield "the application has no tasks: is it the one that `celery -A` gets?"


_CRON = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")


def _cron(value: Any) -> str:
    """Return a field of Celery's crontab, which may be a number, a text or a collection, as cron writes it."""
    text = value if isinstance(value, str) else ",".join(map(str, sorted(value))) if isinstance(value, Iterable) else str(value)
    return text.replace(" ", "")


def _rate(value: Any) -> str:
    """Return a rate of Celery ("10/m", or a number a second) as a limit has it; "" for none."""
    if not value:
        return ""
    number, _, unit = str(value).partition("/")
    with contextlib.suppress(ValueError, ZeroDivisionError):
        return format_rate({"s": 1.0, "m": 60.0, "h": 3600.0}[unit.strip() or "s"] / float(number))
    return ""


def _exceptions(value: Any) -> tuple[type[BaseException], ...]:
    """Return the classes of exceptions of an option, which may be one."""
    given = value if isinstance(value, (tuple, list, set, frozenset)) else (value,)
    return tuple(each for each in given if isinstance(each, type) and issubclass(each, BaseException))


def _names(exceptions: Sequence[type[BaseException]], draft: JobDraft) -> str:
    """Return a tuple of exceptions as source; add what it has to import."""
    draft.imports |= {
        f"from {each.__module__} import {each.__name__}"
        for each in exceptions
        if each.__module__ not in ("builtins", draft.module)
    }
    names = ", ".join(each.__name__ for each in exceptions)
    return f"({names}{',' if len(exceptions) == 1 else ''})"


def _quoted(text: str) -> str:
    """Return a text as source, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _is_json(value: Any) -> bool:
    """Return whether TOML can hold the value, too: JSON without null."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(each) for key, each in value.items())
    return all(map(_is_json, value)) if isinstance(value, (list, tuple)) else isinstance(value, (str, int, float))


def _source(value: Any) -> str:
    """Return a number of seconds, or a timedelta, as source."""
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    return f"{value:g}" if isinstance(value, (int, float)) else repr(value)
