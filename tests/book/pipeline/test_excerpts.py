"""Figures and outputs of a chapter on another page, as Markdown that MyST-NB knows."""

import pytest

from book.pipeline.errors import BookError
from book.pipeline.excerpts import with_excerpts
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.results import read_result


@pytest.fixture(scope="module")
def excerpts(executed_once):
    project = load_project(executed_once)
    build = load_build(project, "full")
    executed = {chapter.name: read_result(build, chapter) for chapter in build.chapters}
    return lambda source: with_excerpts(source, "page.md", project, executed)


def test_a_figure_brings_its_caption_and_its_alternative_text(excerpts):
    lines = excerpts("Before\n\n```{chapter-figure} first/fig-line\n```\n\nafter").splitlines()
    assert lines[0] == "Before"
    assert lines[2:7] == [
        *("```{glue:figure} first/fig-line", ":name: shown-fig-line", ":alt: A rising line"),
        *("", "A line."),
    ]
    assert lines[-1] == "after"


def test_a_figure_may_have_a_caption_of_the_pages_own(excerpts):
    text = excerpts("```{chapter-figure} first/fig-line\nOnce more.\n```")
    assert "Once more." in text
    assert "A line." not in text


def test_what_a_cell_printed_is_shown_as_text(excerpts):
    assert excerpts("```{chapter-output} first/sec-sum\n:holds: total\n```") == "````text\ntotal 3.5\n````"


def test_all_that_is_missing_on_a_page_is_named_at_once(excerpts):
    page = "```{chapter-figure} first/fig-circle\n```\n\n```{chapter-output} first/sec-sum\n:holds: product\n```"
    with pytest.raises(BookError) as raised:
        excerpts(page)
    assert str(raised.value).splitlines() == [
        "page.md: shows first/fig-circle, but the figures of first are fig-line",
        "page.md: shows first/sec-sum with 'product', but 0 outputs are so; the section has: total 3.5",
    ]


def test_other_directives_stay_as_they_are(excerpts):
    page = "```{glue:figure} first/line\n:alt: x\n```\n\n```{note}\nchapter-figure\n```"
    assert excerpts(page) == page
