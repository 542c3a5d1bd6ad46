"""jobs.toml, and the sources that override it."""

import os
import re
from pathlib import Path

import click
import pytest

from jobs_core.cli.types import DURATION
from jobs_core.config import Config, Pool, Workers
from jobs_core.config_sources import load, working_directory
from jobs_core.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def read(text="", **environ):
        (tmp_path / "jobs.toml").write_text(text)
        return load(cwd=tmp_path, environ=environ)

    return read


def test_everything_has_a_default(tmp_path):
    effective = load(cwd=tmp_path, environ={})
    assert effective.file is None
    assert effective.config.pools == {"default": Pool()}
    assert effective.config.topic("anything").retries is None


def test_the_design_page_example_is_read(read):
    config = read(
        """
        backend = "redis://localhost:6379/0"
        modules = ["shop.tasks"]
        framework = "flask"
        lease = "30s"
        max_message = "1MB"
        [flask]
        app = "shop:create_app"
        [pools.default]
        topics = ["critical", "email", "default"]
        workers = { min = 2, max = 8 }
        max_jobs = 10000
        max_age = "1h"
        max_memory = "512MB"
        stop_timeout = "30s"
        [topics.email]
        retries = 5
        timeout = "30s"
        alert_above = 10000
        alert_age = "5m"
        default_job = "shop.send_email"
        dead_keep = "30d"
        dead_max = 100000
        result_ttl = "1d"
        [logs]
        file = "jobs.log"
        max_size = "100MB"
        keep = 5
        format = "text"
        [http]
        listen = "127.0.0.1:9000"
        """
    ).config
    assert config.pools["default"].workers == Workers(min=2, max=8)
    assert config.topics["email"].timeout == 30
    assert config.max_message == 10**6
    assert config.plugins == {"flask": {"app": "shop:create_app"}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[pools.mail.workers]\nmax="eight"', 'jobs.toml: pools.mail.workers.max: expected int, got "eight"'),
        ("[pools.mail]\nworkrs=3", 'jobs.toml: pools.mail.workrs: unknown key; did you mean "workers"?'),
        ("zzz=1", "jobs.toml: zzz: unknown key"),
        ('lease="5 parsecs"', 'jobs.toml: lease: expected a duration such as "30s", "5m" or "1h30m", got "5 parsecs"'),
        ("lease=true", "jobs.toml: lease: expected a duration"),
        ('max_message="big"', 'jobs.toml: max_message: expected a size such as "1MB" or "64KB", got "big"'),
        ('[pools.a]\nmode="zync"', 'jobs.toml: pools.a.mode: expected one of sync, threads, async, got "zync"'),
        ("[pools.a]\nconcurrency=0", "jobs.toml: pools.a.concurrency: expected int >= 1, got 0"),
        ('[pools.a]\ntopics="x"', 'jobs.toml: pools.a.topics: expected a list, got "x"'),
        ("[pools.a]\ntopics=[]", "jobs.toml: pools.a.topics: a pool must serve at least one topic"),
        ('[pools.a]\ntopics=["a b"]', "jobs.toml: pools.a.topics: invalid topic name 'a b'"),
        ('[topics."../x"]\nretries=1', "invalid topic name"),
        ("[pools.a]\nworkers={min=3,max=2}", "jobs.toml: pools.a.workers: min (3) is greater than max (2)"),
        ("pools=3", "jobs.toml: pools: expected a table, got 3"),
        ("pools.a=3", "jobs.toml: pools.a: expected a table, got 3"),
        ("backend=3", "jobs.toml: backend: expected str, got int"),
        ("a=", "jobs.toml: not valid TOML: "),
        ('[schedule.x]\njob="a.b"', "jobs.toml: schedule.x: needs either cron or every"),
        ('[schedule.x]\njob="a.b"\ncron="* * * * *"\nevery="5s"', "needs either cron or every"),
        (
            '[schedule.x]\njob="a.b"\nevery="5s"\ntz="Asia/Tokyo"',
            "jobs.toml: schedule.x.tz: belongs to cron, but this entry has every",
        ),
    ],
)
def test_errors_name_file_key_and_value(read, text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(text)


def test_all_errors_are_reported_together(read):
    with pytest.raises(ConfigError) as caught:
        read('lease="x"\nmax_message=-1\nunknown=1')
    assert len(str(caught.value).splitlines()) == 3


def test_secrets_are_not_shown_in_errors(read):
    with pytest.raises(ConfigError) as caught:
        read('signing_keys = "k1:geheim"\nbackend = ["redis://:geheim@host"]')
    assert "geheim" not in str(caught.value)


# -- sources ---------------------------------------------------------------------------------------


def test_variables_override_the_file(read):
    effective = read(
        'backend = "sqlite:///a.db"\nmodules = ["a"]\n[pools.mail]\nworkers = 2',
        JOBS_BACKEND="redis://h",
        JOBS_MODULES="b,c",
        JOBS_LEASE="1m",
        JOBS_POOLS__MAIL__WORKERS__MAX="8",
        JOBS_POOLS__MAIL__PRELOAD="false",
        JOBS_TOPICS__MAIL__RETRIES="7",
    )
    config = effective.config
    assert (config.backend, config.modules, config.lease) == ("redis://h", ["b", "c"], 60)
    assert config.pools["mail"].workers == Workers(min=1, max=8)
    assert config.pools["mail"].preload is False
    assert config.topics["mail"].retries == 7


def test_a_variable_may_hold_toml(read):
    assert read("", JOBS_POOLS__X__TOPICS="{a = 3, b = 1}").config.pools["x"].topics == {"a": 3, "b": 1}
    config = read("", JOBS_MODULES='["a.b", "c"]', JOBS_POOLS__X__TOPICS='["t"]').config
    assert (config.modules, config.pools["x"].topics) == (["a.b", "c"], ["t"])


def test_a_secret_may_come_from_a_file(read, tmp_path):
    (tmp_path / "url").write_text("redis://:geheim@h\n")
    assert read("", JOBS_BACKEND_FILE=str(tmp_path / "url")).config.backend == "redis://:geheim@h"
    with pytest.raises(ConfigError, match="JOBS_BACKEND_FILE: .*No such file"):
        read("", JOBS_BACKEND_FILE=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("JOBS_BACKND", "x", "JOBS_BACKND: unknown key; did you mean JOBS_BACKEND?"),
        ("JOBS_LEASE", "soon", "JOBS_LEASE: expected a duration"),
        ("JOBS_MAX_REDELIVERIES", "many", 'JOBS_MAX_REDELIVERIES: expected int, got "many"'),
        ("JOBS_POOLS__A__WORKRS", "3", "JOBS_POOLS__A__WORKRS: unknown key"),
    ],
)
def test_errors_name_the_variable(read, variable, value, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        read("", **{variable: value})


def test_variables_of_other_programs_are_ignored(read):
    read(
        "", JOBS_SERVICE_HOST="10.0.0.1", JOBS_PORT="tcp://x", JOBS_FAILPOINT="", JOBS_DISABLE_PLUGINS="a", JOBS_TRACE_HOOKS="1"
    )


def test_pyproject_is_read_where_there_is_no_jobs_toml(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.jobs]\nmodules = ["a"]\n[tool.other]\nx = 1')
    assert load(cwd=tmp_path, environ={}).config.modules == ["a"]
    (tmp_path / "jobs.toml").write_text('modules = ["b"]')
    assert load(cwd=tmp_path, environ={}).config.modules == ["b"]


def test_a_file_is_looked_for_upwards(tmp_path):
    (tmp_path / "jobs.toml").write_text('modules = ["above"]')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = load(cwd=below, environ={})
    assert (found.config.modules, found.config.base_dir) == (["above"], tmp_path.resolve())
    (below / "pyproject.toml").write_text("[tool.other]\nx = 1")
    assert load(cwd=below, environ={}).config.modules == ["above"]
    (below.parent / "pyproject.toml").write_text('[tool.jobs]\nmodules = ["nearer"]')
    assert load(cwd=below, environ={}).config.modules == ["nearer"]


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("JOBS_LEASE", "60", "lease", 60.0),
        ("JOBS_LEASE", "1.5", "lease", 1.5),
        ("JOBS_LEASE", "2m", "lease", 120.0),
        ("JOBS_MAX_MESSAGE", "2000000", "max_message", 2_000_000),
        ("JOBS_MAX_MESSAGE", "2MB", "max_message", 2_000_000),
        ("JOBS_ENQUEUE_TIMEOUT", "3", "enqueue_timeout", 3.0),
    ],
)
def test_numbers_are_durations_and_sizes_in_variables_too(read, variable, text, key, value):
    assert getattr(read("", **{variable: text}).config, key) == value


