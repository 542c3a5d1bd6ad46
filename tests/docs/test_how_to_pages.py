"""A reader who follows a how-to page gets what it shows."""

import pytest

from ..support.reader import follow
from ..support.terminal import FOLLOWED, ROOT

PAGES = [page for page in FOLLOWED if page.parent.name == "how-to"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_reader_who_follows_the_page_gets_what_it_shows(page, tmp_path):
    follow(page, tmp_path)
