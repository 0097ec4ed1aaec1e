"""Activation maximisation: the image that a unit responds to most, found by gradient ascent on the image.

Without regularisation as in Simonyan et al. (2014) and in the repository pytorch-cnn-visualizations: the parameters are
the pixels. With regularisation after Olah et al. (2017): the parameters are the image's Fourier coefficients, the image
is shifted and scaled at random before every step, and its total variation is penalised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from book.experiments.checks import check_integer, check_number, check_that
from book.experiments.vgg.backbone import VGG, Backbone
from book.experiments.views.hooks import Target, activations

GREY_LEVELS_PER_UNIT = 0.226 * 255
"""Standard deviation of a colour channel in ImageNet; the unit that torchvision's networks see images in."""

# Columns: brightness, red against blue, green against both, and how far images of ImageNet spread along each,
# brightness being 1; after the principal components behind the colour augmentation of Krizhevsky et al. (2012).
COLOUR_AXES = torch.tensor([[1.0, 1.0, 1.0], [1.5**0.5, 0.0, -(1.5**0.5)], [-(0.5**0.5), 2.0**0.5, -(0.5**0.5)]]).T
COLOUR_SPREAD = torch.tensor([1.0, 0.29, 0.14])

FIRST_SPREAD = 0.01
"""Standard deviation of the Fourier coefficients at the start: close to a flat grey."""


@dataclass(frozen=True)
class UnregularisedSettings:
    """Hyperparameters of activation maximisation without regularisation: gradient ascent on pixels with Adam.

    Attributes
    ----------
    num_steps : int
        At least 1.
    learning_rate : float
        In units of `GREY_LEVELS_PER_UNIT`: with 0.1, a pixel moves by up to about six grey levels a step.
    weight_decay : float
        L2 penalty of the distance of every pixel from the mean colour; at least 0.
    """

    num_steps: int = 30
    learning_rate: float = 0.1
    weight_decay: float = 1e-6

    def __post_init__(self) -> None:
        check_integer("num_steps", self.num_steps, minimum=1)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, minimum=0)


@dataclass(frozen=True)
class RegularisedSettings:
    """Hyperparameters of activation maximisation with regularisation: ascent on Fourier coefficients with Adam.

    Attributes
    ----------
    num_steps : int
        At least 1.
    learning_rate : float
        Above 0.
    jitter : float
        Largest shift before every step, horizontal and vertical, as a fraction of the image's size, below 1.
    scale : float
        Largest enlargement or shrinking before every step, as a fraction, below 1.
    total_variation : float
        Weight of the penalty, the mean difference of neighbouring pixels (0 to 1), in relative growth of the
        activation; at least 0.
    seed : int
        Of the start and of the transformations; at least 0.
    """

    num_steps: int = 40
    learning_rate: float = 0.1
    jitter: float = 0.07
    scale: float = 0.1
    total_variation: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("num_steps", self.num_steps, minimum=1)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("jitter", self.jitter, minimum=0, below=1)
        check_number("scale", self.scale, minimum=0, below=1)
        check_number("total_variation", self.total_variation, minimum=0)
        check_integer("seed", self.seed, minimum=0)


class OptimisedImages(NamedTuple):
    """Optimised images, and their activations.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, size, size) or (n, size, size, 3)
        Grey, or red, green and blue.
    start, reached, shown : ndarray of float32, shape (n,)
        The target's activation at the start; at the end, where pixels may lie outside of the range of an image; and
        of `images`, which are clipped to that range and rounded.
    outside : float
        Fraction of the values that were clipped.
    """

    images: np.ndarray
    start: np.ndarray
    reached: np.ndarray
    shown: np.ndarray
    outside: float


def random_image(size: int, seed: int, low: int = 150, high: int = 180, channels: int = 1) -> np.ndarray:
    """Draw an image of random integers.

    Parameters
    ----------
    size : int
    seed : int
    low, high : int
        Smallest and largest value, from 0 to 255.
    channels : 1 or 3

    Returns
    -------
    ndarray of uint8, shape (size, size) or (size, size, 3)
    """
    check_integer("size", size, minimum=1)
    check_integer("seed", seed, minimum=0)
    check_integer("low", low, minimum=0, maximum=255)
    check_integer("high", high, minimum=low, maximum=255)
    _check_channels(channels)
    shape = (size, size) if channels == 1 else (size, size, channels)
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8, endpoint=True)


