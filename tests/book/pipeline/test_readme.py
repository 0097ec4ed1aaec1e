import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from book.pipeline.errors import BookError
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.publish import publish_figures

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def test_images_of_the_readme_are_the_published_figures(tmp_path):
    project = load_project(ROOT)
    shown = publish_figures(load_build(project, "full"), tmp_path)
    assert shown
    for image in shown:
        assert image.read_bytes() == (ROOT / image.relative_to(tmp_path)).read_bytes(), image.name


def test_every_file_that_the_readme_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_command_of_the_readme_is_a_target():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"book", "test"} <= named <= targets


def test_no_published_chapter_took_more_memory_than_the_readme_says():
    chapter, worker = map(
        int, re.search(r"at most (\d+) GiB of memory, and (\d+) GiB more for each worker", README).groups()
    )
    for path in (ROOT / "results").glob("*.ipynb"):
        record = json.loads(path.read_text())["metadata"]["book"]
        allowed = chapter + worker * record["environment"]["workers"]
        assert record["cost"]["peak_mib"] <= 1024 * allowed, path.name


def test_readme_that_shows_an_unknown_figure_is_refused(tmp_path):
    project = load_project(ROOT)
    (tmp_path / "README.md").write_text("![x](results/figures/fig-no-such-thing.svg)")
    elsewhere = replace(project, root=tmp_path, chapters=())
    with pytest.raises(BookError, match="no chapter has a figure named fig-no-such-thing"):
        publish_figures(load_build(elsewhere, "full"), tmp_path)
