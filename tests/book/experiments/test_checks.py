import math

import numpy as np
import pytest

from book.experiments import checks
from book.experiments.checks import check_choice, check_integer, check_number, check_parameters, check_that
from book.experiments.page.storage import ROOT


@pytest.mark.parametrize("value", [1, 5, np.int64(3)])
def test_integers_within_the_limits_pass(value):
    check_integer("n", value, 1, 5)


@pytest.mark.parametrize("value", [0, 6, 2.0, True, "3", None, math.nan])
def test_anything_but_an_integer_within_the_limits_is_refused(value):
    with pytest.raises(ValueError, match=r"n must be an integer from 1 to 5; got "):
        check_integer("n", value, 1, 5)


def test_an_integer_with_one_limit_is_described_by_it():
    with pytest.raises(ValueError, match=r"^n must be an integer at least 1; got 0$"):
        check_integer("n", 0, minimum=1)
    with pytest.raises(ValueError, match=r"^n must be an integer; got 1.5$"):
        check_integer("n", 1.5)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.25)])
def test_numbers_within_the_limits_pass(value):
    check_number("rate", value, above=0, maximum=1)


@pytest.mark.parametrize("value", [0, 1.5, math.nan, math.inf, -math.inf, True, "0.1", None, 1j, 10**400])
def test_anything_but_a_finite_number_within_the_limits_is_refused(value):
    with pytest.raises(ValueError, match=r"rate must be a finite number above 0 and at most 1; got "):
        check_number("rate", value, above=0, maximum=1)


def test_a_limit_that_is_excluded_is_refused_and_one_that_is_included_passes():
    check_number("x", 1, minimum=1)
    with pytest.raises(ValueError, match=r"below 1; got 1$"):
        check_number("x", 1, below=1)


def test_one_more_number_is_allowed_outside_of_the_limits():
    check_number("x", 0, minimum=1, other=0)
    check_number("x", 0.0, minimum=1, other=0)
    for value in (0.5, -1, False, math.nan):
        with pytest.raises(ValueError, match=r"^x must be a finite number at least 1, or 0; got "):
            check_number("x", value, minimum=1, other=0)


@pytest.mark.parametrize("value", ["c", None, 1, ["a"]])
def test_a_choice_that_is_not_offered_is_refused(value):
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^kind must be one of a, b; got "):
        check_choice("kind", value, ("a", "b"))


def test_a_condition_that_fails_is_told_in_the_words_of_all_checks():
    check_that(True, "x", "even", 2)
    with pytest.raises(ValueError, match=r"^x must be even; got 3$"):
        check_that(False, "x", "even", 3)


@pytest.fixture
def constraints(monkeypatch):
    table = {"n": {"type": "integer", "minimum": 1}}
    monkeypatch.setattr(checks, "read_front_matter", lambda chapter: {"parameters": table})


def test_a_chapters_parameters_are_checked_against_its_table(constraints):
    check_parameters("some_chapter", {"n": 1, "other": object()})
    with pytest.raises(ValueError, match=r"^n must be .*; got 0$"):
        check_parameters("some_chapter", {"n": 0})


def test_execution_options_are_checked_with_the_parameters(constraints, monkeypatch):
    monkeypatch.setenv("BOOK_WORKERS", "many")
    with pytest.raises(ValueError, match=r"BOOK_WORKERS"):
        check_parameters("some_chapter", {"n": 1})


@pytest.mark.parametrize("chapter", ["four_activations", "scikit_learn", "numpy_network"])
def test_every_parameter_of_a_chapter_is_constrained_and_its_own_values_pass(chapter):
    text = (ROOT / "book" / "chapters" / f"{chapter}.md").read_text(encoding="utf-8")
    cell = text.split(":tags: [parameters]\n")[1].split("```")[0]
    values = {}
    exec(cell, {}, values)
    front = checks.read_front_matter(chapter)
    assert sorted(front["parameters"]) == sorted(values)
    check_parameters(chapter, values)
    check_parameters(chapter, values | front["quick"])
