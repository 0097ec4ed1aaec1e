"""A network of layers, and its training by mini-batch gradient descent."""

from collections.abc import Callable, Sequence

import numpy as np

from book.experiments.checks import check_integer, check_number, check_that
from book.experiments.cnn.layers import Convolution, Dense, Flatten, Layer, MaxPooling, ReLU, output_size
from mlp_core import DivergenceError, cross_entropy
from mlp_core.losses import cross_entropy_gradient

Array = np.ndarray

EVALUATION_CHUNK = 128
"""Images sent through the network at a time outside training; their windows then stay in the processor's cache."""


class Network:
    """A chain of layers that ends in logits.

    Parameters
    ----------
    layers : sequence of Layer
    """

    def __init__(self, layers: Sequence[Layer]):
        self.layers = list(layers)

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum(array.size for layer in self.layers for array in layer.parameters)

    def forward(self, X: Array) -> list[Array]:
        """Return the input and the output of each layer; the last are the logits, shape (n, K)."""
        A = [X]
        for layer in self.layers:
            A.append(layer.forward(A[-1]))
        return A

    def backward(self, delta: Array) -> list[list[Array]]:
        """Return the parameters' gradients, a list for each layer.

        Parameters
        ----------
        delta : ndarray, shape (n, K)
            Gradient of the loss with respect to the last forward pass's logits.
        """
        gradients = []
        for position, layer in reversed(list(enumerate(self.layers))):
            gradients.insert(0, layer.parameter_gradients(delta))
            if position > 0:
                delta = layer.input_gradient(delta)
        return gradients

    def gradients(self, X: Array, labels: Array) -> tuple[float, list[list[Array]]]:
        """Return the mean cross-entropy of a batch, in nats, and its gradients.

        Parameters
        ----------
        X : ndarray, shape (n, H, W, C)
        labels : ndarray of int, shape (n,)
            0 to K - 1.

        Returns
        -------
        loss : float
        gradients : list of list of ndarray
            For each layer, in the order and shapes of its `parameters`.
        """
        logits = self.forward(X)[-1]
        return float(cross_entropy(logits, labels).mean()), self.backward(cross_entropy_gradient(logits, labels))

    def logits(self, X: Array) -> Array:
        """Return the logits, shape (n, K), computed in chunks."""
        starts = range(0, len(X), EVALUATION_CHUNK)
        return np.concatenate([self.forward(X[start : start + EVALUATION_CHUNK])[-1] for start in starts])

    def predict(self, X: Array) -> Array:
        """Return the most probable class of each image, 0 to K - 1, shape (n,)."""
        return self.logits(X).argmax(axis=1)


def small_network(
    filters: Sequence[int],
    kernel_size: int,
    *,
    seed: int,
    image_size: int = 28,
    num_classes: int = 10,
    dtype: str = "float32",
) -> Network:
    """Build a network of the form of LeNet (LeCun et al., 1998) with fresh weights.

    Each entry of ``filters`` makes a block: a convolution without padding, ReLU, 2x2 max pooling. A dense layer turns
    the last feature maps into logits.

    Parameters
    ----------
    filters : sequence of int
        Channels of each convolution.
    kernel_size : int
        Side of its kernels.
    seed : int
        Makes the weights repeatable.
    image_size : int
        Side of the square images, which have one channel.
    num_classes : int
    dtype : {"float32", "float64"}

    Raises
    ------
    ValueError
        If the images are too small for so many blocks.
    """
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    size, channels = image_size, 1
    for count in filters:
        layers += [Convolution(channels, count, kernel_size, rng=rng, dtype=dtype), ReLU(), MaxPooling(2)]
        size, channels = output_size(output_size(size, kernel_size), 2, stride=2), count
    return Network([*layers, Flatten(), Dense(size * size * channels, num_classes, rng=rng, dtype=dtype)])


def receptive_field(layers: Sequence[Layer]) -> tuple[int, int]:
    """Return the side of the part of the input that one output position depends on, and the step between two.

    Parameters
    ----------
    layers : sequence of Layer
        Convolutions, max pooling and layers that act on each position by itself.

    Returns
    -------
    side : int
        r, from r = 1 and j = 1 on by r += (k - 1) j and j *= s for each layer (Dumoulin and Visin, 2016).
    step : int
        j, pixels from the field of one position to that of the next.
    """
    side, step = 1, 1
    for layer in layers:
        if isinstance(layer, Convolution | MaxPooling):
            side += (layer.kernel_size - 1) * step
            step *= layer.stride
    return side, step


def train(
    network: Network,
    X: Array,
    labels: Array,
    *,
    learning_rate: float,
    batch_size: int,
    num_epochs: int,
    seed: int,
    on_epoch_end: Callable[[int, float], None] | None = None,
) -> None:
    """Train a network in place by plain gradient descent on mini-batches.

    Parameters
    ----------
    network : Network
    X : ndarray, shape (n, H, W, C)
    labels : ndarray of int, shape (n,)
    learning_rate : float
    batch_size : int
        Images in a gradient step. The last batch of an epoch may be smaller; its gradient is its own mean.
    num_epochs : int
        Passes over the images, each in a fresh random order.
    seed : int
        Makes the order repeatable.
    on_epoch_end : callable, optional
        Called with the epoch, counted from 1, and the mean of its batches' losses, in nats.

    Raises
    ------
    ValueError
        For arguments out of range.
    DivergenceError
        At the first loss that is not finite.
    """
    check_number("learning_rate", learning_rate, above=0)
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("num_epochs", num_epochs, minimum=1)
    check_that(len(labels) == len(X) > 0, "labels", f"as many as images ({len(X)}), at least one", len(labels))
    rng = np.random.default_rng(seed)
    for epoch in range(1, num_epochs + 1):
        order = rng.permutation(len(X))
        losses = []
        for start in range(0, len(X), batch_size):
            batch = order[start : start + batch_size]
            losses.append(_sgd_step(network, X[batch], labels[batch], learning_rate))
            if not np.isfinite(losses[-1]):
                raise DivergenceError(
                    f"the loss is {losses[-1]} in epoch {epoch}: training diverged; "
                    f"lower learning_rate ({learning_rate})",
                    epoch,
                )
        if on_epoch_end is not None:
            on_epoch_end(epoch, float(np.mean(losses)))


def _sgd_step(network: Network, X: Array, labels: Array, learning_rate: float) -> float:
    """Take one step of gradient descent on a batch; returns the loss before it."""
    with np.errstate(over="ignore", invalid="ignore"):  # a sign of divergence, which the loss shows
        loss, gradients = network.gradients(X, labels)
        for layer, layer_gradients in zip(network.layers, gradients, strict=True):
            for parameter, gradient in zip(layer.parameters, layer_gradients, strict=True):
                parameter -= learning_rate * gradient
    return loss
