"""Django's tasks, in its database."""

import common
import django
from django.apps import apps
from django.db import transaction
from django.tasks import task

if not apps.ready:
    django.setup()


@task
def noop(n):
    common.noop(n)


@task
def stamp(n):
    common.stamp(n)


@task
def work(n):
    common.work(n)


JOBS = {"noop": noop, "stamp": stamp, "work": work}


def send(name, argument):
    JOBS[name].enqueue(argument)


def send_many(name, arguments):
    """Enqueue in one transaction: there is no call for many."""
    with transaction.atomic():
        for argument in arguments:
            JOBS[name].enqueue(argument)
