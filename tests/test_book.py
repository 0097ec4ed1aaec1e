"""The book itself: executed and rendered in the quick profile, its pages and its report read."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from pages import Pages, letters
from pypdf import PdfReader

from book.pipeline.project import load_project

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "_build" / "quick"
PROJECT = load_project(ROOT)
NAMES = [chapter.name for chapter in PROJECT.chapters]
EXECUTABLE = [chapter.name for chapter in PROJECT.executable]
PASTED = re.compile(r"\{glue:\w*\}(?:`|[ \t]+)(?P<key>[^`:\s]+)")


@pytest.fixture(scope="module", autouse=True)
def book():
    """Build the book; every test here reads what that made."""
    subprocess.run([sys.executable, "-m", "book", "build", "--profile", "quick"], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def pages(book) -> Pages:
    return Pages(QUICK / "html")


@pytest.fixture(scope="module")
def report(book) -> str:
    return letters("".join(page.extract_text() for page in PdfReader(QUICK / "report.pdf").pages))


def outputs(name):
    notebook = nbformat.read(QUICK / "results" / f"{name}.ipynb", as_version=4)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def glued(name):
    return {output.metadata.scrapbook.name for output in outputs(name) if "scrapbook" in output.get("metadata", {})}


@pytest.mark.parametrize("name", EXECUTABLE)
def test_a_chapter_ran_without_errors_and_warnings(name):
    assert outputs(name)
    assert not [output for output in outputs(name) if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_a_page_pastes_was_glued(name):
    prose = "\n".join(cell.source for cell in PROJECT.chapter(name).notebook.cells if cell.cell_type == "markdown")
    for match in PASTED.finditer(prose):
        chapter, _, key = match["key"].rpartition("/")
        assert key in glued(chapter or name), match[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_that_its_results_are_those_of_the_quick_profile(name, pages):
    page = pages.page(f"book/chapters/{name}")
    assert "Quick profile: reduced settings, not the book’s results" in page.select_one(".admonition.danger").get_text()
    assert "Profile: quick" in page.select(".admonition.dropdown")[-1].get_text()


def test_no_page_shows_an_error_or_a_warning(pages):
    assert pages.error_outputs() == []


def test_every_image_has_an_alternative_text(pages):
    assert pages.images_without_alternative() == []


def test_every_link_inside_the_book_leads_somewhere(pages):
    assert pages.dead_links() == []


def test_the_pages_need_no_network(pages):
    assert pages.loaded_from_a_network() == []


@pytest.mark.parametrize("name", NAMES)
def test_the_report_holds_the_chapter(name, report):
    cells = [cell.source for cell in PROJECT.chapter(name).notebook.cells if cell.cell_type == "markdown"]
    title = re.search(r"^# (.+)$", "\n".join(cells), re.MULTILINE)[1]
    assert letters(title) in report


def test_theorems_have_the_same_numbers_on_the_pages_and_in_the_report(pages, report):
    titles = [
        title.get_text() for page in pages.by_path.values() for title in page.select(".proof > .admonition-title")
    ]
    assert titles
    assert [title for title in titles if letters(title) not in report] == []


def test_references_to_theorems_have_their_numbers_on_the_pages_and_in_the_report(pages, report):
    links = [
        link for page in pages.by_path.values() for link in page.select("a.reference[href*='#thm-'], a[href*='#cor-']")
    ]
    assert links
    for link in links:
        assert re.fullmatch(r"(Theorem|Corollary) \d+\.\d+", link.get_text()), link
        before = link.previous_sibling.get_text()[-12:] if link.previous_sibling else ""
        assert letters(before + link.get_text()) in report, link
