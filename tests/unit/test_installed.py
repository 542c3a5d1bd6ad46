"""Entry points are found as `importlib.metadata` finds them, without its import."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata

import pytest

from jobs_core import installed


def told(found):
    return sorted((point.name, point.value, point.dist.name, point.dist.version) for point in found)


def add(place, directory, text, about="METADATA", name="jobs-x"):
    (place / directory).mkdir(parents=True)
    (place / directory / about).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n\nName: of the text\n")
    (place / directory / "entry_points.txt").write_text(text)


def test_every_group_of_this_environment_is_found_alike():
    for group in {*metadata.entry_points().groups, "none"}:
        assert told(installed.entry_points(group)) == told(metadata.entry_points(group=group))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[jobs]\nx = plugin_x\n",
        "[other]\na = b\n\n[jobs]\n# a comment\nx = plugin_x:made\n  y=plugin_y\n[more]\nz = plugin_z\n",
        "[jobs]\r\nx = plugin_x\r\n",
        "[jobs-2]\nx = plugin_x\n[other]\n[jobs] = x\n",
        "[jobs]\nx = plugin_x:a.b [extra]\n",
    ],
)
@pytest.mark.parametrize(
    ("directory", "about"),
    [("jobs_x-1.2.dist-info", "METADATA"), ("jobs_x.egg-info", "PKG-INFO"), ("Jobs.X-1.2.DIST-INFO", "METADATA")],
)
def test_every_form_of_a_distribution_is_read_alike(tmp_path, monkeypatch, text, directory, about):
    add(tmp_path, directory, text, about)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing"), ""])
    monkeypatch.chdir(tmp_path)
    assert told(installed.entry_points("jobs")) == told(metadata.entry_points(group="jobs"))


def test_the_first_of_several_versions_on_the_path_wins(tmp_path, monkeypatch):
    add(tmp_path / "first", "jobs_x-2.dist-info", "[jobs]\nx = new\n")
    add(tmp_path / "second", "jobs.x-1.dist-info", "[jobs]\nx = old\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert told(installed.entry_points("jobs")) == [("x", "new", "jobs-x", "1.2")]
    assert told(metadata.entry_points(group="jobs")) == [("x", "new", "jobs-x", "1.2")]


def test_archives_and_importers_of_their_own_are_asked_too(tmp_path, monkeypatch):
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("jobs_x-1.2.dist-info/METADATA", "Name: jobs-x\nVersion: 1.2\n")
        packed.writestr("jobs_x-1.2.dist-info/entry_points.txt", "[jobs]\nx = plugin_x\n")
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert told(installed.entry_points("jobs")) == [("x", "plugin_x", "jobs-x", "1.2")]

    class Importer(metadata.DistributionFinder):
        def find_distributions(self, context=None):
            return iter([metadata.PathDistribution(tmp_path / "elsewhere" / "jobs_y-1.dist-info")])

    add(tmp_path / "elsewhere", "jobs_y-1.dist-info", "[jobs]\ny = plugin_y\n", name="jobs-y")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Importer()])
    assert told(installed.entry_points("jobs")) == [("y", "plugin_y", "jobs-y", "1.2")]


@pytest.mark.parametrize("value", ["os", "os:path", "os:path.join", "os : path.join [extra]"])
def test_what_it_names_is_loaded_alike(value):
    ours = installed.Found("x", value, installed.Distribution("x", "1"))
    assert ours.load() is metadata.EntryPoint("x", value, "jobs").load()
