"""The network: gradients, training, labels, reproducibility, divergence, and what it refuses."""

import ast
import copy
import math
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from threadpoolctl import threadpool_limits

import mlp_core
from mlp_core import DivergenceError, NeuralNetwork, NotFittedError

ACTIVATIONS = ("relu", "sigmoid", "linear", "tanh", "softmax")
WEIGHT_INITS = ("zero", "random", "normal")
STEP = 1e-5
TORCH = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "linear": lambda Z: Z,
    "tanh": torch.tanh,
    "softmax": lambda Z: torch.softmax(Z, dim=1),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Keep BLAS to one thread: on small matrices its threads wait for each other, for minutes on a busy machine."""
    with threadpool_limits(1):
        yield


def samples(n=50, width=4, n_classes=3, seed=0):
    """Draw separable data in unequal shares, so that neither the shares nor the order of the classes is special."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    y[:n_classes] = np.arange(n_classes)
    X = rng.standard_normal((n_classes, width))[y] * 2 + rng.standard_normal((n, width))
    return X, y


def small_network(activation="tanh", **parameters):
    """Four inputs, three classes; float64 unless told."""
    settings = {"learning_rate": 0.1, "batch_size": 8, "num_epochs": 3, "seed": 0, "dtype": "float64"}
    return NeuralNetwork(4, [4, 7, 5, 3], activation, **(settings | parameters))


def shallow_network(activation="tanh", **parameters):
    """Like :func:`small_network` with one hidden layer, which learns within a few epochs."""
    settings = {"learning_rate": 0.3, "batch_size": 8, "num_epochs": 30, "seed": 0, "dtype": "float64"}
    return NeuralNetwork(3, [4, 7, 3], activation, **(settings | parameters))


def with_large_weights(activation, y):
    """Return a network whose gradients are of order 1 in every layer, biases included."""
    network = small_network(activation).initialize(y)
    rng = np.random.default_rng(1)
    for parameter in network.weights_ + network.biases_:
        parameter[...] = rng.standard_normal(parameter.shape)
    return network


def parameters_of(network):
    return network.weights_ + network.biases_


def copies_of(network):
    return [parameter.copy() for parameter in parameters_of(network)]


