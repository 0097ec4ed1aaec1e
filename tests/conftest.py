"""The small project in a folder of its own, and the book itself in its quick profile."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book.__main__ import main
from book.files import locked
from tests.small_project import ROOT, make_project

# The longest groups, in an order in which no process waits long for another: the quick book is built while other
# processes do what does not need it; what does need it comes before the many short tests.
FIRST = ("quick book", "rendered", "words", "pipeline", "faults", "pages", "report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first, so that the processes end at about the same time; see the option in the Makefile."""

    def place(item: pytest.Item) -> int:
        marker = item.get_closest_marker("xdist_group")
        group = marker.args[0] if marker else item.path.parent.name
        return FIRST.index(group) if group in FIRST else len(FIRST)

    items.sort(key=place)


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
def rendered_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, executed and rendered in the quick profile; for copies and for looking at only."""
    root = make_project(tmp_path_factory.mktemp("rendered") / "project")
    assert main(["build", "--profile", "quick"], root) == 0
    return root


@pytest.fixture(scope="session")
def quick_book() -> Path:
    """The output folder of the quick profile, executed and rendered; one worker builds it, the others wait."""
    with locked(ROOT / "_build" / "tests.lock"):
        subprocess.run([sys.executable, "-m", "book", "build", "--profile", "quick"], cwd=ROOT, check=True)
    return ROOT / "_build" / "quick"
