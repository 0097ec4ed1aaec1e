"""Which part of a garment decides between two classes: replace it, and measure the change of their log-odds."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from joblib import delayed
from safetensors.torch import load, save
from scipy.ndimage import gaussian_filter
from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests

from book.experiments.checks import check_that
from book.experiments.page.execution import as_completed, device, one_thread, parallel
from book.experiments.page.progress import Progress, reported
from book.experiments.page.storage import array_digest, cached
from book.experiments.statistics.intervals import mean_with_interval
from book.experiments.statistics.seeds import SIGNIFICANCE_LEVEL
from book.experiments.vgg import backbone as backbone_module
from book.experiments.vgg import heads as heads_module
from book.experiments.vgg.features import (
    Features,
    SentBackbone,
    as_stored,
    fastest_precision,
    forward,
    sent,
)
from book.experiments.vgg.heads import HeadSettings, TransferModel, new_head, predict_logits
from book.files import write_atomically
from book.sources import digest_of

SIDE = 28
EDGE = 0.7
"""Standard deviation in pixels of the blur of a mask's edge."""

CHUNK = 256
"""Images that a worker computes at a time."""


class Region(NamedTuple):
    """A region of the 28x28 image, and another one of the same size.

    Attributes
    ----------
    name : str
    part : str
        What may be found there.
    mask, control : ndarray of bool, shape (28, 28)
    """

    name: str
    part: str
    mask: np.ndarray
    control: np.ndarray


def regions() -> list[Region]:
    """Regions of clothes for the upper body, which fill the image from the neck at the top to the hem at the bottom."""
    return [
        Region("neck", "collar", _mask((0, 6, 10, 18)), _mask((20, 26, 10, 18))),
        Region("front", "buttons, zip", _mask((5, 27, 12, 16)), _mask((5, 27, 9, 11), (5, 27, 17, 19))),
        Region("sides", "sleeves", _mask((4, 26, 2, 7), (4, 26, 21, 26)), _mask((4, 26, 9, 19))),
        Region("chest", "print", _mask((6, 16, 9, 19)), _mask((17, 27, 9, 19))),
    ]


def _mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """True in boxes of rows from `top` up to `bottom` and columns from `left` up to `right`, ends excluded."""
    mask = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def mean_of_classes(images: np.ndarray, labels: np.ndarray, classes: tuple[int, int]) -> np.ndarray:
    """Mean of the mean images of two classes, float64, shape (28, 28); it favours neither of them."""
    return np.mean([images[labels == label].mean(axis=0) for label in classes], axis=0)


def occlude(images: np.ndarray, mask: np.ndarray, filling: np.ndarray) -> np.ndarray:
    """Replace a region of images by the same region of `filling`.

    The filling is scaled for each image, so that both are equally bright outside of the region, and the edge of the
    region is blurred: a dark patch or a sharp edge would be seen as a thing of its own.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, 28, 28)
    mask : ndarray of bool, shape (28, 28)
    filling : ndarray of float, shape (28, 28)
        From 0 to 255.

    Returns
    -------
    ndarray of uint8, shape (n, 28, 28)
    """
    check_that(images.dtype == np.uint8, "images", "of uint8", images.dtype)
    brightness = images[:, ~mask].sum(axis=1) / max(filling[~mask].sum(), 1.0)
    scaled = np.clip(brightness[:, None, None] * filling, 0, 255)
    weight = np.where(mask, 1.0, gaussian_filter(mask.astype(float), EDGE))
    return np.rint((1 - weight) * images + weight * scaled).astype(np.uint8)