def assert_same_bits(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def torch_parameters(network):
    return [torch.from_numpy(parameter.copy()).requires_grad_() for parameter in parameters_of(network)]


def torch_logits(parameters, activation, X):
    n = len(parameters) // 2
    A = torch.as_tensor(X)
    for layer, (W, b) in enumerate(zip(parameters[:n], parameters[n:], strict=True)):
        Z = A @ W + b
        A = TORCH[activation](Z) if layer < n - 1 else Z
    return A


def torch_gradients(parameters, activation, X, labels):
    """Mean cross-entropy and its gradients by automatic differentiation."""
    loss = torch.nn.functional.cross_entropy(torch_logits(parameters, activation, X), torch.as_tensor(labels))
    return loss.item(), [gradient.numpy() for gradient in torch.autograd.grad(loss, parameters)]


def replay(network, X, labels):
    """Train anew by a plain loop over PyTorch's gradients.

    Only the initial weights and the batches' order are taken from ``network``, which is initialised and untrained.

    Returns
    -------
    parameters : list of ndarray
    gradient_norms : list of list of float
        Mean norm of each layer's gradient, one list an epoch.
    """
    rng = copy.deepcopy(network._shuffle_rng)
    parameters = torch_parameters(network)
    n_weights, size = len(network.weights_), network.batch_size
    gradient_norms = []
    for _ in range(network.num_epochs):
        order = rng.permutation(len(X))
        norms = []
        for batch in (order[i : i + size] for i in range(0, len(X), size)):
            _, gradients = torch_gradients(parameters, network.activation, X[batch], labels[batch])
            norms.append(
                [math.hypot(*gradients[i].ravel(), *gradients[i + n_weights].ravel()) for i in range(n_weights)]
            )
            total = math.hypot(*norms[-1])
            scale = 1.0
            if network.max_grad_norm is not None and total > network.max_grad_norm:
                scale = network.max_grad_norm / total
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= network.learning_rate * scale * torch.from_numpy(gradient)
        gradient_norms.append(np.mean(norms, axis=0).tolist())
    return [parameter.detach().numpy() for parameter in parameters], gradient_norms


@pytest.fixture
def batches(monkeypatch):
    """Record the samples and labels of every step of training."""
    recorded = []
    step = NeuralNetwork._sgd_step

    def spy(self, arrays, labels):
        recorded.append((np.array(arrays.A[0]), np.array(labels)))
        return step(self, arrays, labels)

    monkeypatch.setattr(NeuralNetwork, "_sgd_step", spy)
    return recorded


# Gradients


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_of_every_layer_agrees_with_central_differences(activation):
    X, y = samples(12)
    network = with_large_weights(activation, y)
    _, weight_gradients, bias_gradients = network.gradients(X, y)
    for parameter, found in zip(parameters_of(network), weight_gradients + bias_gradients, strict=True):
        expected = np.empty_like(parameter)
        for index in np.ndindex(parameter.shape):
            value = parameter[index]
            parameter[index] = value + STEP
            above = network.gradients(X, y)[0]
            parameter[index] = value - STEP
            below = network.gradients(X, y)[0]
            parameter[index] = value
            expected[index] = (above - below) / (2 * STEP)
        assert np.linalg.norm(expected) > 1e-3, "a gradient near zero would say little"
        assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradient_of_every_layer_agree_with_pytorch_autograd(activation):
    X, y = samples(12)
    network = with_large_weights(activation, y)
    loss, weight_gradients, bias_gradients = network.gradients(X, y)
    expected_loss, expected = torch_gradients(torch_parameters(network), activation, X, y)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    for found, gradient in zip(weight_gradients + bias_gradients, expected, strict=True):
        assert relative_error(found, gradient) < 1e-12


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_probabilities_agree_with_pytorch(activation):
    X, y = samples(12)
    network = with_large_weights(activation, y)
    expected = torch.softmax(torch_logits(torch_parameters(network), activation, X), dim=1).detach().numpy()
    np.testing.assert_allclose(network.predict_proba(X), expected, rtol=1e-11, atol=1e-15)


def test_gradients_take_no_step():
    X, y = samples(12)
    network = with_large_weights("tanh", y)
    before = copies_of(network)
    network.gradients(X, y)
    assert_same_bits(parameters_of(network), before)


# One training, step by step


@pytest.mark.parametrize("max_grad_norm", [None, 0.3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_equals_a_plain_loop_over_pytorchs_gradients(activation, max_grad_norm):
    X, y = samples(50)  # six batches of eight and one of two
    settings = {"max_grad_norm": max_grad_norm, "num_epochs": 4}
    untrained = small_network(activation, **settings).initialize(y)
    network = small_network(activation, **settings).fit(X, y)
    expected, gradient_norms = replay(untrained, X, y)
    for found, initial, parameter in zip(parameters_of(network), parameters_of(untrained), expected, strict=True):
        np.testing.assert_allclose(found, parameter, rtol=0, atol=1e-12)
        assert np.abs(parameter - initial).max() > 1e-7, "a parameter that has not moved would say little"
    np.testing.assert_allclose(network.history_["gradient_norm"], gradient_norms, rtol=1e-10)


@pytest.mark.parametrize(("n", "batch_size"), [(50, 8), (48, 8), (5, 8), (7, 1), (9, 9), (10, 9)])
def test_every_sample_is_used_exactly_once_an_epoch(n, batch_size, batches):
    X, y = samples(n)
    X[:, 0] = np.arange(n)
    small_network(batch_size=batch_size, num_epochs=3).fit(X, y)
    steps = math.ceil(n / batch_size)
    assert len(batches) == 3 * steps
    for epoch in range(3):
        of_epoch = batches[epoch * steps : (epoch + 1) * steps]
        sizes = [len(batch) for batch, _ in of_epoch]
        assert sizes == [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
        seen = np.concatenate([batch[:, 0] for batch, _ in of_epoch]).astype(int)
        np.testing.assert_array_equal(np.sort(seen), np.arange(n))
        np.testing.assert_array_equal(np.vstack([batch for batch, _ in of_epoch]), X[seen])
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in of_epoch]), y[seen])


def test_each_epoch_has_a_fresh_order(batches):
    X, y = samples(40)
    X[:, 0] = np.arange(40)
    small_network(num_epochs=5).fit(X, y)
    orders = {tuple(np.concatenate([batch[:, 0] for batch, _ in batches[i : i + 5]])) for i in range(0, 25, 5)}
    assert len(orders) == 5
    assert tuple(np.arange(40.0)) not in orders


def test_the_last_smaller_batch_is_averaged_over_its_own_size():
    X, y = samples(9)
    settings = {"batch_size": 8, "num_epochs": 1, "learning_rate": 1.0}
    untrained = small_network(**settings).initialize(y)
    order = copy.deepcopy(untrained._shuffle_rng).permutation(9)
    for batch in (order[:8], order[8:]):
        _, weight_gradients, bias_gradients = untrained.gradients(X[batch], y[batch])
        for parameter, gradient in zip(parameters_of(untrained), weight_gradients + bias_gradients, strict=True):
            parameter -= gradient
    network = small_network(**settings).fit(X, y)
    for found, expected in zip(parameters_of(network), parameters_of(untrained), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def one_step(max_grad_norm):
    """Return the change of all parameters in one step of rate 1, and the recorded gradient norms."""
    X, y = samples(20)
    settings = {"learning_rate": 1.0, "batch_size": 20, "num_epochs": 1, "max_grad_norm": max_grad_norm}
    before = copies_of(small_network(**settings).initialize(y))
    network = small_network(**settings).fit(X, y)
    changes = [(new - old).ravel() for new, old in zip(parameters_of(network), before, strict=True)]
    return np.concatenate(changes), network.history_["gradient_norm"][0]


def test_clipping_scales_the_whole_gradient_to_max_grad_norm():
    plain, _ = one_step(None)
    norm = np.linalg.norm(plain)
    clipped, _ = one_step(norm / 3)
    assert np.linalg.norm(clipped) == pytest.approx(norm / 3, rel=1e-12)
    np.testing.assert_allclose(clipped, plain / 3, rtol=0, atol=1e-12 * norm)


def test_clipping_leaves_a_gradient_below_max_grad_norm_alone():
    plain, _ = one_step(None)
    not_clipped, _ = one_step(np.linalg.norm(plain) * 1.001)
    np.testing.assert_array_equal(not_clipped, plain)


def test_gradient_norm_is_recorded_before_clipping():
    plain, norms = one_step(None)
    _, clipped_norms = one_step(np.linalg.norm(plain) / 3)
    assert clipped_norms == norms
    assert math.hypot(*norms) == pytest.approx(np.linalg.norm(plain), rel=1e-12)


# What is recorded


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_history_equals_scikit_learns_evaluation_of_each_epoch(dtype):
    X, y = samples(5000)  # more than are evaluated at a time
    X_validation, y_validation = samples(300, seed=1)
    if dtype == "float32":
        X, X_validation = X.astype(np.float32), X_validation.astype(np.float32)
    expected = []

    def evaluate(network, epoch):
        assert epoch == len(expected) + 1
        record = {}
        for name, X_part, y_part in (("train", X, y), ("validation", X_validation, y_validation)):
            probabilities = network.predict_proba(X_part).astype(np.float64)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            record[f"{name}_loss"] = log_loss(y_part, probabilities)
            record[f"{name}_accuracy"] = accuracy_score(y_part, network.predict(X_part))
            assert network.score(X_part, y_part) == record[f"{name}_accuracy"]
            assert network.evaluate(X_part, y_part) == (
                pytest.approx(record[f"{name}_loss"], rel=1e-5),
                record[f"{name}_accuracy"],
            )
        expected.append(record)

    network = shallow_network(batch_size=500, num_epochs=5, dtype=dtype)
    history = network.fit(X, y, (X_validation, y_validation), evaluate).history_
    for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        tolerance = {"rel": 1e-5 if dtype == "float32" else 1e-12}
        assert history[key] == [pytest.approx(record[key], **tolerance) for record in expected]
        assert len(set(history[key])) > 1, "a constant would say little"


def test_history_has_one_entry_an_epoch_under_the_named_keys():
    X, y = samples()
    training = {"train_loss", "train_accuracy", "gradient_norm"}
    network = small_network(num_epochs=4).fit(X, y)
    assert set(network.history_) == training
    network.fit(X, y, validation_data=(X[:9], y[:9]))
    assert set(network.history_) == training | {"validation_loss", "validation_accuracy"}
    assert {len(values) for values in network.history_.values()} == {4}
    assert {len(norms) for norms in network.history_["gradient_norm"]} == {3}
    for key, values in network.history_.items():
        if key != "gradient_norm":
            assert all(type(value) is float for value in values)


def test_on_epoch_end_is_called_after_each_epoch_with_its_number_and_its_results():
    calls = []

    def on_epoch_end(network, epoch):
        calls.append((epoch, network.history_["train_loss"][-1], len(network.history_["train_loss"])))

    network = small_network(num_epochs=4).fit(*samples(), on_epoch_end=on_epoch_end)
    assert calls == [(i + 1, loss, i + 1) for i, loss in enumerate(network.history_["train_loss"])]


def test_validation_data_does_not_change_the_training():
    X, y = samples()
    plain = small_network().fit(X, y)
    validated = small_network().fit(X, y, validation_data=samples(seed=5))
    assert_same_bits(parameters_of(validated), parameters_of(plain))
    assert validated.history_["train_loss"] == plain.history_["train_loss"]


def test_training_loss_is_that_of_the_training_set_and_validation_loss_that_of_the_other():
    X, y = samples()
    history = shallow_network().fit(X, y, validation_data=(X[::-1], y[::-1])).history_
    assert history["validation_loss"] == pytest.approx(history["train_loss"], rel=1e-12)
    wrong = shallow_network().fit(X, y, validation_data=(X, (y + 1) % 3)).history_
    assert wrong["validation_loss"][-1] > 2 * wrong["train_loss"][-1]
    assert wrong["validation_accuracy"][-1] < 0.2 < 0.8 < wrong["train_accuracy"][-1]


# Initialisation


def test_default_settings_are_those_of_the_assignment():
    network = NeuralNetwork(5, [784, 256, 128, 64, 10])
    assert (network.learning_rate, network.batch_size, network.num_epochs) == (0.1, 32, 100)
    assert (network.activation, network.weight_init) == ("relu", "normal")
    assert (network.seed, network.dtype, network.max_grad_norm) == (None, "float32", None)


@pytest.mark.parametrize("weight_init", WEIGHT_INITS)
def test_initial_weights_have_the_named_distribution_and_biases_are_zero(weight_init):
    network = NeuralNetwork(3, [784, 256, 10], weight_init=weight_init, seed=0).initialize(np.arange(10))
    assert [W.shape for W in network.weights_] == [(784, 256), (256, 10)]
    assert [b.shape for b in network.biases_] == [(256,), (10,)]
    assert all((b == 0).all() for b in network.biases_)
    w = network.weights_[0].ravel() / 0.01
    if weight_init == "zero":
        assert all((W == 0).all() for W in network.weights_)
    elif weight_init == "random":  # uniform on [-1, 1): variance 1/3, and no sample outside
        assert -1 <= w.min() < -0.999
        assert 0.999 < w.max() <= 1
        assert abs(w.mean()) < 5 * math.sqrt(1 / 3 / w.size)
        assert w.std() == pytest.approx(math.sqrt(1 / 3), rel=0.01)
    else:
        assert abs(w.mean()) < 5 / math.sqrt(w.size)
        assert w.std() == pytest.approx(1, rel=0.01)
        assert np.mean(np.abs(w) < 1) == pytest.approx(0.6827, abs=0.01)
        assert np.mean(np.abs(w) < 2) == pytest.approx(0.9545, abs=0.005)
    assert not np.array_equal(network.weights_[1], network.weights_[0][:256, :10]) or weight_init == "zero"


@pytest.mark.parametrize("weight_init", WEIGHT_INITS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_loss_is_near_the_logarithm_of_ten(activation, weight_init):
    rng = np.random.default_rng(0)
    X, y = rng.uniform(0, 1, (100, 784)), np.arange(100) % 10
    network = NeuralNetwork(5, [784, 256, 128, 64, 10], activation, weight_init=weight_init, seed=0).initialize(y)
    assert network.gradients(X, y)[0] == pytest.approx(math.log(10), abs=0.01)


def assert_hidden_units_are_alike(network):
    """Every hidden layer's units have equal weights in and out and equal biases."""
    for layer in range(network.n_layers - 2):
        W_in, b, W_out = network.weights_[layer], network.biases_[layer], network.weights_[layer + 1]
        np.testing.assert_allclose(W_in, W_in[:, :1].repeat(W_in.shape[1], axis=1), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(b, b[:1].repeat(len(b)), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(W_out, W_out[:1].repeat(len(W_out), axis=0), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_zero_initialisation_stays_symmetric_where_hidden_units_answer_to_zero(activation):
    X, y = samples()
    network = small_network(activation, weight_init="zero", num_epochs=60, learning_rate=0.5).fit(X, y)
    assert_hidden_units_are_alike(network)
    assert np.abs(network.weights_[-1]).max() > 0.01
    if activation == "sigmoid":
        assert all(np.abs(W).max() > 1e-4 for W in network.weights_)
    assert_hidden_units_are_different(small_network(activation, num_epochs=60, learning_rate=0.5).fit(X, y))


def assert_hidden_units_are_different(network):
    for W in network.weights_[:-1]:
        assert np.ptp(W, axis=1).min() > 1e-3


@pytest.mark.parametrize("activation", ["relu", "linear", "tanh"])
def test_zero_initialisation_trains_nothing_but_the_output_bias_where_hidden_units_are_silent_at_zero(activation):
    X, y = samples(200)
    settings = {"learning_rate": 1.0, "batch_size": 200, "num_epochs": 200}
    network = small_network(activation, weight_init="zero", **settings).fit(X, y)
    for parameter in [*network.weights_, *network.biases_[:-1]]:
        np.testing.assert_array_equal(parameter, 0)
    # What is left is a constant prediction, and the best constant is the shares of the classes.
    shares = np.bincount(y) / len(y)
    np.testing.assert_allclose(network.predict_proba(X), np.tile(shares, (len(X), 1)), atol=1e-9)
    assert network.score(X, y) == shares.max()
    assert network.history_["train_loss"][-1] == pytest.approx(-np.sum(shares * np.log(shares)), rel=1e-9)
    np.testing.assert_array_equal(np.array(network.history_["gradient_norm"])[:, :-1], 0)


def test_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others():
    X, y = samples()
    for dtype in ("float32", "float64"):
        first, again, other = (small_network(seed=seed, dtype=dtype).fit(X, y) for seed in (7, 7, 8))
        assert_same_bits(parameters_of(again), parameters_of(first))
        assert again.history_ == first.history_
        for a, b in zip(parameters_of(first), parameters_of(other), strict=True):
            assert not np.array_equal(a, b)


def test_no_seed_gives_other_weights_each_time():
    X, y = samples()
    first, second = (small_network(seed=None).fit(X, y) for _ in range(2))
    assert not np.array_equal(first.weights_[0], second.weights_[0])


def test_another_seed_shuffles_differently_even_from_equal_weights(batches):
    X, y = samples()
    for seed in (0, 1):
        small_network(seed=seed, weight_init="zero", num_epochs=1, batch_size=50).fit(X, y)
    assert not np.array_equal(batches[0][0], batches[1][0])


def test_numpys_global_random_state_has_no_influence_and_is_left_alone():
    X, y = samples()
    networks = []
    for global_seed in (0, 1):
        np.random.seed(global_seed)  # noqa: NPY002
        networks.append(small_network().fit(X, y))
        np.testing.assert_array_equal(
            np.random.random(3),  # noqa: NPY002
            np.random.RandomState(global_seed).random(3),
        )
    assert_same_bits(parameters_of(networks[1]), parameters_of(networks[0]))


@pytest.mark.parametrize("weight_init", WEIGHT_INITS)
def test_both_precisions_start_from_the_same_point(weight_init):
    single, double = (
        small_network(weight_init=weight_init, dtype=dtype).initialize([0, 1, 2]) for dtype in ("float32", "float64")
    )
    assert_same_bits(parameters_of(single), [p.astype(np.float32) for p in parameters_of(double)])


def test_both_precisions_see_the_same_batches(batches):
    X, y = samples(width=4)
    X = X.astype(np.float32)  # so that both see the same numbers
    for dtype in ("float32", "float64"):
        small_network(dtype=dtype).fit(X, y)
    half = len(batches) // 2
    for (single, _), (double, _) in zip(batches[:half], batches[half:], strict=True):
        np.testing.assert_array_equal(single, double)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_is_computed_in_the_precision_asked_for(dtype):
    X, y = samples()
    network = small_network(dtype=dtype, max_grad_norm=0.1).fit(X, y)
    _, weight_gradients, bias_gradients = network.gradients(X, y)
    arrays = [*parameters_of(network), *weight_gradients, *bias_gradients, network.predict_proba(X)]
    assert {array.dtype.name for array in arrays} == {dtype}


# Learning


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_overfits_twenty_samples(activation):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 30)), np.arange(20) % 4
    rate = {"softmax": 2.0, "sigmoid": 1.0}.get(activation, 0.1)
    network = NeuralNetwork(3, [30, 32, 4], activation, rate, batch_size=5, num_epochs=300, seed=0).fit(X, y)
    assert network.score(X, y) == 1
    assert network.history_["train_loss"][-1] < 0.01


def test_training_reduces_the_loss_from_its_initial_value():
    X, y = samples(200)
    initial = shallow_network("relu").initialize(y).gradients(X, y)[0]
    history = shallow_network("relu").fit(X, y).history_
    assert history["train_loss"][-1] < 0.5 * initial


def test_fitting_twice_trains_a_new_model_each_time():
    X, y = samples()
    network = small_network().fit(*samples(60, seed=9))
    kept = network.weights_, network.biases_, network.history_
    before = copies_of(network)
    losses = list(network.history_["train_loss"])
    network.fit(X, y)
    fresh = small_network().fit(X, y)
    assert_same_bits(parameters_of(network), parameters_of(fresh))
    assert network.history_ == fresh.history_
    # What was handed out before is not overwritten.
    assert_same_bits(kept[0] + kept[1], before)
    assert kept[2]["train_loss"] == losses


def test_fitting_again_on_other_labels_learns_the_other_labels():
    X, y = samples()
    names = np.array(["a", "b", "c"])
    network = shallow_network().fit(X, y).fit(X, names[y])
    np.testing.assert_array_equal(network.classes_, names)
    assert set(network.predict(X)) == set(names)


def test_fit_initialize_and_resume_return_the_network():
    X, y = samples()
    network = small_network()
    assert network.initialize(y) is network
    assert network.fit(X, y) is network
    assert network.resume(X, y) is network


def test_resume_trains_only_the_epochs_that_are_missing():
    X, y = samples()
    whole = small_network(num_epochs=6).fit(X, y)
    network = small_network(num_epochs=2).fit(X, y)
    network.num_epochs = 6
    epochs = []
    network.resume(X, y, on_epoch_end=lambda _, epoch: epochs.append(epoch))
    assert epochs == [3, 4, 5, 6]
    assert_same_bits(parameters_of(network), parameters_of(whole))
    assert network.history_ == whole.history_
    before = copies_of(network)
    network.resume(X, y)
    assert_same_bits(parameters_of(network), before)
    assert len(network.history_["train_loss"]) == 6


def test_resume_of_an_initialised_network_is_fit():
    X, y = samples()
    network = small_network().initialize(y).resume(X, y)
    assert_same_bits(parameters_of(network), parameters_of(small_network().fit(X, y)))


def test_training_changes_neither_samples_nor_labels():
    X, y = samples()
    for activation in ACTIVATIONS:
        X_given, y_given = X.copy(), y.copy()
        network = small_network(activation).fit(X_given, y_given, (X_given, y_given))
        network.predict_proba(X_given)
        network.gradients(X_given, y_given)
        np.testing.assert_array_equal(X_given, X)
        np.testing.assert_array_equal(y_given, y)


def test_read_only_transposed_integer_and_list_input_train_the_same_network():
    X, y = samples()
    X = np.round(X * 10)
    expected = copies_of(small_network().fit(X, y))
    read_only = X.copy()
    read_only.flags.writeable = False
    for given in (read_only, np.asfortranarray(X), X.astype(int), X.tolist(), X.astype(np.float32)):
        assert_same_bits(parameters_of(small_network().fit(given, y.tolist())), expected)


# Predictions and labels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_probabilities_are_of_each_class_and_sum_to_one(activation, dtype):
    X, y = samples(3000)
    network = small_network(activation, dtype=dtype, batch_size=200).fit(X, y)
    probabilities = network.predict_proba(X)
    assert probabilities.shape == (3000, 3)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1, dtype=float), 1, rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(network.predict(X), network.classes_[probabilities.argmax(axis=1)])


def test_predictions_of_many_samples_are_those_of_each_part_in_order():
    X, y = samples(5000)
    network = with_large_weights("relu", y)
    parts = np.vstack([network.predict_proba(X[i : i + 100]) for i in range(0, 5000, 100)])
    np.testing.assert_allclose(network.predict_proba(X), parts, rtol=1e-10, atol=1e-15)


def test_score_is_the_share_of_right_predictions():
    X, y = samples(40)
    network = shallow_network().fit(X, y)
    predicted = network.predict(X)
    flipped = predicted.copy()
    flipped[:10] = (flipped[:10] + 1) % 3
    assert network.score(X, predicted) == 1
    assert network.score(X, flipped) == 0.75
    assert type(network.score(X, y)) is float


LABELS = {
    "consecutive": [0, 1, 2],
    "with gaps": [3, 70, 1000],
    "negative": [-5, -1, 4],
    "uint8": np.array([7, 9, 250], np.uint8),
    "strings": ["bag", "coat", "dress"],
    "strings of numbers": ["10", "2", "9"],
    "objects": np.array(["bag", "coat", "long dress"], object),
}


@pytest.mark.parametrize("names", LABELS.values(), ids=LABELS.keys())
def test_any_integer_or_string_labels_can_be_learned(names):
    X, y = samples()
    names = np.array(names)  # sorted, so that class k is names[k]
    network = shallow_network().fit(X, names[y], (X, names[y]))
    reference = shallow_network().fit(X, y, (X, y))
    np.testing.assert_array_equal(network.classes_, names)
    assert_same_bits(parameters_of(network), parameters_of(reference))
    np.testing.assert_array_equal(network.predict(X), names[reference.predict(X)])
    assert network.score(X, names[y]) == reference.score(X, y) > 0.8
    assert network.history_ == reference.history_


def test_a_part_of_the_classes_is_enough_to_score_and_validate():
    X, y = samples()
    network = shallow_network().fit(X, y, (X[y == 2], y[y == 2]))
    assert network.score(X[y == 2], y[y == 2]) == network.history_["validation_accuracy"][-1]


# Divergence


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [8, 50], ids=["several steps an epoch", "one step an epoch"])
@pytest.mark.parametrize("learning_rate", [1, 1e5])
def test_divergence_is_an_error_that_leaves_the_last_finished_epoch(learning_rate, batch_size, dtype, no_warnings):
    X, y = samples()
    network = small_network("linear", learning_rate=learning_rate, batch_size=batch_size, dtype=dtype, num_epochs=1000)
    kept = parameters_of(copy.deepcopy(network.initialize(y)))
    calls = []

    def keep(network, epoch):
        kept[:] = parameters_of(copy.deepcopy(network))
        calls.append(epoch)

    with pytest.raises(DivergenceError, match=r"epoch \d+") as caught:
        network.fit(X * 10, y, (X * 10, y), on_epoch_end=keep)
    finished = caught.value.epoch - 1
    assert calls == list(range(1, finished + 1))
    assert {len(values) for values in network.history_.values()} <= {finished}
    for values in network.history_.values():
        assert np.isfinite(values).all()
    assert all(np.isfinite(parameter).all() for parameter in parameters_of(network))
    # The epoch is undone: the weights are those that the last finished one left.
    assert all(np.array_equal(own, saved) for own, saved in zip(parameters_of(network), kept, strict=True))


def test_divergence_names_the_rate_and_the_remedy():
    X, y = samples()
    network = small_network("linear", learning_rate=1e5, num_epochs=100, batch_size=2)
    with pytest.raises(DivergenceError, match=r"lower learning_rate \(100000\.0\) or set max_grad_norm \(None\)"):
        network.fit(X * 10, y)


def test_clipping_keeps_the_linear_network_finite_where_plain_descent_diverges():
    X, y = samples()
    with pytest.raises(DivergenceError):
        small_network("linear", learning_rate=1, num_epochs=300).fit(X * 10, y)
    network = small_network("linear", learning_rate=1, num_epochs=300, max_grad_norm=0.1).fit(X * 10, y)
    assert all(np.isfinite(parameter).all() for parameter in parameters_of(network))
    assert np.isfinite(network.history_["train_loss"]).all()


def test_divergence_error_survives_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(DivergenceError("the loss is inf", 3)))
    assert isinstance(error, ArithmeticError)
    assert (str(error), error.epoch) == ("the loss is inf", 3)


# What is refused


BAD_PARAMETERS = [
    ({"n_layers": 3}, ["layer_sizes", "n_layers = 3", r"\[4, 7, 5, 3\]"]),
    ({"n_layers": 1, "layer_sizes": [4]}, ["n_layers", "at least 2", "got 1"]),
    ({"n_layers": 4.0}, ["n_layers", "integer", r"got 4\.0"]),
    ({"n_layers": "4"}, ["n_layers", "integer", "got '4'"]),
    ({"layer_sizes": [4, 0, 5, 3]}, [r"layer_sizes\[1\]", "at least 1", "got 0"]),
    ({"layer_sizes": [4, 7, -5, 3]}, [r"layer_sizes\[2\]", "at least 1", "got -5"]),
    ({"layer_sizes": [4, 7, 5, 3.5]}, [r"layer_sizes\[3\]", "integer", r"got 3\.5"]),
    ({"layer_sizes": [4, True, 5, 3]}, [r"layer_sizes\[1\]", "integer", "got True"]),
    ({"layer_sizes": 4}, ["layer_sizes", "sequence of 4 integers", "got 4"]),
    ({"layer_sizes": "4753"}, ["layer_sizes", "sequence of 4 integers", "got '4753'"]),
    ({"layer_sizes": None}, ["layer_sizes", "sequence of 4 integers", "got None"]),
    ({"activation": "rely"}, ["activation", "relu, sigmoid, linear, tanh, softmax", "got 'rely'"]),
    ({"activation": None}, ["activation", "relu, sigmoid, linear, tanh, softmax", "got None"]),
    ({"activation": ["relu"]}, ["activation", "relu, sigmoid, linear, tanh, softmax", r"got \['relu'\]"]),
    ({"weight_init": "ones"}, ["weight_init", "zero, random, normal", "got 'ones'"]),
    ({"dtype": "float16"}, ["dtype", "float32, float64", "got 'float16'"]),
    ({"dtype": float}, ["dtype", "float32, float64", "got <class 'float'>"]),
    ({"learning_rate": 0}, ["learning_rate", "finite number greater than 0", "got 0"]),
    ({"learning_rate": -0.1}, ["learning_rate", "finite number greater than 0", r"got -0\.1"]),
    ({"learning_rate": math.nan}, ["learning_rate", "finite number greater than 0", "got nan"]),
    ({"learning_rate": math.inf}, ["learning_rate", "finite number greater than 0", "got inf"]),
    ({"learning_rate": 10**400}, ["learning_rate", "finite number greater than 0", "got 1000"]),
    ({"learning_rate": "0.1"}, ["learning_rate", "finite number greater than 0", r"got '0\.1'"]),
    ({"learning_rate": True}, ["learning_rate", "finite number greater than 0", "got True"]),
    ({"learning_rate": 1j}, ["learning_rate", "finite number greater than 0", "got 1j"]),
    ({"batch_size": 0}, ["batch_size", "at least 1", "got 0"]),
    ({"batch_size": -32}, ["batch_size", "at least 1", "got -32"]),
    ({"batch_size": 3.5}, ["batch_size", "integer", r"got 3\.5"]),
    ({"num_epochs": 0}, ["num_epochs", "at least 1", "got 0"]),
    ({"num_epochs": None}, ["num_epochs", "integer", "got None"]),
    ({"num_epochs": True}, ["num_epochs", "integer", "got True"]),
    ({"seed": -1}, ["seed", "at least 0", "got -1"]),
    ({"seed": 1.5}, ["seed", "integer", r"got 1\.5"]),
    ({"max_grad_norm": 0}, ["max_grad_norm", "finite number greater than 0", "got 0"]),
    ({"max_grad_norm": math.inf}, ["max_grad_norm", "finite number greater than 0", "got inf"]),
]


@pytest.mark.parametrize(("bad", "named"), BAD_PARAMETERS, ids=lambda value: str(value) if type(value) is dict else "")
def test_bad_parameter_is_refused_with_its_name_its_value_and_what_is_allowed(bad, named):
    good = {"n_layers": 4, "layer_sizes": [4, 7, 5, 3]}
    with pytest.raises(ValueError, match="(?s)" + "".join(f"(?=.*{part})" for part in named)):
        NeuralNetwork(**(good | bad))


@pytest.mark.parametrize(
    "good",
    [
        {"n_layers": np.int64(4), "layer_sizes": np.array([4, 7, 5, 3])},
        {"layer_sizes": (4, 7, 5, 3), "learning_rate": np.float32(0.1)},
        {"learning_rate": 1, "batch_size": np.int32(8), "seed": np.uint8(0), "max_grad_norm": 5},
    ],
)
def test_numpys_numbers_are_as_good_as_pythons(good):
    X, y = samples()
    network = NeuralNetwork(**({"n_layers": 4, "layer_sizes": [4, 7, 5, 3], "num_epochs": 1} | good)).fit(X, y)
    assert {parameter.dtype.name for parameter in parameters_of(network)} == {"float32"}


def with_value(value):
    X, _ = samples()
    X[3, 1] = value
    return X


X_GOOD, Y_GOOD = samples()
BAD_DATA = [
    (X_GOOD[:, :3], Y_GOOD, [r"shape \(n, 4\)", r"got \(50, 3\)"]),
    (np.hstack([X_GOOD, X_GOOD]), Y_GOOD, [r"shape \(n, 4\)", r"got \(50, 8\)"]),
    (X_GOOD[0], Y_GOOD[:1], [r"shape \(n, 4\)", r"got \(4,\)"]),
    (X_GOOD.reshape(50, 2, 2), Y_GOOD, [r"shape \(n, 4\)", r"got \(50, 2, 2\)"]),
    (X_GOOD[:0], Y_GOOD[:0], [r"n >= 1", r"got \(0, 4\)"]),
    (with_value(np.nan), Y_GOOD, ["finite in float64", "got nan in row 3, column 1"]),
    (with_value(np.inf), Y_GOOD, ["finite in float64", "got inf in row 3, column 1"]),
    (with_value(-np.inf), Y_GOOD, ["finite in float64", "got -inf in row 3, column 1"]),
    ([["a", "b", "c", "d"]] * 50, Y_GOOD, ["matrix of numbers", "got list"]),
    ([[1, 2, 3, 4], [1, 2]], Y_GOOD[:2], ["matrix of numbers", "got list"]),
    ([[10**400, 0, 0, 0]] * 50, Y_GOOD, ["matrix of numbers", "got list"]),
    (None, Y_GOOD, ["must", r"got"]),
    (X_GOOD + 1j, Y_GOOD, ["matrix of numbers", "complex"]),
]
BAD_LABELS = [
    (Y_GOOD[:-1], [r"shape \(50,\)", r"got \(49,\)"]),
    (Y_GOOD[:, np.newaxis], [r"shape \(50,\)", r"got \(50, 1\)"]),
    (np.eye(3)[Y_GOOD], [r"shape \(50,\)", r"got \(50, 3\)"]),
    (None, [r"shape \(50,\)", r"got \(\)"]),
    (Y_GOOD + 0.5, ["integers or strings", "float64"]),
    (np.where(Y_GOOD == 0, np.nan, Y_GOOD), ["integers or strings", "float64"]),
    (np.where(Y_GOOD == 0, None, "a"), ["integers or strings", "object"]),
    ([[0]] * 49 + [[0, 1]], ["vector of labels", "got list"]),
]


def matching(name, named):
    return f"(?s)^{name}" + "".join(f"(?=.*{part})" for part in named)


@pytest.mark.parametrize(("X", "y", "named"), BAD_DATA)
def test_bad_samples_are_refused_wherever_they_come_in(X, y, named):
    fitted = small_network().fit(X_GOOD, Y_GOOD)
    before = copies_of(fitted)
    with pytest.raises(ValueError, match=matching("X", named)):
        small_network().fit(X, y)
    for use in (fitted.predict, fitted.predict_proba):
        with pytest.raises(ValueError, match=matching("X", named)):
            use(X)
    for use in (fitted.score, fitted.evaluate, fitted.gradients, fitted.resume):
        with pytest.raises(ValueError, match=matching("X", named)):
            use(X, y)
    with pytest.raises(ValueError, match=matching("validation_data", named)):
        small_network().fit(X_GOOD, Y_GOOD, validation_data=(X, y))
    assert_same_bits(parameters_of(fitted), before)


@pytest.mark.parametrize(("y", "named"), BAD_LABELS)
def test_bad_labels_are_refused_wherever_they_come_in(y, named):
    fitted = small_network().fit(X_GOOD, Y_GOOD)
    for use in (small_network().fit, fitted.resume):
        with pytest.raises(ValueError, match=matching("y", named)):
            use(X_GOOD, y)
    for use in (fitted.score, fitted.evaluate, fitted.gradients):
        with pytest.raises(ValueError, match=matching("(X, )?y", named)):
            use(X_GOOD, y)
    with pytest.raises(ValueError, match=matching("validation_data", named)):
        small_network().fit(X_GOOD, Y_GOOD, validation_data=(X_GOOD, y))


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_a_number_too_large_for_the_precision_is_refused_without_a_warning(value, no_warnings):
    with pytest.raises(ValueError, match=r"X must be finite in float32; got -?inf in row 3, column 1"):
        small_network(dtype="float32").fit(with_value(value), Y_GOOD)


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2, 3]])
def test_a_number_of_classes_that_differs_from_the_output_layer_is_refused(classes):
    y = np.resize(classes, 50)
    with pytest.raises(ValueError, match=rf"y must hold as many classes .* 3; got {len(classes)}"):
        small_network().fit(X_GOOD, y)


