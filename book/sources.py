"""The canonical form of code, imports and pins: what keys are made of.

Two sources have the same canonical form if they differ in nothing that a program can notice: not in comments, layout,
docstrings and annotations of functions. The form is the syntax tree written out as a list of words. It is our own
because `ast.dump` and `ast.unparse` differ between versions of Python, and a key that is in git must not.

Code that reads code (`inspect`, ``__doc__``, `typing.get_type_hints`) notices more, and is taken as it is written.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import FunctionType, MethodType, ModuleType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = "requirements.txt"
# Names that are imported by another name than they are installed by; names compare as PEP 503 says.
DISTRIBUTIONS = {
    "IPython": "ipython",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
# They compute with NumPy and SciPy even where the importing code names neither.
NUMERIC = frozenset(
    (
        "captum",
        "joblib",
        "matplotlib",
        "numpy",
        "pandas",
        "safetensors",
        "scipy",
        "sklearn",
        "sympy",
        "torch",
        "torchvision",
    )
)
# Whoever uses one of these may see the text, the docstrings or the annotations of any code that it imports.
TEXT_READERS = frozenset(
    (
        "__annotate__",
        "__annotations__",
        "__doc__",
        "annotationlib",
        "custom_op",
        "doctest",
        "findsource",
        "get_annotations",
        "get_type_hints",
        "getcomments",
        "getdoc",
        "getsource",
        "getsourcelines",
        "help",
        "jit",
        "linecache",
        "pdoc",
        "pinfo",
        "pinfo2",
        "psource",
        "singledispatch",
        "singledispatchmethod",
    )
)
# These read code too, most often their own or none of the project's.
CODE_READERS = TEXT_READERS | {"__code__", "ast", "dis", "get_docstring", "inspect", "symtable", "tokenize"}
# This module reads code, but only to give it a name.
_SELF = ("book", "sources.py")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_STATEMENT_LISTS = ("body", "orelse", "finalbody")
# Fields that follow from the rest of the tree, that no program can notice, or that only some versions of Python have.
_SKIPPED_FIELDS = frozenset(("ctx", "kind", "type_comment", "type_ignores"))


class SourceError(ValueError):
    """A file that can't be read as what it should be; the message names the file and the line."""


@cache
def digest_of_source(source: str, where: str, *, is_cell: bool = False, raw: bool = False) -> str:
    """Return the digest of the canonical form of a source, or of its raw text if it reads code.

    Parameters
    ----------
    source : str
        Python.
    where : str
        What to call the source in an error.
    is_cell : bool
        Whether it is a cell of a notebook, whose last expression is shown.
    raw : bool
        Whether to take the raw text anyway, because other code reads this one's text; see `reads_text`.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits, the same under each version of Python that can read the source.

    Raises
    ------
    SourceError
        If it is not Python.
    """
    tree = parsed(source, where)
    if raw or reads_code(tree):
        return _sha256("raw\n" + source.replace("\r\n", "\n"))
    shows = is_cell and bool(tree.body) and isinstance(tree.body[-1], ast.Expr)
    end = "shown\n" if shows and not _ends_with_semicolon(source) else ""
    return _sha256(end + _canonical(tree, "cell" if shows else "module"))


def digest_of(*objects: ModuleType | Callable | type) -> str:
    """Return the digest of the sources of modules, functions and classes, exactly as they are given.

    What a function calls is not part of its source: name it too, or name the module.

    Parameters
    ----------
    *objects : module, function, method or class
        Of a package, all its files count.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.

    Raises
    ------
    TypeError
        If an object has no Python source: a built-in, an instance, a lambda.
    """
    return _sha256("\n".join(_digest_of_object(thing) for thing in objects))


def module_digest(path: Path, *, raw: bool = False) -> str:
    """Return the digest of a module's file; see `digest_of_source`.

    Raises
    ------
    SourceError
        If it is not Python.
    """
    source = read_source(path)
    if _is_this_module(path) and not raw:
        return _sha256(_canonical(parsed(source, str(path)), "module"))
    return digest_of_source(source, str(path), raw=raw)


def read_source(path: Path) -> str:
    """Read a module as Python does: with its declared encoding, without a byte order mark, with plain line ends.

    Raises
    ------
    SourceError
        If it can't be decoded.
    """
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read as text: {error}") from None


