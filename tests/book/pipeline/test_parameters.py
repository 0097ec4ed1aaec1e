"""Parameters: what is refused before anything runs."""

import re

import pytest

from book.__main__ import main
from book.pipeline.parameters import load_build, run_build
from book.pipeline.project import BookError, load_project
from tests.small_project import edit


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("num_epochs", "5", 5),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", "1", 1.0),
        ("widths", "[1, 2]", [1, 2]),
        ("clip", "null", None),
        ("clip", "None", None),
        ("name", "tanh", "tanh"),
    ],
)
def test_a_command_line_value_is_read_as_the_parameter_wants_it(root, name, text, expected):
    project = load_project(root)
    build = run_build(project, project.chapter("first"), [(name, text)])
    assert repr(build.overrides["first"][name]) == repr(expected)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["run", "third"], ["no chapter 'third'", "introduction, first, second"]),
        (["run", "introduction"], ["introduction has no code"]),
        (["run", "first", "-p", "num_epoch", "5"], ["no parameter 'num_epoch'", "num_epochs = 3", "seed = 7"]),
        (["run", "first", "-p", "num_epochs", "many"], ["num_epochs must be an integer at least 1; got 'many'"]),
        (["run", "first", "-p", "num_epochs", "[5"], ["num_epochs must be an integer at least 1; got '[5'"]),
        (["run", "first", "-p", "num_epochs", "2.5"], ["num_epochs must be an integer at least 1; got 2.5"]),
        (["run", "first", "-p", "num_epochs", "-5"], ["num_epochs must be an integer at least 1; got -5"]),
        (
            ["run", "first", "-p", "learning_rate", "-1e-3"],
            ["learning_rate must be a finite number above 0; got -0.001"],
        ),
        (["run", "first", "-p", "learning_rate", ".nan"], ["learning_rate must be a finite number above 0; got nan"]),
        (["run", "first", "-p", "learning_rate", "1e999"], ["learning_rate must be a finite number above 0; got inf"]),
        (["run", "first", "-p", "clip", "{[]: 1}"], ["clip must be a finite number above 0, or None; got"]),
        (["run", "first", "-p", "clip", "2026-11-23"], ["clip must be a finite number above 0, or None; got"]),
        (["run", "first", "-p", "name", "gelu"], ["name must be 'relu' or 'tanh'; got 'gelu'"]),
        (["run", "second", "-p", "num_epochs", "1001"], ["num_epochs must be an integer from 1 to 1000; got 1001"]),
        (["run", "first", "--workers", "0"], ["--workers must be an integer of at least 1; got '0'"]),
        (["build", "--workers", "two"], ["--workers must be an integer of at least 1; got 'two'"]),
        (["rerun", "--device", "tpu"], ["--device must be auto, cpu or cuda; got 'tpu'"]),
        (
            ["run", "first", "--scheduler", "localhost:1"],
            ["--scheduler must be the tcp://HOST:PORT of a Dask scheduler"],
        ),
        (["run", "first", "--scheduler", "tcp://127.0.0.1:1"], ["that runs; got 'tcp://127.0.0.1:1'"]),
        (["build", "--profile", "fast"], ["--profile must be full or quick; got 'fast'"]),
    ],
)
def test_a_mistaken_command_is_refused_before_anything_runs(root, capsys, arguments, messages):
    assert main(arguments, root) == 1
    error = capsys.readouterr().err
    assert all(message in error for message in messages), error
    assert not [path for path in (root / "_build").glob("*") if path.name != "build.lock"]
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("quick: {num_epochs: 2}", "quick: {num_epoch: 2}", "first.md, quick: first has no parameter 'num_epoch'"),
        (
            "quick: {num_epochs: 2}",
            "quick: {num_epochs: two}",
            "quick: num_epochs must be an integer at least 1; got 'two'",
        ),
        ("quick: {num_epochs: 2}", "quick: [num_epochs]", "'quick' must be names with values; got"),
        ("    seed: {type: integer, minimum: 0}\n", "", "does not say what the parameter seed may be"),
        ("    seed: {", "    sed: {type: integer}\n    seed: {", "says what sed may be, which is no parameter"),
        ("minimum: 0}", "least: 0}", "the constraint of seed must have a type, and no fields but"),
        ("seed = 7", "seed = -7", "seed must be an integer at least 0; got -7"),
    ],
)
def test_mistaken_front_matter_is_refused(root, old, new, message):
    edit(root / "book/chapters/first.md", old, new)
    with pytest.raises(BookError, match=re.escape(message)):
        load_build(load_project(root), "quick")


