"""Measures of single classes and confusions, against scikit-learn and counts by hand."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from book.experiments.statistics.classification import class_table, confused_pairs
from book.experiments.statistics.intervals import accuracy_with_interval

NAMES = ("a", "b", "c")
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
PREDICTIONS = np.array([0, 0, 0, 1, 1, 1, 0, 2, 2, 2, 2, 1])


def test_recall_precision_and_f1_are_scikit_learns():
    table = class_table(LABELS, PREDICTIONS, NAMES, seed=0)
    precision, recall, f1, support = precision_recall_fscore_support(LABELS, PREDICTIONS)
    np.testing.assert_allclose(table["precision"], precision)
    np.testing.assert_allclose(table["recall"], recall)
    np.testing.assert_allclose(table["f1"], f1)
    assert table["images"].tolist() == support.tolist()


def test_interval_of_recall_is_wilsons():
    row = class_table(LABELS, PREDICTIONS, NAMES, seed=0).iloc[0]
    expected = accuracy_with_interval(np.array([True, True, True, False]))
    assert (row["recall_low"], row["recall_high"]) == pytest.approx((expected.low, expected.high))


def test_interval_of_f1_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    joint = np.array([[0.30, 0.05, 0.0], [0.05, 0.25, 0.03], [0.02, 0.0, 0.30]])
    truth = 2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))
    covered = []
    for seed in range(100):
        cells = generator.choice(9, size=400, p=joint.ravel())
        table = class_table(cells // 3, cells % 3, NAMES, seed)
        covered.append((table["f1_low"] <= truth) & (truth <= table["f1_high"]))
    assert 0.90 < np.mean(covered) < 0.99


def test_class_that_was_never_predicted_has_no_precision():
    table = class_table(np.array([0, 1, 2]), np.array([0, 0, 2]), NAMES, seed=0)
    assert np.isnan(table["precision"][1])
    assert table["recall"][1] == 0


def test_confused_pairs_count_both_directions_most_confused_first():
    pairs = confused_pairs(LABELS, PREDICTIONS, NAMES)
    assert pairs["pair"].tolist() == ["a and b", "b and c", "a and c"]
    assert pairs["errors"].tolist() == [2, 1, 0]
    assert pairs["share"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_pairs_without_an_error_have_no_share():
    assert confused_pairs(LABELS, LABELS, NAMES)["share"].isna().all()
