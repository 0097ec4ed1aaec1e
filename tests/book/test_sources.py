"""The canonical form of code: what it leaves out, that it leaves out nothing else, and that it is the same everywhere."""

import ast
import copy
import functools
import hashlib
import io
import shutil
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest
from small_project import ROOT

from book import sources
from book.pipeline.content_key import project_modules, statuses
from book.pipeline.parameters import load_profile
from book.pipeline.project import load_project
from book.sources import SourceError, digest_of, digest_of_source, module_digest, pins_of

MODULES = sorted(path for folder in ("book", "data", "mlp_core") for path in (ROOT / folder).rglob("*.py"))
CHAPTERS = [chapter.name for chapter in load_project(ROOT).executable]

# All syntax of Python 3.11 that is read alike by later versions.
ALL_SYNTAX = '''\
"""A module."""
from __future__ import annotations
import a, b.c as d
from . import e
from ..f import g as h, i
X: int = 1
Y: int
NUMBERS = [0, -0.0, 0.0, 1, 1.0, True, 1e999, 1e-7, 2j, 0xFFFFFFFFFFFFFFFFFFFF, 10**3, ..., None, b"\\x00'", 'é"\\ud800']
TEXTS = "a" "b" f"c{X}d" "e", f"{X!r:>{Y}.{2}f}", f"{X:}", f"{X=}", f"{{}}", f"", f"{'n'}", u"u", f"{X!s}{Y!a}" f"{X}"
@decorator(1, *a, k=2, **d)
class C(B, metaclass=M):
    "Doc."
    field: int = 3
    other: list[int]
    def method(self, a: int, /, b: "B" = 1, *args: int, c: int = 2, d, **kwargs: str) -> None:
        """Doc."""
        x: int = 5
        y: int
        self.z: int = 6
        nonlocal_ = lambda p, *q, r=1, **s: (yield)
        return x
    async def coroutine(self):
        async with a as b, c: pass
        async for x in y: await x
        else: ...
        return [i async for i in j if await k]
def function(*, key=1):
    global Z
    def inner():
        nonlocal key
        yield from key
    del a.b, c[0], d[1:2:3], e[...], f[:, 1]
    assert a, "b"
    raise E from f
for i, (j, *k) in l:
    continue
else:
    break
while a < b <= c != d is e is not f in g not in h == i > j >= k:
    x = a if b else c
try:
    pass
except (A, B) as error:
    raise
except C:
    x += 1; x -= 1; x *= 1; x /= 1; x //= 1; x %= 1; x **= 1; x @= 1; x &= 1; x |= 1; x ^= 1; x <<= 1; x >>= 1
else:
    z = {**a, 'b': 1, 2: 3}, {1, *b}, {k: v for k, v in w}, {s for s in t}, (g for g in h if i if j)
finally:
    w = (a and b or not c), ~a, +a, -a, a + b - c * d / e // f % g ** h @ i & j | k ^ l << m >> n
try:
    f(a, *b, c=1, **d)
except* G:
    (walrus := 1)
with (open(a) as b, c as (d, e)):
    x[*y] = x[1, 2]
match a:
    case 1 | -1.5 | "s" | None | True: pass
    case [1, _, *rest] if rest: pass
    case {"k": v, **others}: pass
    case Point(x=0, y=yy) | A.B: pass
    case _ as whole: pass
if a: pass
elif b: x = y = z
else: x, *y = z
'''
GOLDEN = "?"


def raw_digest(source):
    return digest_of_source(source, "source")


# What no program notices.


def without_docstrings_and_annotations(source):
    """Strip what the canonical form leaves out, by other means than it does."""

    class Stripper(ast.NodeTransformer):
        def visit_FunctionDef(self, node):  # noqa: N802
            self.generic_visit(node)
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
            return self.strip(node)

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

        def visit_ClassDef(self, node):  # noqa: N802
            return self.strip(self.generic_visit(node))

        def visit_Module(self, node):  # noqa: N802
            return self.strip(self.generic_visit(node))

        def strip(self, node):
            if ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
            return node

    return ast.unparse(ast.fix_missing_locations(Stripper().visit(ast.parse(source))))


def without_comments(source):
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    return "".join(lines)


