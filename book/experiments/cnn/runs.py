"""Training runs of convolutional and dense networks on the same images, in parallel and cached."""

import io
import json
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from joblib import delayed

import data.fashion_mnist
import mlp_core.losses
import mlp_core.network
from book.experiments.checks import check_integer
from book.experiments.cnn import layers, network
from book.experiments.cnn.network import Network, small_network, train
from book.experiments.page.execution import one_thread, parallel
from book.experiments.page.progress import Progress, reported
from book.experiments.page.steps import finish_steps
from book.experiments.page.storage import CachedStep, measured, memory_mapped
from book.sources import digest_of
from data import Split, scale_to_unit
from mlp_core import NeuralNetwork

Array = np.ndarray
ARRAYS = "arrays.npz"
RECORD = "record.json"


class Images(NamedTuple):
    """Images with their labels, in three parts.

    Attributes
    ----------
    train, validation, test : ndarray of uint8, shape (n, 28, 28)
    train_labels, validation_labels, test_labels : ndarray of int, shape (n,)
        0 to 9.
    """

    train: Array
    train_labels: Array
    validation: Array
    validation_labels: Array
    test: Array
    test_labels: Array


class Run(NamedTuple):
    """A finished training run; weights and predictions are those of its best epoch.

    Attributes
    ----------
    validation_accuracy : list of float
        After each epoch.
    best_epoch : int
        The first with the highest validation accuracy, counted from 1.
    cpu_seconds : float
        CPU time of the training, validation included.
    predictions : ndarray of int, shape (n,)
        Classes of the test images.
    parameters : list of ndarray
        Weights and biases, layer by layer.
    """

    validation_accuracy: list[float]
    best_epoch: int
    cpu_seconds: float
    predictions: Array
    parameters: list[Array]

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum(array.size for array in self.parameters)


def images_of(split: Split, num_train: int) -> Images:
    """Return the images of a split, the first ``num_train`` of the training part."""
    check_integer("num_train", num_train, minimum=10, maximum=len(split.train.labels))
    return Images(
        split.train.images[:num_train],
        split.train.labels[:num_train],
        split.validation.images,
        split.validation.labels,
        split.test.images,
        split.test.labels,
    )


def shuffled(images: Array, seed: int) -> Array:
    """Move the pixels of all images by one permutation, drawn with ``seed``; shape (n, H, W) stays."""
    permutation = np.random.default_rng(seed).permutation(images[0].size)
    return images.reshape(len(images), -1)[:, permutation].reshape(images.shape)


def shuffled_images(images: Images, seed: int) -> Images:
    """Apply `shuffled` to all three parts."""
    parts = {name: shuffled(getattr(images, name), seed) for name in ("train", "validation", "test")}
    return images._replace(**parts)


def as_batch(images: Array) -> Array:
    """Grey values in [0, 1], float32, with an axis of one channel: shape (n, H, W, 1)."""
    return scale_to_unit(np.asarray(images))[..., None]


def dense_network(parameters: Sequence[Array]) -> Network:
    """Return a network of dense layers with ReLU between them, made of given parameters.

    Parameters
    ----------
    parameters : sequence of ndarray
        Weights and biases, layer by layer.
    """
    chain: list[layers.Layer] = [layers.Flatten()]
    for W, b in zip(parameters[::2], parameters[1::2], strict=True):
        dense = layers.Dense(*W.shape, rng=np.random.default_rng(0))
        dense.parameters = [W, b]
        chain += [dense, layers.ReLU()]
    return Network(chain[:-1])


def with_parameters(convolutional: Network, parameters: Sequence[Array]) -> Network:
    """Put given parameters, in the order of the layers, into a network; returns it."""
    values = iter(parameters)
    for layer in convolutional.layers:
        layer.parameters = [next(values) for _ in layer.parameters]
    return convolutional


def train_runs(
    runs: Mapping[str, tuple[Images, Mapping[str, Any]]],
    task: str,
) -> dict[str, Run]:
    """Train networks side by side, each on one thread; what is in the cache is loaded.

    Parameters
    ----------
    runs : mapping of names to (images, hyperparameters)
        Hyperparameters are ``seed`` (of weights and order), ``learning_rate``, ``batch_size``, ``num_epochs`` and
        either ``filters`` and ``kernel_size``, of a `small_network`, or ``layer_sizes``, of a dense network.
    task : str
        What the terminal calls this step.

    Returns
    -------
    dict of Run
        Under the names given.
    """
    parts = {id(images): images for images, _ in runs.values()}
    mapped = {key: memory_mapped("images", images._asdict()).values() for key, images in parts.items()}
    hashes = {key: joblib.hash(tuple(images)) for key, images in parts.items()}
    steps = {name: _step(hashes[id(images)], dict(one)) for name, (images, one) in runs.items()}

    def tasks_of(names):
        asked = {name: runs[name] for name in names}
        return {
            name: delayed(_train_one)(dict(one), progress, *mapped[id(images)]) for name, (images, one) in asked.items()
        }

    def found(name):
        progress.advance(runs[name][1]["num_epochs"], "from the cache")

    with reported(task, sum(one["num_epochs"] for _, one in runs.values())) as progress, parallel():
        finish_steps(steps, tasks_of, found)
    return {name: _load(step.folder) for name, step in steps.items()}


