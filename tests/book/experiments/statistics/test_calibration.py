"""Calibration counted by hand; temperature scaling against a grid and a known answer; the expected error twice."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from book.experiments.statistics.calibration import (
    calibrate,
    compare_calibration_errors,
    fit_temperature,
    log_probabilities,
    losses,
)


def calibrated(n=20_000, seed=0):
    """Logits with labels drawn from their own probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4), scale=2)
    draws = rng.random(n)[:, None]
    return logits, (softmax(logits, axis=1).cumsum(axis=1) < draws).sum(axis=1)


def test_log_probabilities_are_scipys_log_softmax_of_the_divided_logits_also_for_huge_ones():
    logits = np.array([[1.0, -2.0, 3.0], [1e4, 0.0, -1e4]])
    np.testing.assert_allclose(log_probabilities(logits, 2.5), log_softmax(logits / 2.5, axis=1), atol=1e-12)


def test_losses_are_pytorchs_cross_entropy():
    logits, labels = calibrated(100)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits / 1.7), torch.from_numpy(labels), reduction="none"
    )
    np.testing.assert_allclose(losses(logits, labels, 1.7), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_a_multiplication_of_calibrated_logits(factor):
    logits, labels = calibrated()
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_no_other_temperature_of_a_grid_has_a_lower_loss():
    logits, labels = calibrated(300)
    best = losses(logits, labels, fit_temperature(logits, labels)).mean()
    assert all(losses(logits, labels, t).mean() >= best - 1e-9 for t in np.geomspace(0.1, 20, 200))


def test_a_label_missing_is_refused():
    with pytest.raises(ValueError, match="labels must be as many as rows of logits"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, int))


def test_the_errors_are_those_of_calibrate_and_their_difference_is_paired():
    logits, labels = calibrated(2000)
    probabilities = [softmax(factor * logits, axis=1) for factor in (3, 1)]
    errors = compare_calibration_errors(*probabilities, labels, seed=0)
    assert errors.first.value == pytest.approx(calibrate(probabilities[0], labels).expected_error)
    assert errors.second.value == pytest.approx(calibrate(probabilities[1], labels).expected_error)
    assert errors.difference.value == pytest.approx(errors.first.value - errors.second.value)
    for interval in errors:
        assert interval.low < interval.value < interval.high
    same = compare_calibration_errors(probabilities[0], probabilities[0], labels, seed=0)
    assert tuple(same.difference) == (0, 0, 0)


def test_the_interval_of_the_error_is_as_wide_as_the_spread_over_test_sets():
    errors, widths = [], []
    for seed in range(40):
        logits, labels = calibrated(1500, seed)
        probabilities = softmax(3 * logits, axis=1)
        errors.append(calibrate(probabilities, labels).expected_error)
        if seed < 3:
            interval = compare_calibration_errors(probabilities, probabilities, labels, seed).first
            widths.append(interval.high - interval.low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(errors), rel=0.35)


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
