"""The tutorial, from an empty folder to the deployed shop, with its crashes."""

from ..support.reader import follow
from ..support.terminal import ROOT


def test_the_tutorial_does_what_it_shows(tmp_path):
    follow(ROOT / "docs" / "tutorial.md", tmp_path)
