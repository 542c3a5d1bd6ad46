"""Words of other job systems, and slips, get an error that names our word, with an example that works."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import pkgutil
import re
from datetime import datetime, timedelta, timezone

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs_core
from jobs_core import (
    App,
    ArgumentError,
    Backoff,
    ConfigError,
    Discard,
    JobContext,
    JobDefinitionError,
    JobFunction,
    JobHandle,
    JobsError,
    Retry,
    Snooze,
    Unique,
    config,
    current_job,
    foreign,
    job,
    set_current_app,
)
from jobs_core.cli.main import cli
from jobs_core.config_sources import load
from jobs_core.config_types import fields as _fields
from jobs_core.flows import FlowHandle, WorkHandle
from jobs_core.job import _OPTIONS, _define
from jobs_core.options import _PARSERS
from jobs_core.registry import Registry
from jobs_core.testing.inline import JobsQueue

CODE = {
    "OPTIONS": foreign.OPTIONS,
    "METHODS": foreign.METHODS,
    "HANDLE": foreign.HANDLE,
    "FLOW_HANDLE": foreign.FLOW_HANDLE,
    "WORK_HANDLE": foreign.WORK_HANDLE,
    "WORK": foreign.WORK,
    "CONTEXT": foreign.CONTEXT,
    "PACKAGE": foreign.PACKAGE,
    "SIGNALS": foreign.SIGNALS,
    "BACKOFF": foreign.BACKOFF,
    "UNIQUE": foreign.UNIQUE,
    "APP": foreign.APP,
}
PREFIXES = {
    "Pool": "pools.p.",
    "Topic": "topics.t.",
    "ScheduleEntry": "schedule.s.",
    "Logs": "logs.",
    "Http": "http.",
    "Results": "results.",
}
OF_ENQUEUES = sorted(foreign.OPTIONS.keys() - {*foreign.USING})


def send_email(to: str = "", subject: str = "") -> str:
    return to


@pytest.fixture
def jobs():
    queue = JobsQueue()
    set_current_app(queue.app)
    yield queue
    set_current_app(None)
    queue.close()


@pytest.fixture
def job_function(jobs):
    return job(name="shop.send_email", registry=Registry())(send_email)


# -- every example works --------------------------------------------------------------------------


@pytest.mark.parametrize("table", CODE)
def test_every_example_in_code_works(table, jobs):
    registry = jobs.app.registry
    kept = job(name=f"kept_{table}", store_result=True, registry=registry)(send_email)
    handle = kept.enqueue()
    jobs.drain()
    names = {name: getattr(jobs_core, name) for name in jobs_core.__all__}
    names |= {"registry": Registry(), "handle": handle, "error": ValueError(), "datetime": datetime, "kept": kept}
    if "HANDLE" in table:
        with jobs_core.Flow() as flow:
            names["member"] = flow.add(kept.call())
        names["handle"] = {"FLOW_HANDLE": flow.handle, "WORK_HANDLE": jobs_core.group([kept.call()]).enqueue()}.get(
            table, handle
        )
        jobs.drain()
    names["when"] = datetime.now(timezone.utc) + timedelta(minutes=1)
    names["session"] = object()  # the queue of tests has no transactions
    ran = []

    @job(name=f"tester_{table}", registry=registry)
    def tester(example: str) -> None:
        names["job"] = functools.partial(job, registry=Registry())
        try:
            exec(example, {"__name__": __name__, **names})
        except (Retry, Snooze, Discard):
            assert example.startswith("raise ")
        ran.append(example)

    examples = set()
    for meaning in CODE[table].values():
        if not meaning.toml:
            subject = "Retry" if table == "SIGNALS" and not meaning.option else "kept"
            for using in ((), foreign.USING):
                example = meaning.advice(subject, using).removeprefix(f"{meaning.says}: ").replace("(...)", "()")
                if example != meaning.says:
                    examples.add(f"{example}\ndef another(): ..." if example.startswith("@job") else example)
    for example in examples:
        tester.enqueue(example)
    jobs.drain()
    assert set(ran) == examples


@pytest.mark.parametrize("table", [*foreign.KEYS, "TABLES", "code"])
def test_every_example_in_toml_works(table, tmp_path):
    tables = {**foreign.KEYS, "TABLES": foreign.TABLES}
    meanings = tables[table].values() if table in tables else [each for words in CODE.values() for each in words.values()]
    for toml in {meaning.toml for meaning in meanings if meaning.toml}:
        prefix = PREFIXES.get(table, "")
        first = toml.partition(" ")[0].partition(".")[0]
        if prefix and first in _fields(config.Config) and first not in _fields(getattr(config, table)):
            prefix = ""  # our word stands elsewhere
        text = prefix + toml
        if table == "ScheduleEntry":
            text = "\n".join(
                f"{prefix}{line}" for line in {"job": 'job = "a.b"', "cron": 'cron = "0 3 * * *"', first: toml}.values()
            )
            text = text.replace(f'{prefix}cron = "0 3 * * *"\n', "") if first == "every" else text
        (tmp_path / "jobs.toml").write_text(text)
        load(tmp_path / "jobs.toml", environ={})


def test_using_and_job_accept_exactly_their_documented_options():
    assert [*foreign.USING] == [*inspect.signature(JobFunction.using).parameters][1:]
    defined = {*inspect.signature(_define).parameters} - {"function", "options"}
    assert {*_OPTIONS, *foreign.USING} == defined | {*_PARSERS}


# -- in code --------------------------------------------------------------------------------------


def test_job_refuses_options_of_other_systems():
    for word in foreign.OPTIONS.keys() - {*_OPTIONS}:
        with pytest.raises(JobDefinitionError, match="send_email: @job has no option") as raised:
            job(**{word: 1})(send_email)
        assert isinstance(raised.value, TypeError)
        assert str(raised.value).endswith(foreign.OPTIONS[word].advice("send_email"))


def test_using_refuses_options_of_other_systems(job_function):
    for word in OF_ENQUEUES:
        with pytest.raises(JobDefinitionError) as raised:
            job_function.using(**{word: 1})
        assert isinstance(raised.value, TypeError)
        assert str(raised.value).startswith(f"shop.send_email.using: there is no option {word}: ")
        assert str(raised.value).endswith(foreign.OPTIONS[word].advice("send_email", foreign.USING))


def test_enqueue_distinguishes_options_of_other_systems_from_arguments(job_function):
    for word in OF_ENQUEUES:
        with pytest.raises(ArgumentError, match=re.escape(foreign.OPTIONS[word].advice("send_email", foreign.USING))):
            job_function.enqueue("a", **{word: 1})


def test_enqueue_says_where_options_of_ours_go(job_function):
    for word in {*foreign.USING} - {"on_commit"}:  # which it accepts itself
        with pytest.raises(ArgumentError, match=re.escape(f"send_email.using({word}=...).enqueue(...)")):
            job_function.enqueue("a", **{word: 1})


def test_a_function_that_takes_such_a_word_is_called_with_it(jobs):
    seen = []

    @job(name="lenient", registry=jobs.app.registry)
    def lenient(queue: str, **more: int) -> None:
        seen.append((queue, more))

    lenient.enqueue(queue="q", countdown=5, delay=3)
    jobs.drain()
    assert seen == [("q", {"countdown": 5, "delay": 3})]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (JobFunction, foreign.METHODS),
        (JobHandle, foreign.HANDLE),
        (FlowHandle, foreign.FLOW_HANDLE),
        (WorkHandle, foreign.WORK_HANDLE),
        (jobs_core.Group, foreign.WORK),
        (JobContext, foreign.CONTEXT),
        (App, foreign.APP),
    ],
)
def test_attributes_of_other_systems_are_answered_with_ours(kind, words, job_function, jobs):
    contexts = []
    job(name=f"looks_{kind.__name__}", registry=jobs.app.registry)(lambda: contexts.append(current_job())).enqueue()
    jobs.drain()
    one = {
        JobFunction: job_function,
        JobHandle: job_function.enqueue(),
        FlowHandle: FlowHandle(jobs.app, "f"),
        WorkHandle: WorkHandle(jobs.app, "f"),
        jobs_core.Group: jobs_core.group([job_function.call()]),
        JobContext: contexts[0],
        App: jobs.app,
    }[kind]
    for word, meaning in words.items():
        assert not hasattr(one, word), word
        assert not hasattr(kind, word), word
        with pytest.raises(AttributeError) as raised:
            getattr(one, word)
        assert isinstance(raised.value, JobsError)
        assert str(raised.value).startswith(f"{one if kind is not App else '_TestApp'!s} has no {word}: ")
        assert str(raised.value).endswith(meaning.advice("send_email" if kind is JobFunction else "job"))
    assert not hasattr(one, "no_such_attribute")


def test_an_attribute_of_the_function_itself_wins(jobs):
    def tenacious() -> None: ...

    tenacious.retry = "its own"
    assert job(name="tenacious", registry=jobs.app.registry)(tenacious).retry == "its own"


def test_names_of_other_systems_cannot_be_imported_and_are_answered_with_ours():
    assert foreign.PACKAGE.keys().isdisjoint({module.name for module in pkgutil.iter_modules(jobs_core.__path__)})
    for word, meaning in foreign.PACKAGE.items():
        with pytest.raises(ImportError) as raised:
            exec(f"from jobs_core import {word}")
        assert str(raised.value) == f"jobs_core has no {word}: {meaning.advice('job')}"


def test_other_names_are_missing_as_in_any_module():
    assert not hasattr(jobs_core, "no_such_name")
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec("from jobs_core import no_such_name")
    assert importlib.import_module("jobs_core.schedule")


@pytest.mark.parametrize("kind", [Retry, Snooze])
def test_retry_and_snooze_name_their_options(kind):
    for word in foreign.SIGNALS:
        with pytest.raises(TypeError, match=f"{kind.__name__}: there is no option {word}: "):
            kind(**{word: 1})
    with pytest.raises(TypeError, match=f"{kind.__name__}: there is no option dely: did you mean delay"):
        kind(dely=1)


def test_options_of_one_enqueue_are_refused_by_job_with_a_hint_to_using():
    refused = {*foreign.USING} - {*_OPTIONS}
    assert refused == {"delay", "at", "expires_at", "headers", "id", "transaction"}
    for word in refused:
        with pytest.raises(JobDefinitionError, match=rf"send_email.using\({word}=.*\).enqueue\(") as raised:
            job(**{word: 1}, registry=Registry())(send_email)
        assert "belongs to one enqueue" in str(raised.value)


def test_options_of_the_definition_are_refused_by_using_with_a_hint_to_job(job_function):
    for word in {*_OPTIONS} - {*foreign.USING}:
        with pytest.raises(JobDefinitionError, match=rf"this belongs to the definition: @job\(.*{word}=") as raised:
            job_function.using(**{word: 1})
        assert str(raised.value).startswith(f"shop.send_email.using: there is no option {word}: ")


@pytest.mark.parametrize(("kind", "words"), [(Backoff, foreign.BACKOFF), (Unique, foreign.UNIQUE)])
def test_backoff_and_unique_name_their_options(kind, words):
    assert words.keys().isdisjoint(kind.__struct_fields__)
    for word, meaning in words.items():
        with pytest.raises(JobDefinitionError) as raised:
            kind(**{word: 1})
        assert isinstance(raised.value, TypeError)
        assert str(raised.value) == f"{kind.__name__}: there is no option {word}: {meaning.advice('job')}"


@pytest.mark.parametrize("kind", [getattr(config, table) for table in foreign.KEYS], ids=foreign.KEYS)
def test_a_configuration_in_code_names_its_keys_like_the_file(kind):
    for word, meaning in foreign.KEYS[kind.__name__].items():
        with pytest.raises(TypeError) as raised:
            kind(**{word: 1})
        assert str(raised.value) == f"{kind.__name__}: there is no option {word}: {meaning.advice('job')}"


@pytest.mark.parametrize(
    ("kind", "slip", "near"),
    [
        (Backoff, "frist", "did you mean first?"), (Backoff, "xyz", "choose from first, longest"),
        (Unique, "scop", "did you mean scope?"), (Unique, "xyz", "choose from key, scope, conflict"),
        (config.Config, "modles", "did you mean modules"), (config.Pool, "topcs", "did you mean topics"),
    ],
)  # fmt: skip
def test_typing_errors_in_them_are_reported_too(kind, slip, near):
    with pytest.raises(JobsError, match=re.escape(f"{kind.__name__}: there is no option {slip}: {near}")):
        kind(**{slip: 1})


def test_wrong_calls_that_name_no_word_fail_as_any_call():
    with pytest.raises(TypeError, match="Extra positional arguments"):
        Backoff(1, 2, 3, 4)
    with pytest.raises(TypeError, match="Missing required argument 'job'"):
        config.ScheduleEntry()


def test_an_awaited_handle_names_the_method_to_await(job_function):
    handle = job_function.enqueue()

    async def wait() -> None:
        await handle

    async def gather() -> None:
        await asyncio.gather(handle)

    for wrong in (wait, gather):
        with pytest.raises(TypeError, match=r"`await handle.aresult\(\)`") as raised:
            asyncio.run(wrong())
        assert isinstance(raised.value, JobsError)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_job_may_return_a_handle(is_async, jobs, job_function):
    jobs.app.registry.add(job_function)

    async def follow() -> object:
        return job_function.enqueue()

    def plain() -> object:
        return job_function.enqueue()

    job(name=f"follows_{is_async}", registry=jobs.app.registry)(follow if is_async else plain).enqueue()
    assert jobs.drain() == 2  # and neither has failed, which would be raised here


def test_a_text_for_a_function_is_taken_for_a_queue():
    with pytest.raises(JobDefinitionError, match=r"'low'.*@job\(topic="):
        job("low")


def test_options_beside_the_function_hold(jobs):
    assert job(send_email, name="called", topic="vip", registry=jobs.app.registry).options.topic == "vip"


SLIPS = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


@given(SLIPS)
@settings(max_examples=50)
def test_any_other_option_is_answered_with_the_known_ones(word):
    if word in _OPTIONS or word in foreign.OPTIONS or word in ("to", "subject", "self") or word in foreign.SIGNALS:
        return
    function = job(name="shop.send_email", registry=Registry())(send_email)
    for call in (
        lambda: job(**{word: 1})(send_email),
        lambda: function.using(**{word: 1}),
        lambda: function.arguments.check((), {word: 1}),
        lambda: Retry(**{word: 1}),
    ):
        with pytest.raises(TypeError, match=r"did you mean \w+|choose from \w+, \w+"):
            call()


# -- in jobs.toml ---------------------------------------------------------------------------------


def refusal(tmp_path, text, **environ):
    (tmp_path / "jobs.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "jobs.toml", environ=environ)
    return re.sub(r" \(at line \d+\)$", "", str(raised.value), flags=re.MULTILINE)


@pytest.mark.parametrize("table", foreign.KEYS)
def test_keys_of_other_systems_are_answered_with_ours(table, tmp_path):
    assert foreign.KEYS[table].keys().isdisjoint(_fields(getattr(config, table)))
    prefix = PREFIXES.get(table, "")
    text = refusal(tmp_path, "\n".join(f"{prefix}{word} = 1" for word in foreign.KEYS[table]))
    for word, meaning in foreign.KEYS[table].items():
        assert f"jobs.toml: {prefix}{word}: unknown key; {meaning.advice('job')}\n" in f"{text}\n"


@pytest.mark.parametrize("spelled", ["BROKER_URL", "CELERY_BROKER_URL", "celery_broker_url", "broker-url"])
def test_keys_are_known_in_any_spelling(spelled, tmp_path):
    assert 'unknown key; where jobs are kept: backend = "redis://' in refusal(tmp_path, f"{spelled} = 1")


@pytest.mark.parametrize(
    ("text", "near"),
    [("[pool.mail]\nworkers = 2", "pools"), ("[topic.mail]\nretries = 2", "topics"), ("[log]\nkeep = 2", "logs")],
)
def test_a_mistyped_table_name_is_reported_as_one(text, near, tmp_path):
    assert f'did you mean "{near}"?' in refusal(tmp_path, text)


def test_variables_of_other_systems_are_answered_with_ours(tmp_path):
    variables = {f"JOBS_{word.upper()}": "1" for word in foreign.KEYS["Config"]}
    assert {line.partition(": unknown key; ")[0] for line in refusal(tmp_path, "", **variables).splitlines()} == {*variables}


@pytest.mark.parametrize(
    "variable", ["JOBS_SERVICE_HOST", "JOBS_PORT", "JOBS_PORT_80_TCP", "JOBS_SERVICE_PORT_HTTP", "JOBS_HOST"]
)
def test_variables_that_a_cluster_sets_are_ignored(variable, tmp_path):
    (tmp_path / "jobs.toml").touch()
    assert load(tmp_path / "jobs.toml", environ={variable: "tcp://10.0.0.1:80"})


@pytest.mark.parametrize("table", foreign.TABLES)
@pytest.mark.parametrize("value", ["4", '"redis://localhost"', '["email"]'])
def test_a_plain_value_for_a_table_is_answered_with_the_likely_key(table, value, tmp_path):
    assert refusal(tmp_path, f"{table} = {value}").endswith(f"; {foreign.TABLES[table].advice('job')}")


def test_concurrency_in_a_sync_pool_says_how_to_run_as_many(tmp_path):
    text = refusal(tmp_path, "[pools.mail]\nconcurrency = 8")
    assert "jobs.toml: pools.mail.concurrency: is 8, " in text
    assert "workers = 8" in text
    assert 'mode = "threads"' in text
    for mode in ("threads", "async"):
        (tmp_path / "jobs.toml").write_text(f'[pools.mail]\nconcurrency = 8\nmode = "{mode}"')
        assert load(tmp_path / "jobs.toml", environ={}).config.pools["mail"].concurrency == 8


# -- on the command line --------------------------------------------------------------------------


def test_commands_of_other_systems_are_answered_with_an_existing_command_of_ours():
    ours = cli.list_commands(click.Context(cli))
    assert foreign.COMMANDS.keys().isdisjoint(ours)
    for word, meaning in foreign.COMMANDS.items():
        result = CliRunner().invoke(cli, [word])
        assert result.exit_code == 2
        assert f"there is no command {word!r}; {meaning.says}: jobsctl " in result.output
    for line in {meaning.code for meaning in foreign.COMMANDS.values()}:
        program, command, *arguments = line.split()
        assert (program, command in ours) == ("jobsctl", True), line
        found = cli.get_command(click.Context(cli), command)
        assert found is not None
        context = click.Context(found)
        if isinstance(found, click.Group) and arguments:
            found = found.get_command(context, arguments.pop(0))
            assert found is not None, line
        found.make_context(command, arguments, resilient_parsing=False)
