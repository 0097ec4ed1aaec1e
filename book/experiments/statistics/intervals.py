"""Accuracies with their uncertainty, and tests of whether one model is better than another."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest


class Accuracy(NamedTuple):
    """An accuracy with its 95 % Wilson interval; all in [0, 1]."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%})"


def accuracy_with_interval(correct: np.ndarray) -> Accuracy:
    """Accuracy on a test set, and its 95 % confidence interval by Wilson's score method (Wilson, 1927).

    Parameters
    ----------
    correct : ndarray of bool, shape (n,)
        Whether each prediction is right.
    """
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95, method="wilson")
    return Accuracy(float(correct.mean()), float(interval.low), float(interval.high))


def mcnemar_p_value(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided p-value of McNemar's exact test that two models err equally often on the same samples.

    Only the samples that one model gets right and the other wrong tell them apart; if neither is better, each of
    these falls to either side like a fair coin (McNemar, 1947).

    Parameters
    ----------
    correct_a, correct_b : ndarray of bool, shape (n,)
        Whether each model's prediction is right, for the same samples in the same order.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if correct_a.shape != correct_b.shape:
        raise ValueError(f"correct_a and correct_b must have one shape; got {correct_a.shape} and {correct_b.shape}")
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(correct_b & ~correct_a))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def compare_with_best(correct: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Test every model against the one with the highest accuracy.

    Parameters
    ----------
    correct : mapping of str to ndarray of bool, shape (n,)
        For each model, whether its predictions are right, for the same samples.

    Returns
    -------
    DataFrame
        A row a model, best first: ``model``, ``accuracy``, ``low``, ``high`` (Wilson, 95 %), and ``p``, the
        p-value of McNemar's test against the first row, times the number of such tests (Bonferroni), at most 1;
        NaN in the first row.
    """
    rows = [{"model": model, **accuracy_with_interval(right)._asdict()} for model, right in correct.items()]
    table = pd.DataFrame(rows).rename(columns={"value": "accuracy"})
    table = table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)
    best, *others = table["model"]
    p_values = [min(1.0, len(others) * mcnemar_p_value(correct[best], correct[other])) for other in others]
    return table.assign(p=[np.nan, *p_values])
