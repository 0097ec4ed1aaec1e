"""What there is: the folders of the project, and its chapters with their order, needs and parameters."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import yaml
from nbformat import NotebookNode

from book.pipeline.errors import BookError

PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"
# The first cell of a published notebook, see `book.pipeline.publish`.
OPENING_TAG = "opening"
CONTENTS = "_toc.yml"
# Of an entry of the table of contents, what names a page, and what holds entries.
_PAGES = ("root", "file")
_LISTS = ("parts", "chapters", "sections", "entries", "subtrees")
# What `is_plain` admits, for messages.
ANYTHING = "numbers, texts, true, false, None, or lists and mappings of these"


@dataclass(frozen=True)
class Chapter:
    """One page of the book, as its source says.

    Attributes
    ----------
    name : str
        The file's name without its ending; how commands and other chapters call it.
    docname : str
        The entry of ``_toc.yml``: the path from the project's root, without its ending.
    path : pathlib.Path
        The MyST source.
    notebook : nbformat.NotebookNode
        The source as a notebook without outputs.
    needs : tuple of str
        The chapters whose saved models this one reads.
    shared : dict
        For each of them the parameters that must be the same in both.
    quick : dict
        The parameters that the quick profile overrides.
    constraints : dict
        What each parameter may be, see `book.constraints`.
    """

    name: str
    docname: str
    path: Path
    notebook: NotebookNode = field(repr=False)
    needs: tuple[str, ...] = ()
    shared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    constraints: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def code_cells(self) -> list[NotebookNode]:
        """The code cells, in order."""
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @property
    def is_executable(self) -> bool:
        """Whether there is anything to run; a page of prose has nothing."""
        return bool(self.code_cells)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The parameters cell as names and literal values, in order.

        Raises
        ------
        BookError
            If there are several such cells, or one holds anything but ``name = literal``.
        """
        cells = [cell for cell in self.code_cells if PARAMETERS_TAG in tags_of(cell)]
        if len(cells) > 1:
            raise BookError(f"{self.path}: {len(cells)} cells are tagged '{PARAMETERS_TAG}'; one is allowed")
        return parse_parameters(cells[0].source, str(self.path)) if cells else {}


@dataclass(frozen=True)
class Project:
    """A checkout: where things are, and its chapters in the order of ``_toc.yml``."""

    root: Path
    chapters: tuple[Chapter, ...]

    @property
    def build(self) -> Path:
        """The folder of everything made; git ignores it."""
        return self.root / "_build"

    @property
    def executable(self) -> list[Chapter]:
        """The chapters that run."""
        return [chapter for chapter in self.chapters if chapter.is_executable]

    def chapter(self, name: str) -> Chapter:
        """Return the chapter of that name.

        Raises
        ------
        BookError
            If there is none; the message lists those that exist.
        """
        for chapter in self.chapters:
            if chapter.name == name:
                return chapter
        raise BookError(f"no chapter '{name}'; the chapters are {', '.join(c.name for c in self.chapters)}")

    def needs_of(self, chapter: Chapter) -> list[Chapter]:
        """Return the chapters that this one needs, directly or through others, in order."""
        found: set[str] = set()
        waiting = list(chapter.needs)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.chapter(name).needs
        return [other for other in self.chapters if other.name in found]


def tags_of(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def code_cells_of(notebook: NotebookNode) -> list[NotebookNode]:
    """List the code cells of a result that are the chapter's, not papermill's or the pipeline's."""
    ours = {INJECTED_TAG, OPENING_TAG}
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not ours & set(tags_of(cell))]


