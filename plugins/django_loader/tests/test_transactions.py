"""Enqueues wait for the commit where they are told to, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

HEAD = """
from django.db import transaction
from jobs_core import current_app
from shop.jobs import note
from shop.models import Row

def waiting():
    return current_app().operate(lambda backend: backend.counts(["default"]))["default"].ready

seen = []
"""


@pytest.fixture
def tell(on_database):
    def tell(code, settings=""):
        site = on_database(settings=settings)
        return site.script(f"{HEAD}{code}\nprint(json.dumps(seen))")

    return tell


def test_on_commit_waits_for_the_commit_and_drops_jobs_of_a_rolled_back_transaction(tell):
    assert tell(
        """
with transaction.atomic():
    Row.objects.create(text="a")
    handle = note.using(on_commit=True).enqueue("kept")
    note.enqueue("at once")
    seen += [waiting(), handle.status().value]
seen += [waiting(), handle.status().value]
try:
    with transaction.atomic():
        note.enqueue("forgotten", on_commit=True)
        1 / 0
except ZeroDivisionError:
    seen.append(waiting())
with transaction.atomic():
    try:
        with transaction.atomic():
            note.enqueue("forgotten with its savepoint", on_commit=True)
            1 / 0
    except ZeroDivisionError:
        note.enqueue("kept too", on_commit=True)
    seen.append(waiting())
seen.append(waiting())
"""
    ) == [1, "unknown", 2, "ready", 2, 2, 3]


def test_a_setting_makes_it_the_default_inside_atomic_blocks(tell):
    assert tell(
        """
note.enqueue("outside of any")
seen.append(waiting())
with transaction.atomic():
    note.enqueue("waits")
    note.using(on_commit=False).enqueue("does not")
    note.enqueue_many([("two",), ("more",)])
    seen.append(waiting())
seen.append(waiting())
""",
        settings='JOBS["django"] = {"on_commit": True}',
    ) == [1, 2, 5]


def test_the_transaction_of_another_database_counts_too(tell):
    assert tell(
        """
with transaction.atomic(using="other"):
    note.enqueue("x", on_commit=True)
    seen.append(waiting())
seen.append(waiting())
"""
    ) == [0, 1]


def test_outside_of_a_transaction_it_is_sent_at_once_and_no_connection_is_opened(tell):
    assert tell(
        """
from django.db import connection
import asyncio
note.enqueue("x", on_commit=True)
asyncio.run(note.aenqueue("y", on_commit=True))
seen += [waiting(), connection.connection is None]
"""
    ) == [2, True]


def test_a_transaction_inside_a_job_holds_back_too(on_database):
    site = on_database()
    for fail in (False, True):
        site.enqueue({"job": "shop.jobs.enqueue_in_transaction", "args": [fail]})
    site.drain()
    assert [line for line in site.ledger() if "waiting" in line or "note" in line].count("note in a job") == 1


@pytest.fixture
def tell_there(on_postgres, postgres, postgres_name):
    """Run code in a site whose jobs are in its own database."""

    def tell(code, more=""):
        url = f"postgresql://shop@127.0.0.1:{postgres.port}/{postgres_name}"
        site = on_postgres(settings=f'JOBS["backend"] = "{url}"\n{more}')
        return site.script(f"{HEAD}{code}\nprint(json.dumps(seen))")

    return tell


def test_inside_atomic_a_job_belongs_to_the_transaction_on_the_database_of_the_jobs(tell_there):
    assert tell_there(
        """
from django.db import connection
with transaction.atomic():
    Row.objects.create(text="a")
    kept = note.enqueue("kept")
    note.enqueue_many([("two",), ("more",)])
    seen += [waiting(), kept.status().value]
    note.using(on_commit=False).enqueue("at once")
    seen.append(waiting())
seen += [waiting(), kept.status().value]
try:
    with transaction.atomic():
        note.enqueue("forgotten")
        note.using(on_commit=True).enqueue("forgotten, too")
        note.using(transaction=connection).enqueue("forgotten, by name")
        1 / 0
except ZeroDivisionError:
    seen.append(waiting())
with transaction.atomic():
    try:
        with transaction.atomic():
            note.enqueue("forgotten with its savepoint")
            1 / 0
    except ZeroDivisionError:
        note.enqueue("kept too")
seen.append(waiting())
note.enqueue("outside of any")
seen.append(waiting())
from jobs_core import chain
try:
    with transaction.atomic():
        chain(note.call("forgotten"), note.call("forgotten")).enqueue()
        1 / 0
except ZeroDivisionError:
    seen.append(len(current_app().operate(lambda backend: backend.flows(10))))
with transaction.atomic():
    chain(note.call("kept"), note.call("kept")).enqueue()
    seen.append(len(current_app().operate(lambda backend: backend.flows(10))))
seen.append(len(current_app().operate(lambda backend: backend.flows(10))))
"""
    ) == [0, "unknown", 1, 4, "ready", 4, 5, 6, 0, 0, 1]


def test_the_database_of_the_jobs_counts_whatever_its_alias_is(tell_there):
    other = """
