"""The book's configuration as Jupyter Book gets it, and the tables of contents of the pages and of the two PDFs."""

from __future__ import annotations

import copy
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from book.pipeline.build import Build
from book.pipeline.errors import BookError
from book.pipeline.project import CONTENTS, files_of, mapping_in, read_text, read_yaml, restored_by_git

PDF_CONTENTS = "_toc_pdf.yml"
REPORT = "report"
"""The page that is a PDF of its own; the book's PDF has all other pages."""
# One reading of the sources makes both PDFs. LaTeX drops the heading of a document's root, so the book's is a page
# without text; the introduction is its first chapter there, and has no number in either, like the appendix.
_ROOT, _BOOK_ROOT = "pdfs", "contents"
INDEX = "genindex"
"""The name under which Sphinx writes the index of terms."""
_NUMBERING = {
    False: "```{raw} latex\n\\setcounter{secnumdepth}{-1}\n```\n",
    True: "```{raw} latex\n\\setcounter{secnumdepth}{2}\n```\n",
}


def numbering(is_on: bool) -> str:
    """Return the Markdown that turns the chapter numbers of the book's PDF on or off."""
    return _NUMBERING[is_on]


def numbered_pages(contents: dict[str, Any]) -> set[str]:
    """Return the pages that have a chapter number; of parts, those of the parts that say so."""
    below = contents.get("parts", [contents])
    everywhere = bool(contents.get("options", {}).get("numbered"))
    numbered = [part.get("chapters", []) for part in below if part.get("numbered", everywhere)]
    return set(files_of(numbered))


def copy_below(root: Path, path: Path, folder: Path) -> None:
    """Copy a file to the same place below another folder."""
    target = folder / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def stage_configuration(
    build: Build,
    executed: dict[str, NotebookNode],
    contents: dict[str, Any],
    folder: Path,
) -> None:
    """Write the configuration and the tables of contents of the pages and of the PDFs.

    Raises
    ------
    BookError
        If an entry of ``_config.yml`` is not what it must be, or a file that it names can't be read.
    """
    root = build.root
    path = root / "_config.yml"
    configuration = read_yaml(path)
    if not isinstance(configuration.get("title"), str):
        raise BookError(f"{path} must have a title; {restored_by_git(path)}")
    files = configuration.get("bibtex_bibfiles") or []
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise BookError(f"{path}: 'bibtex_bibfiles' must be a list of files; got {files!r}; {restored_by_git(path)}")
    for name in files:
        read_text(root / name)  # for its message if the file is missing or no UTF-8
        copy_below(root, root / name, folder)
    for name, target in (("static", "_static"), ("templates", "_templates")):
        if (root / "book" / name).is_dir():
            shutil.copytree(root / "book" / name, folder / target)
    if build.profile != "full":
        configuration["title"] += f" ({build.profile} profile)"
    config = mapping_in(mapping_in(configuration, "sphinx", path), "config", path)
    # For book.sphinx.theme_patches: the pages that have something to download and to launch.
    mapping_in(config, "html_context", path)["executed_pages"] = [chapter.docname for chapter in build.chapters]
    dates = [notebook.metadata["book"]["date"] for notebook in executed.values()]
    if dates:
        # The report's date is that of its latest result, so that rendering once more changes nothing.
        latest = datetime.strptime(max(dates), "%Y-%m-%d %H:%M UTC")
        config["today"] = f"Results of {latest:%B} {latest.day}, {latest.year}"
    report = next((chapter.docname for chapter in build.project.chapters if chapter.name == REPORT), None)
    pages = [docname for docname in files_of([contents]) if docname != report]
    (folder / f"{_ROOT}.md").write_text("# PDFs\n", encoding="utf-8")
    (folder / f"{_BOOK_ROOT}.md").write_text(f"# {configuration['title']}\n\n{numbering(False)}", encoding="utf-8")
    pdf_contents = [{"file": _BOOK_ROOT, "sections": [{"file": page} for page in pages]}]
    author = configuration.get("author", "")
    config["latex_documents"] = [[_BOOK_ROOT, "book.tex", configuration["title"], author, "manual"]]
    if report is not None:
        pdf_contents.append({"file": report})
        # Jupyter Book knows a single document; the other one is for book.sphinx.pdf.
        config["book_report"] = [report, f"{REPORT}.tex", f"{configuration['title']}: report", author, "howto"]
    _write_yaml(folder / "_config.yml", configuration)
    _write_yaml(folder / PDF_CONTENTS, {"format": "jb-book", "root": _ROOT, "chapters": pdf_contents})
    # The index of terms is the last page; Sphinx writes it, and takes only the title from here.
    contents = copy.deepcopy(contents)
    contents.get("parts", [contents])[-1].setdefault("chapters", []).append({"file": INDEX})
    (folder / f"{INDEX}.md").write_text("# Index\n", encoding="utf-8")
    _write_yaml(folder / CONTENTS, contents)


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
