"""CPU time of one training epoch of the 784-256-128-64-10 network: ours, its peers', and that of the bare products.

All run on one thread in float32 on the same images in batches of 32, in turn, several rounds; what counts is the ratio
within a round, because the machine's speed drifts, and CPU time, because other processes run beside it. The floor is
the bare matrix products of one epoch into arrays that are there already: no implementation that calls the same BLAS
with these batches can be faster. PyTorch and JAX bring a BLAS of their own.
"""

import importlib.util
import os
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
NUM_IMAGES = 32_000  # whole batches, so that a compiled step sees one shape
ROUNDS = 7
FLOOR, OURS = "matrix products alone", "NumPy network, training pass"


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


def torch_epoch(X, y, compiled=False):
    """One epoch in PyTorch, written as in its tutorials, without the overhead of a data loader."""
    layers = []
    for fan_in, fan_out in pairwise(SIZES):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_function = torch.nn.CrossEntropyLoss()
    X, y = torch.from_numpy(X), torch.from_numpy(y)

    def loss_of(inputs, labels):
        return loss_function(model(inputs), labels)

    if compiled:
        loss_of = torch.compile(loss_of)

    def epoch():
        order = torch.randperm(len(X))
        for start in range(0, len(X), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            optimizer.zero_grad()
            loss_of(X[batch], y[batch]).backward()
            optimizer.step()

    return epoch


def jax_epoch(X, y):
    """One epoch in JAX: a scan over the batches, compiled as a whole; the images in the order of a permutation."""
    import jax
    import jax.numpy as jnp

    def loss(parameters, X, y):
        *hidden, (W_last, b_last) = parameters
        for W, b in hidden:
            X = jnp.maximum(X @ W + b, 0)
        logits = X @ W_last + b_last
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()

    def step(parameters, batch):
        gradients = jax.grad(loss)(parameters, *batch)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients), None

    scan = jax.jit(lambda parameters, batches: jax.lax.scan(step, parameters, batches)[0])
    rng = np.random.default_rng(0)
    state = [[(0.01 * rng.standard_normal(s, np.float32), np.zeros(s[1], np.float32)) for s in pairwise(SIZES)]]

    def epoch():
        order = rng.permutation(len(X)).reshape(-1, BATCH_SIZE)
        state[0] = jax.block_until_ready(scan(state[0], (X[order], y[order])))

    return epoch


def matrix_products(X, y):
    """Only the matrix products of one epoch: forward, gradients of the weights, gradients passed back."""
    rng = np.random.default_rng(0)
    A = [rng.random((BATCH_SIZE, size), dtype=np.float32) for size in SIZES]
    W = [rng.random(shape, dtype=np.float32) for shape in pairwise(SIZES)]
    outputs, dA, dW = ([np.empty_like(array) for array in arrays] for arrays in (A, A, W))

    def epoch():
        for _ in range(0, len(X), BATCH_SIZE):
            for layer in range(len(W)):
                np.matmul(A[layer], W[layer], out=outputs[layer + 1])
            for layer in reversed(range(len(W))):
                np.matmul(A[layer].T, A[layer + 1], out=dW[layer])
                if layer > 0:
                    np.matmul(A[layer + 1], W[layer].T, out=dA[layer])

    return epoch


def contestants_for(X, y):
    """Return a function that runs one epoch for each contestant, by name; those that can't run here are left out."""
    found = {
        FLOOR: matrix_products(X, y),
        OURS: numpy_epoch(X, y),
        "NumPy network, fit": numpy_fit(X, y),
        "scikit-learn": sklearn_epoch(X, y),
        "PyTorch, eager": torch_epoch(X, y),
    }
    compiled = torch_epoch(X, y, compiled=True)
    try:
        compiled()
        found["PyTorch, torch.compile"] = compiled
    except Exception as error:  # without a C++ compiler, for instance
        print(f"torch.compile does not work here: {type(error).__name__}")
    if importlib.util.find_spec("jax"):
        found["JAX, jitted scan"] = jax_epoch(X, y)
    else:
        print("JAX is not installed and left out: pip install jax")
    return found


def main():
    """Measure and print a table."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    # Neither of the two limits below reaches JAX's pool of threads, which is as large as the cores are many.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    train = split_80_10_10(seed=0).train
    X, y = flatten(scale_to_unit(train.images))[:NUM_IMAGES], train.labels[:NUM_IMAGES]
    with threadpool_limits(limits=1):
        contestants = contestants_for(X, y)
        cpu, wall = ({name: [] for name in contestants} for _ in range(2))
        for _ in range(ROUNDS + 1):
            for name, run in contestants.items():
                started = time.process_time(), time.perf_counter()
                run()
                cpu[name].append(time.process_time() - started[0])
                wall[name].append(time.perf_counter() - started[1])
    cpu, wall = ({name: np.array(values[1:]) for name, values in measured.items()} for measured in (cpu, wall))
    print(
        f"One epoch, {len(X):,} images, batches of {BATCH_SIZE}, float32, one thread; medians of {ROUNDS} rounds in "
        "turn (the first of all warms up); ratios of CPU time, with the smallest and the largest"
    )
    print(f"{'':29}{'CPU s':>7}{'wall s':>8}   {'times the products':22} times our training pass")
    for name in contestants:
        ratios = (
            f"{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})"
            for r in (cpu[name] / cpu[FLOOR], cpu[name] / cpu[OURS])
        )
        print(f"{name:29}{np.median(cpu[name]):7.2f}{np.median(wall[name]):8.2f}   {next(ratios):22} {next(ratios)}")


if __name__ == "__main__":
    main()
