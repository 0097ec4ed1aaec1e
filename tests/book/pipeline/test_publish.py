"""The first cell of a published notebook, which finds the project, and in Colab fetches it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book.pipeline.parameters import load_build
from book.pipeline.project import OPENING_TAG, load_project, tags_of
from book.pipeline.publish import compose
from book.pipeline.results import read_result

COLAB = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"
FOUND = "\nimport package\nprint(os.getcwd(), package.__file__, sep='\\n')"


@pytest.fixture(scope="module")
def opening(executed_once) -> str:
    build = load_build(load_project(executed_once), "full")
    chapter = build.project.chapter("second")
    cell = compose(build, chapter, read_result(build, chapter)).cells[0]
    assert OPENING_TAG in tags_of(cell)
    return cell.source


@pytest.fixture
def spaced(executed_once, tmp_path) -> Path:
    """The project in a folder whose name a shell would take apart."""
    return Path(shutil.copytree(executed_once, tmp_path / "a reader's  $HOME; folder"))


def run(code, folder, environment=None):
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("below", [".", "results", "book/chapters"])
def test_a_notebook_finds_the_project_from_any_of_its_folders(opening, spaced, below):
    done = run(opening + FOUND, spaced / below)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [str(spaced), str(spaced / "package" / "__init__.py")]


def test_a_notebook_outside_of_the_project_says_where_it_must_be_opened(opening, tmp_path):
    done = run(opening, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "FileNotFoundError: open this notebook in the project's folder"


@pytest.fixture
def colab(opening, spaced, tmp_path):
    """Colab, with a git and a pip that note how they are called; gives the cell, its environment, and the notes."""
    programs, notes, checkout = tmp_path / "the programs", tmp_path / "notes", tmp_path / "the content" / "book"
    programs.mkdir()
    for name, work in (("git", 'test -z "$FAIL_GIT" && cp -r "$PROJECT" "$CHECKOUT"'), ("pip", 'test -z "$FAIL_PIP"')):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "$NOTES"\n{work}\n')
        (programs / name).chmod(0o755)
    environment = {"NOTES": notes, "PROJECT": spaced, "CHECKOUT": checkout, "PATH": f"{programs}:{os.environ['PATH']}"}
    checkout.parent.mkdir()
    code = COLAB + f"sys.executable = {str(programs / 'pip')!r}\n" + opening
    for old, new in (("/content/book", str(checkout)), ("packages = ''", "packages = 'numpy scipy'")):
        assert old in code
        code = code.replace(old, new)
    return code, {name: str(value) for name, value in environment.items()}, notes


def test_in_colab_a_notebook_fetches_the_project_and_its_packages(colab, tmp_path):
    code, environment, notes = colab
    done = run(code + FOUND, tmp_path, environment)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == environment["CHECKOUT"]
    git, pip = notes.read_text().splitlines()
    assert git.startswith("git clone --quiet --depth 1 --branch ")
    assert git.endswith(environment["CHECKOUT"])
    assert pip == "pip -m pip install --quiet numpy scipy"


@pytest.mark.parametrize("program", ["git", "pip"])
def test_in_colab_a_notebook_stops_where_fetching_fails(colab, tmp_path, program):
    code, environment, notes = colab
    done = run(code + FOUND, tmp_path, environment | {f"FAIL_{program.upper()}": "1"})
    assert done.returncode == 1
    assert "CalledProcessError" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert notes.read_text().splitlines()[-1].startswith(program)
