"""A reader who comes from another system gets what the pages show."""

import pytest

from ..support.reader import follow
from ..support.terminal import FOLLOWED, ROOT

PAGES = [page for page in FOLLOWED if page.parent.name == "coming-from"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_reader_who_follows_the_page_gets_what_it_shows(page, tmp_path):
    follow(page, tmp_path)
