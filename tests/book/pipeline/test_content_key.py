"""The content key: what a chapter's freshness depends on, and what it does not."""

import json
import shutil

import nbformat
import pytest

from book.files import checksums_of, write_atomically
from book.pipeline.content_key import external_imports, project_modules, seal_of, statuses
from book.pipeline.errors import BookError, DamagedResultError
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.results import check_whole
from tests.small_project import edit


def keys(root):
    return {name: status.key for name, status in _statuses(root).items()}


def publish(root, total="1"):
    """Store results as if every chapter had run, and the first had left a file."""
    models = root / "results/models/first"
    write_atomically(models / "total.txt", total)
    for name in ("first", "second"):
        status = _statuses(root)[name]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1") for _ in status.chapter.code_cells])
        notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="1")]
        step = {"found": True, "folder": "step", "wall_seconds": 30, "cpu_seconds": 30}
        record = {
            "key": status.key,
            "components": status.components,
            "models": checksums_of(models) if name == "first" else {},
            "cost": {"wall_seconds": 60, "cpu_seconds": 60, "peak_mib": 1, "steps": [step]},
        }
        notebook.metadata["book"] = record
        notebook.metadata["book"]["digest"] = seal_of(notebook)
        status.result.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, status.result)


def reasons(root):
    return {name: status.reasons for name, status in _statuses(root).items()}


def test_prose_and_titles_are_not_in_the_key(root):
    before = keys(root)
    edit(root / "book/chapters/first.md", "# The first chapter", "# Another title\n\nAnd a paragraph.")
    assert keys(root) == before


def test_captions_and_other_cell_metadata_are_not_in_the_key(root):
    before = keys(root)
    edit(root / "book/chapters/first.md", "caption: A line.", "caption: Another caption.")
    assert keys(root) == before


def test_a_comment_in_the_parameters_cell_is_not_in_the_key(root):
    before = keys(root)
    edit(root / "book/chapters/first.md", "# how often", "# how many times")
    assert keys(root) == before


def test_an_unrelated_module_is_not_in_the_key(root):
    before = keys(root)
    edit(root / "package/unrelated.py", "1", "2")
    assert keys(root) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# comment\n", "\n\n# another comment\n"),
        ("myst-nb==1\n", "myst_nb == 1\n"),
        ("myst-nb==1\n", "myst-nb==1\npytest==9\n"),
    ],
)
def test_what_does_not_change_a_pin_of_an_imported_package_is_not_in_the_key(root, old, new):
    before = keys(root)
    edit(root / "requirements.txt", old, new)
    assert keys(root) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("book/chapters/first.md", "tags: [hide-input]", "tags: [remove-input]"),
        ("book/chapters/first.md", 'print("total", total)', "# printed\nprint( 'total', total )"),
        ("package/__init__.py", "A package", "The package"),
        ("package/compute.py", "def add(a, b):", 'def add(a: int, b: "float") -> int:\n    """Add."""'),
        ("package/helper.py", "def plus", "# A sum.\ndef plus"),
    ],
)
def test_how_code_is_shown_or_written_is_not_in_the_key(root, file, old, new):
    before = keys(root)
    edit(root / file, old, new)
    assert keys(root) == before


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_line_ends_of_a_module_are_not_in_the_key(root, before):
    old = keys(root)
    path = root / "package/helper.py"
    path.write_bytes(before + path.read_bytes().replace(b"\n", b"\r\n"))
    assert keys(root) == old


def test_the_key_does_not_depend_on_where_the_project_lies(root, tmp_path):
    before = keys(root)
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert keys(moved) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("book/chapters/first.md", 'print("total", total)', 'print("sum", total)', "code cells changed"),
        ("book/chapters/first.md", "tags: [hide-input]", "tags: [raises-exception]", "code cells changed"),
        ("book/chapters/first.md", "plt.show()", "fig;", "code cells changed"),
        ("book/chapters/first.md", "num_epochs = 3", "num_epochs = 4", "parameter num_epochs changed"),
        ("package/__init__.py", "A package.", 'A package."""\nONE = 1\n"""', "package/__init__.py changed"),
        ("package/compute.py", "(a, b):", "(a, *, b):", "package/compute.py changed"),
        ("package/helper.py", "+ ZERO", "- ZERO", "package/helper.py changed"),
        ("package/deep/constant.py", "0", "1", "package/deep/constant.py changed"),
        (
            "package/helper.py",
            "def plus",
            "import package.unrelated\n\n\ndef plus",
            "imports package/unrelated.py, and did not before",
        ),
        ("package/helper.py", "def plus", "import sklearn\n\n\ndef plus", "imports scikit-learn, and did not before"),
        ("requirements.txt", "matplotlib==3", "matplotlib==4", "pin matplotlib changed"),
        ("requirements.txt", "numpy==2", "numpy==3", "pin numpy changed"),
    ],
)
def test_a_change_makes_the_chapter_and_those_that_need_it_stale_and_says_why(root, file, old, new, reason):
    edit(root / "requirements.txt", "myst-nb==1\n", "myst-nb==1\nnumpy==2\nscikit-learn==1\nscipy==1\n")
    publish(root)
    assert reasons(root) == {"first": [], "second": []}
    edit(root / file, old, new)
    found = reasons(root)
    assert reason in found["first"]
    assert "first is stale" in found["second"]


