"""The settings of the shop: the few that Django requires, and JOBS."""

from pathlib import Path

import django

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "an example has no secrets"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["jobs_django", "orders"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "shop.db"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

# The keys of jobs.toml; the environment (JOBS_BACKEND=redis://…) takes precedence over them.
JOBS = {
    "pools": {"default": {"topics": ["mail", "default"], "workers": 2}},
    "django": {"on_commit": True},  # jobs enqueued in a transaction are sent when it commits
}

# Django's own task framework, from Django 6.0 on, with the same workers.
if django.VERSION >= (6, 0):
    INSTALLED_APPS.append("newsletter")
TASKS = {"default": {"BACKEND": "jobs_django.TasksBackend", "QUEUES": ["mail", "default"]}}
