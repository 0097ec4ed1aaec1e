"""Activation functions and their gradients.

Every gradient here can be written in terms of the activation's output ``A = phi(Z)``, so the backward pass needs no
``Z``: the network keeps one matrix a layer instead of two. Every function takes ``out``, the array for its result, as
NumPy's own functions do; it may be the argument itself, and without it a new array is made.
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
        ``(Z, out=None) -> A``, all of shape (n, k); finite for any finite ``Z``.
    backward : callable
        ``(A, dA, out=None) -> dZ``, all of shape (n, k): the gradient of the loss with respect to ``Z``, given the
        output ``A`` and the gradient ``dA`` of the loss with respect to it.
    """

    forward: Callable[..., Array]
    backward: Callable[..., Array]


def relu(Z: Array, out: Array | None = None) -> Array:
    """Rectified linear unit, max(0, z)."""
    return np.maximum(Z, 0, out=out)


def relu_backward(A: Array, dA: Array, out: Array | None = None) -> Array:
    """Gradient with respect to Z: dA where z > 0, else 0."""
    return np.multiply(dA, A > 0, out=out)


def sigmoid(Z: Array, out: Array | None = None) -> Array:
    """Logistic function 1 / (1 + exp(-z)).

    Written as (1 + tanh(z / 2)) / 2, which cannot overflow.
    """
    A = np.multiply(Z, 0.5, out=out)
    np.tanh(A, out=A)
    A += 1
    A *= 0.5
    return A


def sigmoid_backward(A: Array, dA: Array, out: Array | None = None) -> Array:
    """Gradient with respect to Z: dA a (1 - a)."""
    return np.multiply(dA, A * (1 - A), out=out)


def linear(Z: Array, out: Array | None = None) -> Array:
    """Identity, z."""
    return np.positive(Z, out=out) if out is not Z else Z


def linear_backward(A: Array, dA: Array, out: Array | None = None) -> Array:
    """Gradient with respect to Z: dA."""
    return linear(dA, out)


def tanh(Z: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(Z, out=out)


def tanh_backward(A: Array, dA: Array, out: Array | None = None) -> Array:
    """Gradient with respect to Z: dA (1 - a^2)."""
    return np.multiply(dA, 1 - A * A, out=out)


def softmax(Z: Array, out: Array | None = None) -> Array:
    """Softmax of each row.

    The row's maximum is subtracted first, which changes only the overflow.
    """
    # Logits further apart than the dtype reaches give -inf, and exp(-inf) = 0.
    with np.errstate(over="ignore"):
        E = np.subtract(Z, Z.max(axis=1, keepdims=True), out=out)
    np.exp(E, out=E)
    E /= E.sum(axis=1, keepdims=True)
    return E


def softmax_backward(A: Array, dA: Array, out: Array | None = None) -> Array:
    """Gradient of :func:`softmax`.

    The full Jacobian diag(a) - a a^T of each row, times ``dA``. The product
    needs no k x k matrix: (diag(a) - a a^T) g = a * (g - a.g).
    """
    return np.multiply(A, dA - np.sum(A * dA, axis=1, keepdims=True), out=out)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(relu, relu_backward),
    "sigmoid": Activation(sigmoid, sigmoid_backward),
    "linear": Activation(linear, linear_backward),
    "tanh": Activation(tanh, tanh_backward),
    "softmax": Activation(softmax, softmax_backward),
}
