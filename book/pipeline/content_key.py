"""The content key of a chapter: whether its result is that of the sources, and if not, what changed.

The key is a hash over named components, and the components are stored beside it in the executed notebook, so that
a stale chapter can say why. Everything in it comes from the checkout; nothing from the machine, its clock or its
Python, so that the results in git are fresh wherever they are checked out. The components are:

- the code cells in their order, in canonical form (see `book.sources`), with the tags that change what a run gives;
- each parameter with its value in the profile; the parameters cell itself is left out, since it holds nothing
  else;
- each module of the project that the chapter imports, directly or through others, in canonical form. An import by a
  computed name is not seen. The checksums of the data are constants of the data's loader, and so are in the key
  through that module;
- the pin of each package that the chapter imports, directly or through those modules;
- for each chapter that it needs, the checksums of the files that this one left: if it runs again and leaves the same
  files, what needs it stays fresh. While it is stale itself nobody knows what it will leave, so a chapter that needs
  a stale one is stale as well, and is looked at again once that one has run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from book import sources
from book.files import checksums_of
from book.pipeline.build import Build
from book.pipeline.cost import cost_of
from book.pipeline.errors import BookError
from book.pipeline.project import INJECTED_TAG, PARAMETERS_TAG, Chapter, code_cells_of, tags_of

CODE = "code cells"
# With them a cell may fail, or is not run; other tags change only how it is shown.
RESULT_TAGS = frozenset(("raises-exception", "skip-execution"))
_CELL_MAGIC = re.compile(r"\s*%%(\w+).*\n?")


class _NotAsWrittenError(Exception):
    """A stored result that is not what the pipeline wrote."""


@dataclass(frozen=True)
class Status:
    """Whether the stored result of a chapter is that of the sources.

    Attributes
    ----------
    chapter : Chapter
        The chapter.
    result : pathlib.Path
        Where its executed notebook is or belongs.
    key : str
        The content key of the sources.
    components : dict
        What the key is made of: names and short hashes.
    reasons : list of str
        Why the result is stale; empty when it is fresh.
    models : dict
        The files that the stored result left for other chapters, with their checksums.
    stale_needs : tuple of str
        The chapters that it needs and that are stale. If nothing else is a reason, it may turn out to be fresh once
        these have run, and then `statuses` says so.
    is_damaged : bool
        Whether the stored result is not what the pipeline wrote.
    expected_seconds : float or None
        About how long it takes to run: what the stored result cost, with what it then found in the cache.
    """

    chapter: Chapter
    result: Path
    key: str
    components: dict[str, str]
    reasons: list[str] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    stale_needs: tuple[str, ...] = ()
    is_damaged: bool = False
    expected_seconds: float | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the stored result can be published."""
        return not self.reasons


def statuses(build: Build) -> dict[str, Status]:
    """Compare the stored results with the sources.

    Returns
    -------
    dict
        Chapter name to status, for the chapters that run, in their order.

    Raises
    ------
    BookError
        If a source can't be read; the message names the file and the line.
    """
    found: dict[str, Status] = {}
    for chapter in build.chapters:
        found[chapter.name] = _status_of(build, chapter, found)
    return found


