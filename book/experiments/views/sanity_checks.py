"""Sanity checks of saliency maps: cascading randomisation of the weights, and deletion and insertion of pixels."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from book.experiments.checks import check_integer, check_that
from book.experiments.vgg.backbone import VGG, Backbone
from book.experiments.views.hooks import SCAN_BATCH, check_class, layer_names

SSIM_SPREAD = 1.5
SSIM_CONSTANTS = (0.01**2, 0.03**2)


def cascading_randomisation(model: VGG, seed: int) -> Iterator[tuple[str, VGG]]:
    """Replace a model's trained weights by random ones, from the top down (Adebayo et al., 2018).

    Parameters
    ----------
    model : VGG
        Not changed.
    seed : int
        Of the random weights.

    Yields
    ------
    str, VGG
        The model as trained; then with random weights in its head; then in the last block of convolutions as well;
        and so on down to the first. Each is the same object, changed further.
    """
    check_integer("seed", seed, minimum=0)
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
    yield "trained", changed
    _randomise(changed.classifier, generator)
    yield "head", changed
    names = layer_names(changed.features)
    for block in sorted({name[4] for name in names if name.startswith("conv")}, reverse=True):
        for name, layer in zip(names, changed.features, strict=True):
            if name.startswith(f"conv{block}"):
                _randomise(layer, generator)
        yield f"+ conv{block}", changed


def rank_correlation(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation of each pair of maps; 0 where one of them is constant.

    Parameters
    ----------
    first, second : ndarray, shape (n, height, width)
    mask : ndarray of bool, shape (n, height, width), optional
        The pixels that count; all by default.

    Returns
    -------
    ndarray of float64, shape (n,)
        1: the same order of pixels; 0: no relation.
    """
    mask = np.ones(first.shape, dtype=bool) if mask is None else mask
    correlations = []
    for one, other, counts in zip(first, second, mask, strict=True):
        a, b = (rankdata(values[counts]) for values in (one, other))
        a, b = a - a.mean(), b - b.mean()
        length = np.sqrt((a @ a) * (b @ b))
        correlations.append(a @ b / length if length > 0 else 0.0)
    return np.array(correlations)


def structural_similarity(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Mean structural similarity of each pair of maps (Wang et al., 2004), with a Gaussian kernel.

    Parameters
    ----------
    first, second : ndarray, shape (n, height, width)
        Values from 0 to 1.
    mask : ndarray of bool, shape (n, height, width), optional
        The pixels over which the mean is taken; all by default.

    Returns
    -------
    ndarray of float64, shape (n,)
        1: equal.
    """

    def blurred(maps: np.ndarray) -> np.ndarray:
        return gaussian_filter(maps, SSIM_SPREAD, axes=(1, 2))

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    mean_a, mean_b = blurred(a), blurred(b)
    variances = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = SSIM_CONSTANTS
    quotient = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    quotient /= (mean_a**2 + mean_b**2 + c1) * (variances + c2)
    return quotient.mean(axis=(1, 2), where=True if mask is None else mask)


class Curves(NamedTuple):
    """Probability of a class as pixels are deleted and inserted.

    Attributes
    ----------
    fraction : ndarray, shape (num_steps + 1,)
        Fraction of the pixels that were deleted or inserted, from 0 to 1.
    deletion, insertion : ndarray, shape (n, num_steps + 1)
        Probability of each image's class.
    """

    fraction: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """Areas under the two curves, for each image; a good ranking has a small first and a large second."""
        return np.trapezoid(self.deletion, self.fraction, axis=1), np.trapezoid(self.insertion, self.fraction, axis=1)


def per_pixel(maps: np.ndarray, size: int = 28) -> np.ndarray:
    """Average maps over the enlarged image's pixels that came from one pixel, shape (n, size, size)."""
    check_integer("size", size, minimum=1)
    return adaptive_avg_pool2d(torch.from_numpy(np.asarray(maps, dtype=np.float32)), size).numpy()


def deletion_and_insertion(
    model: VGG,
    backbone: Backbone,
    images: np.ndarray,
    classes: Sequence[int],
    rankings: Mapping[str, np.ndarray],
    *,
    num_steps: int,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Curves]:
    """Delete pixels, the highest ranked first, and insert them into a black image (Petsiuk et al., 2018).

    Parameters
    ----------
    model : VGG
        In evaluation mode.
    backbone : Backbone
        Enlarges and normalises the images.
    images : ndarray of uint8, shape (n, height, width)
    classes : sequence of n int
        Whose probability is recorded.
    rankings : mapping of str to ndarray, shape (n, height, width)
        For each method the relevance of each pixel. Pixels of equal relevance are taken in random order.
    num_steps : int
        In how many equal parts the pixels are taken; at least 1.
    seed : int
        Of that order.
    advance : callable
        Called with 1 after each ranking.

    Returns
    -------
    dict of str to Curves
        For each method.

    Raises
    ------
    ValueError
        If the shapes differ or a class does not exist.
    """
    check_that(len(classes) == len(images), "len(classes)", f"that of images, {len(images)}", len(classes))
    check_integer("num_steps", num_steps, minimum=1)
    check_integer("seed", seed, minimum=0)
    for label in classes:
        check_class(model, label)
    for relevance in rankings.values():
        what = f"of the shape of images, {images.shape}"
        check_that(relevance.shape == images.shape, "relevance", what, relevance.shape)
    fraction = np.linspace(0, 1, num_steps + 1)
    # The ends are the same for every ranking: nothing deleted is all inserted.
    whole, black = _probabilities(model, backbone, np.stack([images, np.zeros_like(images)]), classes)
    curves = {}
    for name, relevance in rankings.items():
        rank = _ranks(relevance, seed)
        taken = [rank < round(part * rank[0].size) for part in fraction[1:-1]]
        altered = [np.where(mask, 0, images) for mask in taken] + [np.where(mask, images, 0) for mask in taken]
        inner = _probabilities(model, backbone, np.array(altered, np.uint8).reshape(-1, *images.shape), classes)
        deletion, insertion = inner[: len(taken)], inner[len(taken) :]
        curves[name] = Curves(
            fraction, np.stack([whole, *deletion, black], axis=1), np.stack([black, *insertion, whole], axis=1)
        )
        advance(1)
    return curves


def _ranks(relevance: np.ndarray, seed: int) -> np.ndarray:
    """Place of each pixel of an image, the most relevant being 0, with ties in random order."""
    flat = relevance.reshape(len(relevance), -1)
    ties = np.random.default_rng(seed).random(flat.shape)
    order = np.lexsort((ties, -flat), axis=1)
    return np.argsort(order, axis=1).reshape(relevance.shape)


def _probabilities(model: VGG, backbone: Backbone, images: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Probability of each image's class, shape (m, n), for images of shape (m, n, height, width)."""
    flat, labels = images.reshape(-1, *images.shape[2:]), np.tile(classes, len(images))
    found = []
    with torch.no_grad():
        for start in range(0, len(flat), SCAN_BATCH):
            batch = slice(start, start + SCAN_BATCH)
            probability = model(backbone.to_input(flat[batch])).softmax(dim=1).numpy()
            found.append(probability[np.arange(len(probability)), labels[batch]])
    return np.concatenate([np.empty(0), *found]).reshape(images.shape[:2])


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """He's weights (2015) for every layer that has any, no biases, and normalisation that does nothing."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.reset_parameters()
