"""Rendering: what staging adds to a page, strictness, and that a failed build leaves the last one."""

import shutil
from pathlib import Path

import pytest
from conftest import edit, make_project
from pages import Pages, letters
from pypdf import PdfReader

from book.__main__ import main
from book.pipeline import render as rendering
from book.pipeline.profiles import load_profile
from book.pipeline.project import BookError, load_project


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The small project, executed and rendered in the quick profile."""
    root = make_project(tmp_path_factory.mktemp("rendered") / "project")
    assert main(["build", "--profile", "quick"], root) == 0
    return root


@pytest.fixture(scope="module")
def pages(built) -> Pages:
    return Pages(built / "_build/quick/html")


@pytest.fixture
def changed(built):
    """The rendered project, for a test that changes it; afterwards everything is as before."""
    aside = built.with_name("aside")
    shutil.copytree(built, aside, copy_function=shutil.copy2)
    yield built
    shutil.rmtree(built)
    aside.rename(built)


def render(root):
    project = load_project(root)
    return rendering.render(project, load_profile(project, "quick"))


def test_numbers_tables_and_figures_of_one_chapter_show_on_another_page(pages):
    page = pages.page("book/chapters/introduction")
    assert "The sum is 2.50, see Fig. 1.1 in the first chapter." in page.get_text()
    assert page.select_one("table td span.math") is not None, "a glued Markdown table with mathematics"
    figure = page.select_one("figure#fig-line-again")
    assert figure.img["alt"] == "A line that rises"
    assert figure.img["src"].endswith(".svg")
    assert "Fig. 1 The line once more." in figure.get_text()


def test_a_cells_figure_has_caption_number_and_alternative(pages):
    figure = pages.page("book/chapters/first").select_one("figure#fig-line")
    assert figure.img["alt"] == "A rising line"
    assert "Fig. 1.1 A line." in figure.get_text()


def test_a_page_shows_the_projects_own_source(pages):
    assert "return helper.plus(a, b)" in pages.page("book/chapters/first").get_text()


def test_every_page_of_a_profile_that_is_not_full_says_so_and_lists_what_differs(pages):
    for name in ("introduction", "first", "second"):
        page = pages.page(f"book/chapters/{name}")
        assert "Quick profile: reduced settings" in page.select_one(".admonition.danger").get_text()
        assert "(quick profile)" in page.title.get_text()
    banner = pages.page("book/chapters/first").select_one(".admonition.danger").get_text()
    assert "num_epochs = 2 instead of 3" in banner


def test_every_page_says_how_it_was_made(pages):
    made = pages.page("book/chapters/first").select(".admonition.dropdown")[-1].get_text()
    assert "num_epochs = 2" in made
    assert "Seed: 7" in made
    assert "matplotlib 3." in made
    assert "logical cores" in made
    made = pages.page("book/chapters/introduction").select(".admonition.dropdown")[-1].get_text()
    assert "Results of The first chapter: executed" in made


def test_the_injected_parameters_and_the_glue_cell_do_not_show(pages):
    text = pages.page("book/chapters/first").get_text()
    assert "# Parameters" not in text
    assert "glue(" not in text


def test_links_are_alive_images_have_alternatives_and_nothing_comes_from_a_network(pages):
    assert pages.dead_links() == []
    assert pages.images_without_alternative() == []
    assert pages.loaded_from_a_network() == []
    assert pages.error_outputs() == []


def test_the_report_has_all_chapters_and_the_same_numbers(built):
    text = letters("".join(page.extract_text() for page in PdfReader(built / "_build/quick/report.pdf").pages))
    for expected in (
        "Introduction",
        "Chapter 1",
        "The first chapter",
        "The second chapter",
        "The sum is 2.50, see Fig. 1.1",
    ):
        assert letters(expected) in text
    assert letters("Quick profile: reduced settings") in text


def test_nothing_is_rendered_when_nothing_changed(built, monkeypatch):
    monkeypatch.setattr(rendering, "_jupyter_book", None)
    html, pdf = render(built)
    assert (html, pdf) == (built / "_build/quick/html/index.html", built / "_build/quick/report.pdf")


def test_changed_prose_renders_without_executing_and_a_warning_leaves_the_last_pages(changed, capsys):
    page = changed / "_build/quick/html/book/chapters/second.html"
    before = page.read_bytes()
    edit(
        changed / "book/chapters/second.md",
        "# The second chapter\n",
        "# The second chapter\n\nSee {numref}`nowhere`.\n",
    )
    assert main(["build", "--profile", "quick"], changed) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert "running" not in error
    assert page.read_bytes() == before


def test_a_glued_name_that_another_chapter_does_not_have_is_named(changed):
    edit(changed / "book/chapters/introduction.md", "first/total:.2f", "first/sum:.2f")
    with pytest.raises(BookError, match="shows first/sum, but first glues line, table, total"):
        render(changed)


def test_without_latex_there_are_pages_and_advice_but_no_old_report(changed, monkeypatch, capsys):
    monkeypatch.setattr(rendering.latex, "missing", lambda: ["xelatex"])
    assert main(["build", "--profile", "quick"], changed) == 0
    out = capsys.readouterr().out
    assert "no PDF: xelatex missing; on Debian or Ubuntu: sudo apt-get install" in out
    assert out.rstrip().endswith("index.html")
    assert not (changed / "_build/quick/report.pdf").exists()
