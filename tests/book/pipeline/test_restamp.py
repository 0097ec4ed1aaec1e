"""Restamping: stored results get the current keys only where the sources leave every quick result as it was."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from book.__main__ import main
from book.pipeline import restamp as restamping
from book.pipeline.content_key import recorded, statuses
from book.pipeline.errors import BookError
from book.pipeline.parameters import load_build
from book.pipeline.plan import update
from book.pipeline.project import load_project
from book.pipeline.restamp import restamp
from tests.small_project import ROOT, edit, make_project

OUTPUT = {"output_type": "stream", "name": "stdout", "text": "a 1.5 b 2"}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The small project with its full results in git, which prints a random word beside a number."""
    root = make_project(tmp_path_factory.mktemp("restamp") / "project")
    edit(root / "book/chapters/first.md", 'print("total", total)', 'print("total", total, "at", os.urandom(4).hex())')
    update(build_of(root))
    (root / ".gitignore").write_text("_build/\n__pycache__/\n")
    _git(root, "init", "--quiet")
    _commit(root)
    return root


@pytest.fixture
def published(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "project"))


def test_a_refactoring_that_leaves_every_output_restamps_and_says_so(published):
    edit(published / "package/helper.py", "a + b + ZERO", "ZERO + a + b")
    edit(published / "book/chapters/second.md", "total * num_epochs", "num_epochs * total")
    before = {name: _outputs(published, name) for name in ("first", "second")}
    assert main(["restamp", "--from", "HEAD", "--why", "sums in another order"], published) == 0
    assert _reasons(published) == {"first": [], "second": []}
    for name, outputs in before.items():
        record = recorded(published / f"results/{name}.ipynb")
        assert [stamp["why"] for stamp in record["restamped"]] == ["sums in another order"]
        assert record["restamped"][0]["from"] == _git(published, "rev-parse", "HEAD").strip()
        assert record["restamped"][0]["date"].endswith("UTC")
        assert _outputs(published, name) == outputs
    assert _git(published, "worktree", "list").count("\n") == 1
    assert not list((published / "_build").glob("restamp-*"))


def test_a_chapter_that_was_run_anew_may_differ_from_the_commit(published):
    edit(published / "book/chapters/first.md", 'print("total"', 'print("sum"')
    update(build_of(published))
    edit(published / "book/chapters/second.md", "total * num_epochs", "num_epochs * total")
    assert _reasons(published)["first"] == []
    assert main(["restamp", "--from", "HEAD", "--why", "a product in another order"], published) == 0
    assert _reasons(published) == {"first": [], "second": []}
    assert "restamped" not in recorded(published / "results/first.ipynb")


def test_a_change_of_an_output_or_a_file_is_refused_with_the_chapter_and_the_cell_and_leaves_the_results(published):
    # The changed word stands beside one that differs from run to run.
    edit(published / "book/chapters/first.md", 'print("total"', 'print("sum"')
    edit(published / "book/chapters/first.md", "write_text(str(total))", 'write_text(f"{total}0")')
    edit(published / "book/chapters/first.md", '"| a | b |', '"| a | c |')
    before = (published / "results/first.ipynb").read_bytes()
    with pytest.raises(BookError) as refusal:
        restamp(build_of(published), "HEAD", "no reason")
    table = "output 2 'table', application/papermill.record/text/markdown"
    assert str(refusal.value).splitlines() == [
        "the quick results are not those of HEAD; they differ in",
        "  first: code cell 3 (total = compute.add(num_epochs, learning_rate)), output 1, text",
        f'  first: code cell 5 (glue("total", total, display=False)), {table}',
        "  first: the file total.txt that it leaves for others",
    ]
    assert (published / "results/first.ipynb").read_bytes() == before


def test_what_can_be_refused_without_a_run_is(published, monkeypatch):
    monkeypatch.setattr(restamping, "_run_quick", lambda *_: pytest.fail("a run"))
    assert restamp(build_of(published), "HEAD", "all fresh") == []
    edit(published / "package/helper.py", "a + b + ZERO", "ZERO + a + b")
    with pytest.raises(BookError, match="--from must be a commit of this repository; got nowhere"):
        restamp(build_of(published), "nowhere", "a reason")
    with pytest.raises(BookError, match="--why must be a reason"):
        restamp(build_of(published), "HEAD", " ")
    edit(published / "book/chapters/first.md", "learning_rate = 0.5", "learning_rate = 0.25")
    message = "first: the stored result has other parameters: learning_rate must be 0.5; got 0.25"
    with pytest.raises(BookError, match=message):
        restamp(build_of(published), "HEAD", "a reason")
    _commit(published)
    with pytest.raises(
        BookError, match=r"(?s)the full results were not fresh at HEAD:.*parameter learning_rate changed"
    ):
        restamp(build_of(published), "HEAD", "a reason")


