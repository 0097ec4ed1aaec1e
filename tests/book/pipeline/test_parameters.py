"""Parameters: what is refused before anything runs."""

import re

import pytest
from small_project import edit

from book.__main__ import main
from book.pipeline.parameters import fits, load_profile, parse_value, run_profile
from book.pipeline.project import BookError, load_project


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (1, 0.5, True),
        (1.5, 1, False),
        (True, 1, False),
        (1, True, False),
        (True, 0.5, False),
        ("a", "b", True),
        (1, "b", False),
        (None, 1, False),
        (3, None, True),
        ("a", None, True),
        ([1, 2], [3], True),
        ([1, "a"], [3], False),
        ([1], [0.5], True),
        ([], [1], True),
        ([1], [], True),
        ({1, 2}, None, False),
        ([b"a"], [], False),
        (1, [1], False),
        ({"a": 1}, {}, True),
    ],
)
def test_a_value_fits_a_default_of_its_type(value, default, expected):
    assert fits(value, default) is expected


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("5", 1, 5),
        ("1e-3", 0.5, 0.001),
        ("true", False, True),
        ("False", True, False),
        ("[1, 2]", [3], [1, 2]),
        ("null", None, None),
        ("5", "text", "5"),
        ("relu", None, "relu"),
    ],
)
def test_a_command_line_value_is_read_as_the_parameter_wants_it(text, default, expected):
    assert parse_value(text, default) == expected


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["run", "third"], ["no chapter 'third'", "introduction, first, second"]),
        (["run", "introduction"], ["introduction has no code"]),
        (["run", "first", "-p", "num_epoch", "5"], ["no parameter 'num_epoch'", "num_epochs = 3", "seed = 7"]),
        (
            ["run", "first", "-p", "num_epochs", "many"],
            ["num_epochs = 'many' is text", "wants a whole number", "the parameters of first are", "seed = 7"],
        ),
        (
            ["run", "first", "-p", "num_epochs", "[5"],
            ["num_epochs = [5 can't be read", "wants a whole number, such as its default 3", "seed = 7"],
        ),
        (
            ["run", "first", "-p", "clip", "{[]: 1}"],
            ["clip = {[]: 1} can't be read", "wants numbers, texts", "seed = 7"],
        ),
        (["run", "first", "-p", "clip", "a: b: c"], ["clip = a: b: c can't be read"]),
        (["run", "first", "-p", "clip", "2026-13-45"], ["clip = 2026-13-45 can't be read"]),
        (["run", "first", "-p", "clip", "2026-11-23"], ["clip = datetime.date(2026, 11, 23) is date", "wants numbers"]),
        (["run", "first", "-p", "num_epoch", "[5"], ["no parameter 'num_epoch'", "num_epochs = 3"]),
        (["run", "first", "-p", "num_epochs", "2.5"], ["num_epochs = 2.5 is a number", "wants a whole number"]),
        (["build", "--profile", "fast"], ["no profile 'fast'", "full, quick"]),
    ],
)
def test_a_mistaken_command_is_refused_before_anything_runs(root, capsys, arguments, messages):
    assert main(arguments, root) == 1
    error = capsys.readouterr().err
    assert all(message in error for message in messages), error
    assert not (root / "_build").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("first:", "third:", "no chapter 'third'"),
        ("num_epochs: 2", "num_epoch: 2", "profile quick: first has no parameter 'num_epoch'"),
        ("num_epochs: 2", "num_epochs: two", "profile quick: num_epochs = 'two' is text"),
        ("num_epochs: 2", "- num_epochs", "profile quick, first: names with values are wanted, not"),
    ],
)
def test_a_mistaken_profile_is_refused(root, old, new, message):
    edit(root / "book/pipeline/profiles.yml", old, new)
    with pytest.raises(BookError, match=message):
        load_profile(load_project(root), "quick")


@pytest.mark.parametrize("name", ["_toc.yml", "book/pipeline/profiles.yml"])
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
def test_a_file_that_is_not_yaml_or_holds_no_mapping_is_named(root, capsys, name, text, message):
    (root / name).write_text(text)
    assert main(["status", "--profile", "quick"], root) == 1
    assert capsys.readouterr().err.startswith(f"error: {root / name}{message}")


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
    profile = run_profile(project, project.chapter("second"), {"num_epochs": 5})
    assert profile.overrides == {"second": {"num_epochs": 5}, "first": {"num_epochs": 5}}
    assert profile.output.as_posix() == "_build/run/second"


def test_a_whole_number_for_a_float_is_stored_as_the_float_that_it_stands_for(root):
    project = load_project(root)
    profile = run_profile(project, project.chapter("first"), {"learning_rate": 1})
    assert repr(profile.overrides["first"]["learning_rate"]) == "1.0"
