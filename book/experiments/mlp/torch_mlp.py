"""Our NumPy network in PyTorch, for derivatives of whatever is computed from its logits."""

import torch
from torch import nn

from mlp_core import NeuralNetwork

MODULES = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
    "tanh": nn.Tanh,
    "softmax": lambda: nn.Softmax(dim=1),
}
"""The activations of ``mlp_core`` in PyTorch."""


def as_torch(network: NeuralNetwork) -> nn.Sequential:
    """Copy a network into PyTorch.

    Parameters
    ----------
    network : NeuralNetwork
        With weights.

    Returns
    -------
    nn.Sequential
        From samples of shape (n, layer_sizes[0]) to logits of shape (n, layer_sizes[-1]), in the network's precision.
    """
    modules = []
    for W, b in zip(network.weights_, network.biases_, strict=True):
        linear = nn.Linear(*W.shape, dtype=torch.from_numpy(W).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        modules += [linear, MODULES[network.activation]()]
    return nn.Sequential(*modules[:-1])
