"""A multilayer perceptron in NumPy: forward pass, back-propagation and mini-batch gradient descent.

Notation, the same in code and in the book: a batch of n samples is a matrix with one sample a row,
``A[0] = X``, ``Z[l] = A[l-1] @ W[l] + b[l]``, ``A[l] = phi(Z[l])`` in the hidden layers, and
``P = softmax(Z[L])`` at the output. ``delta[l]`` is the gradient of the mean cross-entropy with respect to ``Z[l]``.
"""

from mlp_core.activations import ACTIVATIONS, Activation, softmax
from mlp_core.checkpoints import (
    CheckpointError,
    checkpoint_files,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from mlp_core.initialization import WEIGHT_INITS
from mlp_core.losses import cross_entropy
from mlp_core.network import DivergenceError, NeuralNetwork, NotFittedError
from mlp_core.workspace import Workspace

__all__ = [
    "ACTIVATIONS",
    "WEIGHT_INITS",
    "Activation",
    "CheckpointError",
    "DivergenceError",
    "NeuralNetwork",
    "NotFittedError",
    "Workspace",
    "checkpoint_files",
    "cross_entropy",
    "load_checkpoint",
    "load_parameters",
    "save_checkpoint",
    "softmax",
]
