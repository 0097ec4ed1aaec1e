"""The classifier head on a frozen VGG16 backbone: new layers on cached features, trained and saved."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from joblib import delayed
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.nn.functional import cross_entropy

from book.experiments.checks import check_integer, check_number, check_that
from book.experiments.page.execution import device, one_thread, parallel
from book.experiments.page.progress import Progress, reported
from book.experiments.page.steps import finish_steps
from book.experiments.page.storage import CachedStep, array_digest, measured
from book.experiments.vgg.backbone import VGG, Backbone, BackboneSettings, assemble, load_backbone
from book.experiments.vgg.features import Features, with_arrays, without_arrays
from book.files import write_atomically
from book.sources import digest_of

NUM_CLASSES = 10
HEAD_FILE = "head.safetensors"
HISTORY_FILE = "history.json"
EVALUATION_BATCH = 1000
WARM_UP = 0.2
"""Fraction of the steps in which the one-cycle schedule raises the learning rate."""
SMALLEST_MIXUP = 0.05
"""PyTorch's draws from Beta(alpha, alpha) are rounded to 0.5 for a tiny alpha, where nearly all should be 0 or 1."""


@dataclass(frozen=True)
class HeadSettings:
    """What the head is made of, and how it is trained.

    Attributes
    ----------
    bottleneck : int
        Channels of a 1x1 convolution in front, which makes the dense layer behind it smaller; 0 for none.
    hidden : tuple of int
        Units of each hidden layer. Without hidden layer and bottleneck the head is batch normalisation, which
        standardises each feature, and a linear classifier.
    channel_dropout : float
        Fraction of the backbone's channels that a training step leaves out, each at all positions at once (Tompson et
        al., 2015); from 0 to less than 1.
    dropout : float
        Fraction of the hidden units that a training step leaves out (Srivastava et al., 2014); from 0 to less than 1.
    mixup : float
        Parameter alpha of mixup (Zhang et al., 2018), here of features: a training step sees weighted means of two
        images' features, and the same mean of their losses, with a weight drawn for each batch from Beta(alpha, alpha).
        From `SMALLEST_MIXUP` to 100; 0 for none.
    num_epochs : int
    batch_size : int
        At least 2, because batch normalisation needs a variance.
    learning_rate : float
        The highest of the one-cycle schedule (Smith and Topin, 2019); above 0.
    weight_decay : float
        Of AdamW (Loshchilov and Hutter, 2019); 0 or more.
    label_smoothing : float
        Fraction of the target that is spread over all classes (Szegedy et al., 2016); from 0 to less than 1.
    seed : int
        Of the initial weights, the order of the batches, and dropout; 0 or more.

    Raises
    ------
    ValueError
        If one of them is not allowed.
    """

    bottleneck: int = 128
    hidden: tuple[int, ...] = (256,)
    channel_dropout: float = 0.4
    dropout: float = 0.5
    mixup: float = 0.0
    num_epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("bottleneck", self.bottleneck, 0)
        is_sequence = isinstance(self.hidden, Sequence) and not isinstance(self.hidden, str)
        check_that(is_sequence, "hidden", "a sequence of integers", self.hidden)
        for i, width in enumerate(self.hidden):
            check_integer(f"hidden[{i}]", width, 1)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_integer("num_epochs", self.num_epochs, 1)
        check_integer("batch_size", self.batch_size, 2)
        check_integer("seed", self.seed, 0)
        for name in ("channel_dropout", "dropout", "label_smoothing"):
            check_number(name, getattr(self, name), minimum=0, below=1)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, minimum=0)
        check_number("mixup", self.mixup, minimum=SMALLEST_MIXUP, maximum=100, other=0)


def new_head(
    shape: tuple[int, int, int],
    settings: HeadSettings,
) -> nn.Sequential:
    """Make a head with initial weights drawn from `settings.seed`.

    Parameters
    ----------
    shape : tuple of three int
        Channels, height and width of the backbone's output; the head takes
        it flattened, shape (n, their product).
    settings : HeadSettings
    """
    channels, height, width = shape
    as_backbone = {"dtype": torch.float32}  # whatever the default is
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        layers: list[nn.Module] = [nn.Unflatten(1, shape)]
        # Dropout2d leaves out whole channels.
        layers.append(nn.Dropout2d(settings.channel_dropout))
        if settings.bottleneck:
            # Batch normalisation subtracts any bias that stands before it.
            units = settings.bottleneck
            conv = nn.Conv2d(channels, units, 1, bias=False, **as_backbone)
            norm = nn.BatchNorm2d(units, **as_backbone)
            layers += [conv, norm, nn.ReLU()]
            channels = units
        layers.append(nn.Flatten())
        num_inputs = channels * height * width
        for units in settings.hidden:
            dense = nn.Linear(num_inputs, units, bias=False, **as_backbone)
            norm = nn.BatchNorm1d(units, **as_backbone)
            layers += [dense, norm, nn.ReLU(), nn.Dropout(settings.dropout)]
            num_inputs = units
        if not settings.bottleneck and not settings.hidden:
            layers.append(nn.BatchNorm1d(num_inputs, **as_backbone))
        layers.append(nn.Linear(num_inputs, NUM_CLASSES, **as_backbone))
        return nn.Sequential(*layers)


