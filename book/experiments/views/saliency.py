"""Saliency maps: the gradient of a class score in the input, and methods built on it, by Captum.

All functions leave the model as it was. They need one from `hooks.copy_without_inplace_relus`.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from book.experiments.checks import check_integer, check_number
from book.experiments.vgg.backbone import VGG
from book.experiments.views.hooks import check_class, check_one_per_image, convolutions

with warnings.catch_warnings():
    # Captum asks for tqdm's bar for notebooks, which misses its widgets, and the warning would appear on the page.
    warnings.filterwarnings("ignore", "IProgress not found")
    from captum.attr import (
        GuidedBackprop,
        IntegratedGradients,
        LayerAttribution,
        LayerGradCam,
        NoiseTunnel,
        Saliency,
    )

BATCH = 20


class Integrated(NamedTuple):
    """Integrated gradients, and their completeness.

    Attributes
    ----------
    attributions : Tensor, shape (n, 3, size, size)
    gap : Tensor, shape (n,)
        Sum of the attributions less the rise of the logit from the baseline; 0 with infinitely many steps.
    rise : Tensor, shape (n,)
        The rise of the logit.
    """

    attributions: torch.Tensor
    gap: torch.Tensor
    rise: torch.Tensor


def class_gradients(
    model: VGG,
    inputs: torch.Tensor,
    classes: Sequence[int],
) -> torch.Tensor:
    """Gradient of a class's logit in the input (Simonyan et al., 2014).

    Parameters
    ----------
    model : VGG
        In evaluation mode.
    inputs : Tensor, shape (n, 3, size, size)
        As the model takes them, normalised.
    classes : sequence of n int
        Whose logit is differentiated, for each image.

    Returns
    -------
    Tensor, shape (n, 3, size, size)

    Raises
    ------
    ValueError
        If a class does not exist, the shape is wrong, or the model is in
        training mode.
    """
    labels = _checked(model, inputs, classes)
    with torch.enable_grad():
        inputs = inputs.detach().clone().requires_grad_()
        scores = model(inputs).gather(1, labels[:, None])
        # In evaluation mode images are independent of each other, so the
        # gradient of the sum is that of each score.
        return torch.autograd.grad(scores.sum(), inputs)[0]


def gradient_check(
    model: VGG,
    inputs: torch.Tensor,
    classes: Sequence[int],
    *,
    num_directions: int,
    seed: int,
    step: float = 1e-7,
) -> np.ndarray:
    """Compare gradients with central differences along random directions.

    All is computed in float64. A direction adds or subtracts the same in
    every pixel, with random signs.

    Parameters
    ----------
    model, inputs, classes
        As in :func:`class_gradients`.
    num_directions : int
    seed : int
        Of the directions.
    step : float
        Change of every pixel. With a larger one more ReLUs and pooled maxima
        switch on the way, with a smaller one rounding counts.

    Returns
    -------
    ndarray, shape (num_directions, n)
        Difference of the slopes, as a fraction of the gradient's norm.
    """
    check_integer("num_directions", num_directions, minimum=1)
    check_integer("seed", seed, minimum=0)
    check_number("step", step, above=0)
    model, inputs = copy.deepcopy(model).double(), inputs.double()
    gradients = class_gradients(model, inputs, classes)
    norms = gradients.flatten(1).norm(dim=1)
    labels = torch.tensor(list(classes))[:, None]
    generator = torch.Generator().manual_seed(seed)
    differences = []
    for _ in range(num_directions):
        signs = torch.randint(2, inputs.shape, generator=generator) * 2 - 1
        with torch.no_grad():
            ahead = model(inputs + step * signs).gather(1, labels)[:, 0]
            behind = model(inputs - step * signs).gather(1, labels)[:, 0]
        slopes = (gradients * signs).flatten(1).sum(dim=1)
        differences.append((ahead - behind) / (2 * step) - slopes)
    return (torch.stack(differences).abs() / norms).numpy()


def captum_gradients(model: VGG, inputs: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """What :func:`class_gradients` gives, by Captum."""
    labels = _checked(model, inputs, classes)
    with _with_gradient(inputs) as inputs:
        return Saliency(model).attribute(inputs, target=labels, abs=False).detach()


def largest_over_channels(gradients: torch.Tensor) -> np.ndarray:
    """Largest absolute value over the channels (Simonyan et al.), shape (n, size, size)."""
    return gradients.abs().amax(dim=1).numpy()


def sum_over_channels(gradients: torch.Tensor) -> np.ndarray:
    """Sum of the absolute values over the channels (the repository), shape (n, size, size)."""
    return gradients.abs().sum(dim=1).numpy()


def brightness_fraction(gradients: torch.Tensor) -> np.ndarray:
    """Fraction of the gradient's squared norm that changes brightness; the rest changes colour. Shape (n,).

    A grey image moves along (1, 1, 1) only: the projection of a pixel's gradient on that direction counts. A zero
    gradient gives 0.
    """
    along = gradients.sum(dim=1).square().sum(dim=(1, 2)) / gradients.shape[1]
    total = gradients.square().sum(dim=(1, 2, 3))
    return torch.where(total > 0, along / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0).numpy()


def scaled_by_percentile(maps: np.ndarray, percentile: float = 99.0) -> np.ndarray:
    """Divide each map by a percentile of its absolute values, and clip to -1 to 1; a map of zeros stays zero.

    Parameters
    ----------
    maps : ndarray, shape (n, ...)
    percentile : float
        From 0 to 100; below 100, because single extreme pixels would leave everything else dark.
    """
    check_number("percentile", percentile, minimum=0, maximum=100)
    maps = np.asarray(maps, dtype=np.float64)
    sizes = np.abs(maps).reshape(len(maps), -1)
    top = np.percentile(sizes, percentile, axis=1)
    top = np.where(top > 0, top, sizes.max(axis=1))  # a map with fewer bright pixels than that
    top = top.reshape(-1, *[1] * (maps.ndim - 1))
    return np.clip(np.divide(maps, top, out=np.zeros_like(maps), where=top > 0), -1, 1)


def guided_backpropagation(model: VGG, inputs: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """The gradient with its negative part cut off at every ReLU (Springenberg et al., 2015), by Captum."""
    labels = _checked(model, inputs, classes)
    with _with_gradient(inputs) as inputs:
        return GuidedBackprop(model).attribute(inputs, target=labels).detach()


def smooth_gradients(
    model: VGG, inputs: torch.Tensor, classes: Sequence[int], num_samples: int, noise: float, seed: int
) -> torch.Tensor:
    """Mean of the gradients at noisy copies of the image (SmoothGrad; Smilkov et al., 2017), by Captum.

    Parameters
    ----------
    model, inputs, classes
        As in :func:`class_gradients`.
    num_samples : int
        Noisy copies of each image.
    noise : float
        Standard deviation of the noise, as a fraction of the range of `inputs`; at least 0.
    seed : int
    """
    labels = _checked(model, inputs, classes)
    check_integer("num_samples", num_samples, minimum=1)
    check_number("noise", noise, minimum=0)
    check_integer("seed", seed, minimum=0)
    spread = noise * float(inputs.max() - inputs.min())
    per_batch = max(1, BATCH // len(inputs))
    with _with_gradient(inputs) as inputs, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (
            NoiseTunnel(Saliency(model))
            .attribute(
                inputs,
                nt_samples=num_samples,
                nt_samples_batch_size=min(per_batch, num_samples),
                stdevs=spread,
                target=labels,
                abs=False,
            )
            .detach()
        )


def integrated_gradients(
    model: VGG, inputs: torch.Tensor, classes: Sequence[int], baseline: torch.Tensor, num_steps: int
) -> Integrated:
    """Mean gradient on the straight path from a baseline, times the difference (Sundararajan et al., 2017), by Captum.

    Parameters
    ----------
    model, inputs, classes
        As in :func:`class_gradients`.
    baseline : Tensor, shape (1, 3, size, size)
        Where the path begins, normalised: a black image is not zeros.
    num_steps : int
        Points on the path, by Gauss-Legendre quadrature; at least 1.
    """
    labels = _checked(model, inputs, classes)
    check_integer("num_steps", num_steps, minimum=1)
    baselines = baseline.expand_as(inputs)
    with _with_gradient(inputs) as inputs:
        attributions, gap = IntegratedGradients(model).attribute(
            inputs,
            baselines,
            target=labels,
            n_steps=num_steps,
            internal_batch_size=max(BATCH, len(inputs)),
            return_convergence_delta=True,
        )
    with torch.no_grad():
        ends = torch.cat([inputs, baseline])
        scores = model(ends)
    rise = scores[:-1].gather(1, labels[:, None])[:, 0] - scores[-1, labels]
    return Integrated(attributions.detach(), gap.detach().float(), rise)


def grad_cam(model: VGG, inputs: torch.Tensor, classes: Sequence[int]) -> np.ndarray:
    """Where the last feature maps raise the score of a class (Grad-CAM; Selvaraju et al., 2017), by Captum.

    The feature maps of the last convolution, after its ReLU, weighted by their mean gradients; the positive part,
    enlarged to the image's size.

    Returns
    -------
    ndarray, shape (n, size, size)
        0 or more.
    """
    labels = _checked(model, inputs, classes)
    last = max(convolutions(model))
    layers = model.features
    layer = layers[last + 1] if last + 1 < len(layers) and isinstance(layers[last + 1], nn.ReLU) else layers[last]
    with _with_gradient(inputs) as inputs:
        maps = LayerGradCam(model, layer).attribute(inputs, target=labels, relu_attributions=True)
    enlarged = LayerAttribution.interpolate(maps.detach(), tuple(inputs.shape[2:]), "bilinear")
    return enlarged[:, 0].numpy()


def _checked(model: VGG, inputs: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    check_one_per_image(model, inputs, "classes", classes)
    for label in classes:
        check_class(model, label)
    return torch.tensor([int(label) for label in classes])


@contextmanager
def _with_gradient(inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """Give a copy of the input that has a gradient; keep Captum from warning that it sets hooks, which it removes."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")
        yield inputs.detach().clone().requires_grad_()
