"""The book itself: executed and rendered in the quick profile, its pages and the book's PDF read."""

import re

import nbformat
import papermill
import pytest
from pypdf import PdfReader

from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from tests.pages import Pages, letters
from tests.rubric import POINTS
from tests.small_project import ROOT

QUICK = ROOT / "_build" / "quick"
PROJECT = load_project(ROOT)
NAMES = [chapter.name for chapter in PROJECT.chapters]
EXECUTABLE = [chapter.name for chapter in PROJECT.executable]
PASTED = re.compile(r"\{glue:\w*\}(?:`|[ \t]+)(?P<key>[^`:\s]+)")


pytestmark = [pytest.mark.usefixtures("quick_book"), pytest.mark.xdist_group("quick book")]


@pytest.fixture(scope="module")
def pages(quick_book) -> Pages:
    return Pages(quick_book / "html")


@pytest.fixture(scope="module")
def book(quick_book) -> PdfReader:
    return PdfReader(quick_book / "book.pdf")


@pytest.fixture(scope="module")
def book_text(book) -> str:
    return "\n".join(page.extract_text() for page in book.pages)


def outputs(name):
    notebook = nbformat.read(QUICK / "results" / f"{name}.ipynb", as_version=4)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def glued_name(output):
    return output.get("metadata", {}).get("scrapbook", {}).get("name")


def glued(name):
    return {glued_name(output) for output in outputs(name)} - {None}


def figures(name):
    cells = PROJECT.chapter(name).code_cells
    return {cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in cells} - {None}


def glued_values(cells):
    """Return the numbers and texts that a notebook glued."""
    found = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs if glued_name(output)]
    return {glued_name(output): value for output in found for value in output.data.values() if len(output.data) == 1}


def equal_to_rounding(one, other):
    """Tell whether two texts are the same, numbers to nine digits."""
    try:
        return float(one) == pytest.approx(float(other), rel=1e-9)
    except ValueError:
        return one == other


@pytest.mark.parametrize("name", EXECUTABLE)
def test_a_chapter_ran_without_errors_and_warnings(name):
    assert outputs(name)
    assert not [output for output in outputs(name) if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_a_page_pastes_was_glued(name):
    prose = "\n".join(cell.source for cell in PROJECT.chapter(name).notebook.cells if cell.cell_type == "markdown")
    for match in PASTED.finditer(prose):
        chapter, _, key = match["key"].rpartition("/")
        offered = glued(chapter or name) | (figures(chapter) if chapter else set())
        assert key in offered, match[0]


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


def test_the_book_begins_with_title_and_contents_and_has_all_chapters(book):
    assert letters("From Backprop to VGG16") in letters(book.pages[0].extract_text())
    assert book.pages[1].extract_text().startswith("Contents")
    bookmarks = [letters(entry.title) for entry in book.outline if not isinstance(entry, list)]
    titles = []
    for name in NAMES:
        if name == "report":  # a PDF of its own
            continue
        cells = [cell.source for cell in PROJECT.chapter(name).notebook.cells if cell.cell_type == "markdown"]
        titles.append(letters(re.search(r"^# (.+)$", "\n".join(cells), re.MULTILINE)[1]))
    assert bookmarks == [*titles, letters("Index")]


def test_the_book_has_every_numbered_figure_of_the_pages(pages, book_text):
    numbered = {
        caption.get_text().strip().rstrip(".")
        for path, page in pages.by_path.items()
        for caption in page.select("figcaption .caption-number")
        if path.stem != "report"
    }
    assert len(numbered) > 20
    assert set(re.findall(r"^(Fig\. \d+(?:\.\d+)?):", book_text, re.MULTILINE)) == numbered


def test_the_book_names_the_sixteen_files(book_text):
    chapter = PROJECT.chapter("four_activations")
    epochs = load_build(PROJECT, "quick").parameters(chapter)["checkpoint_epochs"]
    names = [
        f"{epoch}_{activation}_{kind}.pkl"
        for epoch in epochs
        for activation in ("relu", "sigmoid", "linear", "tanh")
        for kind in ("weights", "biases")
    ]
    assert len(names) == 16
    assert [name for name in names if letters(name) not in letters(book_text)] == []


def test_the_book_has_the_headline_numbers_of_the_run(book_text):
    table = next(output for output in outputs("scikit_learn") if glued_name(output) == "headline_table")
    text = next(text for kind, text in table.data.items() if kind.endswith("text/markdown"))
    rows = text.splitlines()[2:]
    cells = [cell.strip(" *`") for row in rows for cell in row.strip("|").split("|")]
    assert len(cells) >= 12
    assert [cell for cell in cells if letters(cell) not in letters(book_text)] == []


def test_the_book_has_no_folded_code(book_text):
    cells = [cell for name in EXECUTABLE for cell in PROJECT.chapter(name).code_cells]
    is_folded = ["hide-input" in cell.metadata.get("tags", []) for cell in cells]
    shown = {
        line for cell, folded in zip(cells, is_folded, strict=True) if not folded for line in cell.source.splitlines()
    }
    longest = [max(cell.source.splitlines(), key=len) for cell, folded in zip(cells, is_folded, strict=True) if folded]
    # A line that is only text may stand in the report as the table that it was written for.
    code = [line for line in longest if line not in shown and not line.lstrip().startswith('"')]
    assert len(code) > 10
    assert [line for line in code if letters(line) in letters(book_text)] == []


@pytest.mark.parametrize("name", ["book", "report"])
def test_nothing_in_a_pdf_is_wider_than_its_column_and_no_character_is_missing(name, quick_book):
    log = (quick_book / f"{name}.log").read_text(errors="replace")
    assert f"Output written on {name}" in log
    overfull = re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)[^\n]*\n[^\n]*", log)
    assert [width for width in overfull if float(width) > 3] == []
    assert "Missing character" not in log


