"""How-to pages and pages for those who come from elsewhere: a reader who follows one gets what it shows."""

import pytest

from ..support.reader import follow
from ..support.terminal import FOLLOWED, ROOT


@pytest.mark.parametrize(
    "page", [page for page in FOLLOWED if page.name != "tutorial.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_reader_who_follows_the_page_gets_what_it_shows(page, tmp_path):
    follow(page, tmp_path)
