"""The book's configuration as Jupyter Book gets it, and the tables of contents of the pages and of the report."""

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
from book.pipeline.project import files_of, read_text, read_yaml

CONTENTS, REPORT_CONTENTS = "_toc.yml", "_toc_report.yml"
# The introduction is the root of the pages. The report has a root of its own without text, because LaTeX drops the
# heading of the root; the introduction is its first chapter there, and has no number in either, like the appendix.
_REPORT_ROOT = "report"
_NUMBERING = {
    False: "```{raw} latex\n\\setcounter{secnumdepth}{-1}\n```\n",
    True: "```{raw} latex\n\\setcounter{secnumdepth}{2}\n```\n",
}


def numbering(is_on: bool) -> str:
    """Return the Markdown that turns the report's chapter numbers on or off."""
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
    """Write the configuration and the tables of contents of the pages and of the report."""
    root = build.root
    configuration = read_yaml(root / "_config.yml")
    if not isinstance(configuration.get("title"), str):
        raise BookError(f"{root / '_config.yml'} must have a title; 'git checkout -- _config.yml' restores it")
    for name in configuration.get("bibtex_bibfiles") or []:
        read_text(root / name)  # for its message if the file is missing or no UTF-8
        copy_below(root, root / name, folder)
    for name, target in (("static", "_static"), ("templates", "_templates")):
        if (root / "book" / name).is_dir():
            shutil.copytree(root / "book" / name, folder / target)
    if build.profile != "full":
        configuration["title"] += f" ({build.profile} profile)"
    config = configuration.setdefault("sphinx", {}).setdefault("config", {})
    # For book.sphinx.theme_patches: the pages that have something to download and to launch.
    config.setdefault("html_context", {})["executed_pages"] = [chapter.docname for chapter in build.chapters]
    dates = [notebook.metadata["book"]["date"] for notebook in executed.values()]
    if dates:
        # The report's date is that of its latest result, so that rendering once more changes nothing.
        latest = datetime.strptime(max(dates), "%Y-%m-%d %H:%M UTC")
        config["today"] = f"Results of {latest:%B} {latest.day}, {latest.year}"
    _write_yaml(folder / "_config.yml", configuration)
    _write_yaml(folder / CONTENTS, contents)
    contents = copy.deepcopy(contents)
    parts = contents.get("parts", [contents])
    parts[0]["chapters"] = [{"file": contents["root"]}, *parts[0].get("chapters", [])]
    for part in parts:
        # LaTeX would take the first caption for the heading of the contents, and forget the others.
        part.pop("caption", None)
    _write_yaml(folder / REPORT_CONTENTS, contents | {"root": _REPORT_ROOT})
    (folder / f"{_REPORT_ROOT}.md").write_text(f"# {configuration['title']}\n\n{numbering(False)}", encoding="utf-8")


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
