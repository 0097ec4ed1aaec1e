import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import rel_entr
from torch.nn import functional as F  # noqa: N812

from book.experiments.statistics.information import (
    as_distributions,
    cross_entropy,
    entropy,
    kl_divergence,
    smooth_labels,
)


@pytest.fixture
def pair():
    """Distributions over six classes, some of P's probabilities zero."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6), size=(2, 40))
    p[:20, :3] = 0
    return p / p.sum(axis=1, keepdims=True), q


def test_entropy_equals_scipys_and_is_not_negative(pair):
    p, _ = pair
    assert entropy(p) == pytest.approx(stats.entropy(p, axis=1))
    assert (entropy(p) >= 0).all()


def test_kl_equals_scipys(pair):
    p, q = pair
    assert kl_divergence(p, q) == pytest.approx(rel_entr(p, q).sum(axis=1))
    assert kl_divergence(p, q) == pytest.approx(stats.entropy(p, q, axis=1))


def test_cross_entropy_and_kl_equal_pytorchs(pair):
    p, q = (torch.from_numpy(array) for array in pair)
    assert cross_entropy(*pair).mean() == pytest.approx(float(F.cross_entropy(q.log(), p)))
    assert kl_divergence(*pair).mean() == pytest.approx(float(F.kl_div(q.log(), p, reduction="batchmean")))


def test_cross_entropy_of_one_hot_labels_is_that_of_the_network():
    logits, labels = np.random.default_rng(1).normal(size=(30, 5)), np.arange(30) % 5
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none").numpy()
    assert cross_entropy(smooth_labels(labels, 5, 0.0), q) == pytest.approx(expected)


def test_a_certain_distribution_has_entropy_zero_without_a_sign():
    assert entropy([0, 1, 0]) == 0
    assert not np.signbit(entropy([0, 1, 0]))


def test_zero_probability_for_what_occurs_is_infinitely_bad():
    assert kl_divergence([0.5, 0.5, 0], [1, 0, 0]) == np.inf
    assert cross_entropy([0.5, 0.5, 0], [1, 0, 0]) == np.inf


def test_zero_probability_for_what_does_not_occur_costs_nothing():
    assert kl_divergence([0.5, 0.5, 0], [0.25, 0.75, 0]) == pytest.approx(stats.entropy([0.5, 0.5], [0.25, 0.75]))


def test_one_distribution_meets_many(pair):
    p, q = pair
    assert kl_divergence(p[0], q) == pytest.approx([kl_divergence(p[0], row) for row in q])


@pytest.mark.parametrize("smoothing", [0, 0.1, 1])
def test_smoothed_labels_are_distributions_that_pytorch_agrees_with(smoothing):
    labels, logits = np.array([0, 3, 1]), np.random.default_rng(2).normal(size=(3, 4))
    smoothed = as_distributions("labels", smooth_labels(labels, 4, smoothing))
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), label_smoothing=smoothing)
    assert F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(smoothed)) == pytest.approx(float(loss))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 0.6], "p must be numbers that sum to 1; got 1.1"),
        ([1.5, -0.5], "p must be non-negative numbers; got -0.5"),
        ([float("nan"), 1], "p must be non-negative numbers; got nan"),
        ([float("inf"), 0], "p must be numbers that sum to 1; got inf"),
        (["0.5", "0.5"], "p must be numbers"),
        ([True, False], "p must be numbers"),
        ([], r"p must be a probability for each class, in one row at least; got \[\]"),
        (0.5, "p must be a probability for each class, in one row at least; got 0.5"),
        (np.zeros((0, 3)), "p must be a probability for each class, in one row at least; got array"),
        (["a", "b"], r"p must be numbers, the same number of them in each row; got \['a', 'b'\]"),
        ([[0.5, 0.5], [1]], "p must be numbers, the same number of them in each row"),
    ],
)
def test_what_is_no_distribution_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        entropy(values)


@pytest.mark.parametrize("function", [cross_entropy, kl_divergence])
def test_distributions_over_different_classes_are_refused(function):
    with pytest.raises(ValueError, match="q must be over the 2 classes of p; got 3"):
        function([0.5, 0.5], [0.2, 0.3, 0.5])


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan"), "0.1", True, None])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing must be a finite number at least 0 and at most 1; got"):
        smooth_labels(np.array([0, 1]), 2, smoothing)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1, 12], r"labels must be class indices from 0 to 9; got \[-1, 12\]"),
        ([10], r"labels must be class indices from 0 to 9; got \[10\]"),
        ([0.5], r"labels must be integers; got dtype\('float64'\)"),
        ([True], r"labels must be integers; got dtype\('bool'\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        smooth_labels(np.array(labels), 10, 0.1)


def test_smoothed_labels_are_over_at_least_one_class():
    with pytest.raises(ValueError, match="num_classes must be an integer at least 1; got 0"):
        smooth_labels(np.array([0]), 0, 0.1)