NEUTRAL = {
    "unparsed": lambda source: ast.unparse(ast.parse(source)),
    "without docstrings and annotations of functions": without_docstrings_and_annotations,
    "without comments": without_comments,
    "with blank lines": lambda source: "\n\n# A comment.\n" + source + "\n\n",
    "with other line ends": lambda source: source.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("edit", NEUTRAL.values(), ids=NEUTRAL)
def test_neutral_edits_of_every_module_keep_its_digest(edit, tmp_path):
    for path in MODULES:
        if not sources.reads_code(sources.parsed(sources.read_source(path), str(path))):
            edited = tmp_path / "module.py"
            edited.write_text(edit(path.read_text()), newline="")
            assert module_digest(edited) == module_digest(path), path


def test_of_what_the_chapters_import_only_this_module_reads_code():
    chapters = load_project(ROOT).executable
    imported = {path for chapter in chapters for path in project_modules(ROOT, chapter)}
    reads = {path for path in imported if sources.reads_code(sources.parsed(sources.read_source(path), str(path)))}
    assert reads <= {ROOT / "book" / "sources.py"}


@pytest.mark.parametrize("name", CHAPTERS)
def test_neutral_edits_of_every_cell_keep_its_digest(name):
    for source, where in cells_of(name):
        digest = digest_of_source(source, where, is_cell=True)
        for edit in (without_comments, lambda source: "# A comment.\n\n" + source):
            assert digest_of_source(edit(source), where, is_cell=True) == digest
        if not sources._ends_with_semicolon(source):
            assert digest_of_source(ast.unparse(ast.parse(source)), where, is_cell=True) == digest


# What a program notices.


def mutants_of(tree):
    """Yield a description for each place of a tree, while the tree is changed there.

    Constants, names, operators, keyword arguments, imports and statements, each changed in one way; what the canonical
    form leaves out for good reason, docstrings and annotations of functions, is passed over.
    """
    for node, parent in walk_what_counts(tree):
        match node:
            case ast.Constant(value=value):
                yield from changed(node, "value", another(value))
            case ast.Name(id=name):
                yield from changed(node, "id", name + "_")
            case ast.Attribute(attr=name):
                yield from changed(node, "attr", name + "_")
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield from changed(node, "arg", name + "_")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield from changed(node, "name", name + "_")
            case ast.alias(name=name, asname=asname):
                yield from changed(node, "name", name + "_")
                yield from changed(node, "asname", f"{asname}_")
            case ast.ImportFrom(module=module, level=level):
                yield from changed(node, "module", f"{module}_")
                yield from changed(node, "level", level + 1)
            case ast.BinOp(op=op) | ast.AugAssign(op=op):
                yield from changed(node, "op", ast.Sub() if isinstance(op, ast.Add) else ast.Add())
                if isinstance(node, ast.BinOp):
                    yield from changed(node, "left", node.right, "right", node.left)
            case ast.BoolOp(op=op):
                yield from changed(node, "op", ast.Or() if isinstance(op, ast.And) else ast.And())
            case ast.UnaryOp(op=op):
                yield from changed(node, "op", ast.Invert() if isinstance(op, ast.USub) else ast.USub())
            case ast.Compare(ops=ops):
                for i, op in enumerate(ops):
                    other = ast.LtE() if isinstance(op, ast.Lt) else ast.Lt()
                    yield from changed(node, "ops", [*ops[:i], other, *ops[i + 1 :]])
            case ast.FormattedValue(conversion=conversion):
                yield from changed(node, "conversion", ord("r") if conversion != ord("r") else -1)
        for field in ("body", "orelse", "finalbody", "handlers", "keywords", "names", "decorator_list", "args", "elts"):
            items = getattr(node, field, None)
            for i in range(len(items)) if isinstance(items, list) else ():
                if not does_nothing(items[i], node):
                    yield from changed(node, field, items[:i] + items[i + 1 :])
                # The order counts as well.
                if i and digest_of_tree_differs(items[i - 1], items[i]):
                    yield from changed(node, field, [*items[: i - 1], items[i], items[i - 1], *items[i + 1 :]])


def walk_what_counts(tree):
    """Walk a tree without docstrings and annotations of functions; yield nodes with their parents."""
    waiting = [(tree, None)]
    while waiting:
        node, parent = waiting.pop()
        yield node, parent
        for field, value in ast.iter_fields(node):
            if field == "returns" or (isinstance(node, ast.arg) and field == "annotation"):
                continue
            if isinstance(node, ast.AnnAssign) and field == "annotation":
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not does_nothing(child, node):
                    waiting.append((child, node))


def does_nothing(node, parent):
    if isinstance(parent, ast.JoinedStr | ast.FormattedValue):
        return False
    bare = isinstance(node, ast.AnnAssign) and node.value is None
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or bare


def digest_of_tree_differs(one, other):
    return (
        isinstance(one, ast.AST)
        and not does_nothing(one, None)
        and not does_nothing(other, None)
        and (ast.dump(one) != ast.dump(other))
    )


def another(value):
    match value:
        case bool():
            return int(value)
        case int():
            return float(value) if abs(value) < 2**53 else value + 1
        case float():
            return value + 1
        case str():
            return value + "x"
        case bytes():
            return value + b"x"
        case None:
            return False
    return None


def changed(node, *fields_and_values):
    fields = fields_and_values[::2]
    before = [getattr(node, field) for field in fields]
    for field, value in zip(fields, fields_and_values[1::2], strict=True):
        setattr(node, field, value)
    yield f"{type(node).__name__}.{fields[0]}, line {getattr(node, 'lineno', '?')}: {before[0]!r}"
    for field, value in zip(fields, before, strict=True):
        setattr(node, field, value)


def cells_of(name):
    from book.pipeline.content_key import _python_cells

    cells = _python_cells(load_project_once().chapter(name))
    return [(source, where) for _, source, where in cells if source is not None]


@functools.cache
def load_project_once():
    return load_project(ROOT)
