"""The small project in a folder of its own, and the book itself in its quick profile."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_project import ROOT, make_project

from book.__main__ import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def executed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project with its full profile executed; for copies and for looking at only."""
    root = make_project(tmp_path_factory.mktemp("executed") / "project")
    assert main(["build", "--no-render"], root) == 0
    return root


@pytest.fixture
def executed_project(executed_once: Path, tmp_path: Path) -> Path:
    """A small project of a test's own with its full profile executed."""
    return Path(shutil.copytree(executed_once, tmp_path / "project"))


@pytest.fixture(scope="session")
def quick_book() -> Path:
    """The output folder of the quick profile, executed and rendered."""
    subprocess.run([sys.executable, "-m", "book", "build", "--profile", "quick"], cwd=ROOT, check=True)
    return ROOT / "_build" / "quick"
