"""What is published beside the pages: the executed notebooks as readers open them, and the README's figures.

A published notebook is a chapter's current text with the outputs of its last run. The pages' download button, Binder
and Colab open it, and papermill runs it as it is. Its first cell finds the project's folder, and in Colab fetches it.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.files import write_atomically
from book.pipeline.build import Build
from book.pipeline.errors import BookError
from book.pipeline.execute import code_cells_with_runs
from book.pipeline.kernel import KERNEL
from book.pipeline.project import (
    INJECTED_TAG,
    OPENING_TAG,
    PARAMETERS_TAG,
    Chapter,
    mapping_in,
    number_cells,
    read_text,
    read_yaml,
    tags_of,
)
from book.pipeline.results import read_result

LANGUAGE = {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"}
_OPENING = """\
# Makes this notebook run outside of the pipeline, in Colab for instance.
import os
import subprocess
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    checkout = Path("/content/book")
    if not checkout.exists():
        clone = ["git", "clone", "--quiet", "--depth", "1"]
        clone += ["--branch", {branch!r}]
        clone += [{url!r}]
        subprocess.run([*clone, str(checkout)], check=True)
    packages = {packages!r}
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *packages.split()], check=True)
    os.chdir(checkout)
here = Path.cwd()
for folder in [here, *here.parents, *map(Path, sys.path)]:
    if (folder / "book" / "chapters").is_dir():
        break
else:
    raise FileNotFoundError("open this notebook in the project's folder")
os.chdir(folder)
sys.path.insert(0, str(folder))
"""
_FIGURE = re.compile(r"!\[[^\]]*\]\((?P<path>results/figures/(?P<name>[\w-]+)\.svg)\)")


def compose(build: Build, chapter: Chapter, executed: NotebookNode) -> NotebookNode:
    """Put a chapter's current text together with its last run.

    Parameters
    ----------
    build : Build
        Whose run it is.
    chapter : Chapter
        The chapter.
    executed : nbformat.NotebookNode
        Its stored result.

    Returns
    -------
    nbformat.NotebookNode
        A notebook with the metadata of the run.
    """
    notebook = nbformat.from_dict(copy.deepcopy(chapter.notebook))
    # Of the run only what its digest covers.
    own = {name: value for name, value in notebook.metadata.items() if name != "book"}
    record = {"kernelspec": KERNEL, "language_info": LANGUAGE, "book": copy.deepcopy(executed.metadata["book"])}
    notebook.metadata = nbformat.from_dict(own | record)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    take_outputs(notebook, executed)
    injected = [copy.deepcopy(cell) for cell in executed.cells if INJECTED_TAG in tags_of(cell)]
    place = next((i + 1 for i, cell in enumerate(notebook.cells) if PARAMETERS_TAG in tags_of(cell)), 0)
    notebook.cells[place:place] = injected
    opening = nbformat.v4.new_code_cell(_opening(build, chapter, executed))
    opening.metadata["tags"] = [OPENING_TAG, "remove-cell"]
    notebook.cells.insert(0, opening)
    number_cells(notebook)
    return notebook


def take_outputs(notebook: NotebookNode, executed: NotebookNode) -> None:
    """Give the code cells of a chapter's text the outputs of its run.

    Raises
    ------
    ValueError
        If the run is not of this text: the numbers of cells differ.
    """
    for cell, run in code_cells_with_runs(notebook, executed):
        cell.outputs = copy.deepcopy(run.outputs)
        cell.execution_count = run.get("execution_count")


def publish_notebooks(build: Build) -> None:
    """Bring the text of the stored results up to date; a change of prose alone runs nothing."""
    for chapter in build.chapters:
        path = build.result_of(chapter)
        text = nbformat.writes(compose(build, chapter, read_result(build, chapter))) + "\n"
        if text != path.read_text(encoding="utf-8"):
            write_atomically(path, text)


def publish_figures(build: Build, root: Path) -> list[Path]:
    """Write each ``results/figures/NAME.svg`` that the README shows, from the figure of that name in the results.

    Parameters
    ----------
    build : Build
        Whose results to take.
    root : pathlib.Path
        Where ``results/`` is written.

    Returns
    -------
    list of pathlib.Path
        The files, those that were right already included.

    Raises
    ------
    BookError
        If no chapter has a figure of that name.
    """
    readme = build.root / "README.md"
    if not readme.exists():
        return []
    shown = {match["path"]: match["name"] for match in _FIGURE.finditer(read_text(readme))}
    figures = _figures(build) if shown else {}
    for path, name in shown.items():
        if name not in figures:
            raise BookError(f"README.md shows {path}, but no chapter has a figure named {name}")
        target = root / path
        if not target.is_file() or target.read_bytes() != figures[name].encode():
            write_atomically(target, figures[name])
    return [root / path for path in shown]


def _figures(build: Build) -> dict[str, str]:
    """Return the SVG of every named figure in the results."""
    found = {}
    for chapter in build.chapters:
        executed = read_result(build, chapter)
        # Names are metadata of the source; a change there is no reason to run, so the run may have an old one.
        for cell, run in code_cells_with_runs(chapter.notebook, executed):
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            for output in run.outputs:
                if name and "image/svg+xml" in output.get("data", {}):
                    found[name] = output.data["image/svg+xml"]
    return found


def _opening(build: Build, chapter: Chapter, executed: NotebookNode) -> str:
    """Write the cell that finds the project's folder wherever a notebook is opened."""
    path = build.root / "_config.yml"
    repository = mapping_in(read_yaml(path), "repository", path)
    opening = _OPENING.format(
        url=repository.get("url"),
        branch=repository.get("branch"),
        packages=" ".join(executed.metadata["book"]["environment"]["packages"]),
    )
    elsewhere = {
        other.name: build.results_of(other).relative_to(build.root).as_posix()
        for other in build.project.needs_of(chapter)
        if not build.is_published(other)
    }
    if elsewhere:
        opening += f'os.environ.setdefault("BOOK_NEEDS", {json.dumps(elsewhere)!r})\n'
    return opening.strip()
