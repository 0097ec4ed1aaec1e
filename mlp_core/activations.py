"""Activation functions and their gradients.

Every gradient here can be written in terms of the activation's output ``A = phi(Z)``, so the backward pass needs no
``Z``: the network keeps one matrix a layer instead of two.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Activation(NamedTuple):
    """An activation function and its gradient.

    Attributes
    ----------
    forward : callable
        ``Z -> A``, both of shape (n, k); finite for any finite ``Z``.
    backward : callable
        ``(A, dA) -> dZ``, all of shape (n, k): the gradient of the loss with respect to ``Z``, given the output ``A``
        and the gradient ``dA`` of the loss with respect to it.
    """

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]


def relu(Z: Array) -> Array:
    """Rectified linear unit, max(0, z)."""
    return np.maximum(Z, 0)


def relu_backward(A: Array, dA: Array) -> Array:
    """Gradient of :func:`relu`: 1 where z > 0, else 0 (at z = 0 the subgradient 0)."""
    return dA * (A > 0)


def sigmoid(Z: Array) -> Array:
    """Logistic function 1 / (1 + exp(-z)), written as (1 + tanh(z / 2)) / 2, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * Z))


def sigmoid_backward(A: Array, dA: Array) -> Array:
    """Gradient of :func:`sigmoid`: a (1 - a)."""
    return dA * (A * (1 - A))


def linear(Z: Array) -> Array:
    """Identity, z."""
    return Z


def linear_backward(A: Array, dA: Array) -> Array:
    """Gradient of :func:`linear`: 1."""
    return dA


def tanh(Z: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(Z)


def tanh_backward(A: Array, dA: Array) -> Array:
    """Gradient of :func:`tanh`: 1 - a^2."""
    return dA * (1 - A * A)


def softmax(Z: Array) -> Array:
    """Softmax of each row; the row's maximum is subtracted first, which changes nothing but the overflow."""
    with np.errstate(over="ignore"):  # logits further apart than the dtype reaches: -inf, whose exponential is 0
        E = np.exp(Z - Z.max(axis=1, keepdims=True))
    E /= E.sum(axis=1, keepdims=True)
    return E


def softmax_backward(A: Array, dA: Array) -> Array:
    """Gradient of :func:`softmax`: the full Jacobian diag(a) - a a^T of each row, times ``dA``.

    The product needs no k x k matrix: (diag(a) - a a^T) g = a * (g - a.g).
    """
    return A * (dA - np.sum(A * dA, axis=1, keepdims=True))


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(relu, relu_backward),
    "sigmoid": Activation(sigmoid, sigmoid_backward),
    "linear": Activation(linear, linear_backward),
    "tanh": Activation(tanh, tanh_backward),
    "softmax": Activation(softmax, softmax_backward),
}
