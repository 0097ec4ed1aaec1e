"""The arrays of a gradient step, allocated once and filled again in every step."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


class Workspace:
    """Buffers for a batch of up to ``batch_size`` samples.

    Allocating and freeing these arrays in every step would cost about a fifth of the training time.

    Parameters
    ----------
    layer_sizes : sequence of int
        Nodes of each layer, input and output included.
    batch_size : int
        Samples that there is room for.
    dtype : str
        Precision of all arrays.

    Attributes
    ----------
    A : list of ndarray
        ``A[0]`` is the batch, ``A[l]`` of shape (n, layer_sizes[l]) the activations of layer l, ``A[L]`` the logits.
    delta : list of ndarray
        ``delta[l]``, of the shape of ``A[l]``, is the gradient with respect to ``Z[l]``; ``delta[0]`` is not used.
        During a step of training it is multiplied by the learning rate, and so are the gradients below.
    dW, db : list of ndarray
        Gradients of weights and biases, in their shapes.
    gradients : list of ndarray
        For each layer its ``dW`` and ``db`` as one vector, in the same memory.
    ones : ndarray of shape (n,)
        ``ones @ delta`` sums the columns of a matrix, faster than NumPy's sum.
    """

    def __init__(self, layer_sizes: Sequence[int], batch_size: int, dtype: str):
        self.A = [np.empty((batch_size, size), dtype) for size in layer_sizes]
        self.delta = [np.empty_like(A) for A in self.A]
        shapes = list(pairwise(layer_sizes))
        sizes = [(fan_in + 1) * fan_out for fan_in, fan_out in shapes]
        self.gradients = [np.empty(size, dtype) for size in sizes]
        parts = list(zip(self.gradients, shapes, strict=True))
        self.dW = [g[: -shape[1]].reshape(shape) for g, shape in parts]
        self.db = [g[-shape[1] :] for g, shape in parts]
        self.ones = np.ones(batch_size, dtype)

    def rows(self, n: int) -> "Workspace":
        """Return the same buffers for a batch of ``n`` samples: views of their first rows."""
        if n == len(self.A[0]):
            return self
        view = object.__new__(Workspace)
        view.A, view.delta = [A[:n] for A in self.A], [delta[:n] for delta in self.delta]
        view.dW, view.db, view.gradients, view.ones = self.dW, self.db, self.gradients, self.ones[:n]
        return view