def test_parameters_that_come_and_go_make_a_chapter_stale(root):
    publish(root)
    # In the cell and in the front matter.
    for old, new in (
        ("clip = None\n", "clip = None\nmore = 1\n"),
        ("    clip: {", "    more: {type: integer}\n    clip: {"),
    ):
        edit(root / "book/chapters/first.md", old, new)
    assert reasons(root)["first"] == ["parameter more is new"]
    publish(root)
    edit(root / "book/chapters/first.md", "more = 1\n", "")
    edit(root / "book/chapters/first.md", "    more: {type: integer}\n", "")
    assert reasons(root)["first"] == ["parameter more is gone"]


def test_a_change_of_a_chapter_leaves_those_that_it_needs_fresh(root):
    publish(root)
    edit(root / "book/chapters/second.md", "total * num_epochs", "total + num_epochs")
    assert reasons(root) == {"first": [], "second": ["code cells changed"]}


def test_a_chapter_that_never_ran_is_stale_and_a_notebook_from_elsewhere_is_damaged(root):
    publish(root)
    (root / "results/first.ipynb").unlink()
    (root / "results/second.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4}))
    found = reasons(root)
    assert found["first"] == ["not executed yet"]
    assert found["second"] == ["second.ipynb is damaged: it holds no record that the pipeline wrote", "first is stale"]


def test_an_override_of_the_profile_is_in_the_key(root):
    full, quick = (statuses(load_build(load_project(root), name)) for name in ("full", "quick"))
    assert full["first"].key != quick["first"].key


def test_imports_are_followed_through_packages_functions_and_relative_names(root):
    chapter = load_project(root).chapter("first")
    found = {path.relative_to(root).as_posix() for path in project_modules(root, chapter)}
    assert found == {
        "package/__init__.py",
        "package/compute.py",
        "package/helper.py",
        "package/deep/__init__.py",
        "package/deep/constant.py",
    }
    assert {"matplotlib", "myst_nb", "os"} <= external_imports(root, chapter)


def test_the_body_of_a_cell_magic_is_read_too(root):
    edit(root / "book/chapters/second.md", "import os\n", "%%time\nimport os\nimport package.unrelated\n")
    chapter = load_project(root).chapter("second")
    assert root / "package/unrelated.py" in project_modules(root, chapter)


def test_a_cell_that_is_not_python_is_reported_with_its_place(root):
    edit(root / "book/chapters/second.md", "import os\n", "import os os\n")
    with pytest.raises(BookError, match=r"second\.md, code cell 2, line 1"):
        keys(root)


def test_a_need_that_does_not_come_before_is_refused(root):
    edit(root / "book/chapters/first.md", "needs: {}", "needs: {second: []}")
    with pytest.raises(BookError, match=r"needs 'second', which is not a chapter with code before it"):
        load_project(root)


def test_a_derived_value_in_the_parameters_cell_is_refused(root):
    edit(root / "book/chapters/first.md", "seed = 7", "seed = num_epochs + 1")
    with pytest.raises(BookError, match="seed = num_epochs \\+ 1 is not a literal"):
        keys(root)


def test_the_published_results_are_those_of_the_full_profile(root):
    full, quick = (load_build(load_project(root), name) for name in ("full", "quick"))
    assert full.results == root / "results"
    assert quick.results == root / "_build/quick/results"


def test_a_chapter_that_needs_a_stale_one_waits_for_it_and_is_fresh_if_that_leaves_the_same_files(root):
    publish(root)
    edit(root / "book/chapters/first.md", 'print("total", total)', 'print("sum", total)')
    assert _statuses(root)["second"].reasons == ["first is stale"]
    _publish_first(root, "1")
    assert reasons(root) == {"first": [], "second": []}


def test_a_chapter_is_stale_if_one_that_it_needs_left_other_files(root):
    publish(root)
    _publish_first(root, "2")
    assert _statuses(root)["second"].reasons == ["models of first changed"]


def test_a_stale_chapter_is_expected_to_take_what_its_result_cost_with_the_steps_found_in_the_cache(root):
    assert _statuses(root)["first"].expected_seconds is None
    publish(root)
    edit(root / "book/chapters/first.md", 'print("total", total)', 'print("sum", total)')
    assert _statuses(root)["first"].expected_seconds == 90


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "null",
        lambda text: "{}",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"wall_seconds": 60', '"wall_seconds": 61'),
        lambda text: text.replace('"text": "1"', '"text": "2"').replace('"1"\n', '"2"\n'),
        lambda text: json.dumps(json.loads(text) | {"metadata": {"book": None}}),
        lambda text: json.dumps(json.loads(text) | {"metadata": {"book": []}}),
        lambda text: json.dumps(json.loads(text) | {"cells": []}),
        lambda text: json.dumps(json.loads(text) | {"metadata": None}),
        lambda text: "\0" * 10,
        lambda text: "[" * 100_000,
    ],
)
def test_a_result_that_is_not_what_was_written_is_damaged(root, damage):
    publish(root)
    path = root / "results/first.ipynb"
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    status = _statuses(root)["first"]
    assert status.reasons == ["first.ipynb is damaged"]
    assert status.is_damaged


