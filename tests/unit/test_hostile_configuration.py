"""Every key of the configuration with thirty hostile values: refused with a sentence, or it works.

The keys are those of config.py, found by their types: a new one is tried without being listed here.
"""

from __future__ import annotations

import contextlib
import os
import typing

import msgspec
import pytest

from jobs_core.app import App
from jobs_core.cli import preflight, start
from jobs_core.cli.main import run
from jobs_core.config import Config, Section
from jobs_core.config_sources import load
from jobs_core.config_types import arms as _arms
from jobs_core.config_types import bare as _bare
from jobs_core.errors import ConfigError, JobsError
from jobs_core.plugins import Plugins
from jobs_core.supervisor.housekeeper import alerts

from ..support.inprocess import as_it_was

DEEP = "[" * 1200 + "]" * 1200
HOSTILE = {
    "zero": "0", "minus one": "-1", "one": "1", "a fraction": "0.5", "2**63": str(2**63), "10**30": "1" + "0" * 30,
    "10**400": "1" + "0" * 400, "1e308": "1e308", "infinity": "inf", "not a number": "nan", "true": "true", "false": "false",
    "a date": "2024-01-01", "empty string": '""', "blank": '"  "', "nope": '"nope"', "a path upwards": '"../../x"',
    "the root": '"/"', "a file that is none": '"/dev/null/x"', "a control character": '"a\\u0000b"', "a newline": '"a\\nb"',
    "an escape": '"\\u001b[31mred"', "right to left": '"a\\u202eb"', "very long": '"' + "x" * 100_000 + '"',
    "an address that is none": '"999.1.1.1:80"', "a URL of nothing": '"kafka://user:geheim@host/0"', "a number as text": '"8"',
    "empty list": "[]", "list of empty strings": '["", ""]', "list of numbers": "[1, 2]", "list in a list": '[["a"]]',
    "deep": DEEP, "empty table": "{}", "a table": '{ "../x" = 1 }', "a table of a table": '{ "" = { a = 1 } }',
}  # fmt: skip
"""Values, as TOML."""

NAMES = ["", " ", "../../x", "/", "a b", "a\x00b", "\x1b[31m", "x" * 300, "é", ".hidden", "-x", "a/b"]
"""Names of tables."""


def keys(kind: type = Config, path: tuple[str, ...] = ()) -> typing.Iterator[tuple[tuple[str, ...], type]]:
    """Return every key as its path from the top; NAME stands for a table's name."""
    for field in msgspec.structs.fields(kind):
        if field.name == "base_dir":
            continue
        here = (*path, field.name)
        yield here, field.type
        for arm in _arms(field.type):
            bare = _bare(arm)
            if typing.get_origin(bare) is dict:
                here, bare = (*here, "NAME"), typing.get_args(bare)[1]
                yield here, bare
            if isinstance(bare, type) and issubclass(bare, Section):
                yield from keys(bare, here)


KEYS = {".".join(path): path for path, _ in keys()}
TABLES = [key.removesuffix(".NAME") for key in KEYS if key.endswith(".NAME")]


@pytest.fixture(scope="module")
def plugins():
    return Plugins.discover()


@pytest.fixture
def read(tmp_path, monkeypatch, plugins):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Plugins, "discover", lambda prefer=(): plugins)
    for name in [name for name in os.environ if name.startswith("JOBS_")]:
        monkeypatch.delenv(name)

    def read(text):
        (tmp_path / "jobs.toml").write_text(text, encoding="utf-8")
        return load(cwd=tmp_path, environ={}).config

    with as_it_was():
        yield read


def quoted(path):
    """Return a path as TOML writes it; NAME is a valid name."""
    return ".".join(msgspec.json.encode("name" if part == "NAME" else part).decode() for part in path)


def companions(path):
    """Return the other lines that the file needs for this key to be read."""
    if path[:2] == ("schedule", "NAME") and len(path) == 3:
        table = quoted(path[:2])
        return "".join(f"{table}.{key} = {value}\n" for key, value in (("job", '"a.b"'), ("every", '"5s"')) if key != path[2])
    if path[0] == "broker" and path != ("broker", "embedded"):
        return 'broker.embedded = true\nbackend = "zmq+tcp://127.0.0.1:7788"\n'
    return ""


def assert_sentence(error, path):
    """Assert that an error names the file and the key, with one fault a line and no traceback."""
    text = str(error)
    assert len(text) < 6000
    assert "geheim" not in text
    for line in text.splitlines():
        assert "jobs.toml: " in line, text
        assert path[0] in line or "not valid TOML" in line or "nested too deeply" in line, text
        assert len(line.partition("jobs.toml: ")[2].split()) >= 3, f"not a sentence: {line}"


def works(config, plugins):
    """Do what `start` does with an accepted configuration: each step may refuse it in a sentence, none may fail otherwise."""
    with contextlib.suppress(JobsError):
        app = App(config, plugins=plugins)
        preflight.preflight(app)
        alerts.channels(config, plugins)
        for name in config.topics:
            config.topic(name)
        app.new_backend()