def _step(images_hash: str, hyperparameters: dict[str, Any]) -> CachedStep:
    is_dense = "layer_sizes" in hyperparameters
    code = (mlp_core.network, layers) if is_dense else (layers, network)
    depends_on = {
        "images": images_hash,
        "hyperparameters": hyperparameters,
        "code": digest_of(_train, _train_dense, _train_convolutional, mlp_core.losses, data.fashion_mnist, *code),
        "versions": [np.__version__],
    }
    return CachedStep("dense-run" if is_dense else "convolutional-run", depends_on)


def _train_one(hyperparameters: dict[str, Any], progress: Progress, *arrays: Array):
    """Train one network, in whatever process this is; returns its files and the cost."""
    with measured() as cost:
        files = _train(Images(*arrays), hyperparameters, progress)
    return files, cost


def _train(images: Images, hyperparameters: dict[str, Any], progress: Progress) -> dict[str, bytes]:
    """Train one network; returns the content of two files, its record and the arrays of its best epoch."""
    accuracies, best = [], {}

    def on_epoch_end(accuracy: float, parameters: Sequence[Array], predict_test) -> None:
        if accuracy > max(accuracies, default=-1.0):
            best["parameters"] = [array.copy() for array in parameters]
            best["predictions"] = predict_test()
            best["epoch"] = len(accuracies) + 1
        accuracies.append(accuracy)
        progress.advance(note=f"accuracy {accuracy:.3f}")

    start = time.process_time()
    with one_thread():
        (_train_dense if "layer_sizes" in hyperparameters else _train_convolutional)(
            images, hyperparameters, on_epoch_end
        )
    cpu_seconds = time.process_time() - start
    arrays = {f"parameter_{number}": array for number, array in enumerate(best["parameters"])}
    content = io.BytesIO()
    np.savez(content, predictions=best["predictions"].astype(np.uint8), **arrays)
    record = {"validation_accuracy": accuracies, "best_epoch": best["epoch"], "cpu_seconds": cpu_seconds}
    return {ARRAYS: content.getvalue(), RECORD: json.dumps(record).encode()}


def _train_convolutional(images: Images, hyperparameters: dict[str, Any], on_epoch_end) -> None:
    chosen = dict(hyperparameters)
    built = small_network(chosen.pop("filters"), chosen.pop("kernel_size"), seed=chosen["seed"])
    X, V, T = (as_batch(part) for part in (images.train, images.validation, images.test))

    def report(epoch: int, loss: float) -> None:
        accuracy = float(np.mean(built.predict(V) == images.validation_labels))
        parameters = [array for layer in built.layers for array in layer.parameters]
        on_epoch_end(accuracy, parameters, lambda: built.predict(T))

    train(built, X, images.train_labels, **chosen, on_epoch_end=report)


def _train_dense(images: Images, hyperparameters: dict[str, Any], on_epoch_end) -> None:
    sizes = hyperparameters["layer_sizes"]
    X, V, T = (as_batch(part).reshape(len(part), -1) for part in (images.train, images.validation, images.test))
    dense = NeuralNetwork(len(sizes), **hyperparameters).initialize(images.train_labels)
    # The start of the convolutional networks, so that only the layers differ.
    rng = np.random.default_rng(hyperparameters["seed"])
    dense.weights_ = [layers.he_normal(rng, shape, "float32") for shape in pairwise(sizes)]

    def report(trained: NeuralNetwork, epoch: int) -> None:
        pairs = zip(trained.weights_, trained.biases_, strict=True)
        parameters = [array for pair in pairs for array in pair]
        on_epoch_end(trained.history_["validation_accuracy"][-1], parameters, lambda: trained.predict(T))

    dense.resume(X, images.train_labels, (V, images.validation_labels), report)


def _load(folder: Path) -> Run:
    record = json.loads((folder / RECORD).read_text())
    with np.load(folder / ARRAYS) as arrays:
        parameters = [arrays[f"parameter_{number}"] for number in range(len(arrays) - 1)]
        return Run(**record, predictions=arrays["predictions"], parameters=parameters)