def _status_of(build: Build, chapter: Chapter, found: dict[str, Status]) -> Status:
    needs = {name: found[name].models for name in chapter.needs}
    components = components_of(build.root, chapter, build.parameters(chapter), needs)
    result = build.result_of(chapter)
    stale_needs = tuple(name for name in chapter.needs if not found[name].is_fresh)
    record: dict[str, Any] = {}
    is_damaged = False
    try:
        notebook = _read(result)
        record = _record_of(notebook)
        if not record and build.is_published(chapter):
            # Perhaps the record's name, or the digest's, is what is damaged.
            raise _NotAsWrittenError(f"{result.name} is damaged: it holds no record that the pipeline wrote")
        reasons = _changes(record, components)
        damaged = _damaged_models(record, build.models_of(chapter))
        if not reasons and len(code_cells_of(notebook)) != len(chapter.code_cells):
            damaged.append(f"the cells of {result.name} are not the chapter's")
        is_damaged = bool(damaged) and not reasons
        reasons += damaged
    except FileNotFoundError:
        reasons = ["not executed yet"]
    except _NotAsWrittenError as error:
        reasons, is_damaged = [str(error)], True
    return Status(
        chapter=chapter,
        result=result,
        key=key_of(components),
        components=components,
        reasons=[*reasons, *(f"{name} is stale" for name in stale_needs)],
        models=record.get("models", {}),
        stale_needs=stale_needs,
        is_damaged=is_damaged,
        expected_seconds=cost_of(record).wall_seconds if record else None,
    )


def components_of(
    root: Path, chapter: Chapter, parameters: dict[str, Any], needs: dict[str, dict[str, str]]
) -> dict[str, str]:
    """Return what a chapter's key is made of.

    Parameters
    ----------
    root : pathlib.Path
        The project's root.
    chapter : Chapter
        The chapter.
    parameters : dict
        Its parameters as they are in the profile.
    needs : dict
        The chapters that it needs, each with the checksums of the files that it left.

    Returns
    -------
    dict
        Names of components and short hashes.

    Raises
    ------
    BookError
        If a source can't be read.
    """
    try:
        trees = _cell_trees(chapter)
        raw = sources.reads_text(root, trees)
        cells = _cell_digests(chapter, raw)
        modules = sources.project_modules(root, trees)
        components = {CODE: _short_hash(cells)}
        components |= {f"parameter {name}": _short_hash(value) for name, value in parameters.items()}
        components |= {path.relative_to(root).as_posix(): sources.module_digest(path, raw=raw)[:16] for path in modules}
        pins = sources.pins_of(root, sources.external_imports(root, trees))
    except sources.SourceError as error:
        raise BookError(str(error)) from None
    components |= {f"pin {name}": _short_hash(pin) for name, pin in pins.items()}
    return components | {f"models of {name}": _short_hash(files) for name, files in needs.items()}


def key_of(components: dict[str, str]) -> str:
    """Return the key that components make."""
    return _hash(components)


def project_modules(root: Path, chapter: Chapter) -> list[Path]:
    """Return the files of the project's modules that a chapter imports, directly or through others, sorted."""
    return _of_sources(sources.project_modules, root, chapter)


def external_imports(root: Path, chapter: Chapter) -> set[str]:
    """Return the top-level names that a chapter imports, directly or through the project's modules, from elsewhere."""
    return _of_sources(sources.external_imports, root, chapter)


def recorded(result: Path) -> dict[str, Any]:
    """Return what the pipeline recorded in an executed notebook, or an empty dict if there is none or it is damaged."""
    try:
        return _record_of(_read(result))
    except (FileNotFoundError, _NotAsWrittenError):
        return {}


def seal_of(notebook: NotebookNode) -> str:
    """Return the digest of a result: of its outputs and of what the pipeline recorded, except for the digest itself.

    Cells without outputs do not count, so that a published notebook's opening cell leaves the digest as it is; nor
    does the text, which is brought up to date without a run, except for the parameters that were injected.
    """
    outputs = [
        cell.source if INJECTED_TAG in tags_of(cell) else cell.outputs
        for cell in notebook.cells
        if cell.cell_type == "code" and (cell.outputs or INJECTED_TAG in tags_of(cell))
    ]
    record = {name: value for name, value in notebook.metadata.get("book", {}).items() if name != "digest"}
    return _hash([outputs, record])


def _of_sources(function: Any, root: Path, chapter: Chapter) -> Any:
    try:
        return function(root, _cell_trees(chapter))
    except sources.SourceError as error:
        raise BookError(str(error)) from None


