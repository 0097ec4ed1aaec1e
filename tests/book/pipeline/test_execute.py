"""Executing: what is stored after a good run, and what is left after a bad one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from small_project import ROOT, edit, make_project

import book.__main__ as command
from book.__main__ import main
from book.pipeline import plan as updating
from book.pipeline.content_key import statuses
from book.pipeline.execute import ChapterError
from book.pipeline.figures_of_readme import publish_figures
from book.pipeline.parameters import load_profile
from book.pipeline.plan import plan, run_one, update
from book.pipeline.project import load_project
from book.pipeline.render import render

RECORDED = ("environment", "date", "seconds")


def state(root, profile="full"):
    project = load_project(root)
    profile = load_profile(project, profile)
    return project, profile, statuses(project, profile)


def files(root):
    """Return every file that a run may write, with its contents."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in ("results", "_build")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A project whose full profile is up to date."""
    root = make_project(tmp_path_factory.mktemp("built") / "project")
    project, profile, _ = state(root)
    assert [chapter.name for chapter in update(project, profile)] == ["first", "second"]
    return root


@pytest.fixture
def changed(built):
    """A project that is up to date, for a test that changes it; afterwards everything is as before."""
    aside = built.with_name("aside")
    shutil.copytree(built, aside)
    yield built
    shutil.rmtree(built)
    aside.rename(built)


def test_nothing_runs_when_nothing_changed(built):
    before = files(built)
    project, profile, found = state(built)
    assert all(status.is_fresh for status in found.values())
    assert update(project, profile) == []
    assert files(built) == before


def test_status_lists_fresh_and_stale_chapters_and_tells_by_its_exit_code(changed, capsys):
    assert main(["status"], changed) == 0
    assert capsys.readouterr().out == "first   fresh\nsecond  fresh\n"
    edit(changed / "package/helper.py", "+ ZERO", "- ZERO")
    assert main(["status"], changed) == 1
    assert "first   stale: package/helper.py changed\n" in capsys.readouterr().out


def test_an_executed_notebook_records_how_it_was_made(built):
    record = nbformat.read(built / "results/first.ipynb", as_version=4).metadata["book"]
    assert record["profile"] == "full"
    assert record["parameters"]["num_epochs"] == 3
    assert record["seed"] == 7
    assert set(record["environment"]["packages"]) == {"matplotlib", "myst-nb"}
    assert record["environment"]["processor"]


def test_an_executed_notebook_has_no_path_of_the_machine_and_no_timing(built):
    for path in (built / "results").glob("*.ipynb"):
        text = path.read_text()
        assert str(built) not in text
        assert str(Path.home()) not in text.replace("\\n", "")
        notebook = nbformat.read(path, as_version=4)
        assert "papermill" not in notebook.metadata
        assert not any({"papermill", "execution"} & cell.metadata.keys() for cell in notebook.cells)
        nbformat.validate(notebook)


def test_a_second_run_changes_only_what_is_recorded_of_the_machine(built):
    def content():
        notebook = nbformat.read(built / "results/first.ipynb", as_version=4)
        for name in RECORDED:
            del notebook.metadata["book"][name]
        return nbformat.writes(notebook)

    before = content()
    (built / "results/first.ipynb").unlink()
    project, profile, _ = state(built)
    assert [chapter.name for chapter in update(project, profile)] == ["first"]
    assert content() == before


def test_a_needed_chapter_runs_again_when_its_files_are_gone(changed):
    (changed / "_build/full/models/first/total.txt").unlink()
    project, profile, found = state(changed)
    assert plan(project, profile, found) == {}, "nothing is stale, so nothing needs the files"
    edit(changed / "book/chapters/second.md", "total * num_epochs", "total + num_epochs")
    project, profile, found = state(changed)
    assert list(plan(project, profile, found)) == ["first", "second"]
    assert [chapter.name for chapter in update(project, profile)] == ["first", "second"]
    assert (changed / "_build/full/models/first/total.txt").read_text() == "3.5"


