"""Look into a VGG: its layers by name, what each of them gives, and what is asked of one of its units."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from book.experiments.vgg.backbone import VGG

SCAN_BATCH = 20


class Target(NamedTuple):
    """What an activation is taken of: a filter of a convolution, or a class.

    Attributes
    ----------
    layer : int or None
        Position of a convolution in ``model.features``; None for the class scores.
    unit : int
        The filter, or the class.
    """

    layer: int | None
    unit: int


class Response(NamedTuple):
    """What one layer made of one image.

    Attributes
    ----------
    name : str
        As in :func:`layer_names`.
    maps : ndarray of float32, shape (channels, height, width)
    """

    name: str
    maps: np.ndarray

    @property
    def sparsity(self) -> float:
        """Share of the values that are exactly zero."""
        return float((self.maps == 0).mean())

    @property
    def positive(self) -> float:
        """Share of the values above zero."""
        return float((self.maps > 0).mean())

    def strongest(self, count: int) -> np.ndarray:
        """Positions of the maps with the highest mean, the highest first."""
        return np.argsort(-self.maps.mean(axis=(1, 2)), kind="stable")[:count]


def probe_of(model: VGG) -> VGG:
    """Copy a model for looking into it: evaluation mode, nothing trainable, ReLUs that do not overwrite their input.

    An in-place ReLU writes over the output of the convolution before it, which a hook may have kept; and it cannot
    have a backward hook, which guided backpropagation needs.
    """
    probe = copy.deepcopy(model).eval().requires_grad_(False)
    for module in probe.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return probe.to(memory_format=torch.channels_last)  # a fifth faster on a CPU


def layer_names(features: nn.Sequential) -> list[str]:
    """Name the layers as Simonyan and Zisserman do: "conv3_2" is the second convolution of the third block."""
    names, block, number = [], 1, 0
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            number += 1
            names.append(f"conv{block}_{number}")
        elif isinstance(layer, nn.ReLU):
            names.append(f"relu{block}_{number}")
        else:
            names.append(f"pool{block}")
            block, number = block + 1, 0
    return names


def convolutions(model: VGG) -> dict[int, str]:
    """Positions of the convolutions in ``model.features``, and their names."""
    names = layer_names(model.features)
    return {index: names[index] for index, layer in enumerate(model.features) if isinstance(layer, nn.Conv2d)}


def check_target(model: VGG, target: Target) -> None:
    """Raise a ValueError that names value and range if the model has no such layer, filter or class."""
    layer, unit = target
    if layer is None:
        check_class(model, unit)
        return
    allowed = list(convolutions(model))
    if isinstance(layer, bool) or layer not in allowed:
        raise ValueError(f"cnn_layer must be the position of a convolution, one of {allowed}; got {layer!r}")
    _check_below("filter_pos", unit, model.features[layer].out_channels)


def check_class(model: VGG, label: int) -> None:
    """Raise a ValueError that names value and range if the model has no such class."""
    linear = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)]
    _check_below("class", label, linear[-1].out_features)


def check_inputs(inputs: torch.Tensor) -> None:
    """Raise a ValueError that names the shape if it is not (n, 3, size, size) with n > 0."""
    if inputs.ndim != 4 or len(inputs) == 0 or inputs.shape[1] != 3 or inputs.shape[2] != inputs.shape[3]:
        raise ValueError(f"inputs must have shape (n, 3, size, size) and n > 0; got {tuple(inputs.shape)}")


def activations(model: VGG, inputs: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Take one activation of each image: the mean of a filter's map before its ReLU, or a class's logit.

    Before the ReLU, because a unit that is off has no gradient behind it. An image goes no deeper than its own
    target, so that a grid of targets in all layers costs about half of what it would otherwise.

    Parameters
    ----------
    model : VGG
        In evaluation mode.
    inputs : Tensor, shape (n, 3, size, size)
        As the model takes them, normalised.
    targets : sequence of n Targets

    Returns
    -------
    Tensor, shape (n,)
        A gradient flows through.

    Raises
    ------
    ValueError
        If a target does not exist, the shape is wrong, or the model is in training mode.
    """
    check_inputs(inputs)
    if len(targets) != len(inputs):
        raise ValueError(f"targets must be as many as inputs ({len(inputs)}); got {len(targets)}")
    if model.training:
        raise ValueError("model must be in evaluation mode; got one in training mode")
    for target in targets:
        check_target(model, target)
    depth = np.array([len(model.features) if layer is None else layer for layer, _ in targets])
    order = np.argsort(depth, kind="stable")
    outputs, values = inputs[torch.from_numpy(order)], []
    for index, layer in enumerate(model.features):
        if len(values) == len(targets):
            break
        outputs = layer(outputs)
        for _ in range(int((depth == index).sum())):
            values.append(outputs[0, targets[order[len(values)]].unit].mean())
            outputs = outputs[1:]
    if len(values) < len(targets):
        classes = torch.tensor([targets[position].unit for position in order[len(values) :]])
        logits = model.classifier(torch.flatten(model.avgpool(outputs), 1))
        values.extend(logits.gather(1, classes[:, None])[:, 0])
    return torch.stack(values)[torch.from_numpy(np.argsort(order))]


