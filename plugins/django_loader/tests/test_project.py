"""A Django project and its jobs: settings, discovery, the command."""

from __future__ import annotations

import json

import pytest


def test_jobs_of_every_app_are_found(site):
    done = site.manage("jobs", "check")
    assert done.returncode == 0, done.stdout
    for name in ("shop.jobs.note", "shop.jobs.look", "greet"):
        assert name in done.stdout


def test_a_failing_job_module_is_reported_with_the_users_own_line(site):
    (site.root / "crm" / "tasks.py").write_text("\nimport nowhere_at_all\n")
    done = site.manage("jobs", "check")
    assert done.returncode == 2
    assert 'the module "crm.tasks" cannot be imported' in done.stdout
    assert "crm/tasks.py:2" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_project_that_cannot_be_set_up_is_reported_with_the_users_own_line(site):
    (site.root / "shop" / "models.py").write_text("1 / 0\n")
    (site.root / "jobs.toml").write_text('framework = "django"\n[django]\nsettings = "settings"\n')
    done = site.run("check")
    assert "django.setup() failed" in done.stdout
    assert "shop/models.py:1" in done.stdout


def test_settings_in_jobs_override_jobs_toml_and_the_environment_overrides_them(site):
    (site.root / "jobs.toml").write_text('prefix = "from-the-file"\nlease = "10s"\n')
    done = site.manage("jobs", "check", "--show", "--json", JOBS_LEASE="20s")
    rows = {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert rows["prefix"] == ('"from-the-file"', "jobs.toml")
    assert rows["backend"] == ("sqlite:///queue.db", "settings.JOBS")
    assert rows["lease"] == ('"20s"', "JOBS_LEASE")
    assert rows["framework"] == ('"django"', "settings.JOBS")


def test_jobs_toml_alone_is_enough(make_site):
    site = make_site(settings="del JOBS")
    (site.root / "jobs.toml").write_text('backend = "sqlite:///q.db"\nframework = "django"\n[django]\nsettings = "settings"\n')
    assert site.script("from shop.jobs import note; print(json.dumps(note.enqueue('from a view').id))")
    done = site.run("worker", "--drain")
    assert done.returncode == 0, done.stderr
    assert site.ledger() == ["note from a view"]
    assert (site.root / "q.db").exists()


def test_the_environment_names_the_settings_too(make_site):
    site = make_site(settings="del JOBS")
    (site.root / "jobs.toml").write_text('framework = "django"\n')
    assert site.run("check", DJANGO_SETTINGS_MODULE="settings").returncode == 0
    done = site.run("check")
    assert done.returncode == 2
    assert "django.settings: no settings are named: set DJANGO_SETTINGS_MODULE" in done.stdout


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('settings = "nowhere_at_all"', 'django.settings: there is no module "nowhere_at_all"'),
        ('setting = "settings"', 'django.setting: unknown key; did you mean "settings"'),
    ],
)
def test_errors_in_the_table_are_reported_with_the_fix(site, table, said):
    (site.root / "jobs.toml").write_text(f'framework = "django"\n[django]\n{table}\n')
    done = site.run("check")
    assert done.returncode == 2
    assert said in done.stdout


def test_a_worker_that_would_listen_elsewhere_than_views_send_does_not_start(site):
    (site.root / "jobs.toml").write_text(
        'framework = "django"\nbackend = "sqlite:///elsewhere.db"\n[django]\nsettings = "settings"\n'
    )
    done = site.run("worker", "--drain")
    assert done.returncode == 2
    assert "settings.JOBS sets 'backend', which this process was started without" in done.stderr


def test_wrong_settings_are_found_by_djangos_own_check(make_site):
    site = make_site(settings='JOBS = {"backnd": "x", "lease": "soon"}')
    done = site.manage("check")
    assert done.returncode == 1
    assert '(jobs.E001) settings.JOBS: backnd: unknown key; did you mean "backend"?' in done.stderr
    assert "settings.JOBS: lease" in done.stderr


def test_the_command_is_all_of_jobsctl_with_its_exit_codes(site):
    assert "Usage: manage.py jobs" in site.manage("jobs", "--help").stdout
    assert site.manage("jobs", "nonsense").returncode == 2
    assert site.manage("jobs", "show", "nobody").returncode == 1
    status = site.manage("jobs", "status")
    assert status.returncode == 3
    assert "`manage.py jobs start` starts it" in status.stdout
    assert "jobs" in site.manage("help").stdout


def test_the_command_can_be_called_from_code(site):
    said = site.script(
        """
from django.core.management import CommandError, call_command
import contextlib, io
heard = io.StringIO()
with contextlib.redirect_stdout(heard):
    call_command("jobs", "topics", "--json")
try:
    call_command("jobs", "show", "nobody")
except CommandError as error:
    code = error.returncode
print(json.dumps([json.loads(heard.getvalue()), code]))
"""
    )
    assert "default" in said[0]
    assert said[1] == 1


def test_paths_start_at_the_project_wherever_a_command_is_started(site, tmp_path):
    assert site.script("from shop.jobs import note; import os; os.chdir('/'); print(json.dumps(note.enqueue().id))")
    assert (site.root / "queue.db").exists()
    site.drain()
    assert site.times("note x") == 1


def test_settings_may_change_in_a_test_of_the_project(site):
    assert site.script(
        """
from django.test import override_settings
from jobs_core import current_app
before = current_app().config.prefix
with override_settings(JOBS={"backend": "memory://x", "prefix": "other"}):
    inside = current_app().config.prefix
print(json.dumps([before, inside, current_app().config.prefix]))
"""
    ) == ["jobs", "other", "jobs"]


def test_in_development_saved_code_runs_without_a_restart(site):
    supervisor = site.start_manage("jobs", "start", "--reload", serves="ready: ")
    jobs = site.root / "shop" / "jobs.py"
    jobs.write_text(jobs.read_text().replace('record("note", text)', 'record("noted", text)'))
    supervisor.until_said("shop/jobs.py changed: reloading")
    supervisor.until_said("generation 2 is serving")
    site.enqueue({"job": "shop.jobs.note"})
    site.until_noted("noted x")
    assert supervisor.stop() == 0