DATABASES["jobs"] = DATABASES["default"]
DATABASES["default"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "shop.db"}
"""
    assert tell_there(
        """
from django.db import connection, connections
from jobs_core import TransactionError
with transaction.atomic(using="default"):
    note.enqueue("at once: its transaction is elsewhere")
    seen.append(waiting())
    with transaction.atomic(using="jobs"):
        note.enqueue("with the inner transaction")
        seen.append(waiting())
    seen.append(waiting())
    for name in ("default", "jobs"):
        try:
            note.using(transaction=connections[name]).enqueue()
        except TransactionError as error:
            seen.append(str(error))
""",
        other,
    ) == [
        1,
        1,
        2,
        "transaction: the database 'default' of Django is sqlite, not PostgreSQL",
        "transaction: no transaction is open on the database 'jobs' of Django: enqueue inside transaction.atomic(), or without "
        "transaction=",
    ]


def test_aliases_that_only_a_service_file_tells_apart_are_told_apart(tell_there):
    aliases = """
import os
here = DATABASES["default"]
os.environ["PGSERVICEFILE"] = str(BASE_DIR / "services")
place = f"host={here['HOST']}\\nport={here['PORT']}\\nuser={here['USER']}\\n"
(BASE_DIR / "services").write_text(f"[jobs]\\n{place}dbname={here['NAME']}\\n[elsewhere]\\n{place}dbname=postgres\\n")
for name in ("jobs", "elsewhere"):
    DATABASES[name] = {"ENGINE": here["ENGINE"], "OPTIONS": {"service": name}}
"""
    assert tell_there(
        """
for name in ("elsewhere", "jobs"):
    with transaction.atomic(using=name):
        note.enqueue(name)
        transaction.set_rollback(True, using=name)
    seen.append(waiting())
""",
        aliases,
    ) == [1, 1]


def test_a_failed_and_a_closed_transaction_are_refused(tell_there):
    assert tell_there(
        """
from django.db import connection
from jobs_core import TransactionError

def refused(spoil):
    try:
        with transaction.atomic():
            spoil()
            note.enqueue("never")
    except TransactionError as error:
        seen.append(str(error).split(":")[1].split(",")[0].strip())

def fail(savepoint):
    try:
        with transaction.atomic(savepoint=savepoint):
            connection.cursor().execute("SELECT 1 / 0")
    except Exception as error:
        seen.append(type(error).__name__)

note.enqueue("at once")
refused(lambda: fail(False))
refused(connection.close)
with transaction.atomic():
    fail(True)
    note.enqueue("the savepoint alone has failed")
seen.append(waiting())
"""
    ) == ["DataError", "an earlier statement in it has failed", "its connection is closed", "DataError", 2]


def test_a_setting_turns_the_transactional_enqueue_off(tell_there):
    assert tell_there(
        """
with transaction.atomic():
    note.enqueue("at once")
    seen.append(waiting())
    note.enqueue("at the commit", on_commit=True)
    seen.append(waiting())
seen.append(waiting())
""",
        'JOBS["django"] = {"transactional": False}',
    ) == [1, 1, 2]


def test_a_request_with_atomic_requests_takes_its_jobs_along(tell_there):
    assert tell_there(
        """
from django.core.handlers.base import BaseHandler

def view(request):
    note.enqueue(request)
    seen.append(waiting())
    if request == "fails":
        raise ZeroDivisionError

atomic = BaseHandler().make_view_atomic(view)
atomic("passes")
seen.append(waiting())
try:
    atomic("fails")
except ZeroDivisionError:
    seen.append(waiting())
""",
        'DATABASES["default"]["ATOMIC_REQUESTS"] = True',
    ) == [0, 1, 1, 1]


def test_a_test_case_of_django_takes_its_jobs_along_and_has_no_callbacks_to_capture(tell_there):
    assert tell_there(
        """
import unittest
from django.test import TestCase

class Case(TestCase):
    def test_it(self):
        handle = note.enqueue("with the test")
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            note.using(on_commit=True).enqueue("with the test, too")
        seen.extend([waiting(), handle.status().value, len(callbacks)])
        with transaction.atomic(), self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.on_commit(lambda: note.using(on_commit=False).enqueue("at once"))
        seen.extend([waiting(), len(callbacks)])

result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Case))
seen += [result.wasSuccessful(), waiting()]
"""
    ) == [0, "unknown", 0, 1, 1, True, 1]


def test_jobs_in_another_database_of_the_same_server_are_sent_at_once_or_at_the_commit(on_postgres, postgres, postgres_name):
    site = on_postgres(
        settings=f'JOBS["backend"] = "postgresql://shop@127.0.0.1:{postgres.port}/postgres?schema={postgres_name}"'
    )
    assert site.script(
        f"""{HEAD}
with transaction.atomic():
    note.enqueue("at once: the jobs are elsewhere")
    note.using(on_commit=True).enqueue("at the commit")
    seen.append(waiting())
seen.append(waiting())
print(json.dumps(seen))"""
    ) == [1, 2]
