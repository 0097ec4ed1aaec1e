"""Training runs that several chapters share: in parallel, interruptible, and kept for the next time."""

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import sklearn
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

import mlp_core
from book.experiments.page.progress import Progress, reported
from book.experiments.page.storage import keyed_folder, source_digest, write_json
from data import Part, Split, flatten, scale_to_unit
from mlp_core import DivergenceError, NeuralNetwork, checkpoint_files, load_checkpoint, save_checkpoint

SAFETY_INTERVAL = 10
"""Epochs between the checkpoints that an interrupted training goes on from."""


class LabelledSamples(NamedTuple):
    """What a training sees.

    Attributes
    ----------
    X, X_validation : ndarray of float32, shape (n, 784)
        Grey values in [0, 1].
    y, y_validation : ndarray of int, shape (n,)
    """

    X: np.ndarray
    y: np.ndarray
    X_validation: np.ndarray
    y_validation: np.ndarray


class TrainingRun(NamedTuple):
    """A finished training.

    Attributes
    ----------
    history : dict of list
        As ``NeuralNetwork.history_``.
    diverged_epoch : int or None
        The epoch that could not be finished, if training diverged.
    folder : Path
        Where its checkpoints lie.
    """

    history: dict[str, list]
    diverged_epoch: int | None
    folder: Path


def as_samples(part: Part) -> np.ndarray:
    """Images as rows of 784 grey values in [0, 1], shape (n, 784), float32."""
    return flatten(scale_to_unit(part.images))


def training_samples(split: Split, num_train: int) -> LabelledSamples:
    """Training and validation samples, the training part cut to the first ``num_train / 10`` of each class.

    Raises
    ------
    ValueError
        Unless ``num_train`` is a multiple of 10 from 10 to the size of the training part.
    """
    size = len(split.train.labels)
    if isinstance(num_train, bool) or not isinstance(num_train, int) or num_train % 10 or not 10 <= num_train <= size:
        raise ValueError(f"num_train must be a multiple of 10 from 10 to {size}; got {num_train!r}")
    rank_in_class = np.empty(size, dtype=int)
    for label in range(10):
        members = split.train.labels == label
        rank_in_class[members] = np.arange(members.sum())
    keep = rank_in_class < num_train // 10
    return LabelledSamples(
        as_samples(split.train)[keep],
        split.train.labels[keep],
        as_samples(split.validation),
        split.validation.labels,
    )


def train_networks(
    parameters: Mapping[str, Mapping[str, Any]],
    samples: LabelledSamples,
    checkpoint_epochs: Sequence[int],
    task: str,
) -> dict[str, TrainingRun]:
    """Train several of our networks side by side, each on one thread.

    A finished training is kept under what it depends on and found again; an interrupted one goes on from its last
    checkpoint. Processes are joblib's: choose their number and backend with ``joblib.parallel_config``.

    Parameters
    ----------
    parameters : mapping of names to dict
        Parameters of ``NeuralNetwork``, without ``n_layers``.
    samples : LabelledSamples
    checkpoint_epochs : sequence of int
        Epochs after which weights, biases and state are kept, as far as a training gets; its last epoch always is one.
    task : str
        What the terminal calls this step.

    Returns
    -------
    dict of TrainingRun
        Under the names given.
    """
    return train_all(_train_network, "network", parameters, samples, checkpoint_epochs, task)


def is_checkpoint(epoch: int, num_epochs: int, checkpoint_epochs: Sequence[int]) -> bool:
    """Whether a training is saved after ``epoch``: when asked for, at its end, and now and then for safety."""
    return epoch in (*checkpoint_epochs, num_epochs) or epoch % SAFETY_INTERVAL == 0


def last_checkpoint(folder: Path, before: float = math.inf) -> int:
    """Epoch of the last checkpoint of one of our networks in ``folder`` before an epoch; 0 if there is none."""
    epochs = (int(path.name.split("_")[0]) for path in folder.glob("*_state.npz"))
    return max((epoch for epoch in epochs if epoch < before), default=0)