NUMBERS = [
    "0.5",
    "60",
    "+60",
    "1e1",
    "1E1",
    "1_000",
    "6_0.5",
    "1e-1",
    "1.5e2",
    "600.0",
    "-1",
    "1e400",
    "1__0",
    "6_",
    "_6",
    "1e9",
    "1e10",
    "nan",
]


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("key", ["lease", "enqueue_timeout", "max_message"])
def test_a_number_is_the_same_in_a_file_in_a_variable_and_on_the_command_line(read, key, text):
    def found(*text, **environ):
        try:
            return getattr(read(*text, **environ).config, key)
        except ConfigError:
            return None

    in_file = found(f"{key} = {text}")
    assert found("", **{f"JOBS_{key.upper()}": text}) == in_file
    assert found("", **{f"JOBS_{key.upper()}": f" {text}\n"}) == in_file, "as `$(cat file)` and quotes leave it"
    if key == "enqueue_timeout":
        context = click.Context(click.Command("push"))
        try:
            assert DURATION.convert(text, None, context) == in_file
        except click.BadParameter:
            assert in_file is None


EMPTY = ["backend", "signing_keys", "modules", "run_dir", "results__url", "pools__default__topics", "broker__listen", "lease"]


@pytest.mark.parametrize(("key", "text"), [(key, text) for key in EMPTY for text in ("", " ")])
def test_an_empty_variable_takes_nothing_away_in_silence(read, key, text):
    given = 'backend = "redis://localhost"\nsigning_keys = ["k1:geheimgeheimgeheim"]\nmodules = ["a"]'
    variable = f"JOBS_{key.upper()}"
    with pytest.raises(ConfigError, match=f"{variable}: "):
        read(given, **{variable: text})


