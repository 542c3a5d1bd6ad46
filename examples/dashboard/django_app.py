"""The dashboard inside a Django project, here in one file: `python django_app.py migrate`, `python django_app.py runserver`.

`uvicorn django_app:asgi` serves the same under ASGI, where pages also follow what happens by a stream of events.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.conf import settings

HERE = Path(__file__).resolve().parent
settings.configure(
    SECRET_KEY="an example has no secrets",
    DEBUG=True,
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
        "django.contrib.sessions", "jobs_django",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware", "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware", "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HERE / "shop.db"}},
    USE_TZ=True,
    JOBS={"backend": f"sqlite:///{HERE}/jobs.db"},
)  # fmt: skip

import django  # noqa: E402 - the settings come first, since they are in this file

django.setup()

from django.contrib import admin  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import execute_from_command_line  # noqa: E402
from django.urls import include, path  # noqa: E402

from jobs_web.django import staff, urls  # noqa: E402
from jobs_web.roles import Role  # noqa: E402


def role(user: Any) -> Role | None:
    """Let superusers do everything, staff users of the group "operators" operate, and other staff users look."""
    if user.is_staff and not user.is_superuser and user.groups.filter(name="operators").exists():
        return Role.OPERATE
    return staff(user)


urlpatterns = [
    path("admin/", admin.site.urls),
    path("jobs/", include(urls(role))),  # or include("jobs_web.django") without a function of your own
]
asgi = get_asgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