def log_odds(logits: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Log-odds of one class against another for each image, in nats: the difference of their logits, shape (n,)."""
    rows = np.arange(len(logits))
    return np.asarray(logits, np.float64)[rows, first] - np.asarray(logits, np.float64)[rows, second]


def choose_images(
    labels: np.ndarray, predictions: np.ndarray, classes: tuple[int, int], number: int
) -> dict[str, np.ndarray]:
    """Positions of confused and of correctly classified images of two classes, as equally from both as there are.

    Parameters
    ----------
    labels, predictions : ndarray of int, shape (n,)
    classes : tuple of two int
    number : int
        How many of each group at most.

    Returns
    -------
    dict of ndarray of int
        "confused": images of one class that were classified as the other; "correct": correctly classified images of
        the two, as many. The first ones of each in the order given.
    """
    first, second = classes
    by_true = [np.flatnonzero((labels == a) & (predictions == b)) for a, b in ((first, second), (second, first))]
    half = number // 2
    counts = [min(len(own), max(half, number - len(other))) for own, other in (by_true, by_true[::-1])]
    correct = [np.flatnonzero((labels == label) & (predictions == label)) for label in classes]
    return {
        "confused": np.concatenate([own[:count] for own, count in zip(by_true, counts, strict=True)]),
        "correct": np.concatenate([own[:count] for own, count in zip(correct, counts, strict=True)]),
    }


def changes_of_log_odds(
    model: TransferModel, images: np.ndarray, true: np.ndarray, other: np.ndarray, filling: np.ndarray, task: str
) -> dict[str, np.ndarray]:
    """Change of the log-odds of the true class against another one when a region is replaced.

    Parameters
    ----------
    model : TransferModel
    images : ndarray of uint8, shape (n, 28, 28)
    true, other : ndarray of int, shape (n,)
        The classes compared, for each image.
    filling : ndarray of float, shape (28, 28)
    task : str
        What the terminal calls this step.

    Returns
    -------
    dict of ndarray, shape (n,)
        For the name of each region, and for "control of <name>", the change in nats; above 0 where the region had
        spoken against the true class.
    """
    if len(images) == 0:
        names = [region.name for region in regions()]
        return {name: np.zeros(0) for name in (*names, *(f"control of {name}" for name in names))}
    variants = {"whole": images}
    for region in regions():
        variants[region.name] = occlude(images, region.mask, filling)
        variants[f"control of {region.name}"] = occlude(images, region.control, filling)
    logits = logits_of(model, np.concatenate(list(variants.values())), task)
    by_variant = {
        name: log_odds(part, true, other) for name, part in zip(variants, np.split(logits, len(variants)), strict=True)
    }
    whole = by_variant.pop("whole")
    return {name: values - whole for name, values in by_variant.items()}


def compare_regions(changes: Mapping[tuple[str, str], Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Compare the changes of each region with those of its control region, image by image.

    Parameters
    ----------
    changes : mapping of (pair, group) to the result of :func:`changes_of_log_odds`

    Returns
    -------
    DataFrame
        A row for each pair, group and region: `pair`, `group`, `region`, `images`, `change` and `control` (means),
        `difference` (of the two) with `low` and `high` (95 %, Student's t over images), `p` (paired t-test) and
        `p_holm`, corrected by Holm's method over all rows; NaN where there are fewer than two images. `significant`
        where `p_holm` is below 0.05.
    """
    rows = []
    for (pair, group), by_region in changes.items():
        for region in regions():
            own, control = by_region[region.name], by_region[f"control of {region.name}"]
            row = {"pair": pair, "group": group, "region": region.name, "images": len(own)}
            if len(own) < 2:
                rows.append(row | dict.fromkeys(("change", "control", "difference", "low", "high", "p"), np.nan))
                continue
            difference, low, high = mean_with_interval(own - control)
            means = {
                "change": own.mean(),
                "control": control.mean(),
                "difference": difference,
                "low": low,
                "high": high,
            }
            rows.append(row | means | {"p": float(ttest_1samp(own - control, 0).pvalue)})
    table = pd.DataFrame(rows)
    known = table["p"].notna()
    table["p_holm"] = np.nan
    if known.any():
        table.loc[known, "p_holm"] = multipletests(table.loc[known, "p"], method="holm")[1]
    return table.assign(significant=table["p_holm"] < SIGNIFICANCE_LEVEL)


def logits_of(model: TransferModel, images: np.ndarray, task: str) -> np.ndarray:
    """Logits of the whole network for images, float32, shape (n, 10), computed in parallel or loaded from the cache.

    Parameters
    ----------
    model : TransferModel
    images : ndarray of uint8, shape (n, 28, 28)
    task : str
        What the terminal calls this step.
    """
    precision, where = fastest_precision(), device()
    state = {**model.backbone.layers.state_dict(), **model.model.classifier.state_dict(prefix="head.")}
    depends_on = {
        "images": array_digest(images),
        "weights": array_digest(*(tensor.numpy() for tensor in state.values())),
        "settings": repr((model.backbone.settings, model.backbone.mean, model.backbone.std)),
        "precision": precision,
        "code": digest_of(_logits_of_chunk, forward, backbone_module, heads_module),
        "torch": torch.__version__,
        "device": where,
    }

    def make(folder: Path) -> None:
        without_layers, weights = sent(model.backbone)
        head = np.frombuffer(save(model.model.classifier.state_dict()), np.uint8)
        chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        with reported(task, len(images)) as progress:
            tasks = {
                number: delayed(_logits_of_chunk)(
                    without_layers, model.head, precision, where, progress, chunk, head, *weights
                )
                for number, chunk in enumerate(chunks)
            }
            with parallel():
                parts = dict(as_completed(tasks, here=where == "cuda"))
        logits = np.concatenate([parts[number] for number in range(len(chunks))])
        write_atomically(folder / "logits.bin", logits.astype("<f4").tobytes())

    folder = cached("occluded", depends_on, make)
    return np.frombuffer((folder / "logits.bin").read_bytes(), "<f4").reshape(len(images), -1)


def _logits_of_chunk(
    without_layers: SentBackbone,
    settings: HeadSettings,
    precision: str,
    where: str,
    progress: Progress,
    images: np.ndarray,
    head: np.ndarray,
    *weights: np.ndarray,
) -> np.ndarray:
    with one_thread():
        backbone = without_layers.rebuilt(weights)
        values = torch.cat(list(forward(backbone, images, getattr(torch, precision), where)))
        features = Features(as_stored(values), np.zeros(len(images), np.int64), backbone.output_shape, "occluded")
        classifier = new_head(features.shape, settings)
        classifier.load_state_dict(load(head.tobytes()))
        progress.advance(len(images))
        return predict_logits(classifier, features).numpy()