def test_the_quick_profile_is_that_of_the_front_matter(root):
    project = load_project(root)
    assert load_build(project, "quick").parameters(project.chapter("first"))["num_epochs"] == 2
    assert load_build(project, "full").parameters(project.chapter("first"))["num_epochs"] == 3


def test_the_help_of_a_chapter_lists_its_parameters_with_defaults_and_what_is_allowed(root, capsys):
    with pytest.raises(SystemExit):
        main(["run", "first", "--help"], root)
    shown = capsys.readouterr().out
    assert "  num_epochs = 3: an integer at least 1\n" in shown
    assert "  name = 'relu': 'relu' or 'tanh'\n" in shown


def test_a_byte_order_mark_before_a_chapter_is_no_part_of_it(root):
    path = root / "book/chapters/second.md"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_project(root).chapter("second").needs == ("first",)


@pytest.mark.parametrize("name", ["_toc.yml", "book/chapters/first.md"])
def test_a_file_that_is_missing_or_no_utf8_is_named(root, capsys, name):
    (root / name).write_bytes(b"\xff\xfe\0")
    assert main(["status"], root) == 1
    assert f"error: {root / name} is no UTF-8 text (byte 0); save it as UTF-8" in capsys.readouterr().err
    (root / name).unlink()
    assert main(["status"], root) == 1
    assert f"{root / name} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quick:\n  first: [1\nnext: 2\n", ", line 3, column "),
        ("a: b: c\n", ", line 1, column "),
        ("a tab:\n\t- x\n", ", line 2, column 1: "),
        ("- one\n- two\n", " holds no names with values, but ['one', 'two']"),
        ("", " holds no names with values, but None"),
    ],
)
def test_a_file_that_is_not_yaml_or_holds_no_mapping_is_named(root, capsys, text, message):
    (root / "_toc.yml").write_text(text)
    assert main(["status", "--profile", "quick"], root) == 1
    assert capsys.readouterr().err.startswith(f"error: {root / '_toc.yml'}{message}")


def test_a_chapter_that_is_no_notebook_is_named(root, capsys):
    edit(
        root / "book/chapters/first.md",
        "kernelspec:\n  display_name: Python 3\n  language: python\n  name: python3",
        "kernelspec: x",
    )
    assert main(["status"], root) == 1
    assert capsys.readouterr().err.startswith(f"error: {root / 'book/chapters/first.md'} can't be read as a notebook: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_epochs = = 3", "the parameters cell, line 1: invalid syntax: num_epochs = = 3"),
        ("num_epochs = 3 * 2", "the parameter num_epochs = 3 * 2 is not a literal"),
        ("num_epochs = {[]: 1}", "the parameter num_epochs = {[]: 1} is not a literal"),
        ("num_epochs = {1, 2}", "the parameter num_epochs = {1, 2} is not made of numbers, texts"),
        ("num_epochs += 1", "the parameters cell holds 'num_epochs += 1'"),
    ],
)
def test_a_mistaken_parameters_cell_is_refused(root, capsys, line, message):
    edit(root / "book/chapters/first.md", "num_epochs = 3", line)
    assert main(["status"], root) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(f"first.md: {re.escape(message)}", error), error


def test_a_needed_chapter_takes_the_parameters_that_it_shares(root):
    project = load_project(root)
    build = run_build(project, project.chapter("second"), [("num_epochs", "5")])
    assert build.overrides == {"second": {"num_epochs": 5}, "first": {"num_epochs": 5}}
    assert build.output == root / "_build/run/second"
