"""Training runs that several chapters share: in parallel, interruptible, and cached."""

import importlib
import json
import pkgutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import joblib
import numpy as np
import sklearn

import mlp_core
from book.experiments.checks import check_integer
from book.experiments.mlp.samples import LabelledSamples
from book.experiments.page.execution import one_thread
from book.experiments.page.progress import Progress, reported
from book.experiments.page.steps import finish_steps
from book.experiments.page.storage import CachedStep, measured, memory_mapped
from book.files import write_atomically
from book.sources import digest_of
from mlp_core import (
    CheckpointError,
    DivergenceError,
    NeuralNetwork,
    checkpoint_files,
    load_checkpoint,
    save_checkpoint,
)

SAFETY_INTERVAL = 10
"""Epochs between the checkpoints from which an interrupted training run is resumed."""

RESULT = "result.json"
OWNER = ".owner"
"""File by which a worker finds out whether it sees the cache folder of the process that sent the work."""


class TrainingRun(NamedTuple):
    """A finished training run.

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


def train_networks(
    hyperparameters: Mapping[str, Mapping[str, Any]],
    samples: LabelledSamples,
    checkpoint_epochs: Sequence[int],
    task: str,
) -> dict[str, TrainingRun]:
    """Train several NumPy networks side by side, each on one thread.

    A finished training run is loaded from the cache; an interrupted one is resumed from its last checkpoint. Within
    :func:`book.experiments.page.execution.parallel` the runs are distributed.

    Parameters
    ----------
    hyperparameters : mapping of names to dict
        Parameters of ``NeuralNetwork``, without ``n_layers``.
    samples : LabelledSamples
    checkpoint_epochs : sequence of int
        Epochs after which weights, biases and state are saved, as far as a run gets; its last epoch always is one.
    task : str
        What the terminal calls this step.

    Returns
    -------
    dict of TrainingRun
        Under the names given.
    """
    made_by = digest_of(_train_network, saved_epochs, _load_last_checkpoint, *modules_of(mlp_core))
    return cached_runs(_train_network, made_by, "network", hyperparameters, samples, checkpoint_epochs, task)


def modules_of(package: ModuleType) -> list[ModuleType]:
    """Return the modules of a package, for a digest of all its code."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def saved_epochs(num_epochs: int, checkpoint_epochs: Sequence[int]) -> list[int]:
    """Epochs after which a network is saved: those asked for, the last one, and now and then one for safety."""
    wanted = {*checkpoint_epochs, *range(SAFETY_INTERVAL, num_epochs, SAFETY_INTERVAL), num_epochs}
    return sorted(epoch for epoch in wanted if epoch <= num_epochs)


def check_converged(runs: Mapping[str, TrainingRun]) -> None:
    """Raise ValueError that names each run that diverged, where all of them are needed to the end."""
    diverged = [f"{name} in epoch {run.diverged_epoch}" for name, run in runs.items() if run.diverged_epoch]
    if diverged:
        raise ValueError(f"learning_rate must be low enough for training to end; diverged: {', '.join(diverged)}")


def copy_checkpoints(run: TrainingRun, activation: str, epochs: Sequence[int], folder: Path) -> list[Path]:
    """Copy the pickles of a run, two for each of ``epochs``, into ``folder``; returns their new paths."""
    copies = []
    for epoch in epochs:
        files = checkpoint_files(run.folder, epoch, activation)
        for source in (files.weights, files.biases):
            copies.append(folder / source.name)
            write_atomically(copies[-1], source.read_bytes())
    return copies


