"""Activations and loss: right values, right gradients, no overflow."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from mlp_core import ACTIVATIONS, cross_entropy, softmax
from mlp_core.losses import cross_entropy_gradient

NAMES = ("relu", "sigmoid", "linear", "tanh", "softmax")
STEP = 1e-5
TORCH = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "linear": lambda Z: Z * 1.0,
    "tanh": torch.tanh,
    "softmax": lambda Z: torch.softmax(Z, dim=1),
}
LARGE = {np.float32: 1e38, np.float64: 1e300}
EXTREMES = [
    pytest.param(dtype, large, id=f"{np.dtype(dtype).name}-{large:.2g}")
    for dtype in (np.float32, np.float64)
    for large in (100.0, LARGE[dtype], float(np.finfo(dtype).max))
]


@pytest.fixture(name="Z")
def pre_activations():
    """Pre-activations in float64; none is so near to relu's kink that a central difference would straddle it."""
    Z = np.random.default_rng(0).uniform(-4, 4, (6, 5))
    assert np.abs(Z).min() > 10 * STEP
    return Z


@pytest.fixture(name="dA")
def incoming_gradient():
    return np.random.default_rng(1).standard_normal((6, 5))


@pytest.fixture
def strict():
    """Make every floating-point warning an error, underflow to zero excepted, which is what is wanted."""
    with np.errstate(over="raise", invalid="raise", divide="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def numerical_gradient(function, Z):
    """Central differences of the scalar ``function`` in every entry of ``Z``."""
    gradient = np.empty_like(Z)
    for index in np.ndindex(Z.shape):
        above, below = Z.copy(), Z.copy()
        above[index] += STEP
        below[index] -= STEP
        gradient[index] = (function(above) - function(below)) / (2 * STEP)
    return gradient


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def backward(name, Z, dA):
    """Gradient in ``Z``; the copies keep the test independent of whether the function works in place."""
    activation = ACTIVATIONS[name]
    return activation.backward(activation.forward(Z.copy()).copy(), dA.copy())


def extreme_rows(dtype, large):
    """Rows of finite extremes; the widest row spans twice ``large``, beyond the dtype's range for its maximum."""
    rows = [
        [large, -large, 0, 1],
        [large, large, large, large],
        [-large, -large, -large, -large],
        [0, 0, 0, 0],
        [-large, 1, -1, 0.5],
        [large, 1, -1, 0.5],
    ]
    return np.array(rows, dtype)


def test_the_five_activations_of_the_assignment_are_there():
    assert set(ACTIVATIONS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_values_equal_pytorchs(name, Z):
    found = ACTIVATIONS[name].forward(Z.copy())
    np.testing.assert_allclose(found, TORCH[name](torch.from_numpy(Z)).numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_backward_agrees_with_central_differences(name, Z, dA):
    def loss(Z):
        return np.sum(dA * ACTIVATIONS[name].forward(Z))

    expected = numerical_gradient(loss, Z)
    found = backward(name, Z, dA)
    assert relative_error(found, expected) < 1e-6
    for row in range(len(Z)):
        assert relative_error(found[row], expected[row]) < 1e-6


@pytest.mark.parametrize("name", ["relu", "sigmoid", "linear", "tanh"])
def test_derivative_of_each_entry_agrees_with_central_differences(name, Z):
    found = backward(name, Z, np.ones_like(Z))
    forward = ACTIVATIONS[name].forward
    expected = (forward(Z + STEP) - forward(Z - STEP)) / (2 * STEP)
    nonzero = expected != 0
    np.testing.assert_array_equal(found[~nonzero], 0)
    assert np.max(np.abs(found[nonzero] / expected[nonzero] - 1)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_backward_agrees_with_pytorch_autograd(name, Z, dA):
    leaf = torch.from_numpy(Z).requires_grad_()
    TORCH[name](leaf).backward(torch.from_numpy(dA))
    np.testing.assert_allclose(backward(name, Z, dA), leaf.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_keep_shape_and_precision(name, dtype, Z, dA):
    Z, dA = Z.astype(dtype), dA.astype(dtype)
    for found in (ACTIVATIONS[name].forward(Z.copy()), backward(name, Z, dA)):
        assert found.shape == Z.shape
        assert found.dtype == dtype


def test_softmax_backward_is_the_full_jacobian(Z):
    z = Z[:1]
    identity = np.eye(z.shape[1])
    # Row i of the Jacobian is the gradient of output i.
    found = np.vstack([backward("softmax", z, row[np.newaxis]) for row in identity])
    a = softmax(z)[0]
    np.testing.assert_allclose(found, np.diag(a) - np.outer(a, a), rtol=1e-12, atol=1e-16)
    numerical = np.vstack([numerical_gradient(lambda z, i=i: softmax(z)[0, i], z) for i in range(z.shape[1])])
    assert np.max(np.abs(found / numerical - 1)) < 1e-6
    automatic = torch.autograd.functional.jacobian(lambda z: torch.softmax(z, dim=0), torch.from_numpy(z[0]))
    np.testing.assert_allclose(found, automatic.numpy(), rtol=1e-12, atol=1e-16)


def test_relu_has_gradient_zero_at_zero():
    np.testing.assert_array_equal(backward("relu", np.zeros((1, 2)), np.ones((1, 2))), 0)


def test_softmax_rows_are_probabilities_and_do_not_mix(Z):
    probabilities = softmax(Z)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-14)
    assert probabilities.min() > 0
    np.testing.assert_array_equal(softmax(Z[2:3]), probabilities[2:3])


def test_softmax_does_not_change_when_a_row_is_shifted(Z):
    np.testing.assert_allclose(softmax(Z + np.array([[1e3]] * len(Z))), softmax(Z), rtol=1e-10)


def test_softmax_leaves_its_argument_alone(Z):
    before = Z.copy()
    softmax(Z)
    np.testing.assert_array_equal(Z, before)


@pytest.mark.parametrize(("dtype", "large"), EXTREMES)
@pytest.mark.parametrize("name", NAMES)
def test_activations_are_finite_for_extreme_inputs_without_warnings(name, dtype, large, strict):
    A = ACTIVATIONS[name].forward(extreme_rows(dtype, large))
    assert np.isfinite(A).all()
    assert np.isfinite(ACTIVATIONS[name].backward(A.copy(), np.ones_like(A))).all()


@pytest.mark.parametrize(("dtype", "large"), EXTREMES)
def test_softmax_of_extreme_inputs_is_the_limit(dtype, large, strict):
    expected = [[1, 0, 0, 0], [0.25] * 4, [0.25] * 4, [0.25] * 4]
    found = softmax(extreme_rows(dtype, large)[:4])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(("dtype", "large"), EXTREMES)
def test_sigmoid_and_tanh_of_extreme_inputs_are_the_limits(dtype, large, strict):
    Z = np.array([[large, -large]], dtype)
    np.testing.assert_allclose(ACTIVATIONS["sigmoid"].forward(Z.copy()), [[1, 0]], atol=1e-30)
    np.testing.assert_allclose(ACTIVATIONS["tanh"].forward(Z.copy()), [[1, -1]])


def test_sigmoid_equals_the_logistic_function_over_a_wide_range():
    Z = np.linspace(-800, 800, 3201)[np.newaxis]
    np.testing.assert_allclose(ACTIVATIONS["sigmoid"].forward(Z.copy()), expit(Z), rtol=1e-15, atol=1e-15)


def test_cross_entropy_equals_scipys(Z):
    labels = np.array([0, 4, 2, 2, 1, 3])
    expected = -log_softmax(Z, axis=1)[np.arange(6), labels]
    np.testing.assert_allclose(cross_entropy(Z, labels), expected, rtol=1e-13)


@pytest.mark.parametrize("n_classes", [2, 10])
def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes(n_classes):
    loss = cross_entropy(np.full((1, n_classes), 3.0), np.array([1]))
    np.testing.assert_allclose(loss, math.log(n_classes), rtol=1e-14)


def test_cross_entropy_of_an_improbable_class_is_not_cut_off(strict):
    # The probability, exp(-5000), is far below the smallest double; the loss is exact all the same.
    np.testing.assert_allclose(cross_entropy(np.array([[5000.0, 0.0]]), np.array([1])), 5000, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_and_its_gradient_are_finite_for_extreme_logits_without_warnings(dtype, strict):
    logits = extreme_rows(dtype, LARGE[dtype])
    for label in range(4):
        labels = np.full(len(logits), label)
        loss = cross_entropy(logits, labels)
        assert np.isfinite(loss).all()
        assert (loss >= 0).all()
        assert np.isfinite(cross_entropy_gradient(logits, labels)).all()
    np.testing.assert_allclose(cross_entropy(logits[:1], np.array([1])), 2 * LARGE[dtype], rtol=1e-6)


def test_cross_entropy_gradient_agrees_with_central_differences_and_autograd(Z):
    labels = np.array([0, 4, 2, 2, 1, 3])
    found = cross_entropy_gradient(Z.copy(), labels)
    numerical = numerical_gradient(lambda Z: cross_entropy(Z, labels).mean(), Z)
    assert np.max(np.abs(found / numerical - 1)) < 1e-6
    leaf = torch.from_numpy(Z).requires_grad_()
    torch.nn.functional.cross_entropy(leaf, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-12, atol=1e-15)
