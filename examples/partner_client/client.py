"""The jobs that call the partner's API. They run as often, and as many at once, as the partner's contract allows."""

from __future__ import annotations

import os
from urllib.error import HTTPError
from urllib.request import urlopen

from jobs_core import Snooze, job

URL = os.environ.get("PARTNER_URL", "http://127.0.0.1:8077")


@job(limits="partner:{account}", store_result=True)
def fetch(account: str, page: int) -> str:
    """Return one page of an account. If the partner has had enough, no job of this account starts until it allows more."""
    try:
        with urlopen(f"{URL}/{account}/{page}", timeout=10) as answer:
            text: str = answer.read().decode()
    except HTTPError as refused:
        if refused.code != 429:
            raise
        wait = float(refused.headers["Retry-After"])
        raise Snooze(wait, close=f"partner:{account}") from None  # no attempt: the job has not failed
    print(f"{text}\n", end="")  # in one piece: print() writes the line's end apart, and other threads in between
    return text