@cache
def parsed(source: str, where: str) -> ast.Module:
    """Return the syntax tree of a source, in which ``await`` may stand outside of a function, as in a notebook.

    Raises
    ------
    SourceError
        If it is not Python.
    """
    try:
        return compile(source, where, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise SourceError(f"{where}, line {error.lineno}: {error.msg}{f': {line}' if line else ''}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"{where}: {error or 'nested too deeply'}") from None


def reads_code(tree: ast.AST) -> bool:
    """Tell whether code may look at the text, the docstrings or the annotations of code, most likely its own."""
    return not CODE_READERS.isdisjoint(_names_in(tree))


def reads_text(root: Path, trees: Iterable[ast.AST]) -> bool:
    """Tell whether code, or a project module that it imports, may look at the text of any code that it imports."""
    trees = list(trees)
    modules = (path for path in project_modules(root, trees) if not _is_this_module(path))
    trees += [parsed(read_source(path), str(path)) for path in modules]
    return any(not TEXT_READERS.isdisjoint(_names_in(tree)) for tree in trees)


def project_modules(root: Path, trees: Iterable[ast.AST]) -> list[Path]:
    """Return the files of the project's modules that code imports, directly or through others, sorted.

    Parameters
    ----------
    root : pathlib.Path
        The project's root, from which it is imported.
    trees : iterable of ast.AST
        Syntax trees of the code. An import by a computed name is not seen.
    """
    return sorted(_imports(root, trees)[0])


def external_imports(root: Path, trees: Iterable[ast.AST]) -> set[str]:
    """Return the top-level names that code imports from outside of the project, directly or through its modules."""
    return _imports(root, trees)[1]


def pins_of(root: Path, external: Iterable[str]) -> dict[str, str]:
    """Return what ``requirements.txt`` says of the packages that code imports.

    Parameters
    ----------
    root : pathlib.Path
        The project's root.
    external : iterable of str
        Top-level names of imports. With a numeric package, NumPy and SciPy count as imported.

    Returns
    -------
    dict
        Names as in PEP 503, such as ``scikit-learn``, to what is required, such as ``==1.9.1``, sorted. A name that is
        not required by the project, such as one of the standard library, is left out.

    Raises
    ------
    SourceError
        If there is no such file, or a line of it is no requirement.
    """
    names = set(external)
    if names & NUMERIC:
        names |= {"numpy", "scipy"}
    wanted = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in names}
    return {name: pin for name, pin in sorted(_requirements(root / REQUIREMENTS).items()) if name in wanted}


def _is_this_module(path: Path) -> bool:
    return path.parts[-2:] == _SELF


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(tree: ast.AST, scope: str) -> str:
    """Write a tree as words, one a line.

    A node is its class, then the name of each field that is not empty with what it holds, then ``)``; a list stands in
    brackets. A stack in place of recursion, since a long sum is a deep tree.

    Parameters
    ----------
    tree : ast.AST
    scope : str
        Where the tree stands: ``module``, ``cell`` (a module whose last expression is shown), ``class`` or
        ``function``.
    """
    words: list[str] = []
    stack: list[tuple[object, str]] = [(tree, scope)]
    while stack:
        item, scope = stack.pop()
        if isinstance(item, str):
            words.append(item)
            continue
        if isinstance(item, list):
            words.append("[")
            stack.append(("]", scope))
            stack += [(_word_or_node(value), scope) for value in reversed(item)]
            continue
        node = _normalised(item, scope)
        if isinstance(node, ast.Constant):
            words.append(f"Constant {_constant(node.value)}")
            continue
        words.append(type(node).__name__)
        stack.append((")", scope))
        inner = _scope_inside(node, scope)
        for name in reversed(node._fields):
            value = getattr(node, name, None)
            if name in _STATEMENT_LISTS and isinstance(value, list):
                value = _statements(value, inner)
            if name in _SKIPPED_FIELDS or value is None or value == []:
                continue
            if (isinstance(node, _FUNCTIONS) and name == "returns") or (isinstance(node, ast.arg) and name != "arg"):
                continue
            stack += [(_word_or_node(value), inner), (f".{name}", inner)]
    return "\n".join(words)


def _word_or_node(value: object) -> object:
    """Return a word for what is neither a node nor a list of them: a name, a number, or nothing in a list."""
    return value if isinstance(value, ast.AST | list) else ascii(value)


def _scope_inside(node: ast.AST, scope: str) -> str:
    if isinstance(node, _FUNCTIONS):
        return "function"
    if isinstance(node, ast.ClassDef):
        return "class"
    # Only what stands at the cell's own level is shown.
    return "module" if scope == "cell" and not isinstance(node, ast.Module) else scope


def _statements(statements: list[ast.stmt], scope: str) -> list[ast.stmt]:
    """Leave out the statements that do nothing: docstrings and other bare constants, ``pass``, bare annotations."""
    kept = []
    for index, statement in enumerate(statements):
        is_shown = scope == "cell" and index == len(statements) - 1
        match statement:
            case ast.Pass():
                continue
            case ast.Expr(value=ast.Constant()) if not is_shown:
                continue
            case ast.AnnAssign(target=ast.Name(), value=None) if scope == "function":
                continue
        kept.append(statement)
    return kept


def _normalised(node: ast.AST, scope: str) -> ast.AST:
    """Return another node of the same meaning where Python knows two."""
    if isinstance(node, ast.AnnAssign) and scope == "function" and node.value is not None:
        return ast.Assign(targets=[node.target], value=node.value)
    if isinstance(node, ast.JoinedStr):
        return _joined(node)
    if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr):
        spec = _joined(node.format_spec)
        empty = isinstance(spec, ast.Constant) and spec.value == ""
        return ast.FormattedValue(value=node.value, conversion=node.conversion, format_spec=None if empty else spec)
    return node


