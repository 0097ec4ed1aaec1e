"""Units with equal weights are counted once, whatever rounding has done to them."""

import numpy as np
import pytest

from book.experiments.mlp.symmetry import num_distinct_units
from mlp_core import NeuralNetwork


def test_equal_columns_count_once():
    W = np.array([[1.0, 2.0, 1.0], [3.0, 4.0, 3.0]])
    assert num_distinct_units(W) == 2
    assert num_distinct_units(np.zeros((5, 7))) == 1


def test_columns_that_differ_by_rounding_count_once_at_every_scale():
    rng = np.random.default_rng(0)
    column = rng.normal(size=(784, 1))
    for scale in (1e-6, 1.0, 1e6):
        W = scale * column * (1 + 1e-5 * rng.normal(size=(784, 16)))
        assert num_distinct_units(W) == 1


def test_columns_that_differ_by_more_than_the_tolerance_count_each():
    column = np.random.default_rng(0).normal(size=784)
    W = np.column_stack([column, 1.002 * column, 1.0005 * column])
    assert num_distinct_units(W) == 2
    assert num_distinct_units(W, tolerance=1e-4) == 3


def test_a_unit_of_zeros_is_not_a_small_one():
    assert num_distinct_units(np.array([[0.0, 1e-9]])) == 2


@pytest.mark.parametrize("weight_init, expected", [("zero", 1), ("random", 8), ("normal", 8)])
def test_training_from_zero_leaves_one_unit_and_from_random_weights_all(weight_init, expected):
    rng = np.random.default_rng(0)
    X = rng.random((200, 20))
    y = np.arange(200) % 3
    network = NeuralNetwork(3, [20, 8, 3], "sigmoid", weight_init=weight_init, num_epochs=20, seed=0).fit(X, y)
    assert num_distinct_units(network.weights_[0]) == expected


@pytest.mark.parametrize("tolerance", [-0.1, 1, np.nan])
def test_a_tolerance_outside_its_range_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be"):
        num_distinct_units(np.eye(2), tolerance)
