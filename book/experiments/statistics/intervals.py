"""Estimates with their confidence intervals, and tests of whether one model is better than another."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

from book.experiments.checks import check_that


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval; NaN where there is nothing to estimate from.

    ``format(interval, spec)`` formats all three numbers by ``spec``, ``".2%"`` if it is empty.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        value, low, high = (format(number, spec or ".2%") for number in self)
        return f"{value} ({low} to {high})"

    def __str__(self) -> str:
        return format(self)


def wilson_interval(successes: int, trials: int) -> Interval:
    """Proportion ``successes / trials`` with its interval by Wilson's score method (Wilson, 1927), all in [0, 1]."""
    if trials == 0:
        return Interval(np.nan, np.nan, np.nan)
    interval = binomtest(int(successes), int(trials)).proportion_ci(0.95, method="wilson")
    return Interval(float(successes / trials), float(interval.low), float(interval.high))


def accuracy_with_interval(correct: np.ndarray) -> Interval:
    """Accuracy with its Wilson interval.

    Parameters
    ----------
    correct : ndarray of bool, shape (n,)
        Whether each prediction is correct.

    Raises
    ------
    ValueError
        If it is no vector of bool.
    """
    correct = _as_correct("correct", correct)
    return wilson_interval(np.count_nonzero(correct), len(correct))


def mean_with_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean of independent values with its interval by Student's t, which is infinite for a single value.

    Parameters
    ----------
    values : array-like, shape (n,)
        At least one.
    confidence : float
        With which the interval covers the mean; above 0 and below 1.

    Raises
    ------
    ValueError
        If there is none.
    """
    values = np.asarray(values, dtype=np.float64)
    check_that(values.ndim == 1 and len(values) > 0, "values", "of the shape (n,) with n >= 1", values.shape)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = float(student_t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def simultaneous_intervals(samples: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Mean of each sample, with intervals that all hold together with a confidence of at least 95 %.

    Each is Student's interval at the level that Bonferroni's correction for the number of samples asks for.

    Parameters
    ----------
    samples : mapping of str to ndarray, shape (n,)
        Independent values.
    """
    return {name: mean_with_interval(values, 1 - 0.05 / len(samples)) for name, values in samples.items()}


def mcnemar_p_value(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided p-value of McNemar's exact test that two models err equally often on the same samples.

    Only the samples that one model classifies correctly and the other does not count; under the null hypothesis each
    of these falls to either model with probability 1/2 (McNemar, 1947).

    Parameters
    ----------
    correct_a, correct_b : ndarray of bool, shape (n,)
        Whether each model's prediction is correct, for the same samples in the same order.

    Raises
    ------
    ValueError
        If they are no vectors of bool, or of different lengths.
    """
    correct_a, correct_b = _as_correct("correct_a", correct_a), _as_correct("correct_b", correct_b)
    check_that(correct_a.shape == correct_b.shape, "correct_b", f"of the shape {correct_a.shape}", correct_b.shape)
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(correct_b & ~correct_a))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _as_correct(name: str, correct: np.ndarray) -> np.ndarray:
    try:
        array = np.asarray(correct)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    is_vector = array.ndim == 1 and (array.dtype == bool or array.size == 0)
    check_that(is_vector, name, "a vector of bool", correct)
    return array.astype(bool)