def test_a_result_that_is_not_that_of_the_commit_is_refused(published, monkeypatch):
    monkeypatch.setattr(restamping, "_run_quick", lambda *_: pytest.fail("a run"))
    edit(published / "package/helper.py", "a + b + ZERO", "ZERO + a + b")
    update(build_of(published))
    edit(published / "package/helper.py", "ZERO + a + b", "ZERO + (a + b)")
    with pytest.raises(BookError, match="first: the stored result is not that of HEAD"):
        restamp(build_of(published), "HEAD", "a reason")
    _git(published, "checkout", "--", "results")
    (published / "results/models/first/total.txt").write_text("4.5")
    with pytest.raises(BookError, match=r"results/models/first/total.txt is damaged; restore it: git checkout -- "):
        restamp(build_of(published), "HEAD", "a reason")
    (published / "results/first.ipynb").write_text("null")
    with pytest.raises(
        BookError, match=r"results/first.ipynb is damaged; restore it: git checkout -- results/first.ipynb"
    ):
        restamp(build_of(published), "HEAD", "a reason")


def test_a_killed_restamp_leaves_no_process_and_the_next_one_removes_its_folders(published, monkeypatch):
    program = f"""
from pathlib import Path
from book.pipeline.restamp import _python, _worktree
from book.pipeline.project import load_project
root = Path({str(published)!r})
with _worktree(load_project(root), "HEAD") as place:
    _python(place, "import time; open('started', 'w').close(); time.sleep(60)")
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while not list(published.glob("_build/restamp-*/checkout/started")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        descendants = psutil.Process(process.pid).children(recursive=True)
        assert len(descendants) == 2, "a watchdog and the other program"
        process.kill()
    _, alive = psutil.wait_procs(descendants, timeout=10)
    assert not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert _git(published, "worktree", "list").count("\n") == 2
    edit(published / "package/helper.py", "a + b + ZERO", "ZERO + a + b")
    monkeypatch.setattr(restamping, "_run_quick", lambda *_: None)
    restamp(build_of(published), "HEAD", "a reason")
    assert _git(published, "worktree", "list").count("\n") == 1
    assert not list((published / "_build").glob("restamp-*"))


def test_settings_of_git_and_python_in_the_shell_change_nothing(published, monkeypatch, tmp_path):
    edit(published / "package/helper.py", "a + b + ZERO", "ZERO + a + b")
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setattr(restamping, "_run_quick", lambda *_: None)
    assert [chapter.name for chapter in restamp(build_of(published), "HEAD", "a reason")] == ["first", "second"]


@pytest.mark.parametrize(
    ("change", "places"),
    [
        ({}, set()),
        ({"text": "a 1.5 b 3"}, {(0, "text", 6, "a number")}),
        ({"text": "a 1.5 c 2"}, {(0, "text", 4)}),
        ({"text": "a 1.5 b 2 "}, {(0, "text", "number of words")}),
        ({"name": "stderr"}, {(0, "name", 0)}),
        ({"metadata": {"scrapbook": {"name": "glued"}}}, {(0, "metadata")}),
        ({"data": {"image/png": "aGVsbG8="}}, {(0, "data image/png")}),
    ],
)
def test_outputs_differ_in_the_words_that_differ(change, places):
    other = restamping._parts(nbformat.from_dict(OUTPUT | change))
    assert set(restamping._differences_of_outputs([restamping._parts(nbformat.from_dict(OUTPUT))], [other])) == places
    assert set(restamping._differences_of_outputs([], [other])) == {("number",)}


@pytest.mark.parametrize(
    ("before", "now", "again", "is_explained"),
    [
        ("a 1.5 b 2", "a 1.5 b 3", "a 1.5 b 4", True),
        ("a 1.5 b 2", "a 1.7 b 3", "a 1.5 b 4", True),  # 1.5 twice by chance
        ("a 1.5 b 2", "a 1.5 c 3", "a 1.5 b 4", False),
        ("a 1.5 b 2", "a 1.5 b 3", "a 1.5 c 2", False),
        ("a 1.5 b 2", "a 1.5 b 3", "a 1.5 b 2", False),
        ("a 1.5 b 2", "a 1.5 b", "a 1.5 b 2 c", True),
        ("a 1.5 b 2", "a 1.5 b", "a 1.5 b 2", False),
    ],
)
def test_what_the_commit_does_not_explain_by_differing_from_itself(before, now, again, is_explained):
    def places(text):
        outputs = [[restamping._parts(nbformat.from_dict(OUTPUT | {"text": one}))] for one in (before, text)]
        return {(0, *place) for place in restamping._differences_of_outputs(*outputs)}

    assert (restamping._beyond(places(now), places(again)) == set()) == is_explained


def test_the_names_that_matplotlib_gives_in_an_svg_are_compared_by_their_order():
    def found(text):
        return restamping._without_names(text, "data image/svg+xml")

    svg = '<clipPath id="{0}"/><path clip-path="url(#{0})"/><path clip-path="url(#{1})"/>'
    one, other = "pf46f0b655b", "peaa1dc1367"
    assert found(svg.format(one, other)) == found(svg.format(other, one))
    assert found(svg.format(one, other)) != found(svg.format(one, one))
    assert restamping._without_names(f'"{one}"', "data text/plain") == f'"{one}"'


def _git(root, *arguments):
    name = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *name, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def _commit(root):
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "The results")


def _outputs(root, name):
    notebook = nbformat.read(root / f"results/{name}.ipynb", as_version=4)
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def _reasons(root):
    return {name: status.reasons for name, status in statuses(build_of(root)).items()}


def build_of(root):
    return load_build(load_project(root), "full")
