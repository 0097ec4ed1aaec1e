"""How a classifier does on each class, what it confuses, and whether its probabilities can be believed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

BOOTSTRAP_DRAWS = 2000


def class_table(labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str], seed: int) -> pd.DataFrame:
    """Recall, precision and F1 of every class, with 95 % intervals.

    Recall is the accuracy within the class, TP / (TP + FN); precision is TP / (TP + FP); F1 is their harmonic mean,
    2 TP / (2 TP + FP + FN). Recall and precision are shares and have Wilson intervals; F1 is none, and has the
    percentiles of a bootstrap that draws the confusion matrix anew.

    Parameters
    ----------
    labels, predictions : ndarray of int, shape (n,)
        Positions in `class_names`.
    class_names : sequence of str
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        A row a class: `class`, `images`, and `recall`, `precision`, `f1`, each with `_low` and `_high`. What is
        undefined, as the precision of a class that was never predicted, is NaN.
    """
    counts = confusion_matrix(labels, predictions, labels=range(len(class_names)))
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts.ravel() / counts.sum(), BOOTSTRAP_DRAWS)
    f1_draws = _f1(drawn.reshape(-1, *counts.shape))
    f1_low, f1_high = np.nanpercentile(f1_draws, [2.5, 97.5], axis=0)
    rows = []
    for label, name in enumerate(class_names):
        right, in_class, predicted = counts[label, label], counts[label].sum(), counts[:, label].sum()
        recall, recall_low, recall_high = _share(right, in_class)
        precision, precision_low, precision_high = _share(right, predicted)
        rows.append(
            {
                "class": name,
                "images": int(in_class),
                "recall": recall,
                "recall_low": recall_low,
                "recall_high": recall_high,
                "precision": precision,
                "precision_low": precision_low,
                "precision_high": precision_high,
                "f1": float(_f1(counts)[label]),
                "f1_low": float(f1_low[label]),
                "f1_high": float(f1_high[label]),
            }
        )
    return pd.DataFrame(rows)


def confused_pairs(labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """Count for every pair of classes how often one was taken for the other, in either direction.

    Returns
    -------
    DataFrame
        A row a pair, most confused first: `first`, `second` (positions of the classes), `pair` (their names),
        `errors`, and `share` of all errors, NaN if there are none.
    """
    counts = confusion_matrix(labels, predictions, labels=range(len(class_names)))
    both = counts + counts.T
    all_errors = counts.sum() - np.trace(counts)
    rows = [
        {
            "first": first,
            "second": second,
            "pair": f"{class_names[first]} and {class_names[second]}",
            "errors": int(both[first, second]),
            "share": both[first, second] / all_errors if all_errors else np.nan,
        }
        for first in range(len(class_names))
        for second in range(first + 1, len(class_names))
    ]
    return pd.DataFrame(rows).sort_values("errors", ascending=False, kind="stable", ignore_index=True)


class Calibration(NamedTuple):
    """How sure a classifier is, and how often it is right.

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


def calibrate(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 10) -> Calibration:
    """Compare confidence, the highest probability, with accuracy, in bins of equal width (Guo et al., 2017).

    Parameters
    ----------
    probabilities : ndarray, shape (n, number of classes)
    labels : ndarray of int, shape (n,)
    num_bins : int
        Bins of (0, 1].

    Raises
    ------
    ValueError
        If rows are not probabilities.
    """
    if probabilities.ndim != 2 or probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("probabilities must have rows of at least 0 that sum to 1")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    number = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    rows = [
        {
            "low": bin_number / num_bins,
            "high": (bin_number + 1) / num_bins,
            "confidence": confidence[number == bin_number].mean(),
            "accuracy": right[number == bin_number].mean(),
            "images": int((number == bin_number).sum()),
        }
        for bin_number in np.unique(number)
    ]
    bins = pd.DataFrame(rows)
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return Calibration(bins, float((gaps * bins["images"]).sum() / len(labels)))


def _share(part: int, whole: int) -> tuple[float, float, float]:
    """A share with its 95 % Wilson interval."""
    if whole == 0:
        return np.nan, np.nan, np.nan
    interval = binomtest(int(part), int(whole)).proportion_ci(0.95, method="wilson")
    return part / whole, interval.low, interval.high


def _f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from confusion matrices, shape (..., classes, classes); NaN where a class does not occur."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    occurrences = counts.sum(axis=-1) + counts.sum(axis=-2)
    return np.divide(2 * right, occurrences, out=np.full(right.shape, np.nan), where=occurrences > 0)
