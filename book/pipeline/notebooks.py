"""The executed notebooks that readers open: from the pages' download button, on Binder and on Colab.

Each is a chapter's current text with the outputs of its last run, and papermill runs it as it is from the project's
folder. A first cell fetches what a notebook that is opened elsewhere lacks.
"""

from __future__ import annotations

import copy

import nbformat
from nbformat import NotebookNode

from book.pipeline.execute import INJECTED_TAG, OPENING_TAG, code_cells_with_runs, write_atomically
from book.pipeline.parameters import Profile
from book.pipeline.project import PARAMETERS_TAG, Chapter, Project, read_yaml, tags_of

_CHECKOUT = """\
if "google.colab" in sys.modules:
    !git clone --quiet --depth 1 --branch {branch} {url} /content/book
    %cd -q /content/book
    %pip install --quiet {packages}
"""
_PLACE = """\
import book

os.chdir(Path(book.__file__).parents[1])
os.environ.setdefault("BOOK_OUTPUT", "{output}")
"""
_NEEDS = """\
for needed in {needs}:
    if not any(Path(os.environ["BOOK_OUTPUT"], "models", needed).glob("*")):
        print(f"running {{needed}} first, whose networks this chapter reads")
        !{{sys.executable}} -m papermill --no-progress-bar {results}/{{needed}}.ipynb /tmp/{{needed}}.ipynb
"""


def compose(project: Project, profile: Profile, chapter: Chapter, executed: NotebookNode) -> NotebookNode:
    """Put a chapter's current text together with its last run.

    Parameters
    ----------
    project : Project
        The checkout.
    profile : Profile
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
    notebook.metadata = copy.deepcopy(executed.metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell, run in code_cells_with_runs(notebook, executed):
        cell.outputs = copy.deepcopy(run.outputs)
        cell.execution_count = run.execution_count
    injected = [copy.deepcopy(cell) for cell in executed.cells if INJECTED_TAG in tags_of(cell)]
    place = next((i + 1 for i, cell in enumerate(notebook.cells) if PARAMETERS_TAG in tags_of(cell)), 0)
    notebook.cells[place:place] = injected
    opening = nbformat.v4.new_code_cell(_opening(project, profile, chapter, executed))
    opening.metadata["tags"] = [OPENING_TAG, "remove-cell"]
    notebook.cells.insert(0, opening)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
    return notebook


def publish_notebooks(project: Project, profile: Profile) -> None:
    """Bring the text of the stored results up to date; a change of prose alone runs nothing."""
    for chapter in project.executable:
        path = project.root / profile.results / f"{chapter.name}.ipynb"
        before = path.read_text(encoding="utf-8")
        text = nbformat.writes(compose(project, profile, chapter, nbformat.reads(before, as_version=4))) + "\n"
        if text != before:
            write_atomically(path, text)


def _opening(project: Project, profile: Profile, chapter: Chapter, executed: NotebookNode) -> str:
    """Write the cell that makes a notebook run wherever it is opened."""
    repository = read_yaml(project.root / "_config.yml").get("repository", {})
    packages = [*executed.metadata["book"]["environment"]["packages"], *(["papermill"] if chapter.needs else [])]
    checkout = _CHECKOUT.format(url=repository.get("url"), branch=repository.get("branch"), packages=" ".join(packages))
    needs = _NEEDS.format(needs=[c.name for c in project.needs_of(chapter)], results=profile.results.as_posix())
    parts = [
        "# Makes this notebook run outside of the pipeline, in Colab for instance.",
        "import os\nimport sys\nfrom pathlib import Path\n",
        checkout,
        _PLACE.format(output=profile.output.as_posix()),
        needs if chapter.needs else "",
    ]
    return "\n".join(parts).strip()
