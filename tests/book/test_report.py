"""The report for the grader: row by row, short, and made of the chapters' results."""

import re

import pytest
from pypdf import PdfReader

from book.pipeline.project import load_project
from tests.pages import Pages, letters
from tests.pdfs import fill_of_pages, pages_before_a_chapter
from tests.rubric import POINTS
from tests.small_project import ROOT

CELLS = load_project(ROOT).chapter("report").notebook.cells
SOURCE = "\n".join(cell.source for cell in CELLS)
HEADING = re.compile(r"^## (?P<row>[123T]\.\d\w?) (?P<title>.+) \((?P<points>\d+) points\)$", re.MULTILINE)


def sections() -> dict[str, str]:
    """Return the text of each row's section."""
    found = list(HEADING.finditer(SOURCE))
    ends = [*(match.start() for match in found[1:]), SOURCE.index("## Where the assignment's solution slips")]
    return {match["row"]: SOURCE[match.end() : end] for match, end in zip(found, ends, strict=True)}


def test_rows_stand_in_the_assignments_order_with_their_points():
    rows = {match["row"]: int(match["points"]) for match in HEADING.finditer(SOURCE)}
    assert list(rows.items()) == list(POINTS.items())


@pytest.mark.parametrize("row", POINTS)
def test_a_row_has_a_figure_or_table_a_number_of_the_run_an_observation_and_a_place_in_the_book(row):
    section = sections()[row]
    assert re.search(r"\{chapter-figure\}|\{chapter-output\}|\{glue:figure\}|\{table\}", section), "no figure or table"
    observations = section.partition("**Observations.**")[2]
    assert len(observations.split()) > 20, "no observation"
    assert "{glue:text}`" in section, "no number that is glued from a run"
    assert re.search(r"\{ref\}`sec-[\w-]+`", observations), "no place in the book"


def test_the_report_types_no_result():
    prose = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$]*\$|^:.*$", "", SOURCE, flags=re.MULTILINE)
    assert re.findall(r"\b\d+\.\d+ ?%|\b0\.\d{2,}\b", prose) == []


@pytest.mark.usefixtures("quick_book")
@pytest.mark.xdist_group("report")
class TestPDF:
    @pytest.fixture(scope="class")
    def report(self, quick_book):
        return PdfReader(quick_book / "report.pdf")

    @pytest.fixture(scope="class")
    def text(self, report):
        return "\n".join(page.extract_text() for page in report.pages)

    def test_it_has_at_most_forty_pages(self, report):
        assert len(report.pages) <= 40

    def test_the_first_page_has_the_results_of_every_row(self, report):
        first = report.pages[0].extract_text()
        for row in ("1.1", "1.6", "2.2", "3.3", "T.1", "T.2"):
            assert re.search(rf"^{re.escape(row)} ", first, re.MULTILINE), row

    def test_it_has_bookmarks_metadata_and_a_language(self, report):
        titles = [letters(entry.title) for entry in report.outline if not isinstance(entry, list)]
        assert [title for title in POINTS if not any(other.startswith(letters(title)) for other in titles)] == []
        assert report.metadata.title and report.metadata.author and report.metadata.subject
        assert report.trailer["/Root"]["/Lang"] == "en-GB"

    def test_it_names_the_sixteen_files_and_nothing_is_unresolved(self, text, quick_book):
        assert len(set(re.findall(r"\d+_(?:relu|sigmoid|linear|tanh)_(?:weights|biases)\.pkl", text))) == 16
        assert "??" not in text
        log = (quick_book / "report.log").read_text(errors="replace")
        assert "undefined references" not in log

    def test_its_figures_are_those_of_its_page_among_the_pages(self, quick_book, text):
        # Numbers differ: on the pages, those without a chapter number count their figures together.
        page = Pages(quick_book / "html").page("book/chapters/report")
        figures = page.select("figure figcaption .caption-number")
        assert len(figures) > 15
        assert len(set(re.findall(r"^Fig\. \d+:", text, re.MULTILINE))) == len(figures)

    def test_most_of_its_pages_are_full(self, quick_book):
        # A row's figures stay in its section, which leaves some room.
        fill = fill_of_pages(quick_book / "report.pdf")
        low = [number for number, part in enumerate(fill[:-1], 1) if part < 0.6]
        assert len(low) <= 0.2 * len(fill), low


@pytest.mark.usefixtures("quick_book")
@pytest.mark.xdist_group("report")
def test_the_book_as_pdf_has_few_pages_and_few_of_them_are_not_full(quick_book):
    fill = fill_of_pages(quick_book / "book.pdf")
    assert len(fill) <= 145  # the quick book has some pages more than the full one, which has at most 140
    ends = pages_before_a_chapter(quick_book / "book.pdf")
    low = [number for number, part in enumerate(fill, 1) if part < 0.6 and number not in ends]
    assert len(low) < 0.05 * len(fill), low