class HeadRun(NamedTuple):
    """A trained head.

    Attributes
    ----------
    head : Sequential
        In evaluation mode, float32, on the CPU.
    history : dict of list
        One value an epoch, or that of the last epoch only: `train_loss`, `train_accuracy`, `validation_loss`,
        `validation_accuracy` after the epoch, without dropout, label smoothing, mixup or augmentation, of all
        validation images and of as many of the training images, the first; and `learning_rate` at its end.
    """

    head: nn.Sequential
    history: dict[str, list[float]]


def train_heads(
    settings: Mapping[str, HeadSettings],
    views: Sequence[Features],
    validation: Features,
    task: str,
    curves: bool = True,
) -> dict[str, HeadRun]:
    """Train heads on cached features side by side, or load those that were trained before.

    Each is trained on one thread of a worker, so that the number of workers changes no bit; with CUDA one after the
    other on the GPU.

    Parameters
    ----------
    settings : mapping of names to HeadSettings
    views : sequence of Features
        The training images, and if there are more, the same images in other views, flipped for instance. A step
        draws a view for each image.
    validation : Features
    task : str
        What the terminal calls this step.
    curves : bool
        Whether the history has every epoch; with the last one only, some work is saved.

    Returns
    -------
    dict of HeadRun
        Under the names given.

    Raises
    ------
    ValueError
        If a loss stops being finite, or there are fewer images than a batch needs.
    """
    return _trained({name: (one, views, validation) for name, one in settings.items()}, task, curves)


def train_head_on_each(
    settings: HeadSettings, outputs: Mapping[str, tuple[Features, Features]], task: str, curves: bool = True
) -> dict[str, HeadRun]:
    """Train one kind of head on each of several outputs of the backbone; otherwise as :func:`train_heads`.

    Parameters
    ----------
    settings : HeadSettings
    outputs : mapping of names to (Features, Features)
        Of the training and of the validation images.
    task, curves
        As in :func:`train_heads`.
    """
    asked = {name: (settings, [train], validation) for name, (train, validation) in outputs.items()}
    return _trained(asked, task, curves)


def _trained(asked: Mapping[str, tuple[HeadSettings, Sequence[Features], Features]], task: str, curves: bool):
    for one, views, _ in asked.values():
        check_integer("batch_size", one.batch_size, 2, len(views[0].labels))
    where = device()
    code = digest_of(
        new_head,
        fit_head,
        new_optimizer,
        train_epoch,
        evaluate_head,
        predict_logits,
        _logits,
        _drawn_views,
        _draw_beta,
    )

    def step_of(one, views, validation):
        depends_on = {
            "features": [features.name for features in (*views, validation)],
            "labels": [array_digest(features.labels) for features in (views[0], validation)],
            "code": code,
            "torch": torch.__version__,
            "device": where,
            "curves": curves,
            "settings": asdict(one),
        }
        return CachedStep("head", depends_on)

    def task_of(one, views, validation):
        bare, arrays = without_arrays([*views, validation])
        return delayed(_train_one)(one, progress, where, curves, bare, *arrays)

    def found(name):
        progress.advance(asked[name][0].num_epochs, "from the cache")

    steps = {name: step_of(*of_name) for name, of_name in asked.items()}
    with reported(task, sum(one.num_epochs for one, _, _ in asked.values())) as progress, parallel():
        finish_steps(steps, lambda names: {name: task_of(*asked[name]) for name in names}, found, here=where == "cuda")
    return {name: _load_run(steps[name].folder, views[0].shape, one) for name, (one, views, _) in asked.items()}


def _train_one(settings: HeadSettings, progress: Progress, where: str, curves: bool, bare, *arrays):
    """Train a head, in whatever process this is; returns its files and the cost."""
    *views, validation = with_arrays(bare, arrays)
    with one_thread(), measured() as cost:
        report = functools.partial(progress.advance, 1)
        head, history = fit_head(settings, views, validation, report, where, curves)
        files = {HEAD_FILE: save(head.state_dict()), HISTORY_FILE: json.dumps(history)}
    return files, cost


def _load_run(folder: Path, shape: tuple[int, int, int], settings: HeadSettings) -> HeadRun:
    head = new_head(shape, settings)
    head.load_state_dict(load_file(folder / HEAD_FILE))
    return HeadRun(head.eval(), json.loads((folder / HISTORY_FILE).read_text()))


