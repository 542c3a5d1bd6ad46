"""The configuration and the command line inside those of a framework."""

from datetime import timedelta

import pytest

from jobs_core import App, Config, ConfigError, current_app, load_config, run_command, set_app_source, set_current_app
from jobs_core.config_sources import FrameworkSettings, load


def test_settings_override_the_file_and_the_environment_overrides_them(tmp_path, monkeypatch):
    (tmp_path / "jobs.toml").write_text('prefix = "file"\nlease = "10s"\nrun_dir = "file"')
    monkeypatch.setenv("JOBS_LEASE", "30s")
    config = load_config(settings={"lease": 20, "prefix": "settings"}, settings_name="shop", directory=tmp_path)
    assert (config.lease, config.prefix, config.run_dir, config.base_dir) == (30, "settings", "file", tmp_path)


def test_a_wrong_setting_is_reported_by_the_name_of_the_settings(tmp_path):
    with pytest.raises(ConfigError, match='shop.settings.JOBS: backnd: unknown key; did you mean "backend"'):
        load_config(settings={"backnd": "x"}, settings_name="shop.settings.JOBS", directory=tmp_path)


def test_settings_reach_child_processes_with_their_name_and_directory(tmp_path):
    given = {"lease": timedelta(minutes=1), "modules": ("a", "b"), "run_dir": tmp_path / "run", "pools": {"x": {"workers": 2}}}
    effective = load(environ={"JOBS_SETTINGS": FrameworkSettings("shop", str(tmp_path), given).encode(), "JOBS_PREFIX": "p"})
    config = effective.config
    assert (config.lease, config.modules, config.run_dir, config.prefix) == (60, ["a", "b"], str(tmp_path / "run"), "p")
    assert (config.pools["x"].workers, config.base_dir, effective.sources["lease"]) == (2, tmp_path, "shop")
    with pytest.raises(ConfigError, match="JOBS_SETTINGS"):
        load(environ={"JOBS_SETTINGS": "nonsense"})


def test_a_command_runs_with_the_settings_of_a_framework(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBS_SETTINGS", raising=False)
    assert run_command(["check", "--show"], settings={"prefix": "mine"}, settings_name="app.config") == 0
    assert "prefix\tmine\tapp.config".replace("\t", "") in capsys.readouterr().out.replace("\t", "").replace('"', "").replace(
        " ", ""
    )
    assert run_command(["check", "--show"], settings={"prefx": "mine"}, settings_name="app.config") == 2
    assert "app.config: prefx: unknown key" in capsys.readouterr().err
    assert run_command(["nonsense"], settings={}, settings_name="x", called="flask jobs") == 2
    assert "Usage: flask jobs" in capsys.readouterr().err


def test_a_framework_says_which_application_is_meant_unless_one_was_set():
    mine, other = (App(Config(backend="memory://embedding")) for _ in range(2))
    set_current_app(None)
    try:
        set_app_source(lambda: mine)
        assert current_app() is mine
        set_current_app(other)
        assert current_app() is other
    finally:
        set_app_source(None)
        set_current_app(None)
