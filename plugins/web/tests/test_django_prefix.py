"""The path and host that a browser knows, in a Django project behind a proxy: the same under WSGI and ASGI."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SETTINGS = """
import json, sys
import django
from django.conf import settings
from django.test import AsyncRequestFactory, RequestFactory
settings.configure(
    ALLOWED_HOSTS=["*"], USE_X_FORWARDED_HOST=True, FORCE_SCRIPT_NAME="/shop",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
)
django.setup()
from jobs_web.django import _address, _asked
"""

PROXIED = """
found = []
for make in (RequestFactory().get, AsyncRequestFactory().get):
    headers = {"HTTP_HOST": "127.0.0.1:8000", "HTTP_X_FORWARDED_HOST": "public.example"}
    if make.__self__.__class__ is AsyncRequestFactory:
        headers = {"headers": {"host": "127.0.0.1:8000", "x-forwarded-host": "public.example"}}
    request = make("/jobs/job", {"id": "a b"}, **headers)
    asked = _asked(request, "job")
    hosts = [value for name, value in asked.headers if name.lower() == "host"]
    found.append([asked.path, asked.prefix, hosts, _address(request)])
print(json.dumps(found))
"""

REPLACED = """
from types import SimpleNamespace
sys.modules["gevent.monkey"] = SimpleNamespace(is_module_patched=lambda name: True)
from inspect import iscoroutinefunction
from jobs_web.django import urls
[pattern] = urls()
answer = pattern.callback(RequestFactory().get("/jobs/"), path="")
print(json.dumps([iscoroutinefunction(pattern.callback), answer.status_code, answer.content.decode()[:6]]))
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (PROXIED, [["/shop/jobs/job", "/shop/jobs", ["public.example"], "/shop/jobs/job?id=a+b"]] * 2),
        (REPLACED, [False, 501, "gevent"]),
    ],
    ids=["behind a proxy", "with gevent"],
)
def test_a_project_gets_the_address_of_the_browser_and_no_event_loop_among_greenlets(script: str, expected: object):
    done = subprocess.run([sys.executable, "-c", SETTINGS + script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
