"""The sharpness is the Hessian's largest eigenvalue, along a run and in the steps before it diverges."""

import numpy as np
import pytest

from book.experiments.mlp.samples import LabelledSamples
from book.experiments.mlp.sharpness import SharpnessOfRun, sharpness, sharpness_of_run, sharpness_of_runs
from mlp_core import DivergenceError, NeuralNetwork

SIZES = [3, 4, 2]
SETTINGS = {"num_images": 10, "every": 4, "last": 6, "num_orders": 3, "num_steps": 5}


def small_network(activation, seed=0):
    network = NeuralNetwork(len(SIZES), SIZES, activation, seed=seed, dtype="float64").initialize([0, 1])
    rng = np.random.default_rng(seed)
    network.weights_ = [rng.normal(size=W.shape) for W in network.weights_]
    network.biases_ = [rng.normal(size=b.shape) for b in network.biases_]
    return network


def small_data(n=20, features=SIZES[0]):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, features))
    return X, (X[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(int)


def exact_hessian(network, X, y, step=1e-5):
    """By central differences of the NumPy network's own gradients."""
    arrays = [array for pair in zip(network.weights_, network.biases_, strict=True) for array in pair]

    def gradient():
        _, dW, db = network.gradients(X, y)
        return np.concatenate([array.ravel() for pair in zip(dW, db, strict=True) for array in pair])

    columns = []
    for array in arrays:
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = gradient()
            array[index] = value - step
            columns.append((above - gradient()) / (2 * step))
            array[index] = value
    return np.column_stack(columns)


@pytest.mark.parametrize("activation", ["linear", "tanh", "sigmoid"])
def test_the_sharpness_is_the_largest_eigenvalue_of_the_exact_hessian(activation):
    network, (X, y) = small_network(activation), small_data()
    eigenvalues = np.linalg.eigvalsh(exact_hessian(network, X, y))
    found = sharpness(network, X, y, tolerance=1e-10, max_iterations=10_000)
    assert found.value == pytest.approx(eigenvalues.max(), rel=1e-4)
    assert np.linalg.norm(found.vector) == pytest.approx(1)


def test_the_sharpness_is_the_largest_eigenvalue_where_a_negative_one_has_the_larger_absolute_value():
    network, (X, y) = small_network("tanh", seed=0), small_data()
    for seed in range(100):
        network = small_network("tanh", seed)
        y = np.random.default_rng(seed).integers(0, 2, len(X))
        eigenvalues = np.linalg.eigvalsh(exact_hessian(network, X, y))
        if -eigenvalues.min() > 1.1 * eigenvalues.max():
            break
    else:
        pytest.fail("no such network found")
    found = sharpness(network, X, y, tolerance=1e-10, max_iterations=10_000)
    assert found.value == pytest.approx(eigenvalues.max(), rel=1e-4)


def test_a_start_at_the_eigenvector_is_kept():
    network, (X, y) = small_network("tanh"), small_data()
    found = sharpness(network, X, y, tolerance=1e-12, max_iterations=10_000)
    again = sharpness(network, X, y, found.vector, max_iterations=2)
    assert again.value == pytest.approx(found.value, rel=1e-9)
    assert abs(again.vector @ found.vector) == pytest.approx(1)


def test_gradient_descent_diverges_above_two_over_the_sharpness_and_not_below():
    # The loss of a network without hidden layers is convex, so the bound of the quadratic holds near the minimum.
    X, y = small_data(features=2)
    network = NeuralNetwork(2, [2, 2], "linear", dtype="float64").initialize(y)
    for _ in range(20_000):
        _, (dW,), (db,) = network.gradients(X, y)
        network.weights_[0] -= 0.2 * dW
        network.biases_[0] -= 0.2 * db
    at_minimum = sharpness(network, X, y, tolerance=1e-10, max_iterations=10_000)

    def grows(learning_rate):
        W, b = network.weights_[0].copy(), network.biases_[0].copy()
        other = NeuralNetwork(2, [2, 2], "linear", dtype="float64").initialize(y)
        direction = at_minimum.vector[: W.size].reshape(W.T.shape).T  # PyTorch's weights are transposed
        other.weights_, other.biases_ = [W + 1e-6 * direction], [b + 1e-6 * at_minimum.vector[W.size :]]
        for _ in range(20):
            _, (dW,), (db,) = other.gradients(X, y)
            other.weights_[0] -= learning_rate * dW
            other.biases_[0] -= learning_rate * db
        return np.linalg.norm(other.weights_[0] - W) > 1e-6

    assert not grows(0.8 * 2 / at_minimum.value)
    assert grows(1.2 * 2 / at_minimum.value)


def hyperparameters(**changes):
    return {
        "layer_sizes": SIZES, "activation": "linear", "learning_rate": 0.1, "batch_size": 5, "num_epochs": 4, "seed": 3,
    } | changes  # fmt: skip


def test_a_run_is_measured_at_regular_steps_and_before_each_of_the_last():
    X, y = small_data()
    run = sharpness_of_run(hyperparameters(), X.astype(np.float32), y, **SETTINGS)
    assert not run.diverged
    assert len(run.gradient_norms) == 16  # 4 epochs of 4 batches
    assert run.steps.tolist() == [1, 5, 9, 11, 12, 13, 14, 15, 16]
    assert np.isnan(run.other_orders).all() and len(run.other_orders) == 6
    assert run.num_last_above(1e9) == 0
    assert run.num_last_above(1e-9) == 6


def test_the_measured_run_is_the_run_itself():
    X, y = small_data()
    X = X.astype(np.float32)
    run = sharpness_of_run(hyperparameters(num_epochs=1), X, y, **(SETTINGS | {"num_images": 20}))
    network = NeuralNetwork(3, **hyperparameters(num_epochs=1)).initialize(y)
    first = sharpness(network, X, y, tolerance=0.01)
    assert run.sharpness[0] == pytest.approx(first.value, rel=0.05)
    norms = network.fit(X, y).history_["gradient_norm"][0]
    # Layers' norms are averaged over the steps; their root sum of squares is near the mean norm of the whole gradient.
    assert np.mean(run.gradient_norms) == pytest.approx(np.linalg.norm(norms), rel=0.05)


def test_in_a_run_that_diverges_the_sharpness_ends_above_the_bound_and_other_orders_diverge_too():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 3, 60)
    diverging = hyperparameters(layer_sizes=[5, 8, 8, 3], learning_rate=2.0, num_epochs=100)
    with pytest.raises(DivergenceError):
        NeuralNetwork(4, **diverging).fit(X, y)
    run = sharpness_of_run(diverging, X, y, **(SETTINGS | {"num_steps": 12}))
    assert run.diverged
    assert 0 < run.num_last_above(2 / 2.0) <= 6
    assert run.other_orders.shape == (6,)
    assert run.other_orders[-1] == 1


def test_a_value_that_overflows_counts_as_above_the_bound():
    values = np.array([1.0, 30.0, 1.0, 50.0, np.nan, np.inf])
    run = SharpnessOfRun(np.ones(6), np.arange(1, 7), values, values, np.zeros(4), True)
    assert run.num_last_above(20) == 3


def test_several_runs_come_back_under_their_names():
    X, y = small_data()
    samples = LabelledSamples(X.astype(np.float32), y, X.astype(np.float32), y)
    settings = {f"seed {seed}": hyperparameters(seed=seed, num_epochs=1) for seed in (1, 2)}
    runs = sharpness_of_runs(settings, samples, "sharpness", **SETTINGS)
    assert list(runs) == list(settings)
    alone = sharpness_of_run(settings["seed 2"], samples.X, y, **SETTINGS)
    np.testing.assert_array_equal(runs["seed 2"].sharpness, alone.sharpness)


@pytest.mark.parametrize("change", [{"every": 0}, {"last": 0}, {"num_orders": 0}, {"num_steps": 0}, {"num_images": 21}])
def test_settings_outside_their_range_are_refused_by_name(change):
    X, y = small_data()
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        sharpness_of_run(hyperparameters(), X.astype(np.float32), y, **(SETTINGS | change))
