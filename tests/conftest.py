"""The small project in a folder of its own, and the book itself in its quick profile."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_project import ROOT, make_project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def quick_book() -> Path:
    """The output folder of the quick profile, executed and rendered."""
    subprocess.run([sys.executable, "-m", "book", "build", "--profile", "quick"], cwd=ROOT, check=True)
    return ROOT / "_build" / "quick"
