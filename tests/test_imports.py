"""Who may import whom, and that what has one home is written once."""

import ast
import sys

import pytest

from book import sources
from book.sources import read_source
from tests.small_project import ROOT

SHARED = {"book.sources", "book.files", "book.constraints", "book.expressions"}
# Of each part: the modules of the project that it may import, by their beginnings, beside its own.
ALLOWED = {
    "mlp_core": set(),
    "data": set(),
    "book/experiments": {"mlp_core", "data", *SHARED},
    "book/pipeline": SHARED,
    "book/sphinx": set(),
}
SMALL_LIBRARIES = {"yaml", "filelock", "packaging", "psutil"}
PARTS = ("mlp_core", "data", "book")
MODULES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))


def imports_of(path):
    """List the dotted names that a module may import; from a package, the package and the package's members."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    return set(sources._imported_names(sources.parsed(read_source(path), str(path)), package))


def is_below(name, *parents):
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def against_the_direction(path):
    """List what a module imports and may not."""
    name = path.relative_to(ROOT).as_posix()
    part = next((part for part in ALLOWED if name.startswith(f"{part}/")), None)
    if name == "book/__main__.py":
        return {other for other in imports_of(path) if is_below(other, "mlp_core", "data", "book.experiments")}
    own = part.replace("/", ".") if part else name.removesuffix(".py").replace("/", ".")
    allowed = (own, *(ALLOWED[part] if part else SHARED))
    # `from book import sources` names the empty package `book` as well.
    return {
        other
        for other in imports_of(path)
        if is_below(other, *PARTS) and other != "book" and not is_below(other, *allowed)
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_imports_against_the_direction(path):
    assert against_the_direction(path) == set()


def test_the_numpy_network_imports_numpy_and_the_standard_library():
    names = {name.partition(".")[0] for path in (ROOT / "mlp_core").rglob("*.py") for name in imports_of(path)}
    assert names - sys.stdlib_module_names == {"numpy", "mlp_core"}


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_both_sides_share_imports_small_libraries_alone(name):
    names = {other.partition(".")[0] for other in imports_of(ROOT / f"{name.replace('.', '/')}.py")}
    assert names - sys.stdlib_module_names <= SMALL_LIBRARIES | {"book"}


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("mlp_core/module.py", "import data.fashion_mnist"),
        ("data/module.py", "from mlp_core import network"),
        ("book/experiments/mlp/module.py", "from book.pipeline import project"),
        ("book/experiments/mlp/module.py", "def f():\n    from ...pipeline.project import Project"),
        ("book/pipeline/module.py", "from book import experiments"),
        ("book/pipeline/module.py", "import mlp_core"),
        ("book/files.py", "import book.pipeline"),
        ("book/__main__.py", "import book.experiments.page"),
    ],
)
def test_an_import_against_the_direction_is_found(tmp_path, monkeypatch, place, line):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(line)
    assert against_the_direction(tmp_path / place)


def test_nothing_imports_fcntl():
    places = [ROOT / part for part in (*PARTS, "benchmarks", "tests")]
    assert [path for place in places for path in place.rglob("*.py") if "fcntl" in imports_of(path)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_are_written_atomically_in_one_place(path):
    if path != ROOT / "book" / "files.py":
        assert temporary_files_and_moves(ast.parse(path.read_bytes())) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("os.replace(a, b)", ["os.replace(a, b)"]),
        ("tempfile.mkstemp()", ["tempfile.mkstemp()"]),
        ("with NamedTemporaryFile(delete=False) as f: pass", ["NamedTemporaryFile(delete=False)"]),
        ("temporary.replace(path)", ["temporary.replace(path)"]),
        ("text.replace('a', 'b'); dataclasses.replace(run, seed=1); replace(run, seed=1)", []),
        ("finished_folder.rename(place)", []),
    ],
)
def test_a_second_atomic_write_is_found(source, found):
    assert temporary_files_and_moves(ast.parse(source)) == found


def temporary_files_and_moves(tree):
    """List the calls that make a temporary file by name or move one file into the place of another.

    `Path.replace` takes one argument and `str.replace` two. `Path.rename` is left to folders, which it moves as well.
    """
    calls = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        name = function.rpartition(".")[2]
        is_move = name == "replace" and "." in function and len(call.args) == 1 and not call.keywords
        if is_move or function == "os.replace" or name in ("mkstemp", "NamedTemporaryFile"):
            calls.append(ast.unparse(call))
    return calls


def test_the_table_of_the_pipeline_has_each_of_its_modules():
    folder = ROOT / "book" / "pipeline"
    table = ast.get_docstring(ast.parse(read_source(folder / "__init__.py")))
    listed = [line[2:].partition("`")[0] for line in table.splitlines() if line.startswith("``")]
    assert sorted(listed) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def test_keys_do_not_depend_on_what_is_installed():
    keys = ROOT / "book" / "pipeline" / "content_key.py"
    used = sources.project_modules(ROOT, [sources.parsed(read_source(keys), str(keys))])
    for path in {keys, *used}:
        assert "packages_distributions" not in sources._names_in(sources.parsed(read_source(path), str(path))), path
        assert "importlib.metadata" not in imports_of(path), path