@pytest.mark.parametrize(
    "unseen", [Y_GOOD + 1, np.full(50, -1), np.array(["0", "1", "2"])[Y_GOOD], np.full(50, "coat")]
)
def test_unseen_labels_are_refused_and_listed(unseen):
    fitted = small_network().fit(X_GOOD, Y_GOOD)
    message = r"must hold labels seen in training, \[0, 1, 2\]; got \['?(3|-1|0|coat)"
    for use in (fitted.score, fitted.evaluate, fitted.gradients, fitted.resume):
        with pytest.raises(ValueError, match=message):
            use(X_GOOD, unseen)
    with pytest.raises(ValueError, match=r"validation_data\[1\] " + message):
        small_network().fit(X_GOOD, Y_GOOD, validation_data=(X_GOOD, unseen))


@pytest.mark.parametrize("validation_data", [X_GOOD, (X_GOOD,), (X_GOOD, Y_GOOD, Y_GOOD), "Xy", 0.1])
def test_validation_data_that_is_no_pair_is_refused(validation_data):
    with pytest.raises(ValueError, match=r"validation_data must be a pair \(X, y\)|validation_data must"):
        small_network().fit(X_GOOD, Y_GOOD, validation_data=validation_data)


def test_resume_must_be_given_validation_data_exactly_when_training_was():
    without = small_network().fit(X_GOOD, Y_GOOD)
    with pytest.raises(ValueError, match=r"validation_data must be given .* got tuple"):
        without.resume(X_GOOD, Y_GOOD, (X_GOOD, Y_GOOD))
    validated = small_network().fit(X_GOOD, Y_GOOD, (X_GOOD, Y_GOOD))
    with pytest.raises(ValueError, match=r"validation_data must be given .* got NoneType"):
        validated.resume(X_GOOD, Y_GOOD)


