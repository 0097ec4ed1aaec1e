"""Measures of single classes, confusions and calibration, against scikit-learn and counts by hand."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from book.experiments.statistics.classification import calibrate, class_table, confused_pairs
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


def test_expected_calibration_error_is_that_counted_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.91, 0.09], [0.62, 0.38], [0.36, 0.64]])
    labels = np.array([0, 1, 0, 1])
    found = calibrate(probabilities, labels)
    assert found.bins["images"].tolist() == [2, 2]
    assert found.bins["accuracy"].tolist() == [1.0, 0.5]
    assert found.expected_error == pytest.approx((2 * (1 - 0.63) + 2 * (0.93 - 0.5)) / 4)


def test_probabilities_drawn_from_the_truth_are_calibrated():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), 20000)
    labels = (probabilities.cumsum(axis=1) > generator.random((20000, 1))).argmax(axis=1)
    assert calibrate(probabilities, labels).expected_error < 0.015
    assert calibrate(probabilities, (labels + 1) % 3).expected_error > 0.2


def test_confidence_of_exactly_one_falls_into_the_last_bin():
    found = calibrate(np.array([[1.0, 0.0]]), np.array([0]))
    assert found.bins[["low", "high"]].to_numpy().tolist() == [[0.9, 1.0]]


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.6]], "probabilities must be rows that sum to 1; got 1.1"),
        ([[1.5, -0.5]], "probabilities must be at least 0; got -0.5"),
        ([0.5, 0.5], r"probabilities must be of shape \(n, classes\); got \(2,\)"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        calibrate(np.array(probabilities), np.array([0]))


@pytest.mark.parametrize("num_bins", [0, True, 2.5, "10"])
def test_number_of_bins_is_a_positive_integer(num_bins):
    with pytest.raises(ValueError, match="num_bins must be an integer at least 1; got"):
        calibrate(np.array([[1.0, 0.0]]), np.array([0]), num_bins)