def number_cells(notebook: NotebookNode) -> None:
    """Give the cells their ids, by their places, so that a notebook that is made again is the same."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"


def parse_parameters(source: str, where: str) -> dict[str, Any]:
    """Read a parameters cell without running it.

    Parameters
    ----------
    source : str
        Lines of the form ``name = literal``, with or without an annotation.
    where : str
        What to call the cell in an error.

    Returns
    -------
    dict
        Names and values in their order.

    Raises
    ------
    BookError
        If a statement is anything else: papermill injects after this cell, so a value derived here
        would not follow the parameter that it is derived from.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise BookError(
            f"{where}: the parameters cell, line {error.lineno}: {error.msg}: {line}; "
            f"each line is 'name = literal', of {ANYTHING}"
        ) from None
    parameters: dict[str, Any] = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise BookError(f"{where}: the parameters cell holds '{ast.unparse(statement)}', not 'name = literal'")
        try:
            parameters[name] = ast.literal_eval(value)
        except (ValueError, TypeError):
            message = f"the parameter {name} = {ast.unparse(value)} is not a literal; derive it in the next cell"
            raise BookError(f"{where}: {message}") from None
        if not is_plain(parameters[name]):
            raise BookError(f"{where}: the parameter {name} = {ast.unparse(value)} is not made of {ANYTHING}")
    return parameters


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of what JSON knows, as the content key and papermill want it."""
    try:
        json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def load_project(root: Path) -> Project:
    """Read ``_toc.yml`` and the chapters that it names.

    Raises
    ------
    BookError
        If a file is missing or is not what it must be, or a chapter needs one that is unknown or does not come before
        it.
    """
    root = root.resolve()
    chapters: list[Chapter] = []
    for docname in files_of(read_contents(root)):
        chapter = _load_chapter(root, docname)
        earlier = [other.name for other in chapters if other.is_executable]
        for name in chapter.needs:
            if name not in earlier:
                raise BookError(
                    f"{chapter.path}: needs '{name}', which is not a chapter with code before it in _toc.yml; "
                    f"those are {', '.join(earlier) or 'none'}"
                )
            there = next(other for other in chapters if other.name == name)
            if unknown := set(chapter.shared[name]) - set(there.constraints):
                raise BookError(
                    f"{chapter.path}: shares {', '.join(sorted(unknown))} with {name}, which has no such parameter"
                )
        chapters.append(chapter)
    return Project(root=root, chapters=tuple(chapters))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of names and values.

    Raises
    ------
    BookError
        If it is missing, no UTF-8, no YAML, or anything but a mapping; the message names the file and the place.
    """
    try:
        value = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BookError(f"{path}{place}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(value, dict):
        raise BookError(f"{path} holds no names with values, but {value!r}")
    return value


def read_contents(root: Path) -> dict[str, Any]:
    """Read the table of contents.

    Raises
    ------
    BookError
        If it can't be read, or an entry is not what it must be; the message names the entry and the remedy.
    """
    path = root / CONTENTS
    contents = read_yaml(path)
    _check_entry(path, contents)
    return contents


def mapping_in(value: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return an entry of one of the project's files, names with values; made if it is missing.

    Raises
    ------
    BookError
        If it is anything else; the message names the file and the remedy.
    """
    entry = value.setdefault(name, {})
    if not isinstance(entry, dict):
        raise BookError(f"{path}: '{name}' must be names with values; got {entry!r}; {restored_by_git(path)}")
    return entry


def read_text(path: Path) -> str:
    """Read one of the project's own files, without a byte order mark.

    Raises
    ------
    BookError
        If it can't be read; the message names the file and the remedy.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BookError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except FileNotFoundError:
        raise BookError(f"{path} is missing; {restored_by_git(path)}") from None
    except OSError as error:
        raise BookError(f"{path} can't be read: {error.strerror}") from None


def files_of(entry: Any) -> list[str]:
    """List the pages of a table of contents in reading order, whatever its nesting."""
    if isinstance(entry, list):
        return [name for item in entry for name in files_of(item)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in _PAGES if key in entry]
    below = [entry[key] for key in _LISTS if key in entry]
    return own + files_of(below)


def restored_by_git(path: Path) -> str:
    """Say how one of the project's own files is restored."""
    return f"'git checkout -- {path.name}' in its folder restores it"


def _check_entry(path: Path, entry: Any) -> None:
    """Check an entry of the table of contents and those below it."""
    if not isinstance(entry, dict):
        raise BookError(
            f"{path}: {entry!r} must be an entry such as 'file: book/chapters/NAME'; {restored_by_git(path)}"
        )
    if "options" in entry:
        mapping_in(entry, "options", path)
    for name in _PAGES:
        if not isinstance(entry.get(name, ""), str):
            raise BookError(
                f"{path}: '{name}' must be the path of a page; got {entry[name]!r}; {restored_by_git(path)}"
            )
    for name in (name for name in _LISTS if name in entry):
        below = entry[name]
        if not isinstance(below, list) or not below:
            raise BookError(f"{path}: '{name}' must be a list of entries; got {below!r}; {restored_by_git(path)}")
        for one in below:
            _check_entry(path, one)


def _load_chapter(root: Path, docname: str) -> Chapter:
    path = root / f"{docname}.md"
    if not path.is_file():
        raise BookError(f"_toc.yml names {docname}, but {path} is missing")
    # Read here, because jupytext takes a byte order mark for the end of the front matter.
    text = read_text(path)
    try:
        notebook = jupytext.reads(text, fmt="md:myst")
    except yaml.YAMLError as error:
        raise BookError(f"{path}: the front matter: {' '.join(str(error).split())}") from None
    except Exception as error:  # jupytext and nbformat raise whatever they meet in something that is no notebook
        raise BookError(f"{path} can't be read as a notebook: {' '.join(str(error).split())[:300]}") from None
    entry = notebook.metadata.get("book", {})
    if not isinstance(entry, dict):
        raise BookError(f"{path}: 'book' in the front matter must hold needs, quick and parameters; got {entry!r}")
    needs, quick, constraints = (entry.get(name) or {} for name in ("needs", "quick", "parameters"))
    for name, value in (("needs", needs), ("quick", quick), ("parameters", constraints)):
        if not isinstance(value, dict):
            raise BookError(f"{path}: '{name}' must be names with values; got {value!r}")
    return Chapter(
        name=path.stem,
        docname=docname,
        path=path,
        notebook=notebook,
        needs=tuple(needs),
        shared={other: _shared(path, other, names, constraints) for other, names in needs.items()},
        quick=_plain(quick),
        constraints=_plain(constraints),
    )


def _shared(path: Path, other: str, names: Any, constraints: dict[str, Any]) -> tuple[str, ...]:
    """Return the parameters that a chapter shares with one that it needs."""
    if not isinstance(names, list) or not all(name in constraints for name in names):
        raise BookError(f"{path}: needs: {other} must be a list of parameters of this chapter; got {names!r}")
    return tuple(names)


def _plain(value: Any) -> Any:
    """Turn nbformat's kind of dict into Python's."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