def test_a_needed_chapter_does_not_run_when_its_files_are_there(changed):
    edit(changed / "book/chapters/second.md", "total * num_epochs", "total - num_epochs")
    project, profile, found = state(changed)
    assert plan(project, profile, found).keys() == {"second"}


def test_files_that_were_altered_count_as_gone(changed):
    (changed / "_build/full/models/first/total.txt").write_text("4.5")
    edit(changed / "book/chapters/second.md", "total * num_epochs", "total - num_epochs")
    project, profile, found = state(changed)
    assert list(plan(project, profile, found)) == ["first", "second"]


@pytest.mark.parametrize(
    ("replacement", "messages"),
    [
        ("total / 0", ["code cell 2 of 2 (import os)", "ZeroDivisionError", "total / 0"]),
        ("import warnings; warnings.warn('mind this')", ["code cell 2 of 2", "error output", "mind this"]),
        ("print(Path.cwd())", ["code cell 2 of 2", "shows a path of this machine"]),
        ("print(object())", ["code cell 2 of 2", "an object's address"]),
    ],
)
def test_a_bad_cell_is_named_and_leaves_the_last_result(changed, capsys, replacement, messages):
    edit(changed / "book/chapters/second.md", "total * num_epochs", replacement)
    before = files(changed)
    assert main(["build"], changed) == 1
    error = capsys.readouterr().err
    assert "error: second: " in error
    assert all(message in error for message in messages), error
    assert "\x1b" not in error
    after = files(changed)
    assert after.pop("results/second.ipynb") == before.pop("results/second.ipynb")
    assert {name for name in after if not name.startswith("_build/full/models")} == {
        name for name in before if not name.startswith("_build/full/models")
    }
    with pytest.raises(Exception, match="second: code cells changed"):
        render(*state(changed)[:2])


def test_a_result_is_not_stored_when_a_module_changes_while_the_chapter_runs(changed, capsys):
    edit(
        changed / "book/chapters/second.md",
        "total * num_epochs\n",
        'Path("package/helper.py").write_text("PLUS = 1")\nfrom package import helper\n',
    )
    before = (changed / "results/second.ipynb").read_bytes()
    assert main(["build"], changed) == 1
    assert "second: a module or requirements.txt changed while it ran; run it again" in capsys.readouterr().err
    assert (changed / "results/second.ipynb").read_bytes() == before


def test_printed_output_is_stored_in_one_piece_wherever_the_kernel_cut_it(changed):
    edit(
        changed / "book/chapters/second.md",
        "total * num_epochs\n",
        'import sys, time\nfor _ in range(3):\n    print("x", flush=True)\n    time.sleep(0.3)\n',
    )
    project, profile, _ = state(changed)
    update(project, profile)
    outputs = nbformat.read(changed / "results/second.ipynb", as_version=4).cells[-1].outputs
    assert [(output.name, output.text) for output in outputs] == [("stdout", "x\nx\nx\n")]


