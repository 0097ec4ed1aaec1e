"""A Sphinx extension: what Sphinx, its theme and its LaTeX leave to be patched on our pages.

Each function or class says what it fixes and why. Nothing here knows a chapter.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

# Where the theme looks for a page's notebook, and where it is.
STAGED_FOLDER, RESULTS_FOLDER = "book/chapters/", "results/"
_RIGHT = "text-right"
# Rows after which Sphinx makes a table that goes on over pages; its columns are as wide as their text.
_LONG = 30
_SMALL = r"{\footnotesize\setlength{\tabcolsep}{4pt}"


class BibliographyList(SphinxPostTransform):
    """Make the bibliography a list without labels, where the author put it.

    Citations in the text are by author and year, so the numbers that the entries would carry are never referred to.
    In HTML the entries have roles besides that ARIA has given up; in LaTeX they would all go to the report's end,
    under a heading of their own.
    """

    # After the entries are made (5), before the references to them are resolved (10).
    default_priority = 6

    def run(self, **kwargs: Any) -> None:
        """Replace each list of entries."""
        for container in list(self.document.findall(nodes.container)):
            entries = [child for child in container.children if isinstance(child, nodes.citation)]
            if entries and len(entries) == len(container.children):
                is_latex = self.app.builder.format == "latex"
                container.replace_self(_latex_entries(entries) if is_latex else _html_entries(entries))


def _html_entries(entries: list[nodes.citation]) -> nodes.bullet_list:
    items = []
    for entry in entries:
        items.append(nodes.list_item("", *_without_label(entry), ids=entry["ids"]))
    return nodes.bullet_list("", *items, classes=["bibliography"])


def _latex_entries(entries: list[nodes.citation]) -> list[nodes.Node]:
    paragraphs = []
    for entry in entries:
        # The names that sphinxcontrib-bibtex's links have.
        targets = "".join(rf"\hypertarget{{cite.{entry['docname']}:{name}}}{{}}" for name in entry["ids"])
        hanging = nodes.raw("", rf"\noindent\hangindent=1.5em\hangafter=1 {targets}", format="latex")
        for paragraph in _without_label(entry):
            for link in paragraph.findall(nodes.reference):
                # The address itself, which else would be in a footnote, whose number would look like a part of the DOI.
                link.children = [nodes.Text(link["refuri"])]
            paragraph.insert(0, hanging)
            paragraphs.append(paragraph)
    return paragraphs


def _without_label(entry: nodes.citation) -> list[nodes.Node]:
    return [child for child in entry.children if not isinstance(child, nodes.label)]


class NumbersToTheRight(SphinxPostTransform):
    """Keep the alignment of Markdown tables in LaTeX, where Sphinx forgets it."""

    default_priority = 400
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        """Give each table with a column of numbers a LaTeX column specification."""
        for table in list(self.document.findall(nodes.table)):
            rows = [row.children for row in table.findall(nodes.row)]
            if any("morecols" in cell for row in rows for cell in row):
                continue
            is_right = [all(_RIGHT in cell["classes"] for cell in column) for column in zip(*rows, strict=True)]
            place = table.parent.index(table)
            if len(rows) > _LONG:
                # Sphinx breaks such a table over pages, by an environment that does not share the width out.
                specification = "".join("r" if right else "l" for right in is_right)
                table.parent.insert(place, nodes.raw("", _SMALL, format="latex"))
                table.parent.insert(place + 1, addnodes.tabular_col_spec(spec=specification))
                table.parent.insert(place + 3, nodes.raw("", "}", format="latex"))
            elif any(is_right):
                # T and R are tabulary's columns that share the width; T is ragged on the right (see _config.yml).
                specification = "".join("R" if right else "T" for right in is_right)
                table.parent.insert(place, addnodes.tabular_col_spec(spec=specification))


def patch_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Fix the scripts and buttons of one page, as a listener of ``html-page-context``.

    Sphinx-thebe puts its constants on every page, twice, though nothing here starts Thebe: the second declaration is
    an error in the console. The launch buttons lead to the page's path, but the repository has the notebooks in
    ``results/``. A page without code has nothing to launch, and its notebook no more than the page.
    """
    context["script_files"] = [file for file in context.get("script_files", []) if not _is_thebe(file)]
    context["css_files"] = [file for file in context.get("css_files", []) if not _is_thebe(file)]
    is_executed = page in context["executed_pages"]
    buttons = []
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            if not is_executed:
                continue
            for button in group["buttons"]:
                button["url"] = button["url"].replace(STAGED_FOLDER, RESULTS_FOLDER)
        if group.get("label") == "download-buttons" and not is_executed:
            group["buttons"] = [
                button for button in group["buttons"] if button.get("label") != "download-source-button"
            ]
        buttons.append(group)
    context["header_buttons"] = buttons


def _is_thebe(file: Any) -> bool:
    attributes = getattr(file, "attributes", {})
    return "thebe" in str(getattr(file, "filename", None) or "") or "THEBE" in str(attributes.get("body") or "")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the patches."""
    app.add_post_transform(BibliographyList)
    app.add_post_transform(NumbersToTheRight)
    # Last of all listeners: after the theme has made its buttons.
    app.connect("html-page-context", patch_page, priority=1000)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