@contextmanager
def recorded(
    layers: Mapping[str, nn.Module], reduce: Callable[[torch.Tensor], torch.Tensor] = torch.clone
) -> Iterator[dict[str, torch.Tensor]]:
    """Record what layers give while the block runs; their hooks are gone after it, whatever happened in it.

    Parameters
    ----------
    layers : mapping of names to modules
    reduce : callable
        What is kept of an output. It must not be a view: the next layer may write over the output.

    Yields
    ------
    dict of str to Tensor
        The latest output of each layer that ran.
    """
    outputs: dict[str, torch.Tensor] = {}

    def hook_for(name: str) -> Callable:
        def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            outputs[name] = reduce(output.detach())

        return keep

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def responses(model: VGG, inputs: torch.Tensor) -> list[list[Response]]:
    """Record what every layer of the backbone makes of each image.

    Parameters
    ----------
    model : VGG
    inputs : Tensor, shape (n, 3, size, size)

    Returns
    -------
    list of n lists of Response
        For each image, one response a layer, in the layers' order.
    """
    check_inputs(inputs)
    with recorded(dict(zip(layer_names(model.features), model.features, strict=True))) as outputs, torch.no_grad():
        model.features(inputs)
    return [[Response(name, maps[i].numpy()) for name, maps in outputs.items()] for i in range(len(inputs))]


class Scan(NamedTuple):
    """What many images do to a model.

    Attributes
    ----------
    logits : ndarray of float32, shape (n, classes)
    means : dict of int to ndarray of float32, shape (n, filters)
        For each convolution's position, the mean of every filter's map before the ReLU.
    """

    logits: np.ndarray
    means: dict[int, np.ndarray]

    def most_exciting(self, target: Target, count: int = 9) -> np.ndarray:
        """Positions of the images with the highest activation of a target, the highest first."""
        layer, unit = target
        values = (self.logits if layer is None else self.means[layer])[:, unit]
        return np.argsort(-values, kind="stable")[:count]


def scan(
    model: VGG,
    to_input: Callable[[np.ndarray], torch.Tensor],
    images: np.ndarray,
    advance: Callable[[int], None] = lambda done: None,
) -> Scan:
    """Put many images through a model, keeping a number a filter.

    Parameters
    ----------
    model : VGG
    to_input : callable
        A backbone's.
    images : ndarray of uint8, shape (n, 28, 28)
    advance : callable
        Told the number of images after each batch.
    """
    layers = {str(index): model.features[index] for index in convolutions(model)}
    logits, means = [], {name: [] for name in layers}
    for start in range(0, len(images), SCAN_BATCH):
        batch = images[start : start + SCAN_BATCH]
        with recorded(layers, lambda output: output.mean(dim=(2, 3))) as outputs, torch.no_grad():
            logits.append(model(to_input(batch)).numpy())
        for name, values in outputs.items():
            means[name].append(values.numpy())
        advance(len(batch))
    return Scan(np.concatenate(logits), {int(name): np.concatenate(values) for name, values in means.items()})


def _check_below(name: str, value: Any, count: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= value < count:
        raise ValueError(f"{name} must be an integer from 0 to {count - 1}; got {value!r}")
