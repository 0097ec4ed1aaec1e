"""The head of a fine-tuned VGG-16: dense layers of our own on the trunk's features, trained and saved."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from book.experiments.vgg16 import VGG, Trunk, TrunkSettings, assemble, load_trunk

NUM_CLASSES = 10
HEAD_FILE = "head.safetensors"
EVALUATION_BATCH = 1000
WARM_UP = 0.2
"""Share of the steps in which the one-cycle schedule raises the learning rate."""


@dataclass(frozen=True)
class HeadSettings:
    """What the head is made of, and how it is trained.

    Attributes
    ----------
    hidden : tuple of int
        Units of each hidden layer; none gives a linear classifier.
    input_dropout, dropout : float
        Share of the features, and of the hidden units, that a training step leaves out; from 0 to less than 1.
    num_epochs : int
    batch_size : int
        At least 2, because batch normalisation needs a variance.
    learning_rate : float
        The highest of the one-cycle schedule (Smith and Topin, 2019); above 0.
    weight_decay : float
        Of AdamW (Loshchilov and Hutter, 2019); 0 or more.
    label_smoothing : float
        Share of the target that is spread over all classes (Szegedy et al., 2016); from 0 to less than 1.
    seed : int
        Of the initial weights, the order of the batches, and dropout; 0 or more.

    Raises
    ------
    ValueError
        If one of them is not allowed.
    """

    hidden: tuple[int, ...] = (512,)
    input_dropout: float = 0.3
    dropout: float = 0.5
    num_epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence):
            raise ValueError(f"hidden must be a sequence of integers; got {self.hidden!r}")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for width in self.hidden:
            _refuse_unless(_is(width, Integral) and width >= 1, "hidden", "integers of at least 1", self.hidden)
        for name, least in (("num_epochs", 1), ("batch_size", 2), ("seed", 0)):
            value = getattr(self, name)
            _refuse_unless(_is(value, Integral) and value >= least, name, f"an integer of at least {least}", value)
        for name in ("input_dropout", "dropout", "label_smoothing"):
            value = getattr(self, name)
            _refuse_unless(_is(value, Real) and 0 <= value < 1, name, "a number from 0 to less than 1", value)
        rate, decay = self.learning_rate, self.weight_decay
        _refuse_unless(_is(rate, Real) and 0 < rate < float("inf"), "learning_rate", "a number above 0", rate)
        _refuse_unless(_is(decay, Real) and 0 <= decay < float("inf"), "weight_decay", "a number of at least 0", decay)


def new_head(num_features: int, settings: HeadSettings) -> nn.Sequential:
    """Make a head with initial weights drawn from `settings.seed`, for inputs of shape (n, num_features)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        layers: list[nn.Module] = [nn.Dropout(settings.input_dropout)]
        for width in settings.hidden:
            # Batch normalisation subtracts any bias that stands before it.
            layers += [nn.Linear(num_features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            layers.append(nn.Dropout(settings.dropout))
            num_features = width
        return nn.Sequential(*layers, nn.Linear(num_features, NUM_CLASSES))


def save_head(head: nn.Sequential, settings: HeadSettings, trunk: TrunkSettings, folder: Path) -> Path:
    """Write a head, with the settings that it needs to be used, to `HEAD_FILE` in a folder; returns its path."""
    path = folder / HEAD_FILE
    settings_as_text = {"head": json.dumps(asdict(settings)), "trunk": json.dumps(asdict(trunk))}
    partial = path.with_suffix(".partial")
    save_file(head.state_dict(), partial, settings_as_text)
    partial.replace(path)
    return path


class FineTuned(NamedTuple):
    """A trained model: torchvision's VGG with our head as its ``classifier``, and the trunk that it stands on.

    Attributes
    ----------
    model : VGG
        Maps ``trunk.to_input(images)``, shape (n, 3, input_size, input_size), to logits, shape (n, 10). In evaluation
        mode, float32, no parameter with a gradient.
    trunk : Trunk
    head : HeadSettings
    """

    model: VGG
    trunk: Trunk
    head: HeadSettings


def load_fine_tuned(folder: Path) -> FineTuned:
    """Load the head that :func:`save_head` wrote into a folder, and put it on its trunk.

    Raises
    ------
    ValueError
        If the file holds no settings or the weights do not fit them.
    """
    path = folder / HEAD_FILE
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if not {"head", "trunk"} <= set(metadata):
        raise ValueError(f"{HEAD_FILE} must hold the settings of head and trunk; got {sorted(metadata)}")
    settings = HeadSettings(**json.loads(metadata["head"]))
    trunk = load_trunk(TrunkSettings(**json.loads(metadata["trunk"])))
    channels, height, width = trunk.output_shape
    head = new_head(channels * height * width, settings)
    try:
        head.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{HEAD_FILE} does not fit its settings: {error}") from None
    return FineTuned(assemble(trunk, head.requires_grad_(False)), trunk, settings)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _refuse_unless(allowed: bool, name: str, what: str, value: Any) -> None:
    if not allowed:
        raise ValueError(f"{name} must be {what}; got {value!r}")
