"""The canonical form of code: what it leaves out, and nothing else, under every Python."""

import ast
import copy
import functools
import importlib.util
import io
import shutil
import subprocess
import sys
import tokenize
import types
import unittest.mock
from pathlib import Path

import packaging
import pytest

from book import sources
from book.pipeline.content_key import _python_cells, components_of, external_imports, project_modules
from book.pipeline.project import load_project
from book.sources import SourceError, digest_of, digest_of_source, module_digest, pins_of
from tests.small_project import ROOT

MODULES = sorted(path for folder in ("book", "data", "mlp_core") for path in (ROOT / folder).rglob("*.py"))
PROJECT = load_project(ROOT)
CHAPTERS = [chapter.name for chapter in PROJECT.executable]

# All syntax of Python 3.11 that is read alike by later versions.
ALL_SYNTAX = '''\
"""A module."""
from __future__ import annotations
import a, b.c as d
from . import e
from ..f import g as h, i
X: int = 1
Y: int
NUMBERS = [0, -0.0, 0.0, 1, 1.0, True, 1e999, 1e-7, 2j, 0xFFFFFFFFFFFFFFFFF, ..., None, b"\\x00'", 'é"\\ud800']
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
GOLDEN = "2097d011ae80d56c1c7d6ee19c86c1474ca21289bd6661a70ac863a316a20b57"


def digest(source):
    return digest_of_source(source, "source")


@functools.cache
def cells_of(name):
    """List the code cells of a chapter as Python, with where they are."""
    return [(source, where) for _, source, where in _python_cells(PROJECT.chapter(name)) if source is not None]


# What no program notices.


def without_docstrings_and_annotations(source):
    """Strip what the canonical form leaves out, by other means than it does."""

    class Stripper(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            self.generic_visit(node)
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
            return self.strip(node)

        def visit_AsyncFunctionDef(self, node):
            return self.visit_FunctionDef(node)

        def visit_ClassDef(self, node):
            return self.strip(self.generic_visit(node))

        def visit_Module(self, node):
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


def test_of_what_the_chapters_import_only_two_modules_read_code_so_that_their_comments_count():
    """This module, and the one that reads the expressions of limits."""
    imported = {path for chapter in PROJECT.executable for path in project_modules(ROOT, chapter)}
    reads = {path for path in imported if sources.reads_code(sources.parsed(sources.read_source(path), str(path)))}
    assert reads <= {ROOT / "book" / "sources.py", ROOT / "book" / "expressions.py"}


@pytest.mark.parametrize("name", CHAPTERS)
def test_neutral_edits_of_every_cell_keep_its_digest(name):
    for source, where in cells_of(name):
        before = digest_of_source(source, where, is_cell=True)
        for edit in (without_comments, lambda source: "# A comment.\n\n" + source):
            assert digest_of_source(edit(source), where, is_cell=True) == before
        if not sources._ends_with_semicolon(source):
            assert digest_of_source(ast.unparse(ast.parse(source)), where, is_cell=True) == before


# What a program notices.


def units_of(tree, scope):
    """Yield a copy of each statement of a tree with its scope; the statements inside of it are stubs."""
    inner = sources._scope_inside(tree, scope)
    unit = copy.copy(tree)
    for holder in [unit, *copied_holders(unit)]:
        for field in sources._STATEMENT_LISTS:
            statements = getattr(holder, field, None)
            if isinstance(statements, list):
                setattr(holder, field, [stub_of(statement, i, inner) for i, statement in enumerate(statements)])
                for statement in statements:
                    yield from units_of(statement, inner)
    yield copy.deepcopy(unit), scope


def copied_holders(unit):
    """Replace the handlers and cases of a statement by copies, and return these."""
    holders = []
    for field in ("handlers", "cases"):
        if hasattr(unit, field):
            setattr(unit, field, [copy.copy(holder) for holder in getattr(unit, field)])
            holders += getattr(unit, field)
    return holders


def stub_of(statement, index, scope):
    if does_nothing(statement, scope):
        return statement
    return ast.Expr(ast.Call(func=ast.Name(f"statement_{index}"), args=[], keywords=[]))


def does_nothing(node, scope):
    """Tell whether a statement is a docstring, another bare constant, ``pass``, or a bare annotation in a function."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is None:
        return scope == "function"
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def nodes_that_count(unit, scope):
    """List the nodes of a unit without those of annotations of functions and of statements that do nothing."""
    inner = sources._scope_inside(unit, scope)
    waiting, found = [unit], []
    while waiting:
        node = waiting.pop()
        found.append(node)
        for field, value in ast.iter_fields(node):
            kept_annotation = isinstance(node, ast.AnnAssign) and scope != "function"
            if field not in ("returns", "annotation") or kept_annotation:
                children = value if isinstance(value, list) else [value]
                waiting += [c for c in children if isinstance(c, ast.AST) and not does_nothing(c, inner)]
    return found


def mutations_of(node):
    """Yield fields of a node with another value: constants, names, operators, keywords, imports, lists of parts."""
    match node:
        case ast.Constant(value=value):
            yield "value", another(value)
        case ast.Name(id=name):
            yield "id", name + "_"
        case ast.Attribute(attr=name):
            yield "attr", name + "_"
        case ast.arg(arg=name) | ast.keyword(arg=name):
            yield "arg", f"{name}_"
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield "name", name + "_"
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            yield "name", f"{name}_"
        case ast.alias(name=name, asname=asname):
            yield "name", name + "_"
            yield "asname", f"{asname}_"
        case ast.ImportFrom(module=module, level=level):
            yield "module", f"{module}_"
            yield "level", level + 1
        case ast.BinOp(op=op, left=left, right=right):
            yield "op", ast.Sub() if isinstance(op, ast.Add) else ast.Add()
            if ast.dump(left) != ast.dump(right):
                yield "left", right
        case ast.AugAssign(op=op):
            yield "op", ast.Sub() if isinstance(op, ast.Add) else ast.Add()
        case ast.BoolOp(op=op):
            yield "op", ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp(op=op):
            yield "op", ast.Invert() if isinstance(op, ast.USub) else ast.USub()
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield "ops", [*ops[:i], ast.LtE() if isinstance(op, ast.Lt) else ast.Lt(), *ops[i + 1 :]]
        case ast.FormattedValue(conversion=conversion):
            yield "conversion", -1 if conversion == ord("r") else ord("r")
        case ast.Return(value=ast.AST()) | ast.Assign(value=ast.AST()):
            yield "value", ast.Name("other")
    for field in (*sources._STATEMENT_LISTS, *LISTS):
        items = getattr(node, field, None)
        for i in range(len(items)) if isinstance(items, list) else ():
            if not does_nothing(items[i], "function"):
                yield field, items[:i] + items[i + 1 :]
            if i and not any(does_nothing(item, "function") for item in items[i - 1 : i + 1]):
                swapped = [*items[: i - 1], items[i], items[i - 1], *items[i + 1 :]]
                if as_text(items[i - 1]) != as_text(items[i]):
                    yield field, swapped


LISTS = ("handlers", "keywords", "names", "decorator_list", "args", "elts", "cases")


def as_text(item):
    return ast.dump(item) if isinstance(item, ast.AST) else item


def another(value):
    match value:
        case bool():
            return int(value)
        case int():
            return float(value) if abs(value) < 2**53 else value + 1
        case float() | complex():
            return -1.5
        case str():
            return value + "x"
        case bytes():
            return value + b"x"
        case None:
            return False
    return None


def unnoticed_mutations(tree, where):
    """Mutate all places of a tree; return those that leave the canonical form as it is, and the number of all."""
    unnoticed, count = [], 0
    for unit, scope in units_of(tree, "module"):
        before = sources._canonical(unit, scope)
        for node in nodes_that_count(unit, scope):
            for field, value in list(mutations_of(node)):
                kept = getattr(node, field)
                setattr(node, field, value)
                count += 1
                if sources._canonical(unit, scope) == before:
                    unnoticed.append(f"{where}, line {getattr(node, 'lineno', '?')}: {type(node).__name__}.{field}")
                setattr(node, field, kept)
    return unnoticed, count


def assert_all_noticed(trees, at_least):
    results = [unnoticed_mutations(tree, where) for tree, where in trees]
    assert [place for unnoticed, _ in results for place in unnoticed] == []
    assert sum(count for _, count in results) > at_least


def test_every_mutation_of_every_module_changes_its_canonical_form():
    assert_all_noticed([(ast.parse(path.read_bytes()), path.relative_to(ROOT)) for path in MODULES], 40_000)


def test_every_mutation_of_every_cell_changes_its_canonical_form():
    assert_all_noticed([(ast.parse(source), where) for name in CHAPTERS for source, where in cells_of(name)], 10_000)


def test_every_mutation_of_all_syntax_changes_its_canonical_form():
    assert_all_noticed([(ast.parse(ALL_SYNTAX), "all syntax")], 500)


def test_the_canonical_form_of_a_statement_is_part_of_that_of_what_holds_it():
    # The mutations above look at each statement alone.
    for path in MODULES:
        waiting = [(ast.parse(path.read_bytes()), "module")]
        while waiting:
            node, scope = waiting.pop()
            whole, inner = sources._canonical(node, scope), sources._scope_inside(node, scope)
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt) and not does_nothing(child, inner):
                    assert f"\n{sources._canonical(child, inner)}\n" in whole
                    waiting.append((child, inner))


# Which keys a change reaches.


def all_components():
    return {c.name: components_of(ROOT, c, c.parameters, {n: {} for n in c.needs}) for c in PROJECT.executable}


@functools.cache
def components_now():
    return all_components()


def changed_components(before, after):
    """Return for each chapter which of its components differ, for those chapters where any does."""
    changed = {
        name: {
            part for part in before[name].keys() | after[name].keys() if before[name].get(part) != after[name].get(part)
        }
        for name in before
    }
    return {name: parts for name, parts in changed.items() if parts}


@pytest.mark.parametrize(
    "module",
    ["mlp_core/losses.py", "data/vgg16.py", "book/experiments/page/tables.py", "book/experiments/vgg/heads.py"],
)
def test_a_mutation_of_a_module_changes_the_keys_of_exactly_the_chapters_that_import_it(module, monkeypatch):
    before = components_now()
    read = sources.read_source
    monkeypatch.setattr(sources, "read_source", lambda path: read(path) + "\nmutated = 1" * (path == ROOT / module))
    importing = {chapter.name for chapter in PROJECT.executable if ROOT / module in project_modules(ROOT, chapter)}
    assert importing
    assert changed_components(before, all_components()) == {name: {module} for name in importing}


def test_a_mutation_of_every_module_at_once_changes_exactly_what_each_chapter_imports(monkeypatch):
    before = components_now()
    read = sources.read_source
    monkeypatch.setattr(sources, "read_source", lambda path: read(path) + "\nmutated = 1")
    imported = {
        chapter.name: {path.relative_to(ROOT).as_posix() for path in project_modules(ROOT, chapter)}
        for chapter in PROJECT.executable
    }
    assert changed_components(before, all_components()) == imported


def test_all_modules_that_importing_runs_are_found():
    chapter = PROJECT.chapter("scikit_learn")
    statements = [
        ast.unparse(node)
        for source, _ in cells_of("scikit_learn")
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    script = (
        "import sys\n"
        + "\n".join(statements)
        + ("\nprint(*sorted(str(m.__file__) for m in sys.modules.values() if getattr(m, '__file__', None)), sep='\\n')")
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {path for path in map(Path, run.stdout.splitlines()) if path in MODULES}
    assert len(ours) > 10
    assert ours <= set(project_modules(ROOT, chapter))


@pytest.mark.parametrize(
    ("package", "imports"), [("pytest", None), ("ruff", None), ("torch", "torch"), ("scikit-learn", "sklearn")]
)
def test_a_pin_changes_the_keys_of_exactly_the_chapters_that_import_the_package(
    package, imports, tmp_path, monkeypatch
):
    before = components_now()
    text = (ROOT / "requirements.txt").read_text()
    assert f"\n{package}==" in text
    (tmp_path / "requirements.txt").write_text(text.replace(f"\n{package}==", f"\n{package}==99."))
    monkeypatch.setattr(sources, "REQUIREMENTS", tmp_path / "requirements.txt")
    importing = {chapter.name for chapter in PROJECT.executable if imports in external_imports(ROOT, chapter)}
    assert bool(importing) == (imports is not None)
    assert changed_components(before, all_components()) == {name: {f"pin {package}"} for name in importing}


# The same everywhere.


def test_the_golden_digest_is_that_of_this_python():
    assert digest(ALL_SYNTAX) == GOLDEN


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_the_golden_digest_is_that_of_other_pythons(minor, tmp_path):
    if minor == sys.version_info.minor:
        pytest.skip(f"this is Python 3.{minor}")
    python = python_of_version(minor)
    if python is None:
        pytest.skip(f"there is no Python 3.{minor} on this machine")
    (tmp_path / "packaging").symlink_to(Path(packaging.__file__).parent)
    (tmp_path / "syntax.txt").write_text(ALL_SYNTAX)
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from book.sources import digest_of_source\n"
        "print(digest_of_source(open('syntax.txt', encoding='utf-8').read(), 'syntax.txt'))"
    )
    command = [python, "-W", "ignore", "-c", script]
    assert subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.strip() == GOLDEN


def python_of_version(minor):
    """Find an interpreter that runs: a shim of pyenv may be there for a version that isn't chosen."""
    found = [shutil.which(f"python3.{minor}"), *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3")]
    for python in filter(None, [*found, shutil.which("python3", path="/usr/bin:/usr/local/bin")]):
        run = subprocess.run([python, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, check=False)
        if run.stdout.strip() == str(minor).encode():
            return python
    return None


# Single cases.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 0.0", "x = -0.0"),
        ("x = 0.0", "x = 0j"),
        ("x = 'a'", "x = b'a'"),
        ("x = 'None'", "x = None"),
        ("x = ...", "x = Ellipsis"),
        ("x = f'{a}b'", "x = f'{a}' 'c'"),
        ("x = f'{a!r}'", "x = f'{a}'"),
        ("x = f'{a:>3}'", "x = f'{a:<3}'"),
        ("f(**{'a': 1})", "f(a=1)"),
        ("{**a}", "{None: a}"),
        ("class A:\n    x: int = 1", "class A:\n    x: float = 1"),
        ("class A:\n    x: int", "class A: pass"),
        ("x: int = 1", "x: float = 1"),
        ("def f(): a[g()]: int", "def f(): pass"),
        ("x = 'a\\nb'", "x = 'a'\n'b'"),
        ("def f(a, /, b): pass", "def f(a, b): pass"),
        ("def f(a, *, b): pass", "def f(a, b): pass"),
        ("async def f(): pass", "def f(): pass"),
        ("from a import b", "from .a import b"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
        ("try: a()\nfinally: b()", "try: a()\nexcept: b()"),
        ("[x for x in y if a if b]", "[x for x in y if (a, b)]"),
    ],
)
def test_sources_that_differ_have_different_digests(one, other):
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a' 'b'", 'x = "ab"'),
        ("x = f'a{b}' 'c' f'{d:}'", "x = 'a' f'{b}c{d}'"),
        ("x = f'ab'", "x = 'ab'"),
        ("x = 0x10", "x = 16"),
        ("x = 1_000.0", "x = 1e3"),
        (
            "def f(a: int = 1) -> int:\n    'Doc.'\n    x: int = a\n    y: int\n    return x",
            "def f(a=1): x = a; return x",
        ),
        ("class A(B):\n    'Doc.'", "class A(B): pass"),
        ("X = 1\n'The number.'", "X = 1"),
        ("if a: b()\nelse: pass", "if a: b()"),
        ("x = (1)", "x = 1  # one"),
    ],
)
def test_sources_of_the_same_meaning_have_the_same_digest(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"), [("x", "x;"), ("'shown'", "'other'"), ("x\n'shown'", "x"), ("f()", "f();  # quiet")]
)
def test_what_a_cell_shows_counts(one, other):
    assert digest_of_source(one, "cell", is_cell=True) != digest_of_source(other, "cell", is_cell=True)


@pytest.mark.parametrize(("one", "other"), [("x = 1", "x = 1;"), ("'a'\nx", "x"), ("f();", "f() ; # quiet")])
def test_what_a_cell_does_not_show_does_not_count(one, other):
    assert digest_of_source(one, "cell", is_cell=True) == digest_of_source(other, "cell", is_cell=True)


@pytest.mark.parametrize(
    "reader",
    [
        "import inspect",
        "from typing import get_type_hints",
        "from functools import singledispatch",
        "f.__doc__",
        "getattr(f, '__annotations__')",
        "help(f)",
        "import ast",
    ],
)
def test_code_that_reads_code_is_taken_as_it_is_written(reader):
    assert digest(f"{reader}\n# One comment.\n") != digest(f"{reader}\n# Another comment.\n")
    assert digest(f"{reader}\n# A comment.\n") == digest(f"{reader}\r\n# A comment.\r\n")


def test_a_sum_of_ten_thousand_terms_has_a_canonical_form():
    tree = ast.Name("x")
    for _ in range(10_000):
        tree = ast.BinOp(tree, ast.Add(), ast.Name("x"))
    assert sources._canonical(tree, "module").count("BinOp") == 10_000


@pytest.mark.parametrize("start", ["", "\ufeff", "# coding: latin-1\n"])
def test_a_module_is_read_as_python_reads_it(tmp_path, start):
    path = tmp_path / "module.py"
    text = f"{start}x = 'é'\n".replace("\n", "\r\n")
    path.write_bytes(text.encode("latin-1" if "latin" in start else "utf-8"))
    assert module_digest(path) == digest("x = 'é'\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\ny = = 2", r"module\.py, line 2: invalid syntax: y = = 2"),
        (b"x = '\xff'", r"module\.py can't be read as text"),
        (b"# coding: nothing\n", r"module\.py can't be read as text: unknown encoding"),
        (b"x = 1\0", r"module\.py.*null bytes"),
    ],
)
def test_a_module_that_is_not_python_is_an_error_that_names_the_file_and_the_line(tmp_path, content, message):
    (tmp_path / "module.py").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        module_digest(tmp_path / "module.py")


MODULE = '''
import functools

