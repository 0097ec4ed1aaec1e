"""What there is: a table of contents or a front matter that is not what it must be is named with the remedy."""

import pytest

from book.__main__ import main
from tests.small_project import edit


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("chapters:\n", "parts:\nchapters:\n", "'parts' must be a list of entries; got None"),
        ("options:\n  numbered: true\n", "options:\n", "'options' must be names with values; got None"),
        ("chapters:\n", "parts: [x]\nchapters:\n", "'x' must be an entry such as 'file: book/chapters/NAME'"),
        ("chapters:\n", "parts: []\nchapters:\n", "'parts' must be a list of entries; got []"),
        ("  - file: book/chapters/first\n", "  - book/chapters/first\n", "'book/chapters/first' must be an entry"),
        ("file: book/chapters/first", "file: 1", "'file' must be the path of a page; got 1"),
    ],
)
def test_an_entry_of_the_table_of_contents_that_is_not_what_it_must_be_is_named(root, capsys, old, new, message):
    edit(root / "_toc.yml", old, new)
    assert main(["status"], root) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {root / '_toc.yml'}: {message}")
    assert error.endswith("; 'git checkout -- _toc.yml' in its folder restores it\n")


def test_an_entry_book_that_holds_no_names_is_named(root, capsys):
    path = root / "book/chapters/introduction.md"
    path.write_text("---\nbook: hello\n---\n\n" + path.read_text())
    assert main(["status"], root) == 1
    message = "'book' in the front matter must hold needs, quick and parameters; got 'hello'"
    assert capsys.readouterr().err == f"error: {path}: {message}\n"
