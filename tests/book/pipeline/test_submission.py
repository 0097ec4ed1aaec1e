"""The archive to hand in: code, models and report; the same bytes from the same build, and none from a stale one."""

import io
import os
import shutil
import subprocess
from zipfile import ZipFile

import pytest

from book.__main__ import main
from book.pipeline.errors import BookError
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.submission import make_submission
from tests.small_project import edit

pytestmark = pytest.mark.xdist_group("rendered")


@pytest.fixture(scope="module")
def finished(rendered_once, tmp_path_factory):
    """The small project, executed, rendered, and known to git."""
    root = tmp_path_factory.mktemp("submitted") / "project"
    shutil.copytree(rendered_once, root, copy_function=shutil.copy2)
    (root / "tool.sh").write_text("#!/bin/sh\n")
    (root / "tool.sh").chmod(0o755)
    (root / "submission").mkdir()
    (root / "submission" / "Q1.py").write_text("print(1)\n")
    (root / ".gitignore").write_text("_build/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    return root


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "project", copy_function=shutil.copy2)


def submit(root, name="2020123"):
    return make_submission(load_build(load_project(root), "quick"), name)


def archives(root):
    return list((root / "_build" / "quick").glob("*HW1*"))


def test_archive_holds_the_code_with_the_models_zipped_and_the_report(root):
    archive = submit(root)
    assert archive.name == "2020123_HW1.zip"
    with ZipFile(archive) as file:
        names = file.namelist()
        assert {name.split("/")[0] for name in names} == {"code", "report.pdf"}
        assert file.read("report.pdf") == (root / "_build/quick/report.pdf").read_bytes()
        assert file.read("code/book/chapters/first.md") == (root / "book/chapters/first.md").read_bytes()
        assert not any("_build" in name or ".git/" in name for name in names)
        assert file.getinfo("code/tool.sh").external_attr >> 16 == 0o755
        with ZipFile(io.BytesIO(file.read("code/models.zip"))) as models:
            saved = models.read("results/models/first/total.txt")
        assert saved == (root / "_build/quick/results/models/first/total.txt").read_bytes()
        assert file.read("code/book.pdf") == (root / "_build/quick/book.pdf").read_bytes()
        assert file.read("code/Q1.py") == b"print(1)\n"
        assert "code/submission/Q1.py" not in names


def test_the_same_build_gives_the_same_bytes_later_too(root):
    first = submit(root).read_bytes()
    for path in root.rglob("*"):
        if path.is_file() and ".git/" not in str(path):
            path.touch()
    assert submit(root).read_bytes() == first


@pytest.mark.parametrize("name", ["", "a b", "../x", "2020/123", "x" * 41])
def test_a_name_that_is_no_roll_number_is_refused(root, name):
    with pytest.raises(BookError, match=r"NAME must be a roll number.*\n.*make submission NAME=2020123"):
        submit(root, name)
    assert not archives(root)


def test_a_stale_build_is_refused_with_the_command_that_updates_it(root):
    edit(root / "package" / "helper.py", "return", "return 0 +")
    with pytest.raises(BookError, match=r"stale(.|\n)*python -m book build"):
        submit(root)
    assert not archives(root)


@pytest.mark.parametrize("name", ["report.pdf", "book.pdf"])
@pytest.mark.parametrize("content", [b"", b"%PDF-1.5 another"])
def test_a_pdf_that_is_not_the_one_that_was_rendered_is_refused(root, name, content):
    (root / "_build" / "quick" / name).write_bytes(content)
    with pytest.raises(BookError, match="the report is not that of these results; 'make book' makes it"):
        submit(root)
    assert not archives(root)


@pytest.mark.parametrize("missing", ["report.pdf", "book.pdf", "render.json"])
def test_a_build_without_its_report_is_refused(root, missing):
    (root / "_build" / "quick" / missing).unlink()
    with pytest.raises(BookError, match="the report is not that of these results; 'make book' makes it"):
        submit(root)
    assert not archives(root)


def test_a_report_of_other_prose_is_refused(root):
    edit(root / "book" / "chapters" / "second.md", "# The second chapter", "# Another second chapter")
    with pytest.raises(BookError, match="the report is not that of these results"):
        submit(root)


def test_missing_or_altered_models_are_refused(root):
    path = root / "_build/quick/results/models/first/total.txt"
    path.write_text("1")
    with pytest.raises(BookError, match=r"first: its model total.txt is not what was recorded; .*makes it anew"):
        submit(root)
    assert not archives(root)


def test_without_git_there_is_no_list_of_the_code(root):
    shutil.rmtree(root / ".git")
    with pytest.raises(BookError, match="git does not list the code"):
        submit(root)
    assert not archives(root)


def test_a_repository_that_the_shell_names_changes_nothing(root, monkeypatch, tmp_path):
    expected = submit(root).read_bytes()
    subprocess.run(["git", "init", "-q", tmp_path / "other"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(root))
    assert submit(root).read_bytes() == expected


@pytest.mark.parametrize("name", ["book/chapters/second.md", "package/deep/constant.py", "_toc.yml"])
def test_a_page_or_module_that_git_does_not_know_is_named(root, name):
    subprocess.run(["git", "rm", "-q", "--cached", name], cwd=root, check=True)
    with pytest.raises(BookError, match=f"git does not know all of the code: 'git add {name}' adds the rest"):
        submit(root)
    assert not archives(root)


def test_a_name_that_is_no_utf_8_is_refused(root):
    (root / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    with pytest.raises(BookError, match=r"b'caf\\xe9.txt' is no UTF-8.*git mv"):
        submit(root)
    assert not archives(root)


def test_make_submission_without_a_name_says_how(root, capsys):
    assert main(["submission", ""], root) == 1
    assert "make submission NAME=2020123" in capsys.readouterr().err


def test_a_folder_inside_another_repository_is_refused(root):
    shutil.rmtree(root / ".git")
    subprocess.run(["git", "init", "-q"], cwd=root.parent, check=True)
    with pytest.raises(BookError, match="must be a git repository of its own"):
        submit(root)
    assert not archives(root)