def gradient_ascent(
    objective: Callable[[torch.Tensor], torch.Tensor],
    render: Callable[[], torch.Tensor],
    optimiser: torch.optim.Optimizer,
    num_steps: int,
) -> None:
    """Change the optimiser's parameter to raise an objective of images.

    `render` makes the images, shape (n, 1 or 3, size, size), from the
    parameter; `objective` gives shape (n,).
    """
    (parameter,) = optimiser.param_groups[0]["params"]
    for _ in range(num_steps):
        with torch.enable_grad():
            loss = -objective(render()).sum()
            # Unlike loss.backward(), this leaves no gradient elsewhere.
            (parameter.grad,) = torch.autograd.grad(loss, [parameter])
        optimiser.step()


def maximise_unregularised(
    model: VGG,
    backbone: Backbone,
    targets: Sequence[Target],
    start: np.ndarray,
    settings: UnregularisedSettings,
) -> OptimisedImages:
    """Gradient ascent on the pixels of images, each for its own target.

    Parameters
    ----------
    model : VGG
        In evaluation mode; not changed.
    backbone : Backbone
        Knows how the model's input is normalised.
    targets : sequence of n Targets
    start : ndarray of uint8, shape (n, size, size) or (n, size, size, 3)
        Images to start from. One channel stays one: it is copied to
        three inside the graph.
    settings : UnregularisedSettings

    Raises
    ------
    ValueError
        If a target does not exist or a shape is wrong.
    """
    levels, mean = _grey_levels(start, backbone)
    pixels = (levels - mean) / GREY_LEVELS_PER_UNIT
    pixels.requires_grad_()
    optimiser = torch.optim.Adam(
        [pixels],
        settings.learning_rate,
        weight_decay=settings.weight_decay,
    )

    def render() -> torch.Tensor:
        return pixels * GREY_LEVELS_PER_UNIT + mean

    activation = _activation_of(model, backbone, targets)
    first = render().detach()
    gradient_ascent(activation, render, optimiser, settings.num_steps)
    return _optimised(activation, first, render().detach())


