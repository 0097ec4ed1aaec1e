"""Figures and outputs of other chapters on a page, taken from their runs.

A page of prose, the report above all, shows them by two directives, which staging replaces::

    ```{chapter-figure} four_activations/fig-loss-relu-sigmoid
    ```

    ```{chapter-output} four_activations/sec-activations-files
    :holds: 50_relu_weights.pkl
    :caption: The saved files.
    ```

A figure is named by its ``name``, and brings its caption and its alternative text with it; a body of the directive is a
caption of its own. An output, a table or what a cell printed, is named by the label of its section; ``holds`` is a text
that is in no other output of that section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbformat import NotebookNode

from book.pipeline.errors import BookError
from book.pipeline.execute import code_cells_with_runs
from book.pipeline.project import Chapter, Project

_DIRECTIVE = re.compile(
    r"^```\{chapter-(?P<kind>figure|output)\} (?P<chapter>\w+)/(?P<name>[\w-]+)\n"
    r"(?P<options>(?::\w+: .*\n)*)(?P<body>(?:(?!```).*\n)*)```$",
    re.MULTILINE,
)
_OPTION = re.compile(r"^:(\w+): (.*)$", re.MULTILINE)
_LABEL = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
_OWN_GLUE = re.compile(r"(\{glue:\w*\}`)(?![\w]+/)")


def with_excerpts(source: str, where: str, project: Project, executed: dict[str, NotebookNode]) -> str:
    """Replace the two directives of a page.

    Parameters
    ----------
    source : str
        Markdown.
    where : str
        Names the page in messages.
    project : Project
        The chapters as they are written.
    executed : dict
        Chapter name to its run.

    Returns
    -------
    str
        Markdown that MyST-NB knows; figures are shown as if the chapter had glued them under their names.

    Raises
    ------
    BookError
        If a chapter has no such figure, or not exactly one such output.
    """
    problems: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        name, place = match["chapter"], f"{where}: shows {match['chapter']}/{match['name']}"
        try:
            if name not in executed:
                raise BookError(f"{place}, but no chapter {name} runs")
            chapter, options = project.chapter(name), dict(_OPTION.findall(match["options"]))
            if match["kind"] == "output":
                return _shown_output(chapter, executed[name], match["name"], options, place)
            return _shown_figure(chapter, match["name"], match["body"].strip(), place)
        except BookError as error:
            problems.append(str(error))
            return ""

    source = _DIRECTIVE.sub(replaced, source)
    if problems:
        raise BookError("\n".join(problems))
    return source


def _shown_figure(chapter: Chapter, name: str, caption: str, place: str) -> str:
    cells = [cell.metadata.get("mystnb", {}) for cell in chapter.code_cells]
    figures = {cell["figure"]["name"]: cell for cell in cells if "name" in cell.get("figure", {})}
    if name not in figures:
        raise BookError(f"{place}, but the figures of {chapter.name} are {', '.join(sorted(figures)) or 'none'}")
    alternative = " ".join(figures[name].get("image", {}).get("alt", "").split())
    caption = caption or _of_chapter(figures[name]["figure"].get("caption", "").strip(), chapter.name)
    lines = [f"```{{glue:figure}} {chapter.name}/{name}", f":name: shown-{name}", f":alt: {alternative}", ""]
    return "\n".join([*lines, caption, "```"])


def _of_chapter(text: str, chapter: str) -> str:
    """Name the chapter in each role that pastes one of its glued numbers."""
    return _OWN_GLUE.sub(rf"\g<1>{chapter}/", text)


def _shown_output(chapter: Chapter, executed: NotebookNode, label: str, options: dict[str, str], place: str) -> str:
    in_section = list(_outputs_below(chapter, executed, label))
    # The columns of a table are as wide as its numbers need.
    found = [text for text in in_section if options.get("holds", "") in " ".join(text[1].split())]
    if len(found) != 1:
        offered = "; ".join(text.strip().splitlines()[0] for _, text in in_section) or "nothing"
        holding = f" with '{options['holds']}'" if "holds" in options else ""
        raise BookError(f"{place}{holding}, but {len(found)} outputs are so; the section has: {offered}")
    is_printed, text = found[0]
    text = f"````text\n{text.rstrip()}\n````" if is_printed else text.strip()
    if is_printed or "caption" not in options:
        return text
    return "\n".join([f":::{{table}} {options['caption']}", "", text, ":::"])


def _outputs_below(chapter: Chapter, executed: NotebookNode, label: str) -> Iterator[tuple[bool, str]]:
    """Yield the texts that a section's cells show, each with whether it was printed; a table is Markdown."""
    runs = {id(cell): run for cell, run in code_cells_with_runs(chapter.notebook, executed)}
    section = None
    for cell in chapter.notebook.cells:
        if cell.cell_type == "markdown":
            section = (_LABEL.findall(cell.source) or [section])[-1]
        elif section == label and id(cell) in runs:
            for output in runs[id(cell)].outputs:
                if "scrapbook" in output.get("metadata", {}):
                    continue
                if output.output_type == "stream":
                    yield True, output.text
                elif "text/markdown" in output.get("data", {}):
                    yield False, output.data["text/markdown"]