@pytest.mark.parametrize("profile", ["full", "quick"])
@pytest.mark.parametrize("name", ["book", "digest"])
def test_a_result_without_a_record_or_a_digest_is_damaged_where_it_is_published_and_stale_elsewhere(
    root, name, profile
):
    publish(root)
    path = root / "results/first.ipynb"
    path.write_text(path.read_text().replace(f'"{name}"', '"boom"'))
    build = load_build(load_project(root), profile)
    if profile == "quick":
        shutil.move(root / "results", build.results)
    status = statuses(build)["first"]
    assert status.is_damaged == (profile == "full")
    assert not status.is_fresh


def test_each_flipped_byte_of_a_result_that_changes_what_it_holds_is_noticed(root):
    publish(root)
    path = root / "results/first.ipynb"
    content = path.read_bytes()
    whole = nbformat.reads(content.decode(), as_version=4)
    for position in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        found = _statuses(root)["first"]
        assert found.is_fresh or found.is_damaged, "what is stale would be computed again without a word"
        if found.is_fresh:
            after = nbformat.reads(damaged.decode(), as_version=4)
            assert after.metadata.get("book") == whole.metadata.book
            assert after.cells[0].outputs == whole.cells[0].outputs


@pytest.mark.parametrize(
    "reader", ["import inspect\ninspect.getsource(compute)", "compute.add.__doc__", "compute.add?"]
)
def test_where_a_cell_reads_text_the_text_of_what_it_imports_counts(root, reader):
    edit(root / "package/compute.py", "def add", "# before\ndef add")
    edit(
        root / "book/chapters/first.md",
        "total = compute.add(num_epochs, learning_rate)\n",
        "total = 1\n" + reader + "\n",
    )
    publish(root)
    edit(root / "package/compute.py", "# before", "# after")
    assert reasons(root)["first"] == ["package/compute.py changed"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = = 1\n", r"helper\.py, line 1: invalid syntax"),
        (b"# \xff\n", r"helper\.py can't be read as text"),
        (b"x = 1\0\n", r"helper\.py.*null bytes"),
    ],
)
def test_a_module_that_is_not_python_is_reported_with_its_place(root, content, message):
    (root / "package/helper.py").write_bytes(content)
    with pytest.raises(BookError, match=message):
        keys(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"requirements\.txt is missing"),
        (b"\xff", r"requirements\.txt can't be read as text"),
        (b"numpy==1\nnumpy = 2\n", r"requirements\.txt, line 2: numpy = 2 is no requirement"),
    ],
)
def test_requirements_that_can_not_be_read_are_reported_with_their_place(root, content, message):
    path = root / "requirements.txt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BookError, match=message):
        keys(root)


def _statuses(root):
    return statuses(load_build(load_project(root), "full"))


def _publish_first(root, total):
    second = (root / "results/second.ipynb").read_bytes()
    publish(root, total)
    (root / "results/second.ipynb").write_bytes(second)


def test_a_file_that_no_run_left_among_the_models_is_damage_and_a_reason(root):
    publish(root)
    write_atomically(root / "results/models/first/more.txt", "3")
    status = _statuses(root)["first"]
    assert status.reasons == ["more.txt lies among its models, and is none of them"]
    assert status.is_damaged
    build = load_build(load_project(root), "full")
    with pytest.raises(DamagedResultError, match=r"; remove results/models/first/more\.txt$"):
        check_whole(build, status)


@pytest.mark.parametrize("text", ["2", None])
def test_a_model_that_is_not_what_was_recorded_is_damage_and_a_reason(root, text):
    publish(root)
    path = root / "results/models/first/total.txt"
    path.unlink() if text is None else path.write_text(text)
    status = _statuses(root)["first"]
    state = "is missing" if text is None else "is not what was recorded"
    assert status.reasons == [f"its model total.txt {state}"]
    assert status.is_damaged
