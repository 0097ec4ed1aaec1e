"""scikit-learn's multilayer perceptron, trained under the settings of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from book.experiments.mlp.runs import LabelledSamples, TrainingRun, is_checkpoint, train_all
from book.experiments.page.progress import Progress
from mlp_core import WEIGHT_INITS, NeuralNetwork

SKLEARN_ACTIVATIONS = {"relu": "relu", "sigmoid": "logistic", "linear": "identity", "tanh": "tanh"}
"""scikit-learn's name for each of our activations."""


def train_sklearn_mlps(
    parameters: Mapping[str, Mapping[str, Any]],
    samples: LabelledSamples,
    checkpoint_epochs: Sequence[int],
    task: str,
) -> dict[str, TrainingRun]:
    """Train scikit-learn's networks as :func:`~book.experiments.mlp.runs.train_networks` trains ours.

    Plain SGD on the cross-entropy: no momentum, no L2 penalty, a constant rate, weights from Normal(0, 1) * 0.01,
    biases zero. Losses and accuracies are computed from scikit-learn's weights by the code that computes ours.

    Parameters
    ----------
    parameters : mapping of names to dict
        Each with ``layer_sizes``, ``activation`` (our name for it), ``learning_rate``, ``batch_size``,
        ``num_epochs`` and ``seed``.
    samples, checkpoint_epochs, task
        As for ours. A checkpoint is the file :func:`sklearn_checkpoint`.
    """
    return train_all(_train_sklearn_mlp, "sklearn", parameters, samples, checkpoint_epochs, task)


def new_sklearn_mlp(parameters: Mapping[str, Any], X: np.ndarray, y: np.ndarray) -> MLPClassifier:
    """Build scikit-learn's network, its initial weights drawn as ours are.

    scikit-learn makes its arrays in a first ``partial_fit``; they are then overwritten. Its random state is an
    object: with a number, each later ``partial_fit`` would replay the same order of batches.

    Parameters
    ----------
    parameters : mapping
        See :func:`train_sklearn_mlps`.
    X, y : ndarray of shape (n, d), (n,)
        Samples of every class.
    """
    mlp = MLPClassifier(
        hidden_layer_sizes=parameters["layer_sizes"][1:-1],
        activation=SKLEARN_ACTIVATIONS[parameters["activation"]],
        solver="sgd",
        alpha=0.0,
        batch_size=parameters["batch_size"],
        learning_rate_init=parameters["learning_rate"],
        momentum=0.0,
        random_state=np.random.RandomState(parameters["seed"]),
    )
    first_batch = slice(parameters["batch_size"])
    mlp.partial_fit(X[first_batch], y[first_batch], classes=np.unique(y))
    rng = np.random.default_rng(parameters["seed"])
    for W, b in zip(mlp.coefs_, mlp.intercepts_, strict=True):
        W[...], b[...] = WEIGHT_INITS["normal"](rng, *W.shape), 0
    return mlp


def sklearn_checkpoint(folder: Path, epoch: int, activation: str) -> Path:
    """Path of a checkpoint, ``<epoch>_<activation>_scikit_learn.npz``."""
    return folder / f"{epoch}_{activation}_scikit_learn.npz"


def load_sklearn_mlp(path: Path, mlp: MLPClassifier) -> MLPClassifier:
    """Put saved weights, biases and the state of the shuffle into a network from :func:`new_sklearn_mlp`."""
    with np.load(path, allow_pickle=False) as saved:
        for i, (W, b) in enumerate(zip(mlp.coefs_, mlp.intercepts_, strict=True)):
            W[...], b[...] = saved[f"coefs_{i}"], saved[f"intercepts_{i}"]
        mlp.random_state.set_state(("MT19937", saved["shuffle_keys"], int(saved["shuffle_position"])))
    return mlp


def with_sklearn_weights(network: NeuralNetwork, mlp: MLPClassifier) -> NeuralNetwork:
    """Let one of our networks compute with scikit-learn's weights, shared and not copied."""
    network.weights_, network.biases_, network.classes_ = mlp.coefs_, mlp.intercepts_, mlp.classes_
    return network


def _train_sklearn_mlp(parameters, samples, checkpoint_epochs, folder, progress: Progress):
    mlp = new_sklearn_mlp(parameters, samples.X, samples.y)
    activation, num_epochs = parameters["activation"], parameters["num_epochs"]
    layer_sizes = parameters["layer_sizes"]
    probe = with_sklearn_weights(NeuralNetwork(len(layer_sizes), layer_sizes, activation), mlp)
    history = {"train_loss": [], "train_accuracy": [], "validation_loss": [], "validation_accuracy": []}
    finished = max((int(path.name.split("_")[0]) for path in folder.glob("*_scikit_learn.npz")), default=0)
    if finished:
        path = sklearn_checkpoint(folder, finished, activation)
        load_sklearn_mlp(path, mlp)
        with np.load(path) as saved:
            history = {key: saved[key].tolist() for key in history}
        progress.advance(finished, "found")
    for epoch in range(finished + 1, num_epochs + 1):
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                mlp.partial_fit(samples.X, samples.y)
        except ValueError:  # scikit-learn's word for weights that are not finite, among other things
            if all(np.isfinite(W).all() for W in mlp.coefs_):
                raise
            progress.advance(num_epochs - epoch + 1, f"{activation} diverged")
            return history, epoch
        train = probe.evaluate(samples.X, samples.y)
        validation = probe.evaluate(samples.X_validation, samples.y_validation)
        for key, value in zip(history, (*train, *validation), strict=True):
            history[key].append(value)
        if is_checkpoint(epoch, num_epochs, checkpoint_epochs):
            _save(mlp, history, sklearn_checkpoint(folder, epoch, activation))
        progress.advance(note=f"{activation}, loss {train[0]:.3f}")
    return history, None


def _save(mlp: MLPClassifier, history: Mapping[str, list], path: Path) -> None:
    _, shuffle_keys, shuffle_position, *_ = mlp.random_state.get_state()
    arrays = {f"coefs_{i}": W for i, W in enumerate(mlp.coefs_)}
    arrays |= {f"intercepts_{i}": b for i, b in enumerate(mlp.intercepts_)}
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, shuffle_keys=shuffle_keys, shuffle_position=shuffle_position, **arrays, **history)
    temporary.replace(path)
