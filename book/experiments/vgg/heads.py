"""The head of a fine-tuned VGG-16: dense layers of our own on the backbone's features, trained and saved."""

import hashlib
import json
import sys
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

from book.experiments.page.progress import reported
from book.experiments.page.storage import keyed_folder, source_digest, write_json
from book.experiments.vgg.backbone import VGG, Backbone, BackboneSettings, assemble, load_backbone
from book.experiments.vgg.features import Features

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
    channel_dropout : float
        Share of the backbone's channels that a training step leaves out, each at all positions at once (Tompson et al.,
        2015); from 0 to less than 1.
    dropout : float
        Share of the hidden units that a training step leaves out (Srivastava et al., 2014); from 0 to less than 1.
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
    channel_dropout: float = 0.4
    dropout: float = 0.5
    num_epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence):
            raise ValueError(f"hidden must be a sequence of integers; got {self.hidden!r}")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for width in self.hidden:
            _check_that(_is(width, Integral) and width >= 1, "hidden", "integers of at least 1", self.hidden)
        for name, least in (("num_epochs", 1), ("batch_size", 2), ("seed", 0)):
            value = getattr(self, name)
            _check_that(_is(value, Integral) and value >= least, name, f"an integer of at least {least}", value)
        for name in ("channel_dropout", "dropout", "label_smoothing"):
            value = getattr(self, name)
            _check_that(_is(value, Real) and 0 <= value < 1, name, "a number from 0 to less than 1", value)
        rate, decay = self.learning_rate, self.weight_decay
        _check_that(_is(rate, Real) and 0 < rate < float("inf"), "learning_rate", "a number above 0", rate)
        _check_that(_is(decay, Real) and 0 <= decay < float("inf"), "weight_decay", "a number of at least 0", decay)


