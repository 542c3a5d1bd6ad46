"""A configuration that a program creates: it takes what a file takes, and refuses at once what would fail later."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import pytest

from jobs_core import App, Config, config
from jobs_core.config import Section
from jobs_core.config_sources import load
from jobs_core.config_types import fields
from jobs_core.errors import ConfigError, UnknownOption
from jobs_core.units import Duration

SECTIONS = [
    each for each in vars(config).values() if isinstance(each, type) and issubclass(each, Section) and each is not Section
]
REQUIRED = {config.ScheduleEntry: {"job": "shop.pay"}}
VALUES = {"object": object(), "complex": 3j, "keys": {1: 2}, "list": [[object()]]}
WRONG_TYPES = [
    (section, name, kind)
    for section in SECTIONS
    for name in fields(section)
    for kind in (("object", "complex") if name in ("args", "kwargs") else VALUES)  # their contents are the job's own
]


@pytest.mark.parametrize(("section", "name", "kind"), WRONG_TYPES, ids=[f"{s.__name__}.{n}-{k}" for s, n, k in WRONG_TYPES])
def test_a_value_of_a_wrong_type_is_refused_at_once_by_the_name_of_its_field(section, name, kind):
    with pytest.raises(ConfigError, match=rf"^{section.__name__}: {name}[.:]"):
        section(**{**REQUIRED.get(section, {}), name: VALUES[kind]})


NESTED = {
    "topics": {"x": {"retries": 3, "backoff": "5s", "fair": True}},
    "pools": {"p": {"topics": ["a"], "workers": {"min": 1, "max": 4}}, "w": {"topics": {"a": 6, "b": 1}}},
    "limits": {"stripe": {"rate": "10/s"}},
    "defaults": {"retries": 1, "timeout": 90},
    "results": {"url": "redis://localhost"},
    "payloads": {"above": "1 MB"},
    "logs": {"level": "debug"},
    "http": {"listen": "127.0.0.1:9000"},
    "alerts": {"channels": {"webhook": {"url": "https://example.com"}}},
    "schedule": {"nightly": {"job": "shop.report", "every": "1h"}},
    "broker": {"embedded": True},
    "plugins": {"flask": {"app": "shop:app"}},
    "lease": "20s",
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("kind", [dict, MappingProxyType], ids=["dict", "mapping"])
def test_plain_dicts_become_what_a_file_would_give(name, kind, tmp_path):
    value = kind(NESTED[name]) if isinstance(NESTED[name], dict) else NESTED[name]
    from_file = load(settings={name: NESTED[name]}, environ={}, cwd=tmp_path).config
    made = Config(**{name: value})
    assert getattr(made, name) == getattr(from_file, name)
    assert App(made).config is made
    assert made == copy.deepcopy(made) == pickle.loads(pickle.dumps(made))


WRONG = {
    "a typo in a table": ({"topics": {"x": {"retires": 3}}}, 'topics.x: there is no key "retires"; did you mean "retries"'),
    "a type in a table": ({"topics": {"x": {"retries": "3"}}}, 'topics.x.retries: expected int, got "3"'),
    "a value in place of a table": ({"pools": {"p": 4}}, r"pools.p: expected Pool\(...\) or a dict, got 4"),
    "another table": ({"defaults": config.Topic()}, r"defaults: expected Defaults\(...\) or a dict, got Topic"),
    "a list in place of tables": ({"topics": ["x"]}, "topics: expected a dict"),
    "a missing key": ({"schedule": {"n": {"every": 60}}}, "schedule.n: job is missing"),
    "a string in place of a list": ({"modules": "shop"}, "modules: expected a list"),
    "no string": ({"backend": 5}, "backend: expected str"),
    "a secret": ({"signing_keys": "kid:secret-that-is-not-shown"}, "signing_keys: expected a list, got str"),
    "a secret in a list": ({"backend": ["redis://:password@host"]}, "backend: expected str, got list"),
}


@pytest.mark.parametrize(("given", "says"), WRONG.values(), ids=WRONG)
def test_the_error_names_the_nested_field_and_shows_no_secret(given, says):
    with pytest.raises(ConfigError, match=f"^Config: {says}") as raised:
        Config(**given)
    assert "not-shown" not in str(raised.value)
    assert "password" not in str(raised.value)


def test_values_of_the_right_type_are_converted(tmp_path):
    made = Config(
        lease=20, enqueue_timeout=timedelta(seconds=2), run_dir=tmp_path / "run", base_dir=str(tmp_path), modules=("a",)
    )
    assert (made.lease, made.enqueue_timeout, made.run_dir) == (Duration(20), Duration(2), str(tmp_path / "run"))
    assert (made.base_dir, made.modules) == (Path(tmp_path), ["a"])


@pytest.mark.parametrize("given", [{"backend": "memory://x"}, "memory://x", 5])
def test_an_app_takes_only_a_config(given):
    with pytest.raises(ConfigError, match=r"App: expected Config\(...\), got"):
        App(given)


def test_a_table_takes_its_values_by_name():
    with pytest.raises(UnknownOption, match="Topic: Extra positional arguments provided: it takes by name: serve, retries"):
        config.Topic(True)