def maximise_regularised(
    model: VGG,
    backbone: Backbone,
    targets: Sequence[Target],
    settings: RegularisedSettings,
    *,
    size: int,
    channels: int = 1,
) -> OptimisedImages:
    """Gradient ascent on the Fourier coefficients of images, from a flat grey.

    Parameters
    ----------
    model, backbone, targets
        As in `maximise_unregularised`.
    settings : RegularisedSettings
    size : int
        Height and width of the images; a class needs the backbone's
        input size, for a filter less will do.
    channels : 1 or 3
        1 for grey images, 3 for colour.

    Raises
    ------
    ValueError
        If a target does not exist or `channels` is another.
    """
    check_integer("size", size, minimum=2)
    _check_channels(channels)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (len(targets), channels, size, size // 2 + 1, 2)
    coefficients = FIRST_SPREAD * torch.randn(shape, generator=generator)
    coefficients.requires_grad_()
    optimiser = torch.optim.Adam([coefficients], settings.learning_rate)

    def render() -> torch.Tensor:
        planes = torch.view_as_complex(coefficients)
        return 255 * torch.sigmoid(from_spectrum(planes, size))

    activation = _activation_of(model, backbone, targets)

    def objective(images: torch.Tensor) -> torch.Tensor:
        moved = shift_and_scale(
            images,
            settings.jitter,
            settings.scale,
            generator,
        )
        values = activation(moved)
        # Layers differ in scale by orders of magnitude. As growth relative
        # to its value, each weighs the same against the penalty.
        growth = values / (values.detach().abs() + 1)
        penalty = total_variation(images / 255)
        return growth - settings.total_variation * penalty

    first = render().detach()
    gradient_ascent(objective, render, optimiser, settings.num_steps)
    return _optimised(activation, first, render().detach())


def from_spectrum(coefficients: torch.Tensor, size: int) -> torch.Tensor:
    """Turn Fourier coefficients into images that vary as natural ones do.

    In a natural image the amplitude falls as one over the frequency, and
    brightness varies more than colour. With these two built in, a step of
    the same length in every coefficient changes coarse shapes before fine
    texture.

    Parameters
    ----------
    coefficients : Tensor of complex64, shape (n, 1 or 3, size, size // 2 + 1)
        Of brightness; or of brightness, red against blue, and green
        against both.
    size : int

    Returns
    -------
    Tensor of float32, shape (n, 1 or 3, size, size)
        Around 0; grey, or red, green and blue.
    """
    vertical = torch.fft.fftfreq(size)[:, None]
    horizontal = torch.fft.rfftfreq(size)[None]
    frequency = (vertical**2 + horizontal**2).sqrt().clamp(min=1 / size)
    scaled = coefficients / frequency
    planes = torch.fft.irfft2(scaled, s=(size, size), norm="ortho")
    # A quarter, as in Olah et al.'s code: the first images are then in the
    # middle of the sigmoid.
    planes = planes / 4
    if planes.shape[1] == 1:
        return planes
    axes = COLOUR_AXES * COLOUR_SPREAD
    return torch.einsum("ca,nahw->nchw", axes, planes)


def shift_and_scale(
    images: torch.Tensor, jitter: float, scale: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Shift and scale each image at random by up to the fractions `jitter` and `scale`; edges are reflected."""
    draw = 2 * torch.rand(len(images), 3, generator=generator) - 1
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + scale * draw[:, 0]
    theta[:, :, 2] = 2 * jitter * draw[:, 1:]  # the grid runs from -1 to 1
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels (Rudin, Osher and Fatemi, 1992), shape (n,)."""
    across = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    return across + down


def mean_frequency(images: np.ndarray) -> np.ndarray:
    """Centre of gravity of the power spectrum, in periods per pixel, from 0 (flat) to 0.71; a flat image gives 0.

    Parameters
    ----------
    images : ndarray, shape (n, size, size)
        The mean of each is subtracted.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    images = np.asarray(images, dtype=np.float64)
    size = images.shape[-1]
    power = np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True))) ** 2
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    total = power.sum(axis=(1, 2))
    return np.divide((power * frequency).sum(axis=(1, 2)), total, out=np.zeros(len(images)), where=total > 0)


def _grey_levels(start: np.ndarray, backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as a float tensor, shape (n, 1 or 3, size, size), and the mean colour that broadcasts to it."""
    start = np.asarray(start)
    is_image = start.dtype == np.uint8 and (start.ndim == 3 or (start.ndim == 4 and start.shape[3] == 3))
    what = "uint8 of shape (n, size, size) or (n, size, size, 3)"
    check_that(is_image, "start", what, f"{start.dtype} of shape {start.shape}")
    levels = torch.from_numpy(start).float()
    mean = torch.tensor(backbone.mean).view(1, 3, 1, 1)
    if start.ndim == 3:
        return levels[:, None], mean.mean(dim=1, keepdim=True)
    return levels.permute(0, 3, 1, 2), mean


def _activation_of(model: VGG, backbone: Backbone, targets: Sequence[Target]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The targets' activations, shape (n,), as a function of images with values from 0 to 255."""
    return lambda images: activations(model, backbone.normalise(images.expand(-1, 3, -1, -1)), targets)


def _optimised(
    activation: Callable[[torch.Tensor], torch.Tensor], first: torch.Tensor, last: torch.Tensor
) -> OptimisedImages:
    """Clip and round the last images, and compute the activation of the first, the last and the clipped ones."""
    shown = last.round().clamp(0, 255)
    with torch.no_grad():
        values = [activation(images).numpy() for images in (first, last, shown)]
    outside = float(((last < 0) | (last > 255)).float().mean())
    pixels = shown.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return OptimisedImages(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, *values, outside)


def _check_channels(channels: int) -> None:
    check_integer("channels", channels)
    check_that(channels in (1, 3), "channels", "1 (grey) or 3 (colour)", channels)
