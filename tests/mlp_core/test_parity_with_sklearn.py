"""The network takes the same steps as scikit-learn's MLP from the same weights and on the same batches."""

import copy

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import data
from mlp_core import NeuralNetwork

LAYER_SIZES = [784, 256, 128, 64, 10]
N_SAMPLES = 1590  # 49 batches of 32 and one of 22: the smaller batch is compared as well
N_EPOCHS = 4
N_STEPS = 200
SCIKIT_LEARNS_NAME = {"relu": "relu", "sigmoid": "logistic", "tanh": "tanh", "linear": "identity"}


@pytest.fixture(autouse=True)
def one_thread():
    """Keep BLAS to one thread: on small matrices its threads wait for each other, for minutes on a busy machine."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def fashion_mnist():
    """Images and labels of the training set's beginning, in float64."""
    train = data.load_fashion_mnist().train
    images = train.images[:N_SAMPLES].reshape(N_SAMPLES, -1)
    return images / 255.0, train.labels[:N_SAMPLES]


def make_network(activation):
    return NeuralNetwork(5, LAYER_SIZES, activation, num_epochs=N_EPOCHS, seed=0, dtype="float64")


def batches_of(network):
    """Yield the indices of each batch of the whole training, from a copy of the initialised network's shuffling."""
    rng = copy.deepcopy(network._shuffle_rng)
    for _ in range(network.num_epochs):
        order = rng.permutation(N_SAMPLES)
        for start in range(0, N_SAMPLES, network.batch_size):
            yield order[start : start + network.batch_size]


def train_scikit_learns(initial, X, y):
    """Train scikit-learn's MLP by plain gradient descent, one ``partial_fit`` for each of our batches."""
    mlp = MLPClassifier(
        hidden_layer_sizes=LAYER_SIZES[1:-1],
        activation=SCIKIT_LEARNS_NAME[initial.activation],
        solver="sgd",
        learning_rate="constant",
        learning_rate_init=initial.learning_rate,
        momentum=0,
        nesterovs_momentum=False,
        alpha=0,
        batch_size=initial.batch_size,
        shuffle=False,
        random_state=0,
    )
    mlp.partial_fit(X[: initial.batch_size], y[: initial.batch_size], classes=np.arange(10))
    for theirs, ours in zip(mlp.coefs_ + mlp.intercepts_, initial.weights_ + initial.biases_, strict=True):
        theirs[...] = ours
    n_steps = 0
    for batch in batches_of(initial):
        mlp.batch_size = len(batch)  # scikit-learn warns of a batch size above the number of samples
        mlp.partial_fit(X[batch], y[batch])
        n_steps += 1
    assert n_steps == N_STEPS
    return mlp


@pytest.mark.parametrize("activation", SCIKIT_LEARNS_NAME)
def test_weights_after_200_steps_agree_with_scikit_learns(activation, fashion_mnist):
    X, y = fashion_mnist
    initial = make_network(activation).initialize(y)
    network = make_network(activation).fit(X, y)
    mlp = train_scikit_learns(initial, X, y)
    start = initial.weights_ + initial.biases_
    ours = network.weights_ + network.biases_
    theirs = mlp.coefs_ + mlp.intercepts_
    for first, found, expected in zip(start, ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
        # Agreement says something only of parameters that moved by far more than the tolerance.
        assert np.abs(expected - first).max() > 1e-6
    np.testing.assert_allclose(network.predict_proba(X), mlp.predict_proba(X), rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(network.predict(X), mlp.predict(X))
