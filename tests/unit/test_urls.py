"""The password of any URL is read as it was meant, and shown nowhere."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from jobs_core.app import App
from jobs_core.backends.base import BackendOptions
from jobs_core.cli.main import cli
from jobs_core.config_sources import load
from jobs_core.errors import BackendError, ConfigError, JobsError
from jobs_core.plugins import Plugins
from jobs_core.urls import cover, read, redact, scheme
from jobs_postgres.url import parse as parse_postgres
from jobs_rabbitmq.url import parse as parse_rabbitmq
from jobs_redis.url import parse as parse_redis
from jobs_zeromq.url import parse as parse_zeromq

PARSERS = {
    "redis": parse_redis,
    "rediss": parse_redis,
    "redis+cluster": parse_redis,
    "redis+sentinel": parse_redis,
    "redis+unix": parse_redis,
    "amqp": parse_rabbitmq,
    "amqps": parse_rabbitmq,
    "postgresql": lambda url: parse_postgres(url, "jobs"),
    "zmq+tcp": lambda url: parse_zeromq(url, Path()),
    "zmq+ipc": lambda url: parse_zeromq(url, Path()),
}
TAILS = {"redis+sentinel": "a,b:7001/shop", "redis+unix": "/run/redis.sock", "redis+cluster": "a:1,b:2"}
ODD = ["/", "#", "?", "@", ":", "&", "=", "%", "%2F", "[", "]", "\\", ",", ";", " ", "+", "//", "://", "/@", "?@", "#@", "@@",
       "?prefix=x", "?token=1", "&key=2", "?a=b@", "/0?db=", "\n", "\t", "é", "\u202e", "'", '"', "\ud800", "²"]  # fmt: skip
MIDDLES = st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=6).map("".join)
MARK = "gehEim"


def shows(text):
    return "gehEim" in text or "GEHeIM" in text


@given(st.sampled_from(sorted(PARSERS)), st.sampled_from(["", "shop", "sh/op", "sh@op", "ss:"]), MIDDLES, st.booleans())
def test_no_password_is_shown(name, user, middle, quoted):
    password = f"gehEim{middle}GEHeIM"
    if quoted:
        password = quote(password.encode("utf-8", "replace"), safe="")
    url = f"{name}://{user}:{password}@{TAILS.get(name, 'h:7000')}"
    try:
        target = PARSERS[name](url)
        said = f"{target} {target!r} {target.shown}"
    except BackendError as error:
        said = str(error)
    assert not shows(said)
    assert not shows(redact(url))
    assert not shows(cover(f"cannot reach {url}: no")) or " " in url or "\n" in url or not url.isprintable()


@given(st.lists(st.sampled_from("/#?@:&=[],;+ ab'é"), max_size=8).map("".join), st.booleans())
def test_a_password_is_read_as_it_was_meant(middle, quoted):
    password = f"x{middle}x"
    written = quote(password, safe="") if quoted else password
    for name in ("redis", "amqp"):
        target = PARSERS[name](f"{name}://shop:{written}@h:7000/0")
        assert (target.username, target.password, target.addresses) == ("shop", password, (("h", 7000),))


@given(st.text(), st.sampled_from([*PARSERS, "sqlite", "memory", "nosuch"]))
def test_invalid_urls_raise_an_error_of_ours(text, name):
    for url in (text, f"{name}://{text}"):
        redact(url)
        scheme(url)
        for parse in PARSERS.values():
            with contextlib.suppress(BackendError):
                parse(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:geheim@h/0", "redis://user:***@h/0"),
        ("redis://:geheim@h", "redis://:***@h"),
        ("redis://geheim@h", "redis://***@h"),
        ("redis://us/er:geheim@h", "redis://***@h"),
        ("redis://u:a@b:c@h:1/0?prefix=p", "redis://u:***@h:1/0?prefix=p"),
        ("redis://user:geheim", "redis://…"),
        ("redis://h/0?sentinel_password=geheim", "redis://h/0?…"),
        ("redis+sentinel://a,b/s?sentinel_password=ge@heim", "redis+sentinel://…"),
        ("redis://u:ge?token=heim@h", "redis://…"),
        ("redis://[::1]:7000/0", "redis://[::1]:7000/0"),
        ("redis+sentinel://a,b:7001/s", "redis+sentinel://a,b:7001/s"),
        ("sqlite:////srv/app@2/jobs.db?durability=process", "sqlite:////srv/app@2/jobs.db?durability=process"),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("memory://", "memory://"),
        ("zmq+tcp://h:1?key=a.key_secret&broker=b", "zmq+tcp://h:1?…"),
        ("user:geheim@h", "…"),
        ("user:geheim@h://x", "…"),
        ("//u:geheim@h", "…"),
        ("nothing", "nothing"),
    ],
)
def test_only_the_harmless_parts_of_a_url_are_shown(url, shown):
    assert redact(url) == shown


def test_the_query_is_found_behind_other_question_marks():
    found = read("redis://u:a?b@h/0?prefix=x&db=1", {"prefix", "db"})
    assert (found.password, found.path, found.parameters) == ("a?b", "0", {"prefix": "x", "db": "1"})
    assert read("redis://h?prefix=a@b", {"prefix"}).parameters == {"prefix": "a@b"}
    assert read("redis+unix:///tmp/a@b.sock", ()).path == "tmp/a@b.sock"
    with pytest.raises(BackendError, match="unknown parameter prefx; valid parameters are prefix"):
        read("redis://h?prefx=1", {"prefix"})
    with pytest.raises(BackendError, match="an unknown parameter") as failed:
        read("redis://h?password=1&geheim=2", {"password"})
    assert "geheim" not in str(failed.value)


# -- where URLs are shown --------------------------------------------------------------------------

PASSWORDS = [f"{MARK}{odd}{MARK}" for odd in ("", "/", "#", "?", "@", ":", "&", "=", "%2F", "[", "]", "\\", ",", ";", "+", "//",
             "://", "/@", "?@", "#@", "@@", "?prefix=x", "?token=1", "&key=2", "/0?db=", "é", "\u202e", "'")]  # fmt: skip


FORMS = ["redis://u:{}@127.0.0.1:1/0", "amqp://u:{}@127.0.0.1:1", "redis://u:{}", "u:{}@h", "nosuch://:{}@h"]


def configured(url):
    """A configuration with a URL wherever one may stand."""
    text, rest = json.dumps(url), url.rpartition("u:")[2]
    store, listen = json.dumps(f"sqlite://u:{rest}"), json.dumps(f"zmq+tcp://u:{rest}")
    top = f"backend = {text}\nenqueue_timeout = '10ms'\n"
    return f"{top}[results]\nurl = {text}\n[broker]\nstore = {store}\nlisten = [{listen}]\n"


@pytest.mark.parametrize("form", FORMS)
def test_no_listing_and_no_error_shows_a_password(tmp_path, form):
    without_host = form == "redis://u:{}"  # where the text after an @ may be a host or not
    for password in (password for password in PASSWORDS if not (without_host and "@" in password)):
        (tmp_path / "jobs.toml").write_text(configured(form.format(password)), encoding="utf-8")
        told = ""
        try:
            effective = load(cwd=tmp_path, environ={})
        except ConfigError as refused:
            told = str(refused)
        assert MARK not in told
        if told:
            continue
        assert MARK not in str(effective.rows())
        with pytest.raises(JobsError) as failed:
            App(effective.config).new_backend().open(None)
        assert MARK not in str(failed.value)


@pytest.mark.parametrize("password", [PASSWORDS[1], PASSWORDS[8], PASSWORDS[-3]])
@pytest.mark.parametrize("form", FORMS)
def test_no_command_shows_a_password(tmp_path, monkeypatch, form, password):
    monkeypatch.chdir(tmp_path)
    Path("jobs.toml").write_text(configured(form.format(password)), encoding="utf-8")
    for words in ("check --show --json", "check", "topics"):
        done = CliRunner().invoke(cli, words.split())
        assert MARK not in done.output + str(done.exception)


@pytest.mark.parametrize("where", ["lease", "prefix", "pools.a.mode", "logs.file", "http.listen", "max_message", "modules"])
def test_a_url_under_a_wrong_key_is_not_shown(tmp_path, where):
    *table, key = where.split(".")
    head = f"[{'.'.join(table)}]\n" if table else ""
    (tmp_path / "jobs.toml").write_text(f'{head}{key} = "redis://u:{MARK}/@h"')
    said = ""
    try:
        said = str(load(cwd=tmp_path, environ={}).rows())
    except ConfigError as error:
        said = str(error)
    assert said
    assert MARK not in said


def test_every_backend_reads_urls_by_the_one_reader():
    plugins = Plugins.discover()
    for name in ("sqlite", "redis", "amqp", "zmq+tcp"):
        factory = plugins.choose("jobs_queue_backends", name, "backend")
        with pytest.raises(BackendError) as failed:
            factory(f"{name}://u:{MARK}/?@{MARK}@h/x?nosuch=1", BackendOptions())
        assert MARK not in str(failed.value)
