"""Stage the pages: the folder that Jupyter Book builds.

A staged page is the current source with the outputs of the executed notebook. Staging adds what no author should
have to keep up by hand: where a page's results come from, the banner of a profile that is not the full one, the
table of run times, and the outputs that other chapters glued.
"""

from __future__ import annotations

import copy
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from book.pipeline.execute import code_cells_with_runs
from book.pipeline.notebooks import compose
from book.pipeline.parameters import Profile
from book.pipeline.project import BookError, Chapter, Project, files_of, read_yaml, tags_of
from book.pipeline.provenance import RUN_TIMES_MARK, describe_machine, run_times

CONTENTS, REPORT_CONTENTS = "_toc.yml", "_toc_report.yml"
# The executed notebooks that the pages offer for download.
DOWNLOADS = "downloads"
_GLUE_ROLE = re.compile(r"\{glue:\w*\}`(?P<chapter>\w+)/(?P<key>[^`:]+)")
_GLUE_DIRECTIVE = re.compile(r"\{glue:\w*\}[ \t]+(?P<chapter>\w+)/(?P<key>\S+)")
_INCLUDED_FILE = re.compile(r"\{(?:literalinclude|include|image|figure)\}[ \t]+(?P<path>\S+)")
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s:]+)\)")
_PAGE_LINK = re.compile(r"\]\((?P<page>[\w./-]+)\.md(?P<rest>[)#])")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_LANGUAGE = {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"}
# The introduction is the root of the pages. The report has a root of its own without text, because LaTeX drops the
# heading of the root; the introduction is its first chapter there, and has no number in either, like the appendix.
_REPORT_ROOT = "report"
_NUMBERING = {
    False: "```{raw} latex\n\\setcounter{secnumdepth}{-1}\n```\n",
    True: "```{raw} latex\n\\setcounter{secnumdepth}{2}\n```\n",
}


def stage(project: Project, profile: Profile, folder: Path) -> Path:
    """Write the folder that Jupyter Book builds: sources with their results, configuration, and files they show.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    executed = {
        chapter.name: nbformat.read(project.root / profile.results / f"{chapter.name}.ipynb", as_version=4)
        for chapter in project.executable
    }
    glued = {name: _glued(notebook) for name, notebook in executed.items()}
    contents = read_yaml(project.root / CONTENTS)
    numbered = _numbered(contents)
    for chapter, following in zip(project.chapters, [*project.chapters[1:], None], strict=True):
        page = _page(project, profile, chapter, executed, glued)
        if following and (chapter.docname in numbered) != (following.docname in numbered):
            page.cells.append(nbformat.v4.new_markdown_cell(_NUMBERING[following.docname in numbered]))
        for index, cell in enumerate(page.cells):
            cell["id"] = f"cell-{index}"
        _write(folder / f"{chapter.docname}.ipynb", page)
        if chapter.is_executable:
            _write(download_of(folder, chapter.docname), compose(project, profile, chapter, executed[chapter.name]))
        for file in _shown_files(project, chapter):
            _copy(project.root, file, folder)
    _stage_configuration(project, profile, executed, contents, folder)
    return folder


def download_of(folder: Path, docname: str) -> Path:
    """Return the place of the notebook that a page offers for download."""
    return folder / DOWNLOADS / f"{docname}.ipynb"


def report_stage(staged: Path, folder: Path) -> Path:
    """Copy a staged folder for the report, without the code that the pages fold away because it only draws.

    Of a cell tagged ``hide-input`` the outputs stay. One tagged ``hide-cell`` solves an exercise, and stays whole.

    Returns
    -------
    pathlib.Path
        The copy.
    """
    shutil.copytree(staged, folder, ignore=shutil.ignore_patterns(DOWNLOADS))
    for path in folder.rglob("*.ipynb"):
        page = nbformat.read(path, as_version=4)
        for cell in page.cells:
            if "hide-input" in tags_of(cell):
                cell.metadata["tags"] = [tag.replace("hide-input", "remove-input") for tag in tags_of(cell)]
        nbformat.write(page, path)
    return folder


def _numbered(contents: dict[str, Any]) -> set[str]:
    """Return the pages that have a chapter number; of parts, those of the parts that say so."""
    below = contents.get("parts", [contents])
    everywhere = bool(contents.get("options", {}).get("numbered"))
    numbered = [part.get("chapters", []) for part in below if part.get("numbered", everywhere)]
    return set(files_of(numbered))


def _write(path: Path, notebook: NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def _page(
    project: Project,
    profile: Profile,
    chapter: Chapter,
    executed: dict[str, NotebookNode],
    glued: dict[str, dict[str, NotebookNode]],
) -> NotebookNode:
    """Put a chapter's prose and cells together with the outputs of its run."""
    page = nbformat.from_dict(copy.deepcopy(chapter.notebook))
    own = {name: value for name, value in page.metadata.items() if name not in ("book", "jupytext")}
    page.metadata = nbformat.from_dict(own | {"kernelspec": _KERNEL, "language_info": _LANGUAGE})
    page.nbformat, page.nbformat_minor = 4, 5
    if chapter.is_executable:
        _take_outputs(page, executed[chapter.name])
    prose = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    foreign = _foreign_outputs(chapter, prose, glued)
    names = {other.name for other in project.chapters}
    for cell in page.cells:
        if cell.cell_type == "markdown":
            if RUN_TIMES_MARK in cell.source:
                cell.source = cell.source.replace(RUN_TIMES_MARK, run_times(project, profile, executed))
            cell.source = _PAGE_LINK.sub(lambda link: _to_staged_page(link, names), cell.source)
    if profile.name != "full":
        _insert_after_title(page, chapter, _banner(profile, chapter))
    sources = sorted({key.partition("/")[0] for key in foreign})
    page.cells.append(nbformat.v4.new_markdown_cell(_provenance(profile, chapter, executed, sources)))
    if foreign:
        outputs = list(foreign.values())
        page.cells.append(nbformat.v4.new_code_cell("", outputs=outputs, metadata={"tags": ["remove-cell"]}))
    return page


def _take_outputs(page: NotebookNode, executed: NotebookNode) -> None:
    for cell, result in code_cells_with_runs(page, executed):
        cell.outputs = copy.deepcopy(result.outputs)
        cell.execution_count = result.execution_count


def _glued(executed: NotebookNode) -> dict[str, NotebookNode]:
    """Return the outputs that a chapter glued, by key."""
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    return {output.metadata.scrapbook.name: output for output in outputs if "scrapbook" in output.get("metadata", {})}


def _foreign_outputs(
    chapter: Chapter, prose: str, glued: dict[str, dict[str, NotebookNode]]
) -> dict[str, NotebookNode]:
    """Return copies of what a page shows of other chapters, under the names that it shows them by.

    MyST-NB's own way across pages knows numbers, but neither Markdown tables nor figures in SVG and PDF. A page of
    its own with these outputs on it knows them all.
    """
    found = {}
    for match in [*_GLUE_ROLE.finditer(prose), *_GLUE_DIRECTIVE.finditer(prose)]:
        name, key = match["chapter"], match["key"]
        if key not in glued.get(name, {}):
            offered = ", ".join(sorted(glued.get(name, {}))) or "nothing"
            raise BookError(f"{chapter.path}: shows {name}/{key}, but {name} glues {offered}")
        output = copy.deepcopy(glued[name][key])
        output.metadata.scrapbook.name = f"{name}/{key}"
        found[f"{name}/{key}"] = output
    return found


def _to_staged_page(link: re.Match[str], names: set[str]) -> str:
    ending = ".ipynb" if Path(link["page"]).name in names else ".md"
    return f"]({link['page']}{ending}{link['rest']}"


def _banner(profile: Profile, chapter: Chapter) -> str:
    changed = {
        name: value
        for name, value in profile.overrides.get(chapter.name, {}).items()
        if value != chapter.parameters[name]
    }
    lines = [f"- `{name} = {value!r}` instead of `{chapter.parameters[name]!r}`" for name, value in changed.items()]
    return "\n".join(
        [
            f":::{{admonition}} {profile.name.capitalize()} profile: reduced settings, not the book's results",
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


def _provenance(profile: Profile, chapter: Chapter, executed: dict[str, NotebookNode], sources: list[str]) -> str:
    """Say where the results on a page come from."""
    items = [f"- Profile: **{profile.name}**"]
    if chapter.is_executable:
        made = executed[chapter.name].metadata["book"]
        versions = {"Python": made["environment"]["python"], **made["environment"]["packages"]}
        notebook = f"{'../' * chapter.docname.count('/')}_sources/{chapter.docname}.ipynb"
        parameters = ", ".join(f"`{name} = {value!r}`" for name, value in made["parameters"].items())
        items += [
            f"- Parameters: {parameters or 'none'}",
            *([f"- Seed: {made['seed']}"] if made["seed"] is not None else []),
            f"- Executed: {made['date']}, in {made['seconds']:,} s",
            f"- Machine: {describe_machine(made['environment'])}",
            f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
            # The link is for the pages; LaTeX takes the text between the tags.
            f'- Executed notebook: <a href="{notebook}" download>{chapter.name}.ipynb</a>',
        ]
    items += [
        f"- Results of {{doc}}`/book/chapters/{name}`: executed {executed[name].metadata['book']['date']}"
        for name in sources
    ]
    return "\n".join([":::{admonition} How this page was made", ":class: note dropdown", *items, ":::"])


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


def _copy(root: Path, path: Path, folder: Path) -> None:
    target = folder / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _stage_configuration(
    project: Project,
    profile: Profile,
    executed: dict[str, NotebookNode],
    contents: dict[str, Any],
    folder: Path,
) -> None:
    configuration = read_yaml(project.root / "_config.yml")
    for name in configuration.get("bibtex_bibfiles") or []:
        _copy(project.root, project.root / name, folder)
    for name, target in (("static", "_static"), ("templates", "_templates")):
        if (project.root / "book" / name).is_dir():
            shutil.copytree(project.root / "book" / name, folder / target)
    if profile.name != "full":
        configuration["title"] += f" ({profile.name} profile)"
    config = configuration.setdefault("sphinx", {}).setdefault("config", {})
    # For book.sphinx.theme_patches: the pages that have something to download and to launch.
    config.setdefault("html_context", {})["executed_pages"] = [chapter.docname for chapter in project.executable]
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
    (folder / f"{_REPORT_ROOT}.md").write_text(f"# {configuration['title']}\n\n{_NUMBERING[False]}", encoding="utf-8")


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
