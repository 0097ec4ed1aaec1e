"""The content key of a chapter: whether its result is that of the sources, and if not, what changed.

The key is a hash over named components, and the components are stored beside it in the executed notebook, so that
a stale chapter can say why. Everything in it comes from the checkout; nothing from the machine, its clock or its
Python, so that the results in git are fresh wherever they are checked out. The components are:

- the code cells in their order, with their tags, but no prose and no other metadata;
- each parameter with its value in the profile; the parameters cell itself is left out, since it holds nothing
  else;
- each module of the project that the chapter imports, directly or through others, found by reading the sources. An
  import by a computed name is not seen. The checksums of the data are constants of the data's loader, and so are
  in the key through that module;
- requirements.txt without its comments;
- the keys of the chapters that it needs.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from book.pipeline.parameters import Profile
from book.pipeline.project import PARAMETERS_TAG, BookError, Chapter, Project, tags_of

CODE = "code cells"
REQUIREMENTS = "requirements.txt"


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
    """

    chapter: Chapter
    result: Path
    key: str
    components: dict[str, str]
    reasons: list[str] = field(default_factory=list)

    @property
    def is_fresh(self) -> bool:
        """Whether the stored result can be published."""
        return not self.reasons


def statuses(project: Project, profile: Profile) -> dict[str, Status]:
    """Compare the stored results with the sources.

    Returns
    -------
    dict
        Chapter name to status, for the chapters that run, in their order.
    """
    found: dict[str, Status] = {}
    for chapter in project.executable:
        needs = {name: found[name].key for name in chapter.needs}
        components = components_of(project.root, chapter, profile.parameters(chapter), needs)
        result = project.root / profile.results / f"{chapter.name}.ipynb"
        found[chapter.name] = Status(
            chapter=chapter,
            result=result,
            key=_hash(components),
            components=components,
            reasons=_reasons(result, components),
        )
    return found


def components_of(root: Path, chapter: Chapter, parameters: dict[str, Any], needs: dict[str, str]) -> dict[str, str]:
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
        The chapters that it needs, with their keys.

    Returns
    -------
    dict
        Names of components and short hashes.
    """
    cells = [[cell.source, sorted(tags_of(cell))] for cell in chapter.code_cells if PARAMETERS_TAG not in tags_of(cell)]
    components = {CODE: _hash(cells)[:16]}
    for name, value in parameters.items():
        components[f"parameter {name}"] = _hash(value)[:16]
    for path in project_modules(root, chapter):
        components[path.relative_to(root).as_posix()] = _hash(_text(path))[:16]
    components[REQUIREMENTS] = _hash(_requirements(root))[:16]
    for name, key in needs.items():
        components[f"needs {name}"] = key[:16]
    return components


def project_modules(root: Path, chapter: Chapter) -> list[Path]:
    """Return the files of the project's modules that a chapter imports, directly or through others, sorted."""
    return sorted(_imports(root, chapter)[0])


def external_imports(root: Path, chapter: Chapter) -> set[str]:
    """Return the top-level names that a chapter imports, directly or through the project's modules, from elsewhere."""
    return _imports(root, chapter)[1]


def _imports(root: Path, chapter: Chapter) -> tuple[set[Path], set[str]]:
    files: set[Path] = set()
    external: set[str] = set()
    waiting = [name for tree in _cell_trees(chapter) for name in _imported_names(tree, package="")]
    while waiting:
        name = waiting.pop()
        found = _module_files(root, name)
        if found is None:
            external.add(name.partition(".")[0])
            continue
        for path in found - files:
            files.add(path)
            parts = path.relative_to(root).with_suffix("").parts
            # A package's own file is the package; a module's package is the folder that it is in.
            package = ".".join(parts[:-1])
            waiting += _imported_names(_parsed(_text(path), str(path)), package)
    return files, external


def _cell_trees(chapter: Chapter) -> list[ast.AST]:
    """Parse the code cells, with IPython's own syntax turned into Python."""
    trees = []
    for number, cell in enumerate(chapter.code_cells, start=1):
        source = cell.source
        magic = re.match(r"\s*%%(\w+).*\n?", source)
        if magic:
            # The body of a cell magic such as %%time is Python; that of %%bash is not, and imports nothing.
            source = source[magic.end() :]
        try:
            trees.append(_parsed(TransformerManager().transform_cell(source), f"{chapter.path}, code cell {number}"))
        except BookError:
            if not magic:
                raise
    return trees


@cache
def _parsed(source: str, where: str) -> ast.AST:
    try:
        return compile(source, where, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        raise BookError(f"{where}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from None


def _imported_names(tree: ast.AST, package: str) -> list[str]:
    """List the dotted names that a source may import; ``from a import b`` gives ``a`` and ``a.b``."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            names.append(base)
            names += [f"{base}.{alias.name}" for alias in node.names if alias.name != "*"]
    return names


def _module_files(root: Path, name: str) -> set[Path] | None:
    """Return the files that importing a dotted name runs, or None for a name from outside of the project."""
    parts = name.split(".")
    top = root / parts[0]
    if not (top.is_dir() and any(top.rglob("*.py"))) and not top.with_suffix(".py").is_file():
        return None
    files = set()
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        # Python takes a package before a module of the same name.
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                files.add(path)
                break
    return files


def _requirements(root: Path) -> list[str]:
    path = root / REQUIREMENTS
    lines = _text(path).splitlines() if path.is_file() else []
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return sorted(line for line in bare if line)


def _text(path: Path) -> str:
    # Universal newlines: a checkout with CRLF has the same key.
    return path.read_text(encoding="utf-8")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def recorded(result: Path) -> dict[str, Any]:
    """Return what the pipeline recorded in an executed notebook, or an empty dict."""
    try:
        notebook: NotebookNode = nbformat.read(result, as_version=4)
    except (OSError, ValueError, AttributeError):
        return {}
    return dict(notebook.metadata.get("book", {}))


def _reasons(result: Path, components: dict[str, str]) -> list[str]:
    """Say in words how the components differ from those recorded in the result."""
    if not result.is_file():
        return ["not executed yet"]
    before = recorded(result).get("components")
    if not before:
        return [f"{result.name} was not made by this pipeline"]
    reasons = []
    for name in sorted(before.keys() | components.keys()):
        if before.get(name) == components.get(name):
            continue
        if name.startswith("needs "):
            change = {None: "and did not before"}.get(before.get(name), "whose key changed")
            reasons.append(f"{name}, {change}" if name in components else f"no longer {name}")
        elif name not in components:
            reasons.append(f"{name} is gone" if name.startswith("parameter") else f"no longer imports {name}")
        elif name not in before:
            reasons.append(f"{name} is new" if name.startswith("parameter") else f"imports {name}, and did not before")
        else:
            reasons.append(f"{name} changed")
    return reasons
