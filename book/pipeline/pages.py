"""Stage the pages: the folder that Jupyter Book builds.

A staged page is the current source with the outputs of the executed notebook. Staging adds what no author should
have to keep up by hand: where a page's results come from, the banner of a profile that is not the full one, the
table of run times, and the outputs that other chapters glued.
"""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.pipeline.build import Build
from book.pipeline.configuration import copy_below, numbered_pages, numbering, stage_configuration
from book.pipeline.errors import BookError
from book.pipeline.excerpts import with_excerpts
from book.pipeline.execute import code_cells_with_runs
from book.pipeline.kernel import KERNEL
from book.pipeline.project import Chapter, Project, number_cells, read_contents, tags_of
from book.pipeline.provenance import RUN_TIMES_MARK, box, run_times
from book.pipeline.publish import LANGUAGE, compose, take_outputs
from book.pipeline.results import read_result

# The executed notebooks that the pages offer for download.
DOWNLOADS = "downloads"
HTML_ONLY = "html-only"
"""The tag of a cell that the PDFs leave out."""
_GLUE_ROLE = re.compile(r"\{glue:\w*\}`(?P<chapter>\w+)/(?P<key>[^`:]+)")
_GLUE_DIRECTIVE = re.compile(r"\{glue:\w*\}[ \t]+(?P<chapter>\w+)/(?P<key>\S+)")
_INCLUDED_FILE = re.compile(r"\{(?:literalinclude|include|image|figure)\}[ \t]+(?P<path>\S+)")
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s:]+)\)")
_PAGE_LINK = re.compile(r"\]\((?P<page>[\w./-]+)\.md(?P<rest>[)#])")


def stage(build: Build, folder: Path) -> Path:
    """Write the folder that Jupyter Book builds: sources with their results, configuration, and files they show.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    project = build.project
    executed = {chapter.name: read_result(build, chapter) for chapter in build.chapters}
    glued = {chapter.name: _glued(chapter, executed[chapter.name]) for chapter in build.chapters}
    contents = read_contents(project.root)
    numbered = numbered_pages(contents)
    for chapter, following in zip(project.chapters, [*project.chapters[1:], None], strict=True):
        page = _page(build, chapter, executed, glued)
        if following and (chapter.docname in numbered) != (following.docname in numbered):
            page.cells.append(nbformat.v4.new_markdown_cell(numbering(following.docname in numbered)))
        number_cells(page)
        _write(folder / f"{chapter.docname}.ipynb", page)
        if chapter.is_executable:
            _write(download_of(folder, chapter.docname), compose(build, chapter, executed[chapter.name]))
        for file in _shown_files(project, chapter):
            copy_below(project.root, file, folder)
    stage_configuration(build, executed, contents, folder)
    return folder


def download_of(folder: Path, docname: str) -> Path:
    """Return the place of the notebook that a page offers for download."""
    return folder / DOWNLOADS / f"{docname}.ipynb"


def pdf_stage(staged: Path, folder: Path) -> Path:
    """Copy a staged folder for the PDFs, without the code that the pages fold away because it only draws.

    Of a cell tagged ``hide-input`` the outputs stay. One tagged ``hide-cell`` solves an exercise, and stays whole.
    How each page was made is told on the pages only; the page of run times has it for the whole book.

    Returns
    -------
    pathlib.Path
        The copy.
    """
    shutil.copytree(staged, folder, ignore=shutil.ignore_patterns(DOWNLOADS))
    for path in folder.rglob("*.ipynb"):
        page = nbformat.read(path, as_version=4)
        page.cells = [cell for cell in page.cells if HTML_ONLY not in tags_of(cell)]
        for cell in page.cells:
            if "hide-input" in tags_of(cell):
                cell.metadata["tags"] = [tag.replace("hide-input", "remove-input") for tag in tags_of(cell)]
        nbformat.write(page, path)
    return folder


def _write(path: Path, notebook: NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def _page(
    build: Build,
    chapter: Chapter,
    executed: dict[str, NotebookNode],
    glued: dict[str, dict[str, NotebookNode]],
) -> NotebookNode:
    """Put a chapter's prose and cells together with the outputs of its run."""
    page = nbformat.from_dict(copy.deepcopy(chapter.notebook))
    own = {name: value for name, value in page.metadata.items() if name not in ("book", "jupytext")}
    page.metadata = nbformat.from_dict(own | {"kernelspec": KERNEL, "language_info": LANGUAGE})
    page.nbformat, page.nbformat_minor = 4, 5
    if chapter.is_executable:
        take_outputs(page, executed[chapter.name])
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = with_excerpts(cell.source, str(chapter.path), build.project, executed)
    prose = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    foreign = _foreign_outputs(chapter, prose, glued)
    names = {other.name for other in build.project.chapters}
    for cell in page.cells:
        if cell.cell_type == "markdown":
            if RUN_TIMES_MARK in cell.source:
                cell.source = cell.source.replace(RUN_TIMES_MARK, run_times(build, executed))
            cell.source = _PAGE_LINK.sub(lambda link: _to_staged_page(link, names), cell.source)
    if build.profile != "full":
        _insert_after_title(page, chapter, _banner(build, chapter))
    sources = sorted({key.partition("/")[0] for key in foreign})
    made = nbformat.v4.new_markdown_cell(box(build, chapter, executed, sources), metadata={"tags": [HTML_ONLY]})
    page.cells.append(made)
    if foreign:
        outputs = list(foreign.values())
        page.cells.append(nbformat.v4.new_code_cell("", outputs=outputs, metadata={"tags": ["remove-cell"]}))
    return page


