"""Parameters: what is refused before anything runs."""

import re

import pytest

from book.__main__ import main
from book.pipeline.parameters import check_parameters, load_build, run_build
from book.pipeline.project import BookError, load_project
from tests.small_project import ROOT, edit


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
        ("minimum: 0}", "least: 0}", "the constraint of seed must have no fields but type, choices, optional, minimum"),
        ("seed: {type: integer", "seed: {type: int", "of seed must have a type, one of integer, number, text, boolean"),
        ("seed: {type: integer, minimum: 0}", "seed: 0", "the constraint of seed must have a type, one of"),
        ("minimum: 0}", "minimum: [1]}", "of seed: minimum must be a number, an expression, or {by: NAME, values:"),
        ("minimum: 0}", "minimum: .nan}", "the constraint of seed: minimum must be a number, an expression, or"),
        (
            "minimum: 0}",
            "multiple_of: 0}",
            "of seed: multiple_of must be an integer at least 1, or an expression; got 0",
        ),
        ("minimum: 0}", "optional: 1}", "the constraint of seed: optional must be true or false; got 1"),
        ("minimum: 0}", "or: x}", "the constraint of seed: or must be a number; got 'x'"),
        ("minimum: 0}", "maximum: num_epoch}", "of seed: maximum must name parameters of the chapter; got 'num_epoch'"),
        ("minimum: 0}", "maximum: widths}", "of seed: maximum must be made of integers; got 'widths' in 'widths'"),
        ("minimum: 0}", "maximum: 'seed[0]'}", "of seed: maximum must take an item of a list of integers; got 'seed'"),
        (
            "minimum: 0}",
            "maximum: num_epochs / 2}",
            "of seed: maximum must be an expression of parameters and integers",
        ),
        ("minimum: 0}", "maximum: {by: x, values: {}}}", "maximum must go by an integer or a text that is a parameter"),
        ("[relu, tanh]", "1", "the constraint of name: choices must be a list of values of the type text; got 1"),
        ("[relu, tanh]", "[relu, 1]", "name: choices must be a list of values of the type text; got ['relu', 1]"),
        ("items: {type: integer, minimum: 1}", "items: integer", "of widths: items must have a type, one of"),
        ("items: {type: integer, minimum: 1}", "items: {type: integer, minimum: x}", "of widths: minimum must name"),
        ("items: {type: integer, minimum: 1}", "increasing: true", "the constraint of widths: items must be numbers"),
        ("min_length: 1, ", "as_long_as: seed, ", "of widths: as_long_as must be the name of a list; got 'seed'"),
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


@pytest.fixture(scope="module")
def book():
    return load_project(ROOT)


BOUNDARIES = [
    ("scikit_learn", {"num_train": 6400}, {"num_parity_steps": 200}, {"num_parity_steps": 201}),
    ("scikit_learn", {"batch_size": 8}, {"num_parity_steps": 25}, {"num_parity_steps": 24}),
    ("scikit_learn", {"batch_size": 50}, {"num_parity_steps": 5}, {"num_parity_steps": 4}),
    ("scikit_learn", {}, {"num_searched": 200}, {"num_searched": 190}),
    ("fashion_mnist", {"batch_size": 56}, {"num_steps": 1000}, {"num_steps": 1001}),
    ("fashion_mnist", {}, {"sigma": 100.0}, {"sigma": 101.0}),
    ("cross_entropy_and_kl", {"curve_batch_size": 1}, {"num_curve_images": 10}, {"num_curve_images": 15}),
    ("cross_entropy_and_kl", {"p": [0.1] * 10}, {"q": [0.1] * 10}, {"q": [0.2] * 5}),
    ("cross_entropy_and_kl", {}, {"q": [0.4, 0.3, 0.3]}, {"q": [0.4, 0.3, 0.2]}),
    ("cross_entropy_and_kl", {"q": [0.05] * 20}, None, {"p": [0.05] * 20}),
    ("cross_entropy_and_kl", {}, {"temperature": 0.1}, {"temperature": 1e-308}),
    ("vgg16", {"batch_size": 6000, "num_train": 6000}, {"num_epochs": 6, "num_compared_epochs": 6}, {"num_epochs": 5}),
    ("vgg16", {"batch_size": 1000}, {"num_compared_epochs": 1}, None),
    ("vgg16", {"batch_size": 1001}, {"num_compared_epochs": 2}, {"num_compared_epochs": 1}),
    ("vgg16", {}, {"mixup": 0.0}, {"mixup": 0.01}),
    ("vgg16_analysis", {"num_labels": [300, 1000]}, {"num_random": 300}, {"num_random": 299}),
    ("dense_to_convolution", {"num_train": 1000}, {"batch_size": 1000}, {"batch_size": 1001}),
    ("dense_to_convolution", {}, {"check_step": 0.5}, {"check_step": 1}),
    ("one_by_one_convolutions", {"height": 1024, "width": 512}, {"in_channels": 512}, {"in_channels": 513}),
    ("one_by_one_convolutions", {"height": 8, "padding": 0, "dilation": 2}, {"kernel": 4}, {"kernel": 5}),
    ("one_by_one_convolutions", {"width": 8, "padding": 1, "kernel": 4}, {"dilation": 3}, {"dilation": 4}),
    ("one_by_one_convolutions", {"width": 1, "padding": 0, "kernel": 1}, {"dilation": 64}, None),
    ("four_activations", {}, {"weight_init": "random"}, {"weight_init": "zero"}),
]


@pytest.mark.parametrize(("chapter", "changes", "allowed", "refused"), BOUNDARIES)
def test_a_chapters_table_says_where_what_is_allowed_ends(book, chapter, changes, allowed, refused):
    chapter = book.chapter(chapter)
    if allowed is not None:
        check_parameters(chapter, changes | allowed, "-p")
    if refused is not None:
        with pytest.raises(BookError, match=rf"^-p: {next(iter(refused))} must be .+; got "):
            check_parameters(chapter, changes | (allowed or {}) | refused, "-p")