def test_links_of_the_book_are_live_and_it_is_small_enough_to_send(quick_book, book):
    links = [note.get_object() for page in book.pages for note in page.get("/Annots", [])]
    actions = [link["/A"] for link in links if "/A" in link]
    assert sum("/URI" in action for action in actions) >= 3
    inside = [link.get("/Dest") or link["/A"].get("/D") for link in links if "/URI" not in link.get("/A", {})]
    assert len(inside) > 100
    assert [name for name in inside if isinstance(name, str) and name not in book.named_destinations] == []
    assert (quick_book / "book.pdf").stat().st_size < 25e6


def test_papermill_runs_a_downloaded_notebook_as_it_is(quick_book, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    download = quick_book / "html" / "_sources" / "book" / "chapters" / "fashion_mnist.ipynb"
    again = papermill.execute_notebook(download, tmp_path / "again.ipynb", cwd=ROOT, progress_bar=False)
    before, after = (glued_values(cells) for cells in (nbformat.read(download, as_version=4).cells, again.cells))
    assert len(before) > 10
    assert before.keys() == after.keys()
    # The last digits depend on the number of threads, which is this process's own.
    assert [name for name in before if not equal_to_rounding(before[name], after[name])] == []


def test_published_notebooks_have_the_chapters_text():
    for name in EXECUTABLE:
        published = nbformat.read(ROOT / "results" / f"{name}.ipynb", as_version=4)
        text = [cell.source for cell in published.cells if cell.cell_type == "markdown"]
        current = [cell.source for cell in PROJECT.chapter(name).notebook.cells if cell.cell_type == "markdown"]
        assert text == current, f"{name}: make book brings results/ up to date"


def test_theorems_have_the_same_numbers_on_the_pages_and_in_the_book(pages, book_text):
    titles = [
        title.get_text() for page in pages.by_path.values() for title in page.select(".proof > .admonition-title")
    ]
    assert titles
    assert [title for title in titles if letters(title) not in letters(book_text)] == []


def test_references_to_theorems_have_their_numbers_on_the_pages_and_in_the_book(pages, book_text):
    links = [
        link for page in pages.by_path.values() for link in page.select("a.reference[href*='#thm-'], a[href*='#cor-']")
    ]
    assert links
    for link in links:
        assert re.fullmatch(r"(Theorem|Corollary) \d+\.\d+", link.get_text()), link
        before = link.previous_sibling.get_text()[-12:] if link.previous_sibling else ""
        assert letters(before + link.get_text()) in letters(book_text), link


def test_every_row_of_the_assignment_has_its_points_a_link_and_a_value_from_a_run(pages):
    page = pages.page("book/chapters/rubric")
    rows = {}
    for row in page.select("table tbody tr"):
        name, points, _, answered, shown = row.find_all("td")
        rows[name.get_text(strip=True)] = int(points.get_text())
        assert answered.select("a.reference.internal[href]"), f"{name.get_text()} has no link"
        assert re.search(r"\d|[A-Z]\w+", shown.get_text()), f"{name.get_text()} shows no value"
    assert rows == POINTS
    source = PROJECT.chapter("rubric").notebook.cells
    text = "\n".join(cell.source for cell in source if cell.cell_type == "markdown")
    for name, row in zip(POINTS, re.split(r"^\* - (?=\d|T)", text, flags=re.MULTILINE)[1:], strict=True):
        assert "{glue:text}`" in row.split("\n  - ")[4], f"{name} shows nothing that is glued from a run"
