"""Django's management commands as jobs."""

from __future__ import annotations

import json

import pytest

COMMAND = """
import json, sys
from django.core.management.base import BaseCommand, CommandError
from shop.models import Row

class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("files", nargs="*")
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("--limit", type=int, default=10)
        parser.add_argument("--noinput", action="store_false", dest="interactive")
        parser.add_argument("--end")

    def handle(self, *files, **given):
        told = {name: given[name] for name in ("dry_run", "limit", "interactive", "no_color")}
        self.stdout.write(json.dumps({"files": given["files"], **told}, sort_keys=True))
        self.stderr.write("slow disk")
        print(self.style.SUCCESS("by print"))
        if given["end"] == "fails":
            raise CommandError("no such file")
        if given["end"]:
            sys.exit(int(given["end"]))
"""

JOBS = """
from jobs_django import django_command

load = django_command("load_rows", retries=0)
renamed = django_command("load_rows", name="shop.load", cron="0 4 * * *")
sessions = django_command("clearsessions")
"""

SETTINGS = 'INSTALLED_APPS += ["django.contrib.sessions"]\nJOBS["modules"] = ["shop.commands"]\n'

SCRIPT = '''
import logging
from jobs_core import Config, JobDefinitionError
from jobs_core.testing import JobsQueue
from jobs_django import django_command
from shop.commands import load, renamed, sessions

lines = []
class Handler(logging.Handler):
    def emit(self, record): lines.append([record.levelname, record.name, record.getMessage()])
logging.getLogger().addHandler(Handler())
logging.getLogger().setLevel("INFO")

def ran(*args, **kwargs):
    """Return what a run logged, and its error."""
    lines.clear()
    try:
        with JobsQueue() as queue:
            load.enqueue(*args, **kwargs)
            queue.drain()
    except BaseException as error:
        return lines[:], f"{type(error).__name__}: {error}"
    return lines[:], None

def refused(name):
    try:
        django_command(name)
    except JobDefinitionError as error:
        return str(error)

print(json.dumps({
    "plain": ran(), "given": ran("a.csv", 5, dry_run=True, limit=3, interactive=True, no_color=False),
    "failed": ran(end="fails"), "exit": ran(end="3"), "exit 0": ran(end="0"), "unknown": ran(nope=1),
    "names": [load.name, renamed.name, renamed.cron, sessions.name],
    "refused": [refused("load_row"), refused("nothing_at_all")],
}))
'''


@pytest.fixture
def site(make_site):
    site = make_site(settings=SETTINGS)
    commands = site.root / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    (commands / "load_rows.py").write_text(COMMAND)
    (site.root / "shop" / "commands.py").write_text(JOBS)
    return site


def printed(**given):
    told = {"dry_run": False, "files": [], "interactive": False, "limit": 10, "no_color": True, **given}
    return [
        ["INFO", "jobs_django.load_rows", json.dumps(told, sort_keys=True)],
        ["WARNING", "jobs_django.load_rows", "slow disk"],
        ["INFO", "jobs_django.load_rows", "by print"],
    ]


def test_a_command_runs_with_its_arguments_and_its_output_is_logged(site):
    said = site.script(SCRIPT)
    assert said["plain"] == [printed(), None]
    given = printed(files=["a.csv", "5"], dry_run=True, limit=3, interactive=True, no_color=False)
    assert said["given"] == [given, None]
    assert said["failed"] == [printed(), "CommandError: no such file"]
    assert said["exit"] == [printed(), "SystemExit: 3"]
    assert said["exit 0"] == [printed(), None]
    assert said["unknown"][1].startswith("TypeError: Unknown option(s) for load_rows command: nope.")
    assert said["names"] == ["django.load_rows", "shop.load", "0 4 * * *", "django.clearsessions"]
    assert said["refused"] == [
        "django_command: there is no management command 'load_row'; did you mean 'load_rows'?",
        "django_command: there is no management command 'nothing_at_all'; `manage.py help` lists the commands of "
        "INSTALLED_APPS",
    ]


def test_a_command_runs_by_hand_and_in_the_schedule(site):
    done = site.manage("jobs", "run", "django.load_rows", "a.csv", "--kw", "limit=3")
    assert (done.returncode, done.stdout) == (0, "null\n"), done.stderr
    assert '"limit": 3' in done.stderr
    assert "slow disk" in done.stderr
    schedule = 'JOBS["schedule"] = {"load": {"job": "django.load_rows", "every": "1h", "kwargs": {"dry_run": True}}}'
    site.configure_django(more=SETTINGS + schedule)
    done = site.manage("jobs", "schedule")
    assert done.returncode == 0, done.stderr
    assert "django.load_rows" in done.stdout
