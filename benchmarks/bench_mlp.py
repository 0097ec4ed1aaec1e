"""Seconds for one training epoch of the 784-256-128-64-10 network: ours, scikit-learn's, PyTorch's, and the floor.

All run on one thread in float32 on the same 56,000 images in batches of 32, in turn, several rounds; what counts is the
ratio within a round, because the machine's speed drifts. The floor is the bare matrix products of one epoch: no
implementation that calls the same BLAS can be faster.
"""

import time
import warnings
from itertools import pairwise

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from data import flatten, scale_to_unit, split_80_10_10
from mlp_core import NeuralNetwork

SIZES = [784, 256, 128, 64, 10]
LEARNING_RATE, BATCH_SIZE = 0.1, 32
ROUNDS = 7


def numpy_epoch(X, y):
    """One epoch of our network, without the evaluation on the whole training set that ``fit`` adds."""
    network = NeuralNetwork(len(SIZES), SIZES, learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, seed=0).initialize(y)
    return lambda: network._train_epoch(X, y, epoch=1)


def numpy_fit(X, y):
    """One epoch of ``fit`` as a user calls it, with loss and accuracy of the whole training set."""
    network = NeuralNetwork(len(SIZES), SIZES, learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, num_epochs=1, seed=0)
    return lambda: network.fit(X, y)


def sklearn_epoch(X, y):
    """One epoch of scikit-learn's network."""
    mlp = MLPClassifier(
        SIZES[1:-1],
        solver="sgd",
        momentum=0,
        alpha=0,
        batch_size=BATCH_SIZE,
        learning_rate_init=LEARNING_RATE,
        random_state=np.random.RandomState(0),
    )
    return lambda: mlp.partial_fit(X, y, classes=np.arange(10))


def torch_epoch(X, y):
    """One epoch in eager PyTorch, written as in its tutorials, without the overhead of a data loader."""
    layers = []
    for fan_in, fan_out in pairwise(SIZES):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_function = torch.nn.CrossEntropyLoss()
    X, y = torch.from_numpy(X), torch.from_numpy(y)

    def epoch():
        order = torch.randperm(len(X))
        for start in range(0, len(X), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            optimizer.zero_grad()
            loss_function(model(X[batch]), y[batch]).backward()
            optimizer.step()

    return epoch


def matrix_products(X, y):
    """Only the matrix products of one epoch: forward, gradients of the weights, gradients passed back."""
    rng = np.random.default_rng(0)
    A = [rng.random((BATCH_SIZE, size), dtype=np.float32) for size in SIZES]
    W = [rng.random(shape, dtype=np.float32) for shape in pairwise(SIZES)]

    def epoch():
        for _ in range(0, len(X), BATCH_SIZE):
            for layer in range(len(W)):
                A[layer] @ W[layer]
            for layer in reversed(range(len(W))):
                A[layer].T @ A[layer + 1]
                if layer > 0:
                    A[layer + 1] @ W[layer].T

    return epoch


def main():
    """Measure and print a table."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    train = split_80_10_10(seed=0).train
    X, y = flatten(scale_to_unit(train.images)), train.labels
    contestants = {
        "NumPy network, training pass": numpy_epoch(X, y),
        "NumPy network, fit": numpy_fit(X, y),
        "scikit-learn": sklearn_epoch(X, y),
        "PyTorch, eager": torch_epoch(X, y),
        "matrix products alone": matrix_products(X, y),
    }
    seconds = {name: [] for name in contestants}
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        for _ in range(ROUNDS + 1):
            for name, run in contestants.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    seconds = {name: np.array(measured[1:]) for name, measured in seconds.items()}  # the first round warms up
    own = seconds["NumPy network, training pass"]
    print(
        f"One epoch, {len(X):,} images, batches of {BATCH_SIZE}, float32, one thread; median of {ROUNDS} rounds in turn"
    )
    print(f"{'':30}{'seconds':>9}{'images/s':>10}   times our training pass (min to max)")
    for name, measured in seconds.items():
        ratio = measured / own
        print(
            f"{name:30}{np.median(measured):9.2f}{len(X) / np.median(measured):10,.0f}"
            f"{np.median(ratio):8.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
        )


if __name__ == "__main__":
    main()
