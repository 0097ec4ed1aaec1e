"""Recall, precision and F1 of each class, and confused pairs of classes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from book.experiments.statistics.intervals import Interval, wilson_interval

BOOTSTRAP_DRAWS = 2000


def class_table(labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str], seed: int) -> pd.DataFrame:
    """Recall, precision and F1 of every class, with 95 % intervals.

    Recall is the accuracy within the class, TP / (TP + FN); precision is TP / (TP + FP); F1 is their harmonic mean,
    2 TP / (2 TP + FP + FN). Recall and precision are proportions and have Wilson intervals; F1 is not, and has the
    percentiles of a parametric bootstrap of the confusion matrix.

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
    f1 = _f1(counts)
    rows = []
    for label, name in enumerate(class_names):
        correct, in_class, predicted = counts[label, label], counts[label].sum(), counts[:, label].sum()
        measures = {
            "recall": wilson_interval(correct, in_class),
            "precision": wilson_interval(correct, predicted),
            "f1": Interval(float(f1[label]), float(f1_low[label]), float(f1_high[label])),
        }
        row = {"class": name, "images": int(in_class)}
        for measure, (value, low, high) in measures.items():
            row |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def confused_pairs(labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """Count for every pair of classes how often one was classified as the other, in either direction.

    Returns
    -------
    DataFrame
        A row a pair, most confused first: `first`, `second` (positions of the classes), `pair` (their names),
        `errors`, and `share`, the fraction of all errors, NaN if there are none.
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


def _f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from confusion matrices, shape (..., classes, classes); NaN where a class does not occur."""
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    occurrences = counts.sum(axis=-1) + counts.sum(axis=-2)
    return np.divide(2 * correct, occurrences, out=np.full(correct.shape, np.nan), where=occurrences > 0)
