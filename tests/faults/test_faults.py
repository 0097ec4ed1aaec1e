"""A small campaign of faults, and what campaigns found; ``make faults`` runs a long one."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from book.pipeline.content_key import statuses
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.publish import compose
from book.pipeline.results import read_result, restore_interrupted
from tests.faults import campaign
from tests.faults.tries import Try, copy_of, executed_project
from tests.small_project import ROOT, edit

SEED = 0
CHEAP = ["parameters", "notebooks", "models", "records", "sources", "data", "caches", "storing", "rendering"]
CHEAP += ["environments"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return executed_project(tmp_path_factory.mktemp("faults") / "project")


@pytest.fixture
def root(project: Path, tmp_path: Path) -> Path:
    return copy_of(project, tmp_path / "project")


def wrong_of(tries):
    return [f"{one.kind}: {one.outcome}: {one.wrong}" for one in tries if one.wrong]


@pytest.mark.parametrize("kind", CHEAP)
def test_no_fault_of_this_kind_is_accepted_or_ends_in_a_traceback(project, tmp_path, kind):
    tries = list(campaign.campaign(250, SEED, project, tmp_path, [kind]))
    assert tries
    assert not wrong_of(tries)


@pytest.mark.parametrize("kind", ["ends", "full disk"])
def test_a_build_that_is_killed_or_has_no_room_leaves_nothing_and_then_gives_the_same(project, tmp_path, kind):
    assert not wrong_of(campaign.campaign(1, SEED, project, tmp_path, [kind]))


def test_the_table_counts_tries_by_kind_and_outcome():
    outcomes = Counter({("a", "named"): 2, ("a", "WRONG"): 1, ("long kind", "same"): 1})
    assert campaign.table(outcomes).splitlines() == [
        "a              3  1 WRONG, 2 named",
        "long kind      1  1 same",
    ]
    assert wrong_of([Try("a", "b"), Try("a", "b", "c")]) == ["a: b: c"]


def state(root, profile="full"):
    build = load_build(load_project(root), profile)
    return build, statuses(build)


def test_a_result_with_other_cells_is_damaged(root):
    edit(root / "results/first.ipynb", '"cell_type": "code"', '"cell_type": "codf"')
    status = state(root)[1]["first"]
    assert status.is_damaged


def test_a_result_whose_last_cell_without_outputs_is_gone_is_damaged(root):
    path = root / "results/first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.remove(next(cell for cell in notebook.cells if cell.cell_type == "code" and not cell.outputs))
    nbformat.write(notebook, path)
    status = state(root)[1]["first"]
    assert status.reasons == ["the cells of first.ipynb are not the chapter's"]
    assert status.is_damaged


def test_parameters_that_were_injected_are_sealed(root):
    path = root / "_build/quick/results/first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    injected = next(cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    injected.source = injected.source.replace("num_epochs = 2", "num_epochs = 7")
    nbformat.write(notebook, path)
    assert state(root, "quick")[1]["first"].reasons == ["first.ipynb is damaged"]


def test_what_a_digest_does_not_cover_is_not_taken_from_a_result(root):
    build, _ = state(root)
    chapter = build.project.chapter("first")
    executed = read_result(build, chapter)
    wanted = compose(build, chapter, executed)
    executed.metadata["kernelspec"]["language"] = "ruby"
    executed.metadata["language_info"] = {"name": "ruby"}
    executed.metadata["jupytext"] = None
    assert compose(build, chapter, executed) == wanted


def test_what_a_killed_build_was_writing_is_removed(root):
    left = root / "results" / ".first.ipynb.abc.tmp"
    left.write_text("{")
    other = root / "results" / ".hidden"
    other.write_text("")
    restore_interrupted(state(root)[0])
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
def test_an_interrupt_at_the_very_start_is_no_traceback(seconds):
    program = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "sys.argv = ['book', 'status']; print(flush=True); runpy.run_module('book', run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