def _cell_trees(chapter: Chapter) -> list[ast.AST]:
    """Parse the code cells; a cell whose magic takes something else than Python imports nothing."""
    places = _python_cells(chapter)
    return [sources.parsed(source, where) for _, source, where in places if source is not None]


def _cell_digests(chapter: Chapter, raw: bool) -> list[list[Any]]:
    """Digest each code cell but that of the parameters: its magic, its code, and the tags that count."""
    digests = []
    for cell, (magic, source, where) in zip(chapter.code_cells, _python_cells(chapter), strict=True):
        if PARAMETERS_TAG in tags_of(cell):
            continue
        code = cell.source if source is None else sources.digest_of_source(source, where, is_cell=True, raw=raw)
        digests.append([magic, code, sorted(RESULT_TAGS.intersection(tags_of(cell)))])
    return digests


def _python_cells(chapter: Chapter) -> list[tuple[str, str | None, str]]:
    """List the code cells as their cell magic, their code with IPython's own syntax turned into Python, and a name.

    The body of a cell magic such as ``%%time`` is Python; that of ``%%bash`` is not, and its code is None.
    """
    cells = []
    for number, cell in enumerate(chapter.code_cells, start=1):
        where = f"{chapter.path}, code cell {number}"
        magic = _CELL_MAGIC.match(cell.source)
        source: str | None = TransformerManager().transform_cell(cell.source[magic.end() :] if magic else cell.source)
        try:
            sources.parsed(source, where)
        except sources.SourceError:
            if not magic:
                raise
            source = None
        cells.append((magic.group().strip() if magic else "", source, where))
    return cells


def _short_hash(value: Any) -> str:
    return _hash(value)[:16]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(result: Path) -> NotebookNode:
    """Read an executed notebook and compare it with its digest, if it has one.

    Raises
    ------
    OSError
        If there is no such file, or it can't be read.
    _NotAsWrittenError
        If the notebook is not as the pipeline wrote it.
    """
    try:
        notebook: NotebookNode = nbformat.read(result, as_version=4)
        record = _record_of(notebook)
        is_whole = not record or record["digest"] == seal_of(notebook)
    except OSError:
        raise
    except Exception:  # nbformat raises whatever it meets in something that is no notebook
        is_whole = False
    if not is_whole:
        raise _NotAsWrittenError(f"{result.name} is damaged")
    return notebook


def _record_of(notebook: NotebookNode) -> dict[str, Any]:
    """Return what the pipeline recorded in an executed notebook, nothing if it has no digest."""
    record = notebook.metadata.get("book", {})
    return dict(record) if record.get("digest") is not None else {}


def _damaged_models(record: dict[str, Any], folder: Path) -> list[str]:
    """Say which files for other chapters are not those that the notebook recorded, and which it did not record."""
    wanted = record.get("models", {})
    present = checksums_of(folder)
    return [
        f"its model {name} {'is not what was recorded' if name in present else 'is missing'}"
        for name, checksum in wanted.items()
        if present.get(name) != checksum
    ] + [f"{name} lies among its models, and is none of them" for name in present if name not in wanted]


def _changes(record: dict[str, Any], components: dict[str, str]) -> list[str]:
    """Say in words how the components differ from those recorded."""
    before = record.get("components")
    if not before:
        return ["its notebook was not made by this pipeline"]
    reasons = []
    for name in sorted(before.keys() | components.keys()):
        if before.get(name) == components.get(name):
            continue
        if name in components and name in before:
            reasons.append(f"{name} changed")
        elif name.startswith("parameter "):
            reasons.append(f"{name} is {'new' if name in components else 'gone'}")
        elif name.startswith("models of "):
            reasons.append(f"reads {name}, and did not before" if name in components else f"no longer {name}")
        else:
            what = name.removeprefix("pin ")
            reasons.append(f"imports {what}, and did not before" if name in components else f"no longer imports {what}")
    return reasons
