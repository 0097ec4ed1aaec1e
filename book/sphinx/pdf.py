r"""A Sphinx extension: what the PDFs need beyond Sphinx's LaTeX.

Alternative texts of images, which Sphinx drops, and the report's references to the book, another document, for which
Sphinx writes the title alone. The LaTeX side is in the preamble of ``_config.yml``: ``\bookalt`` and ``\bookendalt``,
and the labels of the book, which ``xr-hyper`` reads.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import docname_join
from sphinx.util.texescape import escape


class AlternativeTexts(SphinxPostTransform):
    """Put the alternative text of each image into the PDF, as a property of the image's content."""

    default_priority = 500
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        """Enclose each image that has an alternative text."""
        for image in list(self.document.findall(nodes.image)):
            text = " ".join(image.get("alt", "").split())
            if text:
                place = image.parent.index(image)
                image.parent.insert(place + 1, nodes.raw("", r"\bookendalt ", format="latex"))
                image.parent.insert(place, nodes.raw("", rf"\bookalt{{{escape(text)}}}", format="latex"))


class ReferencesToTheBook(SphinxPostTransform):
    r"""Give a reference from one PDF to the other the title and page of the target there.

    Sphinx would leave the target's label in the text. ``\bookref`` takes the label in the other document and the title.
    """

    # Before Sphinx resolves references (10).
    default_priority = 9
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        """Replace each reference to a page of the other PDF."""
        for pending in list(self.document.findall(addnodes.pending_xref)):
            target = self._target(pending["reftype"], pending["reftarget"], pending.get("refdoc", ""))
            if target is not None and target[0] not in self.app.builder.docnames:
                docname, name, title = target
                command = "bookfigure" if pending["reftype"] == "numref" else "bookref"
                text = rf"\{command}{{{docname}:{name}}}{{{escape(title)}}}"
                pending.replace_self(nodes.raw("", text, format="latex"))

    def _target(self, kind: str, target: str, docname: str) -> tuple[str, str, str] | None:
        """Return page, label and title of what a reference leads to, or None if this is for Sphinx to resolve."""
        if kind == "doc":
            page = docname_join(docname, target)
            return (page, ":doc", self.env.titles[page].astext()) if page in self.env.titles else None
        if kind in ("ref", "numref"):
            return self.env.domains["std"].labels.get(target.lower())
        return None


def add_report(app: Sphinx, env: BuildEnvironment) -> None:
    """Make the report a second LaTeX document, as a listener of ``env-updated``; Jupyter Book fails if it finds two."""
    if app.config.book_report:
        app.config.latex_documents = [*app.config.latex_documents, tuple(app.config.book_report)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transforms, and the setting that names the report."""
    app.add_config_value("book_report", [], "env", types=[list])
    app.connect("env-updated", add_report)
    app.add_post_transform(AlternativeTexts)
    app.add_post_transform(ReferencesToTheBook)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
