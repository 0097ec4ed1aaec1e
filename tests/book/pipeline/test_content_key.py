"""The content key: what a chapter's freshness depends on, and what it does not."""

import json

import nbformat
import pytest
from small_project import edit

from book.pipeline.content_key import external_imports, project_modules, statuses
from book.pipeline.parameters import Profile, load_profile
from book.pipeline.project import BookError, load_project


def keys(root):
    project = load_project(root)
    return {name: status.key for name, status in statuses(project, load_profile(project, "full")).items()}


def publish(root):
    """Store results as if every chapter had run."""
    project = load_project(root)
    for status in statuses(project, load_profile(project, "full")).values():
        notebook = nbformat.v4.new_notebook(metadata={"book": {"key": status.key, "components": status.components}})
        status.result.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, status.result)


def reasons(root):
    project = load_project(root)
    return {name: status.reasons for name, status in statuses(project, load_profile(project, "full")).items()}


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


def test_comments_and_blank_lines_of_the_requirements_are_not_in_the_key(root):
    before = keys(root)
    edit(root / "requirements.txt", "# comment\n", "\n\n# another comment\n")
    assert keys(root) == before


def test_the_key_does_not_depend_on_where_the_project_lies(root, tmp_path):
    before = keys(root)
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    assert keys(moved) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("book/chapters/first.md", 'print("total", total)', 'print("sum", total)', "code cells changed"),
        ("book/chapters/first.md", "tags: [hide-input]", "tags: [remove-input]", "code cells changed"),
        ("book/chapters/first.md", "num_epochs = 3", "num_epochs = 4", "parameter num_epochs changed"),
        ("book/chapters/first.md", "clip = None\n", "clip = None\nmore = 1\n", "parameter more is new"),
        ("book/chapters/first.md", "seed = 7\n", "", "parameter seed is gone"),
        ("package/__init__.py", "A package", "The package", "package/__init__.py changed"),
        ("package/compute.py", "def add", "\ndef add", "package/compute.py changed"),
        ("package/helper.py", "+ ZERO", "- ZERO", "package/helper.py changed"),
        ("package/deep/constant.py", "0", "1", "package/deep/constant.py changed"),
        (
            "package/helper.py",
            "def plus",
            "import package.unrelated\n\n\ndef plus",
            "imports package/unrelated.py, and did not before",
        ),
        ("requirements.txt", "matplotlib==3", "matplotlib==4", "requirements.txt changed"),
    ],
)
def test_a_change_makes_the_chapter_and_those_that_need_it_stale_and_says_why(root, file, old, new, reason):
    publish(root)
    assert reasons(root) == {"first": [], "second": []}
    edit(root / file, old, new)
    found = reasons(root)
    assert reason in found["first"]
    assert "needs first, whose key changed" in found["second"]


def test_a_change_of_a_chapter_leaves_those_that_it_needs_fresh(root):
    publish(root)
    edit(root / "book/chapters/second.md", "total * num_epochs", "total + num_epochs")
    assert reasons(root) == {"first": [], "second": ["code cells changed"]}


def test_a_chapter_that_never_ran_and_a_notebook_from_elsewhere_are_stale(root):
    publish(root)
    (root / "results/first.ipynb").unlink()
    (root / "results/second.ipynb").write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4}))
    found = reasons(root)
    assert found["first"] == ["not executed yet"]
    assert found["second"] == ["second.ipynb was not made by this pipeline"]


def test_an_override_of_the_profile_is_in_the_key(root):
    project = load_project(root)
    full, quick = (statuses(project, load_profile(project, name)) for name in ("full", "quick"))
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
    edit(root / "book/chapters/first.md", "needs: []", "needs: [second]")
    with pytest.raises(BookError, match=r"needs 'second', which is not a chapter with code before it"):
        load_project(root)


def test_a_derived_value_in_the_parameters_cell_is_refused(root):
    edit(root / "book/chapters/first.md", "seed = 7", "seed = num_epochs + 1")
    with pytest.raises(BookError, match="seed = num_epochs \\+ 1 is not a literal"):
        keys(root)


def test_the_published_results_are_those_of_the_full_profile(root):
    project = load_project(root)
    full, quick = load_profile(project, "full"), load_profile(project, "quick")
    assert isinstance(full, Profile)
    assert full.results.as_posix() == "results"
    assert quick.results.as_posix() == "_build/quick/results"