def plain(x):
    return x

@functools.cache
def cached(x: int):
    # A comment.
    return x + 1

class Thing:
    text = """
out of line"""

    def method(self):
        return plain(1)

    class Inner:
        number = 1
'''


def objects_of(folder, text):
    folder.mkdir()
    (folder / "module.py").write_text(text)
    spec = importlib.util.spec_from_file_location("module", folder / "module.py")
    module = importlib.util.module_from_spec(spec)
    with unittest.mock.patch.dict(sys.modules, {"module": module}):
        spec.loader.exec_module(module)
        thing = module.Thing
        objects = {
            "module": module,
            "plain": module.plain,
            "cached": module.cached,
            "Thing": thing,
            "method": thing.method,
            "bound": thing().method,
            "Inner": thing.Inner,
        }
        return {name: digest_of(value) for name, value in objects.items()}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("# A comment.", "# Another.", set()),
        ("x: int", "x: float", set()),
        ("return x + 1", "return x + 2", {"module", "cached"}),
        ("@functools.cache", "@functools.lru_cache", {"module", "cached"}),
        ("return x\n", "return -x\n", {"module", "plain"}),
        ("plain(1)", "plain(2)", {"module", "Thing", "method", "bound"}),
        ("number = 1", "number = 2", {"module", "Thing", "Inner"}),
        ("import functools\n", "import functools\nimport math\n", {"module"}),
    ],
)
def test_the_digest_of_an_object_is_that_of_exactly_its_source(tmp_path, old, new, changed):
    assert old in MODULE
    before = objects_of(tmp_path / "before", MODULE)
    after = objects_of(tmp_path / "after", MODULE.replace(old, new))
    assert {name for name in before if before[name] != after[name]} == changed
    assert before["method"] == before["bound"]


def test_the_order_of_the_objects_counts():
    assert digest_of(digest_of_source, module_digest) != digest_of(module_digest, digest_of_source)


@pytest.mark.parametrize(
    "thing", [len, 3, "text", int, functools.partial(print), lambda: 1], ids=lambda thing: type(thing).__name__
)
def test_what_has_no_source_has_no_digest(thing):
    with pytest.raises(TypeError, match="a function or class that is defined in Python, is wanted; got"):
        digest_of(thing)


def test_pins_are_found_by_the_names_that_are_imported(tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "# comment\n--extra-index-url https://example.org\nscikit_learn[alldeps]==1 ; python_version > '3'  # c\n"
        "pyyaml==6\nNumPy == 2\nscipy==3\nmyst-nb==1 --hash=sha256:0\npytest==9\n"
    )
    assert pins_of(tmp_path, {"sklearn", "os"}) == {
        "numpy": "==2",
        "scikit-learn": 'alldeps ==1 python_version > "3"',
        "scipy": "==3",
    }
    assert pins_of(tmp_path, {"yaml", "myst_nb"}) == {"myst-nb": "==1", "pyyaml": "==6"}
    assert pins_of(tmp_path, set()) == {}


def test_the_source_of_a_package_is_all_its_files(tmp_path):
    digests = []
    for text in ("X = 1", "X = 1  # one", "X = 2"):
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "part.py").write_text(text)
        package = types.ModuleType("package")
        package.__file__ = str(folder / "__init__.py")
        digests.append(digest_of(package))
    assert digests[0] == digests[1] != digests[2]
