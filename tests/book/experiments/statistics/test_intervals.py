import numpy as np
import pytest
from scipy.stats import ttest_1samp

from book.experiments.statistics.intervals import (
    Interval,
    accuracy_with_interval,
    mcnemar_p_value,
    mean_with_interval,
    simultaneous_intervals,
    wilson_interval,
)


def outcomes(correct, n):
    return np.arange(n) < correct


def test_wilson_interval_equals_a_published_value():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, Wilson's score method.
    accuracy = accuracy_with_interval(outcomes(81, 263))
    assert (round(accuracy.low, 4), round(accuracy.high, 4)) == (0.2553, 0.3662)
    assert accuracy.value == pytest.approx(81 / 263)


def test_wilson_interval_of_no_success_starts_at_zero():
    # Newcombe (1998), table I: 0 of 20.
    accuracy = accuracy_with_interval(outcomes(0, 20))
    assert accuracy.low == 0
    assert round(accuracy.high, 4) == 0.1611


def test_interval_of_nothing_is_not_a_number():
    assert np.isnan(wilson_interval(0, 0)).all()


def test_an_interval_is_formatted_with_its_limits():
    interval = Interval(0.5, 0.25, 0.75)
    assert str(interval) == f"{interval}" == "50.00% (25.00% to 75.00%)"
    assert f"{interval:+.3f}" == "+0.500 (+0.250 to +0.750)"


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_with_interval(rng.normal(1, 2, 8)) for _ in range(1000)]
    assert np.mean([low <= 1 <= high for _, low, high in intervals]) == pytest.approx(0.95, abs=0.02)


def test_interval_of_the_mean_of_one_value_is_infinite():
    assert mean_with_interval([3.0]) == (3.0, -np.inf, np.inf)


def test_mcnemar_counts_only_samples_that_the_models_disagree_on():
    a = np.array([True] * 6 + [False] * 1 + [True] * 50 + [False] * 40)
    b = np.array([False] * 6 + [True] * 1 + [True] * 50 + [False] * 40)
    expected = 2 * (1 + 7) / 2**7  # two-sided binomial: at most 1 of 7 on one side
    assert mcnemar_p_value(a, b) == pytest.approx(expected)
    assert mcnemar_p_value(b, a) == pytest.approx(expected)


def test_mcnemar_of_a_model_with_itself_is_one():
    a = outcomes(70, 100)
    assert mcnemar_p_value(a, a) == 1.0


def test_mcnemar_refuses_results_on_different_samples():
    with pytest.raises(ValueError, match=r"correct_b must be of the shape \(3,\); got \(4,\)"):
        mcnemar_p_value(outcomes(1, 3), outcomes(1, 4))


def test_lists_of_bool_are_as_good_as_arrays():
    a, b = [True, False, True, True], [True, True, False, False]
    assert mcnemar_p_value(a, b) == mcnemar_p_value(np.array(a), np.array(b))
    assert accuracy_with_interval(a) == wilson_interval(3, 4)


@pytest.mark.parametrize(
    "correct", [[np.nan, 1], [1, 0], ["a"], True, None, [[True], [False]], [[True], [True, False]]]
)
def test_anything_but_a_vector_of_bool_is_refused(correct):
    with pytest.raises(ValueError, match=r"^correct must be a vector of bool; got "):
        accuracy_with_interval(correct)
    with pytest.raises(ValueError, match=r"^correct_a must be a vector of bool; got "):
        mcnemar_p_value(correct, [True])


def test_accuracy_of_nothing_is_not_a_number():
    assert np.isnan(accuracy_with_interval([])).all()


@pytest.mark.parametrize("values", [[], 1.0, [[1.0, 2.0]]])
def test_the_mean_is_that_of_a_vector_of_at_least_one_value(values):
    with pytest.raises(ValueError, match=r"^values must be of the shape \(n,\) with n >= 1; got \("):
        mean_with_interval(values)


def test_simultaneous_intervals_are_scipys_at_the_corrected_level():
    rng = np.random.default_rng(0)
    samples = {"a": rng.normal(size=12), "b": rng.normal(1, 2, size=9)}
    for name, found in simultaneous_intervals(samples).items():
        expected = ttest_1samp(samples[name], 0).confidence_interval(1 - 0.05 / 2)
        np.testing.assert_allclose(found, (samples[name].mean(), expected.low, expected.high))


def test_simultaneous_intervals_cover_all_means_together_in_95_of_100_draws():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(400, 10, 15))
    together = [
        all(one.low < 0 < one.high for one in simultaneous_intervals(dict(enumerate(samples))).values())
        for samples in draws
    ]
    assert np.mean(together) >= 0.93
