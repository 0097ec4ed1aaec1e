"""What runs, in which order, and what it says before it starts."""

from pathlib import Path

import pytest

from book.__main__ import main
from book.pipeline import plan as planning
from book.pipeline.content_key import statuses
from book.pipeline.errors import ChapterError
from book.pipeline.execute import execute_chapter
from book.pipeline.parameters import load_build
from book.pipeline.plan import left_by_rerun, plan, update
from book.pipeline.project import load_project
from tests.small_project import edit

BUILD = ["build", "--no-render"]


@pytest.fixture
def changed(executed_project: Path) -> Path:
    return executed_project


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The names of the chapters that run, in order."""
    names = []

    def execute(build, status, options):
        names.append(status.chapter.name)
        execute_chapter(build, status, options)

    monkeypatch.setattr(planning, "execute_chapter", execute)
    return names


def test_one_chapter_runs_alone_if_what_it_needs_is_published(changed, ran):
    assert main(["run", "second"], changed) == 0
    assert ran == ["second"]


def test_a_needed_chapter_runs_before_if_it_would_have_other_parameters_and_it_is_said_why(changed, ran, capsys):
    assert main(["run", "second", "-p", "num_epochs", "5"], changed) == 0
    assert ran == ["first", "second"]
    error = capsys.readouterr().err
    assert "first: running (second needs it, and num_epochs is 5, not 3; it took about" in error
    assert main(["run", "second", "-p", "num_epochs", "5"], changed) == 0
    assert ran == ["first", "second", "second"], "the files of the first run are there"


def test_what_needs_a_chapter_that_left_the_same_files_does_not_run(changed, ran):
    edit(changed / "book/chapters/first.md", 'print("total", total)', 'print("sum", total)')
    build = load_build(load_project(changed), "full")
    assert list(plan(build, statuses(build))) == ["first", "second"]
    assert [chapter.name for chapter in update(build)] == ran == ["first"]
    assert all(status.is_fresh for status in statuses(build).values())


def test_a_damaged_result_of_the_quick_profile_is_run_again(changed, ran, capsys):
    assert main([*BUILD, "--profile", "quick"], changed) == 0
    path = changed / "_build/quick/results/second.ipynb"
    path.write_text(path.read_text().replace("7.5", "8.5").replace("5.0", "6.0"))
    assert main([*BUILD, "--profile", "quick"], changed) == 0
    assert ran == ["first", "second", "second"]
    assert "second: running (second.ipynb is damaged)" in capsys.readouterr().err


def test_an_unfinished_rerun_goes_on_with_the_chapters_that_it_did_not_reach(changed, monkeypatch, capsys):
    (changed / "_build/cache").mkdir()
    (changed / "_build/cache/network").write_text("trained")
    ran, obstacles = [], [ChapterError("second: failed"), KeyboardInterrupt("second, code cell 2 of 2")]

    def execute(build, status, options):
        if status.chapter.name == "second" and obstacles:
            raise obstacles.pop()
        ran.append(status.chapter.name)

    monkeypatch.setattr(planning, "execute_chapter", execute)
    assert main(["rerun", "--no-render"], changed) == 130
    assert ran == ["first"]
    assert not (changed / "_build/cache").exists()
    assert main(["status"], changed) == 0, "the old result is still that of the sources"
    captured = capsys.readouterr()
    assert "interrupted in second, code cell 2 of 2; the next build takes up from there" in captured.err
    assert captured.out.splitlines()[-1] == "a rerun is unfinished; the next build also runs second"
    assert main(BUILD, changed) == 1, "the second chapter fails"
    assert main(BUILD, changed) == 0
    assert ran == ["first", "second"]
    assert "second: running (rerun was interrupted)" in capsys.readouterr().err
    assert not (changed / "_build/full/rerun.json").exists()
    assert main(BUILD, changed) == 0
    assert ran == ["first", "second"]


@pytest.mark.parametrize("text", ["", "null", "[", '["second"]', "{}"])
def test_a_damaged_list_of_what_a_rerun_left_is_told_and_forgotten(changed, capsys, text):
    path = changed / "_build/full/rerun.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert left_by_rerun(load_build(load_project(changed), "full")) == []
    assert f"{path} is damaged, and forgotten" in capsys.readouterr().err
    assert not path.exists()
