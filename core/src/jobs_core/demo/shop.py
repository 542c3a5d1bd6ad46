"""The shop's jobs: thumbnails of photos, word counts of texts, mails to customers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from string import Template

from jobs_core import current_job, job

_WORD = re.compile(r"[a-z]+")


@dataclass
class Customer:
    """The recipient of a mail."""

    name: str
    address: str
    order: str


@job(topic="photos", timeout=30)
def thumbnail(photo: Path, width: int, target: Path) -> None:
    """Write `photo`, scaled down to `width` pixels, to `target`."""
    from PIL import Image

    with Image.open(photo) as image:
        image.thumbnail((width, width))
        image.save(target)


@job(topic="texts", store_result=True)
def count_words(text: Path) -> dict[str, int]:
    """Return the five most frequent words of a text."""
    words = Counter(_WORD.findall(text.read_text(encoding="utf-8").lower()))
    return dict(words.most_common(5))


@job(topic="mails", priority=5, retries=2, backoff=0.2)
def send_mail(customer: Customer, template: Path, outbox: Path) -> None:
    """Render a mail and write it to the directory `outbox`, which takes the place of a mail server."""
    run = current_job()
    if "@" not in customer.address:
        raise ValueError(f"{customer.address!r} is not a mail address")
    if customer.address.endswith("@busy.example") and run.attempt == 1:
        raise ConnectionError("the mail server of busy.example asks to come back later")
    text = Template(template.read_text(encoding="utf-8")).substitute(
        name=customer.name, order=customer.order, address=customer.address
    )
    (outbox / f"{run.id}.eml").write_text(text, encoding="utf-8")
