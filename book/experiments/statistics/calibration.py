"""Calibration: confidence against accuracy, its expected error, and temperature scaling (Guo et al., 2017)."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from book.experiments.checks import check_that
from book.experiments.statistics.intervals import Interval

NUM_BINS = 10
BOOTSTRAP_DRAWS = 2000
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 0.05, 50.0


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Logarithms of softmax(logits / temperature), float64, shape (n, number of classes)."""
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)  # the largest exponential is 1
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def losses(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Cross-entropy of each image in nats, shape (n,), after division of the logits by a temperature."""
    return -log_probabilities(logits, temperature)[np.arange(len(labels)), labels]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature with the lowest mean cross-entropy on labelled images.

    The cross-entropy is convex in the inverse of the temperature, so it has one minimum.

    Parameters
    ----------
    logits : ndarray, shape (n, number of classes)
        Logarithms of probabilities do as well: they are logits.
    labels : ndarray of int, shape (n,)

    Returns
    -------
    float
        Above 1 where the network is overconfident, from 0.05 to 50.

    Raises
    ------
    ValueError
        If there are not as many labels as rows.
    """
    check_that(len(logits) == len(labels), "labels", f"as many as rows of logits ({len(logits)})", len(labels))
    bounds = np.log([SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE])
    found = minimize_scalar(
        lambda log_temperature: losses(logits, labels, np.exp(log_temperature)).mean(),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


class Calibration(NamedTuple):
    """Confidence of a classifier against its accuracy.

    Attributes
    ----------
    bins : DataFrame
        A row for each bin of confidence that has images: `low`, `high` (its bounds), `confidence` (mean), `accuracy`,
        `images`.
    expected_error : float
        Mean of |accuracy - confidence| over the bins, weighted with their images: the expected calibration error.
    """

    bins: pd.DataFrame
    expected_error: float


def calibrate(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Compare confidence, the highest probability, with accuracy, in ten bins of equal width (Guo et al., 2017).

    Parameters
    ----------
    probabilities : ndarray, shape (n, number of classes)
    labels : ndarray of int, shape (n,)

    Raises
    ------
    ValueError
        If rows are not probabilities.
    """
    check_that(probabilities.ndim == 2, "probabilities", "of shape (n, classes)", probabilities.shape)
    lowest, sums = probabilities.min(), probabilities.sum(axis=1)
    check_that(lowest >= 0, "probabilities", "at least 0", float(lowest))
    furthest = float(sums[np.abs(sums - 1).argmax()])
    check_that(abs(furthest - 1) <= 1e-3, "probabilities", "rows that sum to 1", furthest)
    confidence, correct, number = _binned(probabilities, labels)
    rows = [
        {
            "low": bin_number / NUM_BINS,
            "high": (bin_number + 1) / NUM_BINS,
            "confidence": confidence[number == bin_number].mean(),
            "accuracy": correct[number == bin_number].mean(),
            "images": int((number == bin_number).sum()),
        }
        for bin_number in np.unique(number)
    ]
    bins = pd.DataFrame(rows)
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return Calibration(bins, float((gaps * bins["images"]).sum() / len(labels)))


class CalibrationErrors(NamedTuple):
    """Expected calibration errors of two classifiers on the same images.

    Attributes
    ----------
    first, second : Interval
    difference : Interval
        First minus second.
    """

    first: Interval
    second: Interval
    difference: Interval


def compare_calibration_errors(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, seed: int
) -> CalibrationErrors:
    """Expected calibration error of two classifiers, in ten bins of equal width, with bootstrap intervals.

    The images are drawn with replacement, the same for both; the intervals are the 2.5 % and 97.5 % percentiles. The
    error is an absolute value, so that noise increases it: the intervals lie a little too high.

    Parameters
    ----------
    first, second : ndarray, shape (n, number of classes)
        Probabilities.
    labels : ndarray of int, shape (n,)
    seed : int
        Of the bootstrap.
    """
    n = len(labels)
    binned = [_binned(probabilities, labels) for probabilities in (first, second)]
    gaps, bins = zip(*((confidence - correct, number) for confidence, correct, number in binned), strict=True)
    rng = np.random.default_rng(seed)
    resamples = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(BOOTSTRAP_DRAWS))
    drawn = np.array([_expected_errors(gaps, bins, counts) for counts in resamples])
    estimates = _expected_errors(gaps, bins, np.ones(n))
    values = (*zip(estimates, drawn.T, strict=True), (estimates[0] - estimates[1], drawn[:, 0] - drawn[:, 1]))
    return CalibrationErrors(
        *(Interval(float(value), *map(float, np.percentile(draws, [2.5, 97.5]))) for value, draws in values)
    )


def _binned(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence of each image, whether its class is right, and the number of its bin; a bin holds its upper bound."""
    confidence = probabilities.max(axis=1)
    number = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    return confidence, probabilities.argmax(axis=1) == labels, number


def _expected_errors(gaps, bins, counts: np.ndarray) -> list[float]:
    """Expected calibration error of each classifier where image i occurs `counts[i]` times."""
    return [
        float(np.abs(np.bincount(bin_number, counts * gap, NUM_BINS)).sum() / counts.sum())
        for gap, bin_number in zip(gaps, bins, strict=True)
    ]
