"""Layers of a convolutional network in NumPy, each with its forward and its backward pass.

A batch of n images is an array of shape (n, H, W, C): height, width, channels last. The channels of a position then lie
side by side in memory, and a convolution is one product of two matrices without any transposition.

A layer keeps from `forward` what its backward pass needs. The backward pass comes in two parts, because the first layer
of a network needs no gradient of its input: `parameter_gradients` and `input_gradient`, both given ``delta``, the
gradient of the loss with respect to the layer's output.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from book.experiments.checks import check_integer, check_that

Array = np.ndarray


def output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0) -> int:
    """Return the number of positions along one side of the output.

    Parameters
    ----------
    size : int
        Positions along that side of the input.
    kernel_size : int
        Positions that the kernel covers along that side.
    stride : int
        Positions from one window to the next.
    padding : int
        Zeros added at each end.

    Returns
    -------
    int
        floor((size + 2 padding - kernel_size) / stride) + 1 (Dumoulin and Visin, 2016).

    Raises
    ------
    ValueError
        If an argument is no such integer, or the kernel is larger than the padded input.
    """
    check_integer("size", size, minimum=1)
    check_integer("stride", stride, minimum=1)
    check_integer("padding", padding, minimum=0)
    check_integer("kernel_size", kernel_size, minimum=1, maximum=size + 2 * padding)
    return (size + 2 * padding - kernel_size) // stride + 1


def im2col(
    X: Array,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
) -> Array:
    """Copy every window of a batch of images into a row of a matrix.

    Parameters
    ----------
    X : ndarray, shape (n, H, W, C)
    kernel_size, stride, padding : int
        As in `output_size`, the same for both sides.

    Returns
    -------
    ndarray, shape (n * H' * W', kernel_size**2 * C)
        One row for each position of the output: by image, row, column.
    """
    pad = (padding, padding)
    X = np.pad(X, ((0, 0), pad, pad, (0, 0))) if padding else X
    windows = sliding_window_view(X, (kernel_size, kernel_size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, kernel_size**2 * X.shape[3])


def col2im(
    columns: Array,
    shape: tuple[int, ...],
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
) -> Array:
    """Add every row of a matrix back to its window: the transpose of `im2col`.

    Parameters
    ----------
    columns : ndarray, shape (n * H' * W', kernel_size**2 * C)
    shape : tuple
        (n, H, W, C), the shape of the images.
    kernel_size, stride, padding : int
        As in `im2col`.

    Returns
    -------
    ndarray, shape (n, H, W, C)
    """
    n, height, width, channels = shape
    rows = output_size(height, kernel_size, stride, padding)
    cols = output_size(width, kernel_size, stride, padding)
    windows = columns.reshape(n, rows, cols, kernel_size, kernel_size, channels)
    padded = (n, height + 2 * padding, width + 2 * padding, channels)
    X = np.zeros(padded, columns.dtype)
    for u in range(kernel_size):
        for v in range(kernel_size):
            down = slice(u, u + stride * rows, stride)
            right = slice(v, v + stride * cols, stride)
            X[:, down, right] += windows[:, :, :, u, v]
    return X[:, padding : padding + height, padding : padding + width]


class Layer:
    """A layer without parameters; what all layers have in common.

    Attributes
    ----------
    parameters : list of ndarray
        What training changes, in place.
    """

    def __init__(self):
        self.parameters: list[Array] = []

    def forward(self, X: Array) -> Array:
        """Return the output for a batch, and keep what the backward pass needs."""
        raise NotImplementedError

    def parameter_gradients(self, delta: Array) -> list[Array]:
        """Return the gradients of the loss with respect to `parameters`, in their order and shapes."""
        return []

    def input_gradient(self, delta: Array) -> Array:
        """Return the gradient of the loss with respect to the input, of its shape."""
        raise NotImplementedError


class Convolution(Layer):
    """Cross-correlation with square kernels, through `im2col` and one product of matrices.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
    stride, padding : int
        As in `output_size`, the same for both sides.
    rng : numpy.random.Generator
        Draws the weights by He's rule: Normal(0, 2 / fan_in), fan_in = kernel_size**2 * in_channels (He et al., 2015).
        Biases start at zero.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    parameters : list of ndarray
        Weights of shape (kernel_size, kernel_size, in_channels, out_channels) and biases of shape (out_channels,).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        rng: np.random.Generator,
        dtype: str = "float32",
    ):
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("kernel_size", kernel_size)):
            check_integer(name, value, minimum=1)
        check_integer("stride", stride, minimum=1)
        check_integer("padding", padding, minimum=0)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.parameters = [he_normal(rng, shape, dtype), np.zeros(out_channels, dtype)]

    def forward(self, X: Array) -> Array:
        """Return the feature maps, shape (n, H', W', out_channels).

        The images ``X`` have shape (n, H, W, in_channels).
        """
        W, b = self.parameters
        shape = f"of shape (n, H, W, {W.shape[2]})"
        check_that(X.ndim == 4 and X.shape[3] == W.shape[2], "X", shape, X.shape)
        geometry = self.kernel_size, self.stride, self.padding
        height, width = (output_size(side, *geometry) for side in X.shape[1:3])
        self.input_shape, self.columns = X.shape, im2col(X, *geometry)
        Z = self.columns @ W.reshape(-1, W.shape[3])
        Z += b
        return Z.reshape(len(X), height, width, -1)

    def parameter_gradients(self, delta: Array) -> list[Array]:
        """Return the gradients of weights and biases.

        ``delta`` has the shape of the output, (n, H', W', out_channels).
        """
        W, _ = self.parameters
        delta = delta.reshape(-1, W.shape[3])
        return [(self.columns.T @ delta).reshape(W.shape), delta.sum(axis=0)]

    def input_gradient(self, delta: Array) -> Array:
        """Return the gradient of the input, shape (n, H, W, in_channels)."""
        W, _ = self.parameters
        columns = delta.reshape(-1, W.shape[3]) @ W.reshape(-1, W.shape[3]).T
        geometry = self.kernel_size, self.stride, self.padding
        return col2im(columns, self.input_shape, *geometry)


