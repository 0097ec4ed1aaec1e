"""Layers of a VGG by name, their outputs recorded by hooks, and the activation of single units."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from book.experiments.checks import check_integer, check_that
from book.experiments.vgg.backbone import VGG

SCAN_BATCH = 20


class Target(NamedTuple):
    """A unit whose activation is taken: a filter of a convolution, or a class.

    Attributes
    ----------
    layer : int or None
        Position of a convolution in ``model.features``; None for the class scores.
    unit : int
        The filter, or the class.
    """

    layer: int | None
    unit: int


class LayerOutput(NamedTuple):
    """Feature maps that one layer computes for one image.

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
        """Fraction of the values that are exactly zero."""
        return float((self.maps == 0).mean())

    @property
    def positive(self) -> float:
        """Fraction of the values above zero."""
        return float((self.maps > 0).mean())

    def strongest(self, count: int) -> np.ndarray:
        """Positions of the feature maps with the highest mean, the highest first."""
        check_integer("count", count, minimum=1)
        return np.argsort(-self.maps.mean(axis=(1, 2)), kind="stable")[:count]


def copy_without_inplace_relus(model: VGG) -> VGG:
    """Copy a model for hooks: evaluation mode, nothing trainable, ReLUs that do not overwrite their input.

    An in-place ReLU writes over the output of the convolution before it, which a hook may have kept; and it cannot
    have a backward hook, which guided backpropagation needs.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return copied.to(memory_format=torch.channels_last)  # a fifth faster on a CPU


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
    check_integer("cnn_layer", layer)
    check_that(layer in allowed, "cnn_layer", f"the position of a convolution, one of {allowed}", layer)
    check_integer("filter_pos", unit, minimum=0, maximum=model.features[layer].out_channels - 1)


def check_class(model: VGG, label: int) -> None:
    """Raise a ValueError that names value and range if the model has no such class."""
    linear = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)]
    check_integer("class", label, minimum=0, maximum=linear[-1].out_features - 1)


def check_inputs(inputs: torch.Tensor) -> None:
    """Raise a ValueError that names the shape if it is not (n, 3, size, size) with n > 0."""
    shape = tuple(inputs.shape)
    square = len(shape) == 4 and shape[0] > 0 and shape[1] == 3 and shape[2] == shape[3]
    check_that(square, "inputs", "of shape (n, 3, size, size) with n > 0", shape)


def check_one_per_image(model: VGG, inputs: torch.Tensor, name: str, values: Sequence) -> None:
    """Raise a ValueError unless the model is in evaluation mode, the inputs fit and each image has a value."""
    check_inputs(inputs)
    check_that(not model.training, "model.training", "False, evaluation mode", model.training)
    check_that(len(values) == len(inputs), f"len({name})", f"that of inputs, {len(inputs)}", len(values))


def activations(model: VGG, inputs: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Take one activation of each image: the mean of a filter's feature map before its ReLU, or a class's logit.

    Before the ReLU, because an inactive unit has no gradient behind it. An image goes no deeper than its own
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
    check_one_per_image(model, inputs, "targets", targets)
    for target in targets:
        check_target(model, target)
    values = {}
    classes = [i for i, (layer, _) in enumerate(targets) if layer is None]
    if classes:
        logits = model(inputs[classes])
        values |= {i: logits[row, targets[i].unit] for row, i in enumerate(classes)}
    filters = sorted(set(range(len(targets))) - set(classes), key=lambda i: targets[i].layer)
    outputs = inputs[filters]
    for index, layer in enumerate(model.features):
        if not filters:
            break
        outputs = layer(outputs)
        while filters and targets[filters[0]].layer == index:
            i, *filters = filters
            values[i] = outputs[0, targets[i].unit].mean()
            outputs = outputs[1:]
    return torch.stack([values[i] for i in range(len(targets))])


@contextmanager
def recorded(
    layers: Mapping[str, nn.Module],
    reduce: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> Iterator[dict[str, torch.Tensor]]:
    """Record the outputs of layers while a block runs.

    The hooks are removed after the block, even after an error.

    Parameters
    ----------
    layers : mapping of names to modules
    reduce : callable
        Makes what is stored from an output. It must not return a view:
        the next layer may write over the output.

    Yields
    ------
    dict of str to Tensor
        The latest output of each layer that ran.
    """
    outputs: dict[str, torch.Tensor] = {}

    def hook_for(name: str) -> Callable:
        def store(module: nn.Module, inputs: tuple, output: torch.Tensor):
            outputs[name] = reduce(output.detach())

        return store

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(hook_for(name)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def layer_outputs(model: VGG, inputs: torch.Tensor) -> list[list[LayerOutput]]:
    """Record the feature maps that every layer of the backbone computes for each image.

    Parameters
    ----------
    model : VGG
    inputs : Tensor, shape (n, 3, size, size)

    Returns
    -------
    list of n lists of LayerOutput
        For each image, one output per layer, in the layers' order.
    """
    check_inputs(inputs)
    with recorded(dict(zip(layer_names(model.features), model.features, strict=True))) as outputs, torch.no_grad():
        model.features(inputs)
    return [[LayerOutput(name, maps[i].numpy()) for name, maps in outputs.items()] for i in range(len(inputs))]


class Scan(NamedTuple):
    """Logits and mean activations of many images.

    Attributes
    ----------
    logits : ndarray of float32, shape (n, classes)
    means : dict of int to ndarray of float32, shape (n, filters)
        For each convolution's position, the mean of every filter's feature map before the ReLU.
    """

    logits: np.ndarray
    means: dict[int, np.ndarray]

    def most_activating(self, target: Target, count: int = 9) -> np.ndarray:
        """Positions of the images with the highest activation of a target, the highest first."""
        check_integer("count", count, minimum=1)
        layer, unit = target
        values = (self.logits if layer is None else self.means[layer])[:, unit]
        return np.argsort(-values, kind="stable")[:count]


def scan(
    model: VGG,
    to_input: Callable[[np.ndarray], torch.Tensor],
    images: np.ndarray,
    advance: Callable[[int], None] = lambda done: None,
) -> Scan:
    """Run many images through a model, keeping one number per filter.

    Parameters
    ----------
    model : VGG
    to_input : callable
        A backbone's.
    images : ndarray of uint8, shape (n, 28, 28)
    advance : callable
        Called with the number of images after each batch.
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