def _glued(chapter: Chapter, executed: NotebookNode) -> dict[str, NotebookNode]:
    """Return the outputs that a chapter glued, by key, and its figures, by name, for other pages to show."""
    found = {}
    for cell, run in code_cells_with_runs(chapter.notebook, executed):
        figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in run.outputs:
            if "scrapbook" in output.get("metadata", {}):
                found[output.metadata.scrapbook.name] = output
            elif figure and any(kind.startswith("image/") for kind in output.get("data", {})):
                found[figure] = output
    return found


def _foreign_outputs(
    chapter: Chapter, prose: str, glued: dict[str, dict[str, NotebookNode]]
) -> dict[str, NotebookNode]:
    """Return copies of what a page shows of other chapters, under the names that it shows them by.

    MyST-NB's own way across pages knows numbers, but neither Markdown tables nor figures in SVG and PDF. A page of
    its own with these outputs on it knows them all.
    """
    found, problems = {}, []
    for match in [*_GLUE_ROLE.finditer(prose), *_GLUE_DIRECTIVE.finditer(prose)]:
        name, key = match["chapter"], match["key"]
        if key not in glued.get(name, {}):
            offered = ", ".join(sorted(glued.get(name, {}))) or "nothing"
            problems.append(f"{chapter.path}: shows {name}/{key}, but {name} offers {offered}")
            continue
        output = copy.deepcopy(glued[name][key])
        output.metadata.setdefault("scrapbook", {})["name"] = f"{name}/{key}"
        found[f"{name}/{key}"] = output
    if problems:
        raise BookError("\n".join(dict.fromkeys(problems)))
    return found


def _to_staged_page(link: re.Match[str], names: set[str]) -> str:
    ending = ".ipynb" if Path(link["page"]).name in names else ".md"
    return f"]({link['page']}{ending}{link['rest']}"


def _banner(build: Build, chapter: Chapter) -> str:
    changed = {
        name: value
        for name, value in build.overrides.get(chapter.name, {}).items()
        if value != chapter.parameters[name]
    }
    lines = [f"- `{name} = {value!r}` instead of `{chapter.parameters[name]!r}`" for name, value in changed.items()]
    return "\n".join(
        [
            f":::{{admonition}} {build.profile.capitalize()} profile: reduced settings, not the book's results",
            ":class: danger",
            "The numbers, tables and figures of this copy come from short runs that only show that everything works.",
            *(["This page ran with", "", *lines] if lines else []),
            ":::",
        ]
    )


def _insert_after_title(page: NotebookNode, chapter: Chapter, text: str) -> None:
    for cell in page.cells:
        if cell.cell_type == "markdown":
            lines = cell.source.split("\n")
            for index, line in enumerate(lines):
                if line.startswith("# "):
                    cell.source = "\n".join([*lines[: index + 1], "", text, "", *lines[index + 1 :]])
                    return
    raise BookError(f"{chapter.path} has no title, a line that starts with '# '")


def _shown_files(project: Project, chapter: Chapter) -> list[Path]:
    """Return the files of the project that a page includes or shows."""
    prose = "\n".join(cell.source for cell in chapter.notebook.cells if cell.cell_type == "markdown")
    found = []
    for match in [*_INCLUDED_FILE.finditer(prose), *_MARKDOWN_IMAGE.finditer(prose)]:
        path = (chapter.path.parent / match["path"]).resolve()
        if not path.is_relative_to(project.root) or not path.is_file():
            raise BookError(f"{chapter.path}: shows {match['path']}, which is not a file of the project")
        found.append(path)
    return found
