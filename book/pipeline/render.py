"""Stage the pages and build HTML and PDF from them with Jupyter Book.

A staged page is the current source with the outputs of the executed notebook. Staging adds what no author should
have to keep up by hand: where a page's results come from, the banner of a profile that is not the full one, and
the outputs that other chapters glued. Both builds go to a folder aside and take the place of the last ones only
when they are complete.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import yaml
from nbformat import NotebookNode

from book.pipeline import latex
from book.pipeline.execute import code_cells_with_runs
from book.pipeline.freshness import statuses
from book.pipeline.profiles import Profile
from book.pipeline.project import BookError, Chapter, Project

# What turns the staged files into pages: a new version of any renders anew.
RENDERERS = (
    "jupyter-book",
    "myst-nb",
    "myst-parser",
    "Sphinx",
    "sphinx-book-theme",
    "pydata-sphinx-theme",
    "sphinx-mathjax-offline",
    "sphinx-proof",
    "sphinx-togglebutton",
    "sphinx_design",
    "sphinxcontrib-bibtex",
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GLUE_ROLE = re.compile(r"\{glue:\w*\}`(?P<chapter>\w+)/(?P<key>[^`:]+)")
_GLUE_DIRECTIVE = re.compile(r"\{glue:\w*\}[ \t]+(?P<chapter>\w+)/(?P<key>\S+)")
_INCLUDED_FILE = re.compile(r"\{(?:literalinclude|include|image|figure)\}[ \t]+(?P<path>\S+)")
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s:]+)\)")
_PAGE_LINK = re.compile(r"\]\((?P<page>[\w./-]+)\.md(?P<rest>[)#])")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_LANGUAGE = {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"}
# The introduction is the root of the pages. The report has a root of its own without text, because LaTeX drops the
# heading of the root; the introduction is its first chapter there, and has no number in either.
_REPORT_ROOT = "report"
_NUMBERING_OFF = "```{raw} latex\n\\setcounter{secnumdepth}{-1}\n```\n"
_NUMBERING_ON = "```{raw} latex\n\\setcounter{secnumdepth}{2}\n```\n"


def render(project: Project, profile: Profile) -> tuple[Path, Path | None]:
    """Build the pages and, where there is LaTeX, the report.

    Returns
    -------
    html : pathlib.Path
        The first page.
    pdf : pathlib.Path or None
        The report, or None without LaTeX.

    Raises
    ------
    BookError
        If a chapter is stale, or Jupyter Book or LaTeX warns about anything.
    """
    refuse_stale(project, profile)
    output = project.root / profile.output
    staged = stage(project, profile, output / "stage")
    wanted = {"html": output / "html" / "index.html"}
    if latex.missing():
        # An old report beside new pages would pass for theirs.
        (output / "report.pdf").unlink(missing_ok=True)
    else:
        wanted["pdf"] = output / "report.pdf"
    record = output / "render.json"
    current = _digest(staged)
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    todo = [kind for kind, path in wanted.items() if before.get(kind) != current or not path.is_file()]
    if todo:
        print(f"rendering {' and '.join(todo)}", file=sys.stderr, flush=True)
        made = output / "rendering"
        shutil.rmtree(made, ignore_errors=True)
        builders = {"html": _build_html, "pdf": _build_pdf}
        with ThreadPoolExecutor() as pool:
            built = {kind: pool.submit(builders[kind], staged, made / kind) for kind in todo}
        results = {kind: future.result() for kind, future in built.items()}
        if "html" in results:
            _replace(results["html"], output / "html")
        if "pdf" in results:
            os.replace(results["pdf"], output / "report.pdf")
        shutil.rmtree(made)
        kept = {kind: digest for kind, digest in before.items() if kind in wanted}
        record.write_text(json.dumps(kept | dict.fromkeys(todo, current)), encoding="utf-8")
    return wanted["html"], wanted.get("pdf")


def refuse_stale(project: Project, profile: Profile) -> None:
    """Raise an error that names the stale chapters and the command that brings them up to date."""
    stale = [status for status in statuses(project, profile).values() if not status.is_fresh]
    if stale:
        listing = "\n".join(f"  {status.chapter.name}: {'; '.join(status.reasons)}" for status in stale)
        raise BookError(
            f"not rendered, because these chapters are stale:\n{listing}\n"
            f"'python -m book build --profile {profile.name}' runs them and renders"
        )


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
    for number, chapter in enumerate(project.chapters):
        page = _page(project, profile, chapter, executed, glued)
        if number == 0:
            page.cells.append(nbformat.v4.new_markdown_cell(_NUMBERING_ON))
        for index, cell in enumerate(page.cells):
            cell["id"] = f"cell-{index}"
        path = folder / f"{chapter.docname}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(page, path)
        for file in _shown_files(project, chapter):
            _copy(project.root, file, folder)
    _stage_configuration(project, profile, executed, folder)
    return folder


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
        machine = made["environment"]
        versions = {"Python": machine["python"], **machine["packages"]}
        parameters = ", ".join(f"`{name} = {value!r}`" for name, value in made["parameters"].items())
        items += [
            f"- Parameters: {parameters or 'none'}",
            *([f"- Seed: {made['seed']}"] if made["seed"] is not None else []),
            f"- Executed: {made['date']}, in {made['seconds']:,} s",
            f"- Machine: {machine['processor']}, {machine['cores']} logical cores, {machine['platform']}",
            f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
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


def _stage_configuration(project: Project, profile: Profile, executed: dict[str, NotebookNode], folder: Path) -> None:
    configuration = yaml.safe_load((project.root / "_config.yml").read_text(encoding="utf-8"))
    for name in configuration.get("bibtex_bibfiles") or []:
        _copy(project.root, project.root / name, folder)
    static = project.root / "book" / "static"
    if static.is_dir():
        shutil.copytree(static, folder / "_static")
    if profile.name != "full":
        configuration["title"] += f" ({profile.name} profile)"
    dates = [notebook.metadata["book"]["date"] for notebook in executed.values()]
    if dates:
        # The report's date is that of its latest result, so that rendering once more changes nothing.
        latest = datetime.strptime(max(dates), "%Y-%m-%d %H:%M UTC")
        config = configuration.setdefault("sphinx", {}).setdefault("config", {})
        config["today"] = f"Results of {latest:%B} {latest.day}, {latest.year}"
    _write_yaml(folder / "_config.yml", configuration)
    contents = yaml.safe_load((project.root / "_toc.yml").read_text(encoding="utf-8"))
    _write_yaml(folder / "_toc.yml", contents)
    first = contents.get("parts", [contents])[0]
    first["chapters"] = [{"file": contents["root"]}, *first.get("chapters", [])]
    _write_yaml(folder / "_toc_report.yml", contents | {"root": _REPORT_ROOT})
    (folder / f"{_REPORT_ROOT}.md").write_text(f"# {configuration['title']}\n\n{_NUMBERING_OFF}", encoding="utf-8")


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _build_html(staged: Path, made: Path) -> Path:
    _jupyter_book(staged, made, "html", staged / "_toc.yml")
    return made / "_build" / "html"


def _build_pdf(staged: Path, made: Path) -> Path:
    _jupyter_book(staged, made, "latex", staged / "_toc_report.yml")
    folder = made / "_build" / "latex"
    for font in Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuSansMono*.ttf"):
        shutil.copy(font, folder)
    command = ["latexmk", "-xelatex", "-interaction=nonstopmode", "-halt-on-error", "-quiet", "report.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    log = folder / "report.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    if done.returncode != 0:
        errors = [line for line in lines if line.startswith(("!", "l."))] or done.stderr.splitlines()[-20:]
        raise BookError("LaTeX failed:\n" + "\n".join(errors) + f"\n(log: {log})")
    # A character that the font lacks leaves a gap in the report and no more than a line in the log.
    gaps = sorted({line for line in lines if line.startswith("Missing character")})
    if gaps:
        raise BookError("the report's fonts lack characters:\n" + "\n".join(gaps))
    return folder / "report.pdf"


def _jupyter_book(staged: Path, made: Path, builder: str, contents: Path) -> None:
    """Build strictly: every warning of a whole, fresh build is shown, and any makes it fail."""
    made.mkdir(parents=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged)]
    command += ["--path-output", str(made), "--builder", builder, "--toc", str(contents)]
    command += ["-n", "-W", "--keep-going", "-q"]
    environment = os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode != 0:
        output = _COLOUR.sub("", done.stdout + done.stderr).replace(f"{staged}{os.sep}", "")
        # MyST-NB counts lines as 10000 times the cell's number and the line in the cell.
        output = re.sub(r"\.ipynb:(\d+)(\d{4}):", lambda m: f".md, cell {m[1]}, line {int(m[2])}:", output)
        warnings = [line for line in output.splitlines() if "WARNING" in line or "ERROR" in line]
        raise BookError(f"Jupyter Book's {builder} build is not clean:\n" + ("\n".join(warnings) or output))


def _digest(staged: Path) -> str:
    """Hash what rendering depends on: the staged files, the programs, this module and our Sphinx extension."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(Path(__file__).with_name("proofs.py").read_bytes())
    for name in RENDERERS:
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(staged).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _replace(new: Path, old: Path) -> None:
    """Put a folder in the place of another, which is gone only when the new one is there."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        os.replace(old, aside)
    os.replace(new, old)
    shutil.rmtree(aside, ignore_errors=True)
