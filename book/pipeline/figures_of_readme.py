"""The figures that the README shows, taken from the published results so that they can't grow old."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from book.pipeline.execute import code_cells_with_runs
from book.pipeline.parameters import Profile
from book.pipeline.project import BookError, Project

_FIGURE = re.compile(r"!\[[^\]]*\]\((?P<path>results/figures/(?P<name>[\w-]+)\.svg)\)")


def publish_figures(project: Project, profile: Profile, root: Path) -> list[Path]:
    """Write each ``results/figures/NAME.svg`` that the README shows, from the figure of that name in the results.

    Parameters
    ----------
    project : Project
        The checkout.
    profile : Profile
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
    readme = (project.root / "README.md").read_text(encoding="utf-8")
    shown = {match["path"]: match["name"] for match in _FIGURE.finditer(readme)}
    figures = _figures(project, profile)
    for path, name in shown.items():
        if name not in figures:
            raise BookError(f"README.md shows {path}, but no chapter has a figure named {name}")
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(figures[name], encoding="utf-8")
    return [root / path for path in shown]


def _figures(project: Project, profile: Profile) -> dict[str, str]:
    """Return the SVG of every named figure in the results."""
    found = {}
    for chapter in project.executable:
        executed = nbformat.read(project.root / profile.results / f"{chapter.name}.ipynb", as_version=4)
        # Names are metadata of the source; a change there is no reason to run, so the run may have an old one.
        for cell, run in code_cells_with_runs(chapter.notebook, executed):
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            for output in run.outputs:
                if name and "image/svg+xml" in output.get("data", {}):
                    found[name] = output.data["image/svg+xml"]
    return found
