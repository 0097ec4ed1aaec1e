import numpy as np
import pytest
import torch

from book.experiments.mlp.torch_mlp import MODULES, as_torch
from mlp_core import ACTIVATIONS, NeuralNetwork

y = np.arange(12) % 3
X = np.random.default_rng(0).normal(size=(12, 5))


def trained(activation, dtype="float64"):
    network = NeuralNetwork(4, [5, 7, 6, 3], activation, num_epochs=2, batch_size=4, seed=0, dtype=dtype)
    network.fit(X, y)
    for W in network.weights_:
        W *= 30  # so that the activations leave their linear range
    return network


def test_every_activation_of_the_network_has_its_module():
    assert list(MODULES) == list(ACTIVATIONS)


@pytest.mark.parametrize("activation", MODULES)
def test_probabilities_and_gradients_are_those_of_the_network(activation):
    network = trained(activation)
    model = as_torch(network)
    logits = model(torch.from_numpy(X))
    assert logits.softmax(dim=1).detach().numpy() == pytest.approx(network.predict_proba(X), abs=1e-12)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
    _, weight_gradients, bias_gradients = network.gradients(X, y)
    linear = [module for module in model if isinstance(module, torch.nn.Linear)]
    for module, dW, db in zip(linear, weight_gradients, bias_gradients, strict=True):
        assert pytest.approx(dW, abs=1e-12) == module.weight.grad.numpy().T
        assert module.bias.grad.numpy() == pytest.approx(db, abs=1e-12)


def test_the_copy_keeps_the_precision_and_leaves_the_network_alone():
    network = trained("relu", "float32")
    before = [W.copy() for W in network.weights_]
    model = as_torch(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all((old == W).all() for W, old in zip(network.weights_, before, strict=True))