def check_converged(runs: Mapping[str, TrainingRun]) -> None:
    """Raise ValueError that names each training which diverged, where all of them are needed to the end."""
    diverged = [f"{name} in epoch {run.diverged_epoch}" for name, run in runs.items() if run.diverged_epoch]
    if diverged:
        raise ValueError(f"learning_rate must be low enough for training to end; diverged: {', '.join(diverged)}")


def deliver_checkpoints(training: TrainingRun, activation: str, epochs: Sequence[int], folder: Path) -> list[Path]:
    """Copy a training's pickles, two for each of ``epochs``, into ``folder``; returns their new paths."""
    delivered = []
    for epoch in epochs:
        files = checkpoint_files(training.folder, epoch, activation)
        delivered += [Path(shutil.copy(source, folder)) for source in (files.weights, files.biases)]
    return delivered


def train_all(
    train: Callable[..., tuple[dict[str, list], int | None]],
    kind: str,
    parameters: Mapping[str, Mapping[str, Any]],
    samples: LabelledSamples,
    checkpoint_epochs: Sequence[int],
    task: str,
) -> dict[str, TrainingRun]:
    """Run ``train`` for each set of parameters, unless its result is already there.

    Parameters
    ----------
    train : callable
        ``(parameters, samples, checkpoint_epochs, folder, progress) -> (history, diverged_epoch)``; writes its
        checkpoints into ``folder``, goes on from those it finds there, and reports each epoch.
    kind : str
        The readable part of the folder's name.
    parameters, samples, checkpoint_epochs, task
        As :func:`train_networks`.

    Returns
    -------
    dict of TrainingRun
    """
    longest = max(one["num_epochs"] for one in parameters.values())
    for epoch in checkpoint_epochs:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 1 <= epoch <= longest:
            raise ValueError(f"checkpoint_epochs must be integers from 1 to num_epochs = {longest}; got {epoch!r}")
    depends_on = {
        "samples": joblib.hash(tuple(samples)),
        "checkpoint_epochs": list(checkpoint_epochs),
        "source": source_digest(sys.modules[train.__module__], mlp_core),
        "versions": [np.__version__, sklearn.__version__],
    }
    folders = {
        name: keyed_folder(f"{kind}-{one['activation']}", depends_on | {"parameters": dict(one)})
        for name, one in parameters.items()
    }
    with reported(task, sum(one["num_epochs"] for one in parameters.values())) as progress:
        runs = Parallel()(
            delayed(_train_or_find)(train, one, samples, checkpoint_epochs, folders[name], progress)
            for name, one in parameters.items()
        )
    return dict(zip(parameters, runs, strict=True))


def _train_or_find(train, parameters, samples, checkpoint_epochs, folder, progress):
    result_file = folder / "result.json"
    if result_file.exists():
        progress.advance(parameters["num_epochs"], "found")
    else:
        with threadpool_limits(limits=1):
            history, diverged_epoch = train(parameters, samples, checkpoint_epochs, folder, progress)
        write_json(result_file, {"history": history, "diverged_epoch": diverged_epoch})
    return TrainingRun(**json.loads(result_file.read_text()), folder=folder)


def _train_network(parameters, samples, checkpoint_epochs, folder, progress: Progress):
    network = NeuralNetwork(len(parameters["layer_sizes"]), **parameters)
    finished = last_checkpoint(folder)
    train = network.fit
    if finished:
        train = load_checkpoint(network, folder, finished).resume
        progress.advance(finished, "found")

    def keep(network: NeuralNetwork, epoch: int) -> None:
        if is_checkpoint(epoch, network.num_epochs, checkpoint_epochs):
            save_checkpoint(network, folder)
        progress.advance(note=f"{network.activation}, loss {network.history_['train_loss'][-1]:.3f}")

    try:
        train(samples.X, samples.y, (samples.X_validation, samples.y_validation), keep)
    except DivergenceError as error:
        progress.advance(network.num_epochs - error.epoch + 1, f"{network.activation} diverged")
        return network.history_, error.epoch
    return network.history_, None