@pytest.mark.parametrize("key", KEYS)
def test_a_hostile_value_is_refused_in_a_sentence_or_works(key, read, plugins):
    path = KEYS[key]
    for name, value in HOSTILE.items():
        try:
            config = read(f"{quoted(path)} = {value}\n{companions(path)}")
        except ConfigError as error:
            assert_sentence(error, path)
            continue
        except Exception as error:
            pytest.fail(f"{key} = {name}: {type(error).__name__}: {error}")
        works(config, plugins)


@pytest.mark.parametrize("table", TABLES)
def test_a_hostile_name_of_a_table_is_refused_in_a_sentence_or_works(table, read, plugins):
    path = KEYS[table]
    for name in NAMES:
        entry = 'job = "a.b"\nevery = "5s"' if path == ("schedule",) else ""
        try:
            config = read(f"[{quoted(path)}.{msgspec.json.encode(name).decode()}]\n{entry}\n")
        except ConfigError as error:
            assert_sentence(error, path)
        else:
            works(config, plugins)


@pytest.mark.parametrize(
    ("toml", "key", "value"),
    [
        ("lease = 0", "lease", "0"),
        ("pools = {}", "pools", "none"),
        ('[pools."../x"]', "pools", "../x"),
        ("pools.a.concurrency = 10000000", "pools.a.concurrency", "10000000"),
        ('pools.a = { mode = "threads", concurrency = 50000 }', "pools.a.concurrency", "50,000"),
        ("pools.a.workers = 1000000", "pools.a.workers", "1000000"),
        ('pools.a.topics = ["x", "x"]', "pools.a.topics", "x"),
        ('http.listen = "999.1.1.1:80"', "http.listen", "999.1.1.1"),
        ('results.url = "nope"', "results.url", "nope"),
        ('logs.file = "/"', "logs.file", "/"),
        ('logs.file = "/dev/null/x.log"', "logs.file", "/dev/null/x.log"),
        ('run_dir = "/dev/null"', "run_dir", "/dev/null"),
        ('run_dir = ""', "run_dir", "empty"),
        ('prefix = "a b"', "prefix", "a b"),
        ('modules = ["shop/tasks.py"]', "modules", "shop/tasks.py"),
        ('backend = ""', "backend", "empty"),
        ('results.url = "kafka://x"', "results.url", "kafka"),
        ('signing_keys = ["short"]', "signing_keys", "kid:secret"),
        ('encryption_keys = ["k1:tooshort"]', "encryption_keys", "at least 32 random characters"),
        (
            f'encryption_keys = ["a:{"x" * 32}", "a:{"y" * 32}"]',
            "encryption_keys",
            "key 2 of 2: a key before it has the same name",
        ),
        ('payloads.url = "ftp://host/x"', "payloads.url", "file:///an/absolute/directory"),
        ('payloads.url = "file://relative"', "payloads.url", "file:///an/absolute/directory"),
        ('broker.store = "redis://x"', "broker.store", "sqlite"),
        ('broker.embedded = true\nbroker.keys = "nowhere"', "broker.keys", "nowhere"),
        ("broker.embedded = true", "broker.listen", "zmq+tcp"),
        ("max_message = 0", "max_message", "0"),
        ("topics.x.timeout = 1e300", "topics.x.timeout", "1e+300"),
        (f"lease = 1{'0' * 400}", "lease", "1000000"),
        (f"modules = {DEEP}", "jobs.toml", "nested too deeply"),
    ],
)
def test_check_and_start_refuse_alike_and_name_key_value_and_fix(toml, key, value, read, capsys, monkeypatch):
    monkeypatch.setattr(start, "_become", lambda command: pytest.fail("it would have started"))
    with open("jobs.toml", "w", encoding="utf-8") as file:
        file.write(toml)
    told = []
    for command in ("check", "start"):
        assert run([command]) == 2, command
        out = capsys.readouterr()
        told.append(out.out + out.err)
        assert key in told[-1], told[-1]
        assert value in told[-1], told[-1]
    wanted = [line for line in told[1].removeprefix("jobs: ").splitlines() if line]
    assert wanted[0].removeprefix("jobs: ") in told[0]


def test_check_leaves_nothing_behind(read, capsys, tmp_path):
    read('backend = "memory://x"\nrun_dir = "a/b/run"\nlogs.file = "c/d.log"\nhttp.listen = "unix:http.sock"\n')
    run(["check"])
    assert [each.name for each in tmp_path.iterdir()] == ["jobs.toml"]


def test_a_file_with_a_byte_order_mark_is_read(read, tmp_path):
    (tmp_path / "jobs.toml").write_bytes(b'\xef\xbb\xbflease = "7s"')
    assert load(cwd=tmp_path, environ={}).config.lease == 7


def test_check_says_that_a_store_of_results_is_not_used(read, capsys):
    read('results.url = "sqlite:///other.db"')
    run(["check"])
    assert "results.url is not used: sqlite:// keeps results itself" in capsys.readouterr().out