def new_head(shape: tuple[int, int, int], settings: HeadSettings) -> nn.Sequential:
    """Make a head with initial weights drawn from `settings.seed`.

    Parameters
    ----------
    shape : tuple of three int
        Channels, height and width of the backbone's output; the head takes it flattened, shape (n, their product).
    settings : HeadSettings
    """
    channels, height, width = shape
    num_features = channels * height * width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        layers: list[nn.Module] = [
            nn.Unflatten(1, (channels, height * width)),
            nn.Dropout1d(settings.channel_dropout),
            nn.Flatten(),
        ]
        for width in settings.hidden:
            # Batch normalisation subtracts any bias that stands before it.
            layers += [nn.Linear(num_features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            layers.append(nn.Dropout(settings.dropout))
            num_features = width
        return nn.Sequential(*layers, nn.Linear(num_features, NUM_CLASSES))


class HeadRun(NamedTuple):
    """A trained head.

    Attributes
    ----------
    head : Sequential
        In evaluation mode, float32.
    history : dict of list
        One value an epoch: `train_loss`, `train_accuracy`, `validation_loss`, `validation_accuracy` of all images of
        the part after the epoch, without dropout, label smoothing or mirroring; and `learning_rate` at its end.
    """

    head: nn.Sequential
    history: dict[str, list[float]]


def train_heads(
    settings: Mapping[str, HeadSettings],
    views: Sequence[Features],
    validation: Features,
    task: str,
) -> dict[str, HeadRun]:
    """Train heads on kept features, one after the other, or find those that were trained before.

    Parameters
    ----------
    settings : mapping of names to HeadSettings
    views : sequence of Features
        The training images, and if there are more, the same images in other views, mirrored for instance. A step
        draws a view for each image.
    validation : Features
    task : str
        What the terminal calls this step.

    Returns
    -------
    dict of HeadRun
        Under the names given.

    Raises
    ------
    ValueError
        If a loss stops being finite, or there are fewer images than a batch needs.
    """
    depends_on = {
        "features": [features.name for features in (*views, validation)],
        "labels": [_digest(features.labels) for features in (views[0], validation)],
        "source": source_digest(sys.modules[__name__]),
        "torch": torch.__version__,
    }
    runs = {}
    with reported(task, sum(one.num_epochs for one in settings.values())) as progress:
        for name, one in settings.items():
            folder = keyed_folder("head", depends_on | {"settings": asdict(one)})
            history_file = folder / "history.json"
            if history_file.exists():
                progress.advance(one.num_epochs, "found")
            else:
                head, history = fit_head(one, views, validation, lambda note: progress.advance(note=note))
                save_file(head.state_dict(), folder / HEAD_FILE)
                write_json(history_file, history)  # the last of the two: where it is, the head is too
            head = new_head(views[0].shape, one)
            head.load_state_dict(load_file(folder / HEAD_FILE))
            runs[name] = HeadRun(head.eval(), json.loads(history_file.read_text()))
    return runs


def fit_head(
    settings: HeadSettings, views: Sequence[Features], validation: Features, report: Callable[[str], None]
) -> HeadRun:
    """Train a head with AdamW and a one-cycle schedule; `report` is given a note after each epoch."""
    train = views[0]
    num_steps = len(train.labels) // settings.batch_size
    if num_steps == 0:
        raise ValueError(f"batch_size must be at most the {len(train.labels)} images; got {settings.batch_size}")
    head = new_head(train.shape, settings)
    optimizer, schedule = new_optimizer(head, settings, settings.num_epochs * num_steps)
    history = {f"{part}_{metric}": [] for part in ("train", "validation") for metric in ("loss", "accuracy")}
    history["learning_rate"] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for _ in range(settings.num_epochs):
            train_epoch(head, settings, views, optimizer, schedule)
            for part, features in (("train", train), ("validation", validation)):
                loss, accuracy = evaluate_head(head, features)
                history[f"{part}_loss"].append(loss)
                history[f"{part}_accuracy"].append(accuracy)
            history["learning_rate"].append(schedule.get_last_lr()[0])
            loss = history["train_loss"][-1]
            if not torch.isfinite(torch.tensor(loss)):
                raise ValueError(f"learning_rate must be low enough for a finite loss; got {settings.learning_rate}")
            report(f"loss {loss:.3f}, validation {history['validation_accuracy'][-1]:.1%}")
    return HeadRun(head.eval(), history)


def new_optimizer(
    head: nn.Sequential, settings: HeadSettings, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW for a head, and a one-cycle schedule over a number of steps."""
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=num_steps, pct_start=WARM_UP
    )


def train_epoch(
    head: nn.Sequential,
    settings: HeadSettings,
    views: Sequence[Features],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Take one step for each whole batch of the training images, in an order drawn anew."""
    head.train()
    labels = views[0].labels
    num_steps = len(labels) // settings.batch_size
    for batch in torch.randperm(len(labels)).split(settings.batch_size)[:num_steps]:
        x = views[0].values[batch]
        chosen = torch.randint(len(views), (len(batch),))
        for number, view in enumerate(views[1:], start=1):
            x[chosen == number] = view.values[batch[chosen == number]]
        loss = cross_entropy(_logits(head, x), labels[batch], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def predict_logits(head: nn.Sequential, features: Features) -> torch.Tensor:
    """Logits of a head for all images, shape (n, 10), float32."""
    head.eval()
    with torch.inference_mode():
        return torch.cat([_logits(head, x) for x in features.values.split(EVALUATION_BATCH)])


def evaluate_head(head: nn.Sequential, features: Features) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy of a head on all images."""
    logits = predict_logits(head, features)
    accuracy = (logits.argmax(1) == features.labels).float().mean()
    return cross_entropy(logits, features.labels).item(), accuracy.item()


def _logits(head: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Apply a head, with products in bfloat16 if the features are; the weights are float32 in any case."""
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        return head(x).float()


def _digest(labels: torch.Tensor) -> str:
    return hashlib.sha256(labels.numpy().tobytes()).hexdigest()


def save_head(head: nn.Sequential, settings: HeadSettings, backbone: BackboneSettings, folder: Path) -> Path:
    """Write a head, with the settings that it needs to be used, to `HEAD_FILE` in a folder; returns its path."""
    path = folder / HEAD_FILE
    settings_as_text = {"head": json.dumps(asdict(settings)), "backbone": json.dumps(asdict(backbone))}
    partial = path.with_suffix(".partial")
    save_file(head.state_dict(), partial, settings_as_text)
    partial.replace(path)
    return path


class TransferModel(NamedTuple):
    """A trained model: torchvision's VGG with our head as its ``classifier``, and the backbone that it stands on.

    Attributes
    ----------
    model : VGG
        Maps ``backbone.to_input(images)``, shape (n, 3, input_size, input_size), to logits, shape (n, 10). In
        evaluation mode, float32, no parameter with a gradient.
    backbone : Backbone
    head : HeadSettings
    """

    model: VGG
    backbone: Backbone
    head: HeadSettings


def load_transfer_model(folder: Path) -> TransferModel:
    """Load the head that :func:`save_head` wrote into a folder, and put it on its backbone.

    Raises
    ------
    ValueError
        If the file holds no settings or the weights do not fit them.
    """
    path = folder / HEAD_FILE
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if not {"head", "backbone"} <= set(metadata):
        raise ValueError(f"{HEAD_FILE} must hold the settings of head and backbone; got {sorted(metadata)}")
    settings = HeadSettings(**json.loads(metadata["head"]))
    backbone = load_backbone(BackboneSettings(**json.loads(metadata["backbone"])))
    head = new_head(backbone.output_shape, settings)
    try:
        head.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{HEAD_FILE} does not fit its settings: {error}") from None
    return TransferModel(assemble(backbone, head.requires_grad_(False)), backbone, settings)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_that(allowed: bool, name: str, what: str, value: Any) -> None:
    if not allowed:
        raise ValueError(f"{name} must be {what}; got {value!r}")