def fit_head(
    settings: HeadSettings,
    views: Sequence[Features],
    validation: Features,
    report: Callable[[str], None],
    device: str,
    curves: bool = True,
) -> HeadRun:
    """Train a head with AdamW and a one-cycle schedule on a device; `report` is given a note after each epoch.

    Raises
    ------
    ValueError
        If the loss stops being finite, or there are fewer images than a batch needs.
    """
    train = views[0]
    check_integer("batch_size", settings.batch_size, 2, len(train.labels))
    num_steps = len(train.labels) // settings.batch_size
    head = new_head(train.shape, settings).to(device)
    optimizer, schedule = new_optimizer(head, settings, settings.num_epochs * num_steps)
    parts = {"train": train.first(len(validation.labels)), "validation": validation}
    history = {f"{part}_{metric}": [] for part in parts for metric in ("loss", "accuracy")} | {"learning_rate": []}
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        for epoch in range(1, settings.num_epochs + 1):
            batch_loss = float(train_epoch(head, settings, views, optimizer, schedule))
            is_finite = batch_loss < float("inf")
            check_that(is_finite, "learning_rate", "low enough for a finite loss", settings.learning_rate)
            report(f"loss {batch_loss:.3f}")
            if not curves and epoch < settings.num_epochs:
                continue
            for part, features in parts.items():
                loss, accuracy = evaluate_head(head, features)
                history[f"{part}_loss"].append(loss)
                history[f"{part}_accuracy"].append(accuracy)
            history["learning_rate"].append(schedule.get_last_lr()[0])
    return HeadRun(head.cpu().eval(), history)


def new_optimizer(
    head: nn.Sequential, settings: HeadSettings, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW for a head, and a one-cycle schedule over a number of steps.

    Raises
    ------
    ValueError
        If there are too few steps for the learning rate to rise and to fall.
    """
    check_that(
        num_steps * WARM_UP > 1, "num_epochs", f"enough for more than {1 / WARM_UP:.0f} steps of training", num_steps
    )
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
) -> torch.Tensor:
    """Take one step for each whole batch of the training images.

    Their order is drawn anew. Returns the mean loss of the batches.
    """
    head.train()
    device = next(head.parameters()).device
    labels = torch.from_numpy(views[0].labels)
    smoothing = {"label_smoothing": settings.label_smoothing}
    loss_of = functools.partial(cross_entropy, **smoothing)
    losses = []
    num_steps = len(labels) // settings.batch_size
    batches = torch.randperm(len(labels)).split(settings.batch_size)
    for batch in batches[:num_steps]:
        x = _drawn_views(views, batch).to(device)
        y = labels[batch].to(device)
        if settings.mixup:
            # The order is random, so neighbours are random pairs.
            weight = _draw_beta(settings.mixup)
            logits = _logits(head, x.lerp_(x.roll(1, 0), 1 - weight))
            loss = weight * loss_of(logits, y)
            loss += (1 - weight) * loss_of(logits, y.roll(1))
        else:
            loss = loss_of(_logits(head, x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean()


def _drawn_views(views: Sequence[Features], batch: torch.Tensor) -> torch.Tensor:
    """Features of the images in a batch, a copy; of each image in one view, drawn at random."""
    x = views[0].values.index_select(0, batch)  # several times as fast as indexing
    chosen = torch.randint(len(views), (len(batch),))
    for number, view in enumerate(views[1:], start=1):
        x[chosen == number] = view.values[batch[chosen == number]]
    return x


def _draw_beta(alpha: float) -> float:
    # In double precision, whatever the default is: the draw would depend on it.
    parameter = torch.tensor(alpha, dtype=torch.float64)
    return torch.distributions.Beta(parameter, parameter).sample().item()


def predict_logits(head: nn.Sequential, features: Features) -> torch.Tensor:
    """Logits of a head for all images, shape (n, 10), float32, on the CPU."""
    head.eval()
    device = next(head.parameters()).device
    with torch.inference_mode():
        return torch.cat([_logits(head, x.to(device)).cpu() for x in features.values.split(EVALUATION_BATCH)])


def evaluate_head(head: nn.Sequential, features: Features) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy of a head on all images."""
    logits = predict_logits(head, features)
    labels = torch.from_numpy(features.labels)
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def _logits(head: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Apply a head, with products in bfloat16 if the features are; the weights are float32 in any case."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        return head(x).float()


def save_head(head: nn.Sequential, settings: HeadSettings, backbone: BackboneSettings, folder: Path) -> Path:
    """Write a head, with the settings that it needs to be used, to `HEAD_FILE` in a folder; returns its path."""
    path = folder / HEAD_FILE
    # One entry: several would come in another order each time, and the same head give other bytes.
    text = json.dumps({"head": asdict(settings), "backbone": asdict(backbone)})
    write_atomically(path, save(head.state_dict(), {"settings": text}))
    return path


class TransferModel(NamedTuple):
    """A trained model: torchvision's VGG with the new head as its ``classifier``, and the backbone that it stands on.

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
    check_that("settings" in metadata, HEAD_FILE, "a file with the settings of head and backbone", sorted(metadata))
    saved = json.loads(metadata["settings"])
    settings, backbone = HeadSettings(**saved["head"]), load_backbone(BackboneSettings(**saved["backbone"]))
    head = new_head(backbone.output_shape, settings)
    try:
        head.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{HEAD_FILE} does not fit its settings: {error}") from None
    return TransferModel(assemble(backbone, head.requires_grad_(False)), backbone, settings)
