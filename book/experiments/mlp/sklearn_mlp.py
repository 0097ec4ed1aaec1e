"""scikit-learn's multilayer perceptron, trained with the hyperparameters of the NumPy network."""

import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

import mlp_core
from book.experiments.mlp.runs import TrainingRun, cached_runs, modules_of, saved_epochs
from book.experiments.mlp.samples import LabelledSamples
from book.experiments.page.progress import Progress
from book.files import write_atomically
from book.sources import digest_of
from mlp_core import WEIGHT_INITS, CheckpointError, NeuralNetwork

SKLEARN_ACTIVATIONS = {"relu": "relu", "sigmoid": "logistic", "linear": "identity", "tanh": "tanh"}
"""scikit-learn's name for each activation of the NumPy network."""

HISTORY_KEYS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def train_sklearn_mlps(
    hyperparameters: Mapping[str, Mapping[str, Any]],
    samples: LabelledSamples,
    checkpoint_epochs: Sequence[int],
    task: str,
) -> dict[str, TrainingRun]:
    """Train scikit-learn's networks as :func:`~book.experiments.mlp.runs.train_networks` trains NumPy networks.

    Plain SGD on the cross-entropy: no momentum, no L2 penalty, a constant learning rate, weights from
    Normal(0, 1) * 0.01, biases zero. Losses and accuracies are computed from scikit-learn's weights by the code that
    computes those of the NumPy network.

    Parameters
    ----------
    hyperparameters : mapping of names to dict
        Each with ``layer_sizes``, ``activation`` (the NumPy network's name for it), ``learning_rate``,
        ``batch_size``, ``num_epochs`` and ``seed``.
    samples, checkpoint_epochs, task
        As for the NumPy networks. A checkpoint is the file :func:`sklearn_checkpoint`.
    """
    made_by = digest_of(sys.modules[__name__], saved_epochs, *modules_of(mlp_core))
    return cached_runs(_train_sklearn_mlp, made_by, "sklearn", hyperparameters, samples, checkpoint_epochs, task)


def new_sklearn_mlp(
    hyperparameters: Mapping[str, Any],
    X: np.ndarray,
    y: np.ndarray,
) -> MLPClassifier:
    """Build scikit-learn's network, with initial weights drawn like ours.

    scikit-learn makes its arrays in a first ``partial_fit``; they are then
    overwritten. Its random state is an object: with a number, each later
    ``partial_fit`` would replay the same order of batches.

    Parameters
    ----------
    hyperparameters : mapping
        See :func:`train_sklearn_mlps`.
    X, y : ndarray of shape (n, d), (n,)
        Samples of every class.
    """
    mlp = MLPClassifier(
        hidden_layer_sizes=hyperparameters["layer_sizes"][1:-1],
        activation=SKLEARN_ACTIVATIONS[hyperparameters["activation"]],
        solver="sgd",
        alpha=0.0,
        batch_size=hyperparameters["batch_size"],
        learning_rate_init=hyperparameters["learning_rate"],
        momentum=0.0,
        random_state=np.random.RandomState(hyperparameters["seed"]),
    )
    first_batch = slice(hyperparameters["batch_size"])
    mlp.partial_fit(X[first_batch], y[first_batch], classes=np.unique(y))
    rng = np.random.default_rng(hyperparameters["seed"])
    for W, b in zip(mlp.coefs_, mlp.intercepts_, strict=True):
        W[...], b[...] = WEIGHT_INITS["normal"](rng, *W.shape), 0
    return mlp


def sklearn_checkpoint(folder: Path, epoch: int, activation: str) -> Path:
    """Path of a checkpoint, ``<epoch>_<activation>_scikit_learn.npz``."""
    return folder / f"{epoch}_{activation}_scikit_learn.npz"


def load_sklearn_mlp(path: Path, mlp: MLPClassifier) -> MLPClassifier:
    """Put saved weights, biases and the state of the shuffle into a network from :func:`new_sklearn_mlp`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or of another network; the network is then left as it was.
    """
    saved = _read(path)
    found = [saved[key] for key in sorted(saved) if key.startswith(("coefs_", "intercepts_"))]
    if [array.shape for array in found] != [array.shape for array in (*mlp.coefs_, *mlp.intercepts_)]:
        raise CheckpointError(f"{path} holds the weights of another network")
    for i, (W, b) in enumerate(zip(mlp.coefs_, mlp.intercepts_, strict=True)):
        W[...], b[...] = saved[f"coefs_{i}"], saved[f"intercepts_{i}"]
    mlp.random_state.set_state(("MT19937", saved["shuffle_keys"], int(saved["shuffle_position"])))
    return mlp


def with_sklearn_weights(network: NeuralNetwork, mlp: MLPClassifier) -> NeuralNetwork:
    """Let a NumPy network compute with scikit-learn's weights, shared and not copied."""
    network.weights_, network.biases_, network.classes_ = mlp.coefs_, mlp.intercepts_, mlp.classes_
    return network


def _train_sklearn_mlp(hyperparameters, samples, checkpoint_epochs, folder, progress: Progress):
    mlp = new_sklearn_mlp(hyperparameters, samples.X, samples.y)
    activation, num_epochs = hyperparameters["activation"], hyperparameters["num_epochs"]
    layer_sizes = hyperparameters["layer_sizes"]
    probe = with_sklearn_weights(NeuralNetwork(len(layer_sizes), layer_sizes, activation), mlp)
    epochs = saved_epochs(num_epochs, checkpoint_epochs)
    finished, history = _load_last_checkpoint(mlp, folder, activation, epochs)
    if finished:
        progress.advance(finished, "from a checkpoint")
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
        for key, value in zip(HISTORY_KEYS, (*train, *validation), strict=True):
            history[key].append(value)
        if epoch in epochs:
            _save(mlp, history, sklearn_checkpoint(folder, epoch, activation))
        progress.advance(note=f"{activation}, loss {train[0]:.3f}")
    return history, None


def _load_last_checkpoint(
    mlp: MLPClassifier, folder: Path, activation: str, epochs: Sequence[int]
) -> tuple[int, dict[str, list]]:
    """Load the last checkpoint up to which all are whole; returns its epoch, 0 if there is none, and its history."""
    finished, history = 0, {key: [] for key in HISTORY_KEYS}
    for epoch in epochs:
        path = sklearn_checkpoint(folder, epoch, activation)
        try:
            load_sklearn_mlp(path, mlp)
        except CheckpointError:
            break
        finished = epoch
    if finished:
        saved = _read(sklearn_checkpoint(folder, finished, activation))
        history = {key: saved[key].tolist() for key in HISTORY_KEYS}
    return finished, history


def _save(mlp: MLPClassifier, history: Mapping[str, list], path: Path) -> None:
    _, shuffle_keys, shuffle_position, *_ = mlp.random_state.get_state()
    arrays = {f"coefs_{i}": W for i, W in enumerate(mlp.coefs_)}
    arrays |= {f"intercepts_{i}": b for i, b in enumerate(mlp.intercepts_)}
    arrays |= {"shuffle_keys": shuffle_keys, "shuffle_position": np.array(shuffle_position)}
    arrays |= {key: np.array(values) for key, values in history.items()}
    content = io.BytesIO()
    np.savez(content, **arrays, sha256=np.array(_digest(arrays)))
    write_atomically(path, content.getvalue())


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint and compare them with their digest."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file}
        is_whole = str(arrays.pop("sha256")) == _digest(arrays)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # a damaged archive fails in as many ways as zip and NumPy have
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not is_whole:
        raise CheckpointError(f"{path} is damaged: it does not hold what was written to it")
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