class MaxPooling(Layer):
    """The largest value of each window, channel by channel.

    Parameters
    ----------
    kernel_size : int
        Side of the window.
    stride : int, optional
        Positions from one window to the next; `kernel_size` by default, so that windows do not overlap.
    """

    def __init__(self, kernel_size: int, stride: int | None = None):
        super().__init__()
        stride = kernel_size if stride is None else stride
        check_integer("kernel_size", kernel_size, minimum=1)
        check_integer("stride", stride, minimum=1)
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, X: Array) -> Array:
        """Return the maxima, shape (n, H', W', C), of images of shape (n, H, W, C).

        Of several equal maxima in a window the first one, row by row, counts as the maximum, as in PyTorch.
        """
        check_that(X.ndim == 4, "X", "of shape (n, H, W, C)", X.shape)
        self.input_shape = X.shape
        offsets = self._offsets()
        largest = X[offsets[0]].copy()
        self.winner = np.zeros(largest.shape, np.min_scalar_type(len(offsets)))
        for number, offset in enumerate(offsets[1:], start=1):
            np.putmask(self.winner, X[offset] > largest, number)
            np.maximum(largest, X[offset], out=largest)
        return largest

    def input_gradient(self, delta: Array) -> Array:
        """Return ``delta`` where each window's maximum is, 0 elsewhere."""
        dX = np.zeros(self.input_shape, delta.dtype)
        for number, offset in enumerate(self._offsets()):
            dX[offset] += delta * (self.winner == number)
        return dX

    def _offsets(self) -> list[tuple[slice, ...]]:
        """For each position within a window, the slice of the input that holds it for all windows."""
        rows, cols = (self.stride * output_size(side, self.kernel_size, self.stride) for side in self.input_shape[1:3])
        return [
            (slice(None), slice(u, u + rows, self.stride), slice(v, v + cols, self.stride))
            for u in range(self.kernel_size)
            for v in range(self.kernel_size)
        ]


class ReLU(Layer):
    """max(0, z), element by element; its derivative at 0 is taken as 0."""

    def forward(self, X: Array) -> Array:
        """Return an array of the shape of ``X``."""
        self.output = np.maximum(X, 0)
        return self.output

    def input_gradient(self, delta: Array) -> Array:
        """Return ``delta`` where the output is positive, 0 elsewhere."""
        return delta * (self.output > 0)


class Flatten(Layer):
    """Lays the numbers of each image end to end: (n, H, W, C) becomes (n, H * W * C)."""

    def forward(self, X: Array) -> Array:
        """Return a matrix with one image a row."""
        self.input_shape = X.shape
        return X.reshape(len(X), -1)

    def input_gradient(self, delta: Array) -> Array:
        """Return ``delta`` in the shape of the input."""
        return delta.reshape(self.input_shape)


class Dense(Layer):
    """Affine map of each row, X W + b.

    Parameters
    ----------
    in_features, out_features : int
    rng : numpy.random.Generator
        Draws the weights by He's rule, as in `Convolution`, with fan_in = in_features.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    parameters : list of ndarray
        Weights of shape (in_features, out_features) and biases of shape (out_features,).
    """

    def __init__(self, in_features: int, out_features: int, *, rng: np.random.Generator, dtype: str = "float32"):
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            check_integer(name, value, minimum=1)
        self.parameters = [he_normal(rng, (in_features, out_features), dtype), np.zeros(out_features, dtype)]

    def forward(self, X: Array) -> Array:
        """Return a matrix of shape (n, out_features) for one of shape (n, in_features)."""
        W, b = self.parameters
        check_that(X.ndim == 2 and X.shape[1] == len(W), "X", f"of shape (n, {len(W)})", X.shape)
        self.input = X
        return X @ W + b

    def parameter_gradients(self, delta: Array) -> list[Array]:
        """Return the gradients of weights and biases; ``delta`` has shape (n, out_features)."""
        return [self.input.T @ delta, delta.sum(axis=0)]

    def input_gradient(self, delta: Array) -> Array:
        """Return the gradient of the input, shape (n, in_features)."""
        return delta @ self.parameters[0].T


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Draw weights from Normal(0, 2 / fan_in), fan_in being the product of all sides but the last (He et al., 2015).

    The variance keeps the size of the signal from layer to layer where half of the ReLU units are inactive.
    """
    fan_in = np.prod(shape[:-1])
    # Drawn in float64 whatever the precision, so that both precisions start from the same point.
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(dtype)