@pytest.mark.parametrize(
    "use",
    [
        lambda network: network.predict(X_GOOD),
        lambda network: network.predict_proba(X_GOOD),
        lambda network: network.score(X_GOOD, Y_GOOD),
        lambda network: network.evaluate(X_GOOD, Y_GOOD),
        lambda network: network.gradients(X_GOOD, Y_GOOD),
        lambda network: network.resume(X_GOOD, Y_GOOD),
    ],
    ids=["predict", "predict_proba", "score", "evaluate", "gradients", "resume"],
)
def test_use_before_fit_is_refused(use):
    with pytest.raises(NotFittedError, match="no weights yet: call fit first"):
        use(small_network())
    # Who expects scikit-learn's bases of its own error is not disappointed.
    assert issubclass(NotFittedError, ValueError)
    assert issubclass(NotFittedError, AttributeError)


# What it needs


def test_source_imports_numpy_and_the_standard_library_only():
    imported = Counter()
    for path in Path(mlp_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports are absolute"
                imported[node.module.split(".")[0]] += 1
    assert imported["numpy"] > 0
    assert set(imported) - set(sys.stdlib_module_names) == {"numpy", "mlp_core"}


def test_trains_and_saves_where_nothing_but_numpy_can_be_imported(tmp_path):
    script = """
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] not in {"numpy", "mlp_core", *sys.stdlib_module_names}:
                    raise ImportError(f"{name} is neither NumPy nor the standard library")

        sys.meta_path.insert(0, Blocker())
        try:
            import sklearn
        except ImportError:
            pass
        else:
            raise SystemExit("the blocker does not block")
        import numpy as np
        import mlp_core

        X, y = np.eye(3).repeat(4, axis=0), np.arange(3).repeat(4)
        network = mlp_core.NeuralNetwork(3, [3, 4, 3], num_epochs=2, seed=0).fit(X, y)
        mlp_core.save_checkpoint(network, sys.argv[1])
        mlp_core.load_checkpoint(network, sys.argv[1], 2).predict(X)
    """
    root = Path(mlp_core.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_layer_sizes_chain_the_weights():
    network = NeuralNetwork(5, [784, 256, 128, 64, 10], seed=0).initialize(np.arange(10))
    assert [W.shape for W in network.weights_] == list(pairwise([784, 256, 128, 64, 10]))


def test_two_layers_are_softmax_regression():
    X, y = samples()
    settings = {"learning_rate": 0.5, "batch_size": 10, "num_epochs": 3, "seed": 0, "dtype": "float64"}
    networks = [NeuralNetwork(2, [4, 3], activation, **settings).fit(X, y) for activation in ACTIVATIONS]
    for network in networks[1:]:
        assert_same_bits(parameters_of(network), parameters_of(networks[0]))


def test_interrupt_in_mid_epoch_leaves_a_model_that_resumes_to_the_uninterrupted_result(monkeypatch):
    X, y = samples()
    expected = small_network("relu", batch_size=8, num_epochs=4).fit(X, y)
    network = small_network("relu", batch_size=8, num_epochs=4)
    original, steps = NeuralNetwork._sgd_step, []

    def interrupted(self, *batch):
        steps.append(batch)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return original(self, *batch)

    monkeypatch.setattr(NeuralNetwork, "_sgd_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, y)
    assert 1 <= len(network.history_["train_loss"]) < 4
    network.resume(X, y)
    assert network.history_ == expected.history_
    assert all(map(np.array_equal, parameters_of(network), parameters_of(expected)))


def test_fit_with_bad_validation_data_keeps_the_earlier_model():
    X, y = samples()
    network = small_network("relu", num_epochs=2).fit(X, y)
    before = copy.deepcopy(network)
    with pytest.raises(ValueError, match=r"validation_data\[1\] must hold labels seen in training"):
        network.fit(X, y, (X, np.full(len(X), 99)))
    assert network.history_ == before.history_
    assert all(map(np.array_equal, parameters_of(network), parameters_of(before)))


def test_samples_too_large_for_the_weights_are_refused_rather_than_given_nan_probabilities():
    X, y = samples()
    network = small_network("linear", num_epochs=2, dtype="float32").fit(X, y)
    for W in network.weights_:
        W *= 100
    huge = np.full_like(X, 3e38)
    uses = [
        lambda: network.predict_proba(huge),
        lambda: network.predict(huge),
        lambda: network.score(huge, y),
        lambda: network.evaluate(huge, y),
        lambda: network.gradients(huge, y),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="X must be small enough for finite logits in float32; got up to 3e"):
            use()


# Against the plain form


def plain_step(weights, biases, activation, X, labels, learning_rate, max_grad_norm):
    """Take one step of gradient descent, written out with new arrays, independently of the package."""
    phi = {"relu": lambda Z: np.where(Z > 0, Z, 0), "tanh": np.tanh, "linear": lambda Z: Z}
    phi |= {"sigmoid": lambda Z: 1 / (1 + np.exp(-Z)), "softmax": lambda Z: np.exp(Z) / np.exp(Z).sum(1, keepdims=True)}
    slope = {"relu": lambda A: (A > 0) * 1.0, "tanh": lambda A: 1 - A**2, "linear": np.ones_like}
    slope["sigmoid"] = lambda A: A * (1 - A)
    A = [X]
    for W, b in zip(weights[:-1], biases[:-1], strict=True):
        A.append(phi[activation](A[-1] @ W + b))
    Z = A[-1] @ weights[-1] + biases[-1]
    P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    delta = (P - np.eye(P.shape[1])[labels]) / len(X)
    gradients = []
    for layer in range(len(weights) - 1, -1, -1):
        gradients.insert(0, (A[layer].T @ delta, delta.sum(axis=0)))
        dA = delta @ weights[layer].T
        if layer == 0:
            break
        if activation == "softmax":
            delta = np.stack([(np.diag(a) - np.outer(a, a)) @ da for a, da in zip(A[layer], dA, strict=True)])
        else:
            delta = dA * slope[activation](A[layer])
    norm = np.sqrt(sum((dW**2).sum() + (db**2).sum() for dW, db in gradients))
    scale = learning_rate * min(1, max_grad_norm / norm)
    return [W - scale * dW for W, (dW, _) in zip(weights, gradients, strict=True)], [
        b - scale * db for b, (_, db) in zip(biases, gradients, strict=True)
    ]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_training_in_buffers_equals_the_plain_form_to_rounding(activation, dtype, tolerance, max_grad_norm, batches):
    X, y = samples(27)  # a last batch of 3
    network = small_network(activation, dtype=dtype, batch_size=8, num_epochs=2, max_grad_norm=max_grad_norm)
    start = small_network(activation, dtype="float64").initialize(y)
    network.fit(X, y)
    weights, biases = start.weights_, start.biases_
    for X_batch, labels in batches:
        weights, biases = plain_step(
            weights, biases, activation, X_batch.astype(float), labels, network.learning_rate, max_grad_norm or np.inf
        )
    for found, expected in zip(network.weights_ + network.biases_, weights + biases, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
