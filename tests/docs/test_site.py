"""The documentation site builds without the network, and nothing in it leads nowhere."""

from __future__ import annotations

import importlib.util
import re
import sys
import urllib.parse
from pathlib import Path

import pytest

import jobs_core

ROOT = Path(__file__).parents[2]
KINDS = {"Home", "Tutorial", "How-to guides", "Reference", "Explanation"}

spec = importlib.util.spec_from_file_location("make_site", ROOT / "tools" / "make_site.py")
assert spec is not None
assert spec.loader is not None
make_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_site)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if sys.version_info < (3, 11):
        pytest.skip("Zensical needs Python 3.11")
    work = tmp_path_factory.mktemp("site")
    done = make_site.build(work)
    assert done.returncode == 0, done.stdout
    return work / "site"


def test_the_site_loads_nothing_from_other_hosts_and_its_links_lead_somewhere(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {path: set(re.findall(r'\bid="?([^"\s>]+)', text)) for path, text in pages.items()}
    assert len(pages) > 50
    for path, text in pages.items():
        assert re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="?(?:https?:)?//', text) == [], path
        assert re.findall(r'<link[^>]*rel="?stylesheet"?[^>]*href="?(?:https?:)?//', text) == [], path
        if path.name == "404.html":
            continue  # its links begin at the root of the host
        for target in re.findall(r'<(?:a|img|link|script)\b[^>]*?\s(?:href|src)="([^"]+)"', text):
            address = urllib.parse.urlsplit(target)
            if address.scheme or address.netloc:
                continue
            found = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            assert found.exists(), f"{path.relative_to(site)}: {target}"
            anchor = urllib.parse.unquote(address.fragment)
            if anchor and found in anchors and not anchor.startswith("__"):
                assert anchor in anchors[found], f"{path.relative_to(site)}: {target}"


def test_the_search_finds_every_kind_of_page(site):
    index = (site / "search.json").read_text(encoding="utf-8")
    for page in ("jobs.html", "guarantees.html", "reference/jobs.html", "outside/plugins/redis_backend/"):
        assert page in index


def test_every_page_has_a_place_in_one_of_the_kinds():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"^  - ([^:\n]+):", navigation, re.MULTILINE)) == KINDS
    placed = re.findall(r"([\w/-]+\.md)$", navigation, re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(page for page in placed if not page.startswith("outside/")) == sorted(
        str(path.relative_to(docs)) for path in docs.rglob("*.md")
    )
    outside = {make_site.on_site(path) for path in make_site.OTHER_PAGES}
    assert {page for page in placed if page.startswith("outside/")} <= outside


def test_the_reference_has_every_public_name():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    named = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    assert set(jobs_core.__all__) <= named
