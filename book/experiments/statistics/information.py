"""Entropy, cross-entropy and Kullback-Leibler divergence of distributions over a finite number of classes.

In nats, with 0 log 0 = 0 as is usual (Cover and Thomas, 2006, chapter 2). Each function computes its own sum; none is
made from the other two, so that the relation between them can be checked.
"""

from typing import Any

import numpy as np

from book.experiments.checks import check_integer, check_number, check_that

SUM_TOLERANCE = 1e-6
"""How far from 1 probabilities may sum; probabilities in float32 need as much."""


def as_distributions(name: str, values: Any) -> np.ndarray:
    """Convert to float64 distributions, or raise ValueError.

    Parameters
    ----------
    name : str
        What errors call the values.
    values : array-like of shape (..., K)
        Along the last axis non-negative, with sum 1.

    Returns
    -------
    ndarray of float64, shape (..., K)
    """
    try:
        p = np.asarray(values)
    except ValueError:  # rows of different lengths
        p = np.array(None)
    check_that(p.dtype.kind in "fiu", name, "numbers, the same number of them in each row", values)
    p = p.astype(np.float64)
    check_that(p.ndim > 0 and p.size > 0, name, "a probability for each class, in one row at least", values)
    lowest = float(p.min())
    check_that(lowest >= 0, name, "non-negative numbers", lowest)
    sums = p.sum(axis=-1)
    furthest = float(sums.flat[np.abs(sums - 1).argmax()])
    check_that(abs(furthest - 1) <= SUM_TOLERANCE, name, "numbers that sum to 1", furthest)
    return p


def entropy(p: Any) -> np.ndarray:
    """H(P) = - sum_k p_k log p_k.

    Parameters
    ----------
    p : array-like of shape (..., K)

    Returns
    -------
    ndarray of shape (...)
        Between 0, for a distribution that is certain, and log K.
    """
    p = as_distributions("p", p)
    with np.errstate(divide="ignore"):
        return _minus_expectation(p, np.log(p))


def cross_entropy(p: Any, q: Any) -> np.ndarray:
    """H(P, Q) = - sum_k p_k log q_k.

    Parameters
    ----------
    p, q : array-like of shape (..., K)

    Returns
    -------
    ndarray of shape (...)
        Infinite where q is zero for a class for which p is not.

    Raises
    ------
    ValueError
        Unless both are distributions over the same number of classes.
    """
    p, q = _pair(p, q)
    with np.errstate(divide="ignore"):
        return _minus_expectation(p, np.log(q))


def kl_divergence(p: Any, q: Any) -> np.ndarray:
    """KL(P || Q) = sum_k p_k log(p_k / q_k) (Kullback and Leibler, 1951).

    Parameters, return value and errors are those of :func:`cross_entropy`.
    """
    p, q = _pair(p, q)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 belongs to a class without weight
        return _minus_expectation(p, np.log(q) - np.log(p))


def smooth_labels(labels: np.ndarray, num_classes: int, smoothing: float) -> np.ndarray:
    """One-hot labels mixed with the uniform distribution (Szegedy et al., 2016).

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        Class indices, 0 to ``num_classes`` - 1.
    num_classes : int
    smoothing : float
        The uniform distribution's weight, in [0, 1]; 0 leaves the labels one-hot.

    Returns
    -------
    ndarray of float64, shape (n, num_classes)

    Raises
    ------
    ValueError
        If ``smoothing`` is not a number in [0, 1], or a label no class index.
    """
    check_integer("num_classes", num_classes, minimum=1)
    check_number("smoothing", smoothing, minimum=0, maximum=1)
    labels = np.asarray(labels)
    check_that(labels.dtype.kind in "iu", "labels", "integers", labels.dtype)
    outside = labels[(labels < 0) | (labels >= num_classes)]
    check_that(outside.size == 0, "labels", f"class indices from 0 to {num_classes - 1}", outside.tolist())
    return (1 - smoothing) * np.eye(num_classes)[labels] + smoothing / num_classes


def _pair(p, q):
    p, q = as_distributions("p", p), as_distributions("q", q)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"q must be over the {p.shape[-1]} classes of p; got {q.shape[-1]}")
    return p, q


def _minus_expectation(p, values):
    """- sum_k p_k values_k over the classes with p_k > 0; never a negative zero."""
    p, values = np.broadcast_arrays(p, values)
    return 0 - np.multiply(p, values, out=np.zeros(p.shape), where=p > 0).sum(axis=-1)
