"""Controls for pretrained weights: the same head on random frozen weights and on raw pixels, a network from scratch.

All are trained in one way, on subsets of the training images of several sizes, with several seeds.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from joblib import delayed
from torch import nn

from book.experiments.checks import check_integer, check_that
from book.experiments.page.execution import device, one_thread, parallel
from book.experiments.page.progress import Progress, reported
from book.experiments.page.steps import finish_steps
from book.experiments.page.storage import CachedStep, array_digest, measured, memory_mapped
from book.experiments.vgg import heads
from book.experiments.vgg.backbone import Backbone
from book.experiments.vgg.features import Features, with_arrays, without_arrays
from book.experiments.vgg.heads import HeadSettings, new_head, new_optimizer, predict_logits, train_epoch
from book.sources import digest_of
from data import Part, scale_to_unit

CORRECT_FILE = "correct.bin"
SMALLEST_BATCH = 16
STEPS_PER_EPOCH = 20
"""A small training set is split into so many batches, if they do not get too small."""


def random_weights(backbone: Backbone, seed: int) -> Backbone:
    """Return the same layers with random weights and biases of 0.

    The weights are drawn from a normal distribution of mean 0 and variance 2 / (inputs of a filter), which keeps the
    variance of the activations from layer to layer (He et al., 2015).
    """
    generator = torch.Generator().manual_seed(seed)
    layers = copy.deepcopy(backbone.layers)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
    return backbone._replace(layers=layers.requires_grad_(False).eval())


def pixel_features(part: Part) -> Features:
    """Grey values from 0 to 1 as features of one channel, float32, shape (n, 784)."""
    n, height, width = part.images.shape
    values = scale_to_unit(part.images).reshape(n, height * width)
    stored = memory_mapped("pixels", {"pixels": values}, mode="c")["pixels"]
    return Features(stored, part.labels, (1, height, width), f"pixels-{array_digest(part.images)}")


def convolutional_network(shape: tuple[int, int, int], filters: Sequence[int], settings: HeadSettings) -> nn.Sequential:
    """Make a small convolutional network with the same kind of head, its initial weights drawn from `settings.seed`.

    Each block is a convolution with 3x3 kernels and padding 1, batch normalisation, ReLU, and max pooling over 2x2.

    Parameters
    ----------
    shape : tuple of three int
        Channels, height and width of an image; the network takes it flattened, as a head does.
    filters : sequence of int
        Filters of each block.
    settings : HeadSettings
    """
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for count in filters:
            layers += [nn.Conv2d(channels, count, 3, padding=1, bias=False), nn.BatchNorm2d(count)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, width = count, height // 2, width // 2
    check_that(min(height, width) > 0, "filters", "of so many blocks that pixels are left", list(filters))
    return nn.Sequential(*layers, nn.Flatten(), new_head((channels, height, width), settings))


class Trial(NamedTuple):
    """One network, to be trained on some images.

    Attributes
    ----------
    train, validation : Features
    num_images : int
        How many training images are used.
    settings : HeadSettings
        Of the head, and of the training; its seed also chooses the images.
    filters : tuple of int
        Of the convolutions before the head; none for the head alone.
    """

    train: Features
    validation: Features
    num_images: int
    settings: HeadSettings
    filters: tuple[int, ...] = ()


def settings_for(num_images: int, seed: int, settings: HeadSettings, num_steps: int) -> HeadSettings:
    """Adapt batch size and number of epochs to the number of training images.

    Parameters
    ----------
    num_images, seed : int
    settings : HeadSettings
        Its batch size is the largest, its number of epochs the lowest.
    num_steps : int
        As many steps at least: an epoch of few images has few of them.
    """
    check_integer("num_images", num_images, minimum=SMALLEST_BATCH)
    batch_size = min(settings.batch_size, max(SMALLEST_BATCH, num_images // STEPS_PER_EPOCH))
    num_epochs = max(settings.num_epochs, math.ceil(num_steps / (num_images // batch_size)))
    return replace(settings, batch_size=batch_size, num_epochs=num_epochs, seed=seed)


def chosen_rows(num_available: int, num_images: int, run: int) -> slice:
    """Rows of the training images of a run: other images for each run where there are enough, otherwise the first ones.

    The images lie in random order, so that rows that follow each other are a random sample, mapped and not copied.
    """
    check_integer("num_images", num_images, minimum=1, maximum=num_available)
    start = run * num_images if (run + 1) * num_images <= num_available else 0
    return slice(start, start + num_images)


def correct_of_trials(trials: Mapping[tuple, Sequence[Trial]], task: str) -> dict[tuple, np.ndarray]:
    """Train networks side by side, each on one thread; those that were trained before are loaded from the cache.

    Parameters
    ----------
    trials : mapping of names to sequences of Trial
        The runs of each, with the same validation images.
    task : str
        What the terminal calls this step.

    Returns
    -------
    dict of ndarray of bool, shape (number of runs, number of validation images)
        Which validation images each run classifies correctly after its last epoch.
    """
    asked = {(name, run): trial for name, runs in trials.items() for run, trial in enumerate(runs)}
    where = device()
    rows = {key: chosen_rows(len(trial.train.labels), trial.num_images, key[1]) for key, trial in asked.items()}
    steps = {key: _step(trial, rows[key], where) for key, trial in asked.items()}

    def task_of(key):
        trial = asked[key]
        bare, arrays = without_arrays([trial.train.rows(rows[key]), trial.validation])
        return delayed(_train_one)(trial.settings, trial.filters, where, progress, bare, *arrays)

    def found(key):
        progress.advance(asked[key].settings.num_epochs, "from the cache")

    with reported(task, sum(trial.settings.num_epochs for trial in asked.values())) as progress, parallel():
        finish_steps(steps, lambda keys: {key: task_of(key) for key in keys}, found, here=where == "cuda")
    return {
        name: np.stack([_load(steps[name, run].folder, trial) for run, trial in enumerate(runs)])
        for name, runs in trials.items()
    }


def _step(trial: Trial, rows: slice, where: str) -> CachedStep:
    depends_on = {
        "features": [trial.train.name, trial.validation.name],
        "labels": [array_digest(trial.train.labels), array_digest(trial.validation.labels)],
        "rows": [rows.start, rows.stop],
        "settings": asdict(trial.settings),
        "filters": list(trial.filters),
        "code": digest_of(_train, convolutional_network, heads),
        "torch": torch.__version__,
        "device": where,
    }
    return CachedStep("control", depends_on)


def _train_one(settings: HeadSettings, filters: tuple[int, ...], where: str, progress: Progress, bare, *arrays):
    """Train one network, in whatever process this is; returns its file and the cost."""
    part, validation = with_arrays(bare, arrays)
    with one_thread(), measured() as cost:
        correct = _train(part, validation, settings, filters, where, progress)
    return {CORRECT_FILE: np.packbits(correct).tobytes()}, cost


def _train(
    part: Features,
    validation: Features,
    settings: HeadSettings,
    filters: tuple[int, ...],
    where: str,
    progress: Progress,
) -> np.ndarray:
    """Train one network; returns which validation images it classifies correctly."""
    with torch.random.fork_rng():
        network = new_head(part.shape, settings)
        if filters:
            network = convolutional_network(part.shape, filters, settings)
        network = network.to(where, memory_format=torch.channels_last)
        num_steps = settings.num_epochs * (len(part.labels) // settings.batch_size)
        optimizer, schedule = new_optimizer(network, settings, num_steps)
        torch.manual_seed(settings.seed)
        for _ in range(settings.num_epochs):
            train_epoch(network, settings, [part], optimizer, schedule)
            progress.advance()
        logits = predict_logits(network, validation)
    return logits.argmax(1).numpy() == validation.labels


def _load(folder: Path, trial: Trial) -> np.ndarray:
    packed = np.frombuffer((folder / CORRECT_FILE).read_bytes(), np.uint8)
    return np.unpackbits(packed, count=len(trial.validation.labels)).astype(bool)