def _joined(node: ast.JoinedStr) -> ast.JoinedStr | ast.Constant:
    """Join the neighbouring texts of an f-string, which versions of Python cut in different places."""
    parts: list[ast.expr] = []
    for value in node.values:
        if isinstance(value, ast.Constant) and parts and isinstance(parts[-1], ast.Constant):
            parts[-1] = ast.Constant(parts[-1].value + value.value)
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            parts.append(value)
    if all(isinstance(part, ast.Constant) for part in parts):
        return ast.Constant("".join(part.value for part in parts))
    return ast.JoinedStr(values=parts)


def _constant(value: object) -> str:
    """Write a constant with its type, since 1, 1.0 and True are equal and not the same."""
    # Hexadecimal digits, because Python refuses to write long integers in decimal ones.
    return f"{type(value).__name__} {hex(value) if type(value) is int else ascii(value)}"


@cache
def _names_in(tree: ast.AST) -> frozenset[str]:
    """Collect each name that code uses, also one in quotes that `getattr` or a line magic may take."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names.add(name)
            case ast.Constant(value=str(name)) if name.startswith(("__", "pinfo", "psource", "pdoc")):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update(part for alias in aliases for part in alias.name.split("."))
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(node.module.split("."))
    return frozenset(names)


def _ends_with_semicolon(source: str) -> bool:
    """Tell whether the last token is a semicolon, with which a cell does not show its last expression."""
    blank = (tokenize.COMMENT, tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    tokens = [t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in blank]
    return tokens[-1:] == [";"]


def _digest_of_object(thing: object) -> str:
    if isinstance(thing, ModuleType):
        path = Path(thing.__file__)
        files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
        return "\n".join(f"{file.name} {module_digest(file)}" for file in files)
    node, lines = _definition_of(thing)
    if reads_code(node):
        return _sha256("raw\n" + "".join(lines[_first_line(node) - 1 : node.end_lineno]))
    return _sha256(_canonical(node, "module"))


def _definition_of(thing: object) -> tuple[ast.stmt, list[str]]:
    """Find the statement that defines a function or class, in the file or the cell that it is from."""
    thing = inspect.unwrap(thing.__func__ if isinstance(thing, MethodType) else thing)
    if isinstance(thing, FunctionType | type):
        try:
            lines, _ = inspect.findsource(thing)
        except (OSError, TypeError):
            lines = []
        for node, path in _definitions("".join(lines), str(thing)):
            if isinstance(thing, type):
                is_it = path == thing.__qualname__
            else:
                is_it = node.name == thing.__name__ and _first_line(node) == thing.__code__.co_firstlineno
            if is_it:
                return node, lines
    raise TypeError(f"a module, or a function or class that is defined in Python, is wanted; got {thing!r}")


@cache
def _definitions(source: str, where: str) -> list[tuple[ast.stmt, str]]:
    """List the definitions of a source with their qualified names."""
    found = []
    waiting: list[tuple[ast.AST, str]] = [(parsed(source, where), "")]
    while waiting:
        parent, prefix = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            inner = prefix
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                found.append((node, prefix + node.name))
                inner = f"{prefix}{node.name}." + ("" if isinstance(node, ast.ClassDef) else "<locals>.")
            waiting.append((node, inner))
    return found


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _imports(root: Path, trees: Iterable[ast.AST]) -> tuple[set[Path], set[str]]:
    files: set[Path] = set()
    external: set[str] = set()
    waiting = [name for tree in trees for name in _imported_names(tree, package="")]
    while waiting:
        name = waiting.pop()
        found = _module_files(root, name)
        if found is None:
            external.add(name.partition(".")[0])
            continue
        for path in found - files:
            files.add(path)
            # A package's own file is the package; a module's package is the folder that it is in.
            package = ".".join(path.relative_to(root).parts[:-1])
            waiting += _imported_names(parsed(read_source(path), str(path)), package)
    return files, external


@cache
def _imported_names(tree: ast.AST, package: str) -> tuple[str, ...]:
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
    return tuple(names)


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


def _requirements(path: Path) -> dict[str, str]:
    """Read a requirements file: names to all that is required of them, without options such as ``--hash``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{path} is missing; restore it: git checkout -- {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read as text: {error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        requirement = re.sub(r"(^|\s)#.*", "", line).partition(" --")[0].strip(" \t\\")
        if not requirement or requirement.startswith("-"):
            continue
        try:
            required = Requirement(requirement)
        except InvalidRequirement as error:
            raise SourceError(f"{path}, line {number}: {requirement} is no requirement: {error}") from None
        pin = (
            f"{','.join(sorted(required.extras))} {required.url or required.specifier} {required.marker or ''}".strip()
        )
        name = canonicalize_name(required.name)
        found[name] = f"{found[name]}, {pin}" if name in found else pin
    return found