def test_one_chapter_runs_with_parameters_of_the_readers_own_in_a_folder_of_its_own(built, capsys):
    before = (built / "results/second.ipynb").read_bytes()
    assert main(["run", "second", "-p", "num_epochs", "5"], built) == 0
    made = Path(capsys.readouterr().out.strip())
    assert made == built / "_build/run/second/second.ipynb"
    notebook = nbformat.read(made, as_version=4)
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "27.5", "5 * (5 + 0.5): the needed chapter took it too"
    injected = next(cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "remove-cell" in injected.metadata.tags
    assert (built / "results/second.ipynb").read_bytes() == before


def test_one_chapter_runs_again_although_its_result_is_there(built):
    project, profile, found = state(built)
    stamp = built / "_build/full/models/second.json"
    stamp.unlink(missing_ok=True)
    assert found["second"].is_fresh
    run_one(project, profile, found["second"].chapter)
    assert json.loads(stamp.read_text()) == {"key": found["second"].key, "files": {}}


def test_an_interrupt_ends_the_kernel_and_its_workers_and_leaves_the_last_result(changed):
    busy = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    edit(changed / "book/chapters/second.md", "total * num_epochs", f"{busy}; Path('started').touch(); time.sleep(60)")
    before = files(changed)
    code = "import signal, sys; from pathlib import Path; from book.__main__ import main\n"
    # A shell starts background jobs deaf to this signal, and what they start inherits that.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"sys.exit(main(['build'], Path({str(changed)!r})))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (changed / "started").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        descendants = psutil.Process(process.pid).children(recursive=True)
        assert len(descendants) >= 2
        os.kill(process.pid, signal.SIGINT)
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted in second, code cell 2 of 2 (import os)" in error
    assert "Traceback" not in error
    assert not psutil.wait_procs(descendants, timeout=5)[1], "the kernel or a process that it started goes on"
    after = files(changed)
    assert after["results/second.ipynb"] == before["results/second.ipynb"]
    assert set(after) <= set(before)


def test_an_unfinished_rerun_goes_on_with_the_chapters_that_it_did_not_reach(changed, monkeypatch, capsys):
    (changed / "_build/cache").mkdir()
    (changed / "_build/cache/network").write_text("trained")
    ran, obstacles = [], [ChapterError("second: failed"), KeyboardInterrupt("second, code cell 2 of 2")]
    execute = updating.execute_chapter

    def execute_unless_obstacle(project, profile, status):
        if status.chapter.name == "second" and obstacles:
            raise obstacles.pop()
        execute(project, profile, status)
        ran.append(status.chapter.name)

    monkeypatch.setattr(updating, "execute_chapter", execute_unless_obstacle)
    monkeypatch.setattr(command, "_publish", lambda project, profile: 0)

    assert main(["rerun"], changed) == 130
    assert ran == ["first"]
    assert not (changed / "_build/cache").exists()
    assert main(["status"], changed) == 0, "the old result is still that of the sources"
    captured = capsys.readouterr()
    assert "interrupted in second, code cell 2 of 2; the next build takes up from there" in captured.err
    assert captured.out.splitlines()[-1] == "a rerun is unfinished; the next build also runs second"

    assert main(["build"], changed) == 1, "the second chapter fails"
    assert ran == ["first"]
    assert main(["build"], changed) == 0
    assert ran == ["first", "second"]
    assert "second: running (rerun was interrupted)" in capsys.readouterr().err

    assert not (changed / "_build/full/rerun.json").exists()
    assert main(["build"], changed) == 0
    assert ran == ["first", "second"]
    assert main(["status"], changed) == 0
    assert "rerun" not in capsys.readouterr().out


def test_a_rerun_that_comes_to_its_end_leaves_nothing_to_do(changed, monkeypatch):
    ran = []
    monkeypatch.setattr(updating, "execute_chapter", lambda project, profile, status: ran.append(status.chapter.name))
    project, profile, _ = state(changed)
    assert [chapter.name for chapter in updating.rerun(project, profile)] == ran == ["first", "second"]
    assert not (changed / "_build/full/rerun.json").exists()
    assert update(project, profile) == []


def test_a_image_has_the_name_that_the_source_gives_its_figure(changed):
    edit(changed / "book/chapters/first.md", "name: fig-line", "name: fig-rising")
    (changed / "README.md").write_text("![A line](results/figures/fig-rising.svg)")
    project, profile, found = state(changed)
    assert found["first"].is_fresh, "a name is no reason to run"
    assert publish_figures(project, profile, changed) == [changed / "results/figures/fig-rising.svg"]
    assert "<svg" in (changed / "results/figures/fig-rising.svg").read_text()


def test_a_process_that_a_chapter_leaves_behind_is_ended(changed):
    leave = "import subprocess; child = subprocess.Popen(['sleep', '60']); Path('pid').write_text(str(child.pid))"
    edit(changed / "book/chapters/second.md", "total * num_epochs", leave)
    assert main(["run", "second"], changed) == 0
    pid = int((changed / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_rendering_refuses_a_stale_chapter_and_names_the_command(changed):
    edit(changed / "package/helper.py", "+ ZERO", "- ZERO")
    project, profile, _ = state(changed)
    with pytest.raises(Exception, match=r"(?s)first: package/helper.py changed.*python -m book build --profile full"):
        render(project, profile)