def cached_runs(
    train: Callable[..., tuple[dict[str, list], int | None]],
    made_by: str,
    kind: str,
    hyperparameters: Mapping[str, Mapping[str, Any]],
    samples: LabelledSamples,
    checkpoint_epochs: Sequence[int],
    task: str,
) -> dict[str, TrainingRun]:
    """Call ``train`` for each set of hyperparameters whose result is not in the cache.

    Parameters
    ----------
    train : callable
        ``(hyperparameters, samples, checkpoint_epochs, folder, progress) -> (history, diverged_epoch)``; writes its
        checkpoints into ``folder``, resumes from the last whole one that it finds there, and reports each epoch.
    made_by : str
        Digest of the code that ``train`` runs.
    kind : str
        The readable part of the folder's name.
    hyperparameters, samples, checkpoint_epochs, task
        As :func:`train_networks`.

    Returns
    -------
    dict of TrainingRun

    Raises
    ------
    ValueError
        For a checkpoint after the last epoch.
    """
    longest = max(one["num_epochs"] for one in hyperparameters.values())
    for i, epoch in enumerate(checkpoint_epochs):
        check_integer(f"checkpoint_epochs[{i}]", epoch, 1, longest)
    depends_on = {
        "samples": joblib.hash(tuple(samples)),
        "checkpoint_epochs": list(checkpoint_epochs),
        "code": made_by,
        "versions": [np.__version__, sklearn.__version__],
    }
    steps = {
        name: CachedStep(f"{kind}-{one['activation']}", depends_on | {"hyperparameters": dict(one)})
        for name, one in hyperparameters.items()
    }

    def tasks_of(names):
        owner = uuid.uuid4().hex
        arrays = memory_mapped("samples", samples._asdict()).values()
        for name in names:
            write_atomically(steps[name].folder / OWNER, owner)
        return {
            name: joblib.delayed(_train_one)(
                *(train, dict(hyperparameters[name]), *arrays, list(checkpoint_epochs)),
                *(steps[name].folder, owner, progress),
            )
            for name in names
        }

    def found(name):
        progress.advance(hyperparameters[name]["num_epochs"], "from the cache")

    with reported(task, sum(one["num_epochs"] for one in hyperparameters.values())) as progress:
        finish_steps(steps, tasks_of, found)
    return {
        name: TrainingRun(**json.loads((step.folder / RESULT).read_text()), folder=step.folder)
        for name, step in steps.items()
    }


def _train_one(
    train, hyperparameters, X, y, X_validation, y_validation, checkpoint_epochs, folder, owner, progress: Progress
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Do a training run, in whatever process this is; returns the files that the sender does not see, and the cost."""
    # Plain views: indexing a memory map is slow.
    samples = LabelledSamples(*map(np.asarray, (X, y, X_validation, y_validation)))
    with one_thread(), measured() as cost, _workplace(folder, owner) as place:
        history, diverged_epoch = train(hyperparameters, samples, checkpoint_epochs, place, progress)
        write_atomically(place / RESULT, json.dumps({"history": history, "diverged_epoch": diverged_epoch}))
        files = {} if place == folder else {path.name: path.read_bytes() for path in place.iterdir()}
    return files, cost


@contextmanager
def _workplace(folder: Path, owner: str) -> Iterator[Path]:
    """Give ``folder`` where this process sees that of the sender, elsewhere a temporary one."""
    try:
        is_shared = (folder / OWNER).read_text() == owner
    except OSError:
        is_shared = False
    if is_shared:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _train_network(hyperparameters, samples, checkpoint_epochs, folder, progress: Progress):
    network = NeuralNetwork(len(hyperparameters["layer_sizes"]), **hyperparameters)
    epochs = saved_epochs(network.num_epochs, checkpoint_epochs)
    finished = _load_last_checkpoint(network, folder, epochs)
    if finished:
        progress.advance(finished, "from a checkpoint")

    def save(network: NeuralNetwork, epoch: int) -> None:
        if epoch in epochs:
            save_checkpoint(network, folder, write=write_atomically)
        progress.advance(note=f"{network.activation}, loss {network.history_['train_loss'][-1]:.3f}")

    train = network.resume if finished else network.fit
    try:
        train(samples.X, samples.y, (samples.X_validation, samples.y_validation), save)
    except DivergenceError as error:
        progress.advance(network.num_epochs - error.epoch + 1, f"{network.activation} diverged")
        return network.history_, error.epoch
    return network.history_, None


def _load_last_checkpoint(network: NeuralNetwork, folder: Path, epochs: Sequence[int]) -> int:
    """Load the last checkpoint up to which all are whole, so that a missing one is made again; 0 if there is none."""
    finished = 0
    for epoch in epochs:
        try:
            load_checkpoint(network, folder, epoch)
        except CheckpointError:
            break
        finished = epoch
    return finished
