"""Comparisons of models that are trained with several seeds and evaluated on the same test images.

The result of a model is ``correct``, an array of bool of shape (S, n): whether run s classifies image i correctly. Both
the runs and the images are samples, of all seeds and of all images that might have been drawn; what is said of a model
shall hold for others of either kind. In the words of the analysis of variance, seeds and images are two crossed random
effects (Searle, Casella and McCulloch, 1992).
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t
from statsmodels.stats.multitest import multipletests

from book.experiments.checks import check_that
from book.experiments.statistics.intervals import Interval

SIGNIFICANCE_LEVEL = 0.05


class SeedAccuracy(NamedTuple):
    """Accuracy of a model over its seeds.

    Attributes
    ----------
    mean : Interval
        Mean over seeds and images, with a 95 % interval that covers the choice of both.
    sd : float
        Standard deviation of the seeds' accuracies, with S - 1 in the denominator.
    """

    mean: Interval
    sd: float


class SeedDifference(NamedTuple):
    """Difference of two models' accuracies.

    Attributes
    ----------
    difference : Interval
        First minus second, with a 95 % interval that covers the choice of the seeds and of the images.
    p : float
        Two-sided p-value that the two have the same expected accuracy.
    """

    difference: Interval
    p: float


def accuracy_over_seeds(correct: np.ndarray) -> SeedAccuracy:
    """Mean accuracy with its interval, and the standard deviation over seeds.

    Parameters
    ----------
    correct : ndarray of bool, shape (S, n)
        At least 2 seeds and 2 images.

    Raises
    ------
    ValueError
        For an array of another kind. One run shows nothing about the variation between runs.
    """
    _check_correct("correct", correct)
    mean, variance, degrees_of_freedom = _estimate(correct)
    return SeedAccuracy(_interval(mean, variance, degrees_of_freedom), float(correct.mean(axis=1).std(ddof=1)))


def difference_over_seeds(first: np.ndarray, second: np.ndarray) -> SeedDifference:
    """Compare two models on the same images by a t-test that covers the choice of the seeds and of the images.

    The variance of the difference of the mean accuracies is the sum of what seeds and images contribute. For each model
    it is the variance of its runs' accuracies divided by the number of its runs. For the images it is the variance over
    images of the difference of the two models' mean correctness, divided by the number of images. What is special to
    one run on one image is in both, and is subtracted once: with one model this is the usual estimate of the variance
    of a mean in two crossed random effects, (MS_seeds + MS_images - MS_residual) / (S n). The difference divided by its
    standard error has approximately a t-distribution, with the degrees of freedom of Satterthwaite (1946) and Welch
    (1947). Radiologists who read the same cases are compared in this way (Obuchowski and Rockette, 1995; Hillis, 2007).

    The models' runs count as independent. Where two models share the random numbers of each run, the interval is, if
    anything, too wide.

    Parameters
    ----------
    first, second : ndarray of bool, shape (S, n)
        At least 2 seeds each, which may be of different number; the same n images in the same order.

    Raises
    ------
    ValueError
        For arrays of other kinds, as :func:`accuracy_over_seeds`, or of different images.
    """
    _check_correct("first", first)
    _check_correct("second", second)
    n = first.shape[1]
    check_that(second.shape[1] == n, "second", f"about the {n} images of first", second.shape[1])
    estimate, variance, degrees_of_freedom = _estimate(first, second)
    if variance > 0:
        p = float(2 * student_t.sf(abs(estimate) / np.sqrt(variance), degrees_of_freedom))
    else:
        p = 1.0 if estimate == 0 else 0.0
    return SeedDifference(_interval(estimate, variance, degrees_of_freedom), p)


def compare_all_pairs(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Compare every two of the models, with Holm's (1979) correction for the number of pairs.

    Parameters
    ----------
    correct : mapping of str to ndarray of bool, shape (S, n)
        At least two models.

    Returns
    -------
    DataFrame
        A row a pair: ``first``, ``second``, ``difference``, ``low``, ``high`` (95 %, of this pair alone), ``p``
        (uncorrected), ``p_holm`` and ``significant``, whether ``p_holm`` is below 0.05.
    """
    check_that(len(correct) >= 2, "correct", "of at least 2 models", list(correct))
    return _compare([(first, second, correct[first], correct[second]) for first, second in combinations(correct, 2)])