def test_an_empty_list_is_accepted(read):
    assert read('modules = ["a"]', JOBS_MODULES="[]").config.modules == []


def test_a_process_in_a_removed_directory_searches_the_parents_of_its_path(tmp_path, monkeypatch):
    (tmp_path / "jobs.toml").write_text('modules = ["above"]')
    gone = tmp_path / "releases" / "41"
    gone.mkdir(parents=True)
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PWD", str(gone))
    gone.rmdir()
    assert load(environ={}).config.modules == ["above"]
    monkeypatch.delenv("PWD")
    assert load(environ={}).file is None
    os.chdir(tmp_path)


def test_a_file_can_be_named(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.toml").write_text('modules = ["c"]')
    for effective in (
        load("sub/other.toml", cwd=tmp_path, environ={}),
        load(cwd=tmp_path, environ={"JOBS_CONFIG": "sub/other.toml"}),
    ):
        assert effective.config.modules == ["c"]
        assert effective.config.base_dir == (tmp_path / "sub").resolve()
    with pytest.raises(ConfigError, match="nowhere.toml: no such file"):
        load("nowhere.toml", cwd=tmp_path, environ={})


def test_an_applications_settings_override_the_file_and_the_environment_overrides_them(tmp_path):
    (tmp_path / "jobs.toml").write_text('prefix = "file"\nlease = "10s"\nmax_redeliveries = 9')
    config = load(
        cwd=tmp_path, environ={"JOBS_LEASE": "30s"}, settings={"prefix": "app", "lease": "20s"}, settings_name="settings.JOBS"
    ).config
    assert (config.prefix, config.lease, config.max_redeliveries) == ("app", 30, 9)
    with pytest.raises(ConfigError, match=re.escape('settings.JOBS: pools.a.workers: expected int, got "x"')):
        load(cwd=tmp_path, environ={}, settings={"pools": {"a": {"workers": "x"}}}, settings_name="settings.JOBS")


def test_every_value_is_shown_with_its_source_and_without_its_secret(read):
    rows = read(
        'backend = "redis://user:geheim@h/0"\nsigning_keys = ["k1:geheimgeheimgeheim"]\n[pools.a]\nworkers = 2', JOBS_LEASE="1m"
    ).rows()
    by_key = {key: (value, source) for key, value, source in rows}
    assert by_key["backend"] == ("redis://user:***@h/0", "jobs.toml")
    assert by_key["lease"] == ('"1m"', "JOBS_LEASE")
    assert by_key["pools.a.workers"] == ("2", "jobs.toml")
    assert by_key["pools.a.mode"] == ('"sync"', "default")
    assert "geheim" not in str(rows)


def test_an_unreadable_file_is_reported(tmp_path):
    (tmp_path / "jobs.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="jobs.toml: cannot be read"):
        load(cwd=tmp_path, environ={})


def test_base_dir_is_not_a_key(read):
    with pytest.raises(ConfigError, match="base_dir: unknown key"):
        read('base_dir = "/"')
    assert isinstance(Config().base_dir, Path)


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "jobs.toml").write_bytes(b"\xef\xbb\xbfmodules = ['tasks']\n")
    assert load(tmp_path / "jobs.toml").config.modules == ["tasks"]


def test_a_directory_keeps_the_name_that_the_shell_has_for_it(tmp_path, monkeypatch):
    release = tmp_path / "releases" / "A"
    (release / "sub").mkdir(parents=True)
    (release / "jobs.toml").write_text("")
    (tmp_path / "current").symlink_to("releases/A")
    monkeypatch.chdir(release)
    for named, directory in [
        (tmp_path / "current", tmp_path / "current"),
        (release, release),
        (tmp_path, release),  # of another time
        ("current", release),  # no absolute path
        (tmp_path / "gone", release),
    ]:
        monkeypatch.setenv("PWD", str(named))
        effective = load(environ={})
        assert (effective.directory, effective.config.base_dir) == (directory, release.resolve())
        assert load("jobs.toml", environ={}).file == directory / "jobs.toml"
    monkeypatch.setenv("PWD", str(tmp_path / "current"))
    monkeypatch.chdir(release / "sub")
    assert working_directory() == tmp_path / "current" / "sub"


def test_a_transport_that_does_not_exist_is_refused(tmp_path):
    assert load(cwd=tmp_path, environ={"JOBS_TRANSPORT": "library"}).config == load(cwd=tmp_path, environ={}).config
    with pytest.raises(ConfigError, match='JOBS_TRANSPORT: expected "library" or no such variable, got "librray"'):
        load(cwd=tmp_path, environ={"JOBS_TRANSPORT": "librray"})


KEYS = ["k1:" + "a" * 40, "k2:" + "b" * 40]


@pytest.mark.parametrize("key", ["signing_keys", "encryption_keys"])
@pytest.mark.parametrize("between", [",", ", ", "\n", "\r\n", ",\n", "\n\n"], ids=repr)
def test_a_file_of_keys_has_them_one_a_line_or_separated_by_commas(read, tmp_path, key, between):
    (tmp_path / "keys").write_text(between.join(KEYS) + "\n")
    effective = read("", **{f"JOBS_{key.upper()}_FILE": str(tmp_path / "keys")})
    assert getattr(effective.config, key) == KEYS


def test_a_file_with_empty_lines_alone_does_not_turn_signing_off(read, tmp_path):
    (tmp_path / "keys").write_text("\n\n")
    with pytest.raises(ConfigError, match="expected a list, got an empty string"):
        read("", JOBS_SIGNING_KEYS_FILE=str(tmp_path / "keys"))


URLS = {
    "backend": ("backend", ["sqlite:///jobs.db", "redis://"]),
    "results.url": ("results.url", ["sqlite:///jobs.db", "redis://"]),
    "payloads.url": ("payloads.url", ["file:///an/absolute/directory", "s3://bucket/prefix"]),
    "broker.store": ("broker.store", ["sqlite:///broker.db"]),
    "broker.listen": ("broker.listen", ["zmq+tcp://127.0.0.1:7788", "zmq+ipc:///"]),
    "http.listen": ("http.listen", ["127.0.0.1:9000", "unix:/path"]),
}
SCHEMES = {"sqlite:", "redis:", "file:", "s3:", "zmq+tcp:", "zmq+ipc:", "unix:"}


@pytest.mark.parametrize("value", ["payloads", "./payloads", "/var/payloads", "host", "two words", "a://b c"])
@pytest.mark.parametrize("key", URLS)
def test_a_value_without_a_scheme_is_answered_with_the_schemes_of_this_key(read, key, value):
    path, advised = URLS[key]
    given = f'["{value}"]' if key == "broker.listen" else f'"{value}"'
    with pytest.raises(ConfigError) as raised:
        read(f"{path} = {given}")
    said = str(raised.value)
    assert all(each in said for each in advised)
    others = SCHEMES - {each.partition(":")[0] + ":" for each in advised}
    assert not [each for each in others if f'"{each}' in said]


def test_secrets_that_stand_in_the_file_are_found_with_how_to_keep_them_elsewhere(tmp_path):
    file = tmp_path / "jobs.toml"
    file.write_text(
        """
        backend = "redis://:password@queue/0"
        signing_keys = ["k1:a-long-random-secret-of-more-than-32-characters"]
        [webhooks.crm]
        url = "https://crm.example/"
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        [alerts.channels.chat]
        webhook = { url = "https://chat.example", api_token = "s" }
        [plugins.web]
        listen = "127.0.0.1:9100"
        [results]
        url = "redis://results/0"
        """
    )
    found = load(file, environ={}).secrets_in_file()
    assert {key: advice for key, _, advice in found} == {
        "backend": "let JOBS_BACKEND_FILE name a file with it",
        "signing_keys": "let JOBS_SIGNING_KEYS_FILE name a file with it",
        "webhooks.crm.secret": "set JOBS_WEBHOOKS__CRM__SECRET in the environment",
        "alerts.channels.chat.webhook.api_token": "set JOBS_ALERTS__CHANNELS__CHAT__WEBHOOK__API_TOKEN in the environment",
    }
    assert {source for _, source, _ in found} == {str(file)}
    elsewhere = {"JOBS_BACKEND": "redis://:password@queue/0", "JOBS_SIGNING_KEYS": "k1:a-long-random-secret-of-more-than-32"}
    found = load(file, environ=elsewhere).secrets_in_file()
    assert sorted(key for key, _, _ in found) == ["alerts.channels.chat.webhook.api_token", "webhooks.crm.secret"]