def compare_each(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Compare, for each name, the first's model with the second's, with Holm's correction for the number of names.

    Parameters
    ----------
    first, second : mapping of str to ndarray of bool, shape (S, n)
        With the same names.

    Returns
    -------
    DataFrame
        A row a name in the order of ``first``: ``name``, and the columns of :func:`compare_all_pairs` from
        ``difference`` on.

    Raises
    ------
    ValueError
        If there is no model, or the names differ.
    """
    check_that(len(first) > 0, "first", "of at least 1 model", list(first))
    check_that(set(first) == set(second), "second", f"of the models {list(first)}", list(second))
    table = _compare([(name, name, first[name], second[name]) for name in first])
    return table.drop(columns="second").rename(columns={"first": "name"})


def compare_with_best_over_seeds(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Say which models may be the best, although which one has the highest accuracy depends on the data.

    Multiple comparisons with the best (Hsu, 1984), here with Bonferroni's correction: a model is significantly worse
    than the best if some other one is better in a one-sided test at the level 0.05 / (number of models - 1). The model
    that is really the best is called worse only if one of those tests is wrong about it, with a probability of at most
    5 %. The models that are not significantly worse therefore contain the best one with at least 95 %, and nothing
    more has to be corrected for having picked the one with the highest accuracy.

    Parameters
    ----------
    correct : mapping of str to ndarray of bool, shape (S, n)
        At least two models.

    Returns
    -------
    DataFrame
        A row a model, best first: ``model``, ``accuracy`` (mean), ``sd`` (over seeds), ``low``, ``high`` (95 % interval
        of the mean, over seeds and images), ``deficit`` (how much lower than that of the first row), ``deficit_low``,
        ``deficit_high`` (its 95 % interval, for this pair alone), ``p`` (the smallest one-sided p-value that another
        model is better, times the number of models - 1, at most 1), and ``worse``, whether ``p`` is below 0.05. The
        deficit of the first row is NaN.
    """
    check_that(len(correct) >= 2, "correct", "of at least 2 models", list(correct))
    summaries = {model: accuracy_over_seeds(outcomes) for model, outcomes in correct.items()}
    ranked = sorted(correct, key=lambda model: -summaries[model].mean.value)  # stable: the first of equals is the best
    better = _one_sided_p_values(correct)
    rows = []
    for model in ranked:
        mean, sd = summaries[model]
        row = {"model": model, "accuracy": mean.value, "sd": sd, "low": mean.low, "high": mean.high}
        deficit = Interval(np.nan, np.nan, np.nan)
        if model != ranked[0]:
            deficit = difference_over_seeds(correct[ranked[0]], correct[model]).difference
        row |= {"deficit": deficit.value, "deficit_low": deficit.low, "deficit_high": deficit.high}
        p = min(1.0, (len(correct) - 1) * min(better[other, model] for other in correct if other != model))
        rows.append(row | {"p": p, "worse": p < SIGNIFICANCE_LEVEL})
    return pd.DataFrame(rows)


def _one_sided_p_values(correct: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """p-values of the hypotheses that the first of two models is no better than the second."""
    values = {}
    for first, second in combinations(correct, 2):
        difference, p = difference_over_seeds(correct[first], correct[second])
        values[first, second] = p / 2 if difference.value > 0 else 1 - p / 2
        values[second, first] = 1 - values[first, second]
    return values


def _check_correct(name: str, correct: np.ndarray) -> None:
    is_array = isinstance(correct, np.ndarray)
    check_that(is_array and correct.dtype == bool, name, "of bool", correct.dtype if is_array else correct)
    is_large_enough = correct.ndim == 2 and min(correct.shape) >= 2
    check_that(is_large_enough, name, "of shape (S, n) with at least 2 seeds and 2 images", correct.shape)


def _estimate(first: np.ndarray, second: np.ndarray | None = None) -> tuple[float, float, float]:
    """Mean correctness of ``first``, less that of ``second``; its variance, and the degrees of freedom."""
    models = [first] if second is None else [first, second]
    n = first.shape[1]
    by_seed = [correct.mean(axis=1).var(ddof=1) / len(correct) for correct in models]
    difference = first.mean(axis=0) - (0 if second is None else second.mean(axis=0))
    by_image = max(difference.var(ddof=1) / n - sum(_residual_variance(correct) for correct in models), 0)
    variance = sum(by_seed) + by_image
    degrees = [len(correct) - 1 for correct in models] + [n - 1]
    spread = sum(part**2 / d for part, d in zip([*by_seed, by_image], degrees, strict=True))
    degrees_of_freedom = variance**2 / spread if spread > 0 else np.inf
    # Of whole numbers, so that models with equally many correct predictions differ by 0 and not by a rounding error.
    estimate = np.count_nonzero(first) / first.size
    if second is not None:
        estimate -= np.count_nonzero(second) / second.size
    return float(estimate), float(variance), float(degrees_of_freedom)


def _residual_variance(correct: np.ndarray) -> float:
    """Contribution of what is neither the run's nor the image's to the variance of the mean, MS_residual / (S n)."""
    num_seeds, n = correct.shape
    # Sums of squares about each image's mean, less that of the runs' means: correctness is 0 or 1.
    by_image = correct.mean(axis=0)
    within_images = num_seeds * np.sum(by_image * (1 - by_image))
    within_images -= n * (num_seeds - 1) * correct.mean(axis=1).var(ddof=1)
    return float(within_images / ((num_seeds - 1) * (n - 1)) / (num_seeds * n))


def _interval(estimate: float, variance: float, degrees_of_freedom: float) -> Interval:
    half = float(student_t.ppf(0.975, degrees_of_freedom) * np.sqrt(variance))
    return Interval(estimate, estimate - half, estimate + half)


def _compare(pairs: list[tuple[str, str, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    rows = []
    for first, second, first_correct, second_correct in pairs:
        difference, p = difference_over_seeds(first_correct, second_correct)
        rows.append({"first": first, "second": second, "difference": difference.value, **_limits(difference), "p": p})
    table = pd.DataFrame(rows)
    significant, corrected, *_ = multipletests(table["p"], alpha=SIGNIFICANCE_LEVEL, method="holm")
    return table.assign(p_holm=corrected, significant=significant)


def _limits(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high}
