"""VGG16 (Simonyan and Zisserman, 2015, configuration D): a backbone of frozen convolutions, and a new head.

The backbone is the first `cut` layers of torchvision's ``vgg16().features``, the head takes the place of its
``classifier``. Put together they are torchvision's model again. The outputs of earlier layers can be stacked on that of
the last one.
"""

import contextlib
import copy
import io
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, interpolate

from book.experiments.checks import check_choice, check_integer, check_that
from data.vgg16 import RGB_MEAN, load_vgg16_features

try:
    import torchvision
except RuntimeError:
    # On a machine without CUDA's libraries torchvision cannot load its own operators, and then fails to describe two
    # of them to PyTorch. Nothing here calls them; it is enough that they are declared.
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

VGG = torchvision.models.VGG

EMBEDDED = "embedded"
WEIGHTS = (EMBEDDED, "IMAGENET1K_FEATURES", "IMAGENET1K_V1")
"""Names of the pretrained weights: the file in `data/`, and torchvision's own, which are downloaded."""

NUM_LAYERS = 31
"""Layers of ``features``: 13 convolutions, each with a ReLU, and 5 max pooling layers."""

MIN_INPUT_SIZE = 32
"""Five max pooling layers halve the image five times; below 32 pixels nothing is left."""

ENDS_OF_BLOCKS = (5, 10, 17, 24, 31)
"""How many layers there are up to the end of each block, its max pooling layer included."""

KINDS = {
    nn.Conv2d: "convolution",
    nn.MaxPool2d: "max pooling",
    nn.Linear: "dense",
    nn.BatchNorm1d: "batch normalisation",
    nn.Dropout: "dropout",
    nn.BatchNorm2d: "batch normalisation",
    nn.Dropout2d: "channel dropout",
    nn.Unflatten: "unflatten",
    nn.Flatten: "flatten",
}
"""What the table of layers calls them; a ReLU is called by its name."""


class WeightsError(ValueError):
    """Weights could not be had, or are not those of the architecture."""


@dataclass(frozen=True)
class BackboneSettings:
    """Which part of which VGG16 sees the images, and at what size.

    Attributes
    ----------
    weights : str
        One of `WEIGHTS`.
    cut : int
        How many layers of ``features`` are kept: 31 ends with the last max pooling, 30 before it.
    input_size : int
        Height and width in pixels that images are enlarged to.
    stacked : tuple of int
        Ends of earlier blocks, of `ENDS_OF_BLOCKS` and below `cut`, whose outputs are stacked before the last one.
    grid : int
        Height and width of the output. An output of another size is pooled to it twice, by the mean and by the
        maximum, and so counts twice as many channels. 0 takes the size that the last layer gives.

    Raises
    ------
    ValueError
        If one of them is not allowed.
    """

    weights: str = EMBEDDED
    cut: int = NUM_LAYERS
    input_size: int = 224
    stacked: tuple[int, ...] = ()
    grid: int = 0

    def __post_init__(self) -> None:
        check_choice("weights", self.weights, WEIGHTS)
        check_integer("cut", self.cut, 1, NUM_LAYERS)
        check_integer("input_size", self.input_size, MIN_INPUT_SIZE, 1024)
        check_that(isinstance(self.stacked, Sequence), "stacked", "a sequence of integers", self.stacked)
        for i, number in enumerate(self.stacked):
            earlier = [end for end in ENDS_OF_BLOCKS if end < self.cut and end > max(self.stacked[:i], default=0)]
            check_that(number in earlier, f"stacked[{i}]", f"one of {earlier}", number)
        object.__setattr__(self, "stacked", tuple(self.stacked))
        check_integer("grid", self.grid, 0, self.input_size)


class StackedLayers(nn.Sequential):
    """Layers in sequence whose output holds those of several of them, pooled to one grid.

    Without `stacked` and `grid` it is PyTorch's `Sequential`.

    Parameters
    ----------
    layers : iterable of Module, or OrderedDict of them
    stacked : tuple of int
        After how many layers an output is taken besides the last.
    grid : int
        As in `BackboneSettings`.
    """

    def __init__(self, layers: Iterable[nn.Module] | OrderedDict, stacked: tuple[int, ...] = (), grid: int = 0) -> None:
        super().__init__(*([layers] if isinstance(layers, OrderedDict) else layers))
        self.stacked, self.grid = stacked, grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs, shape (n, 3, height, width), to features, shape (n, channels, grid, grid)."""
        outputs = {}
        for number, layer in enumerate(self, start=1):
            x = layer(x)
            if number in self.stacked:
                outputs[number] = x
        return self.stack(outputs, x)

    def stack(self, outputs: Mapping[int, torch.Tensor], last: torch.Tensor) -> torch.Tensor:
        """Pool the outputs of the layers in `stacked` and the last one to one grid, and stack their channels.

        Parameters
        ----------
        outputs : mapping of int to Tensor
            The output after so many layers, for each number in `stacked`.
        last : Tensor, shape (n, channels, height, width)
            The output of the last layer.
        """
        grid = self.grid or last.shape[-1]
        pooled = []
        for output in (*(outputs[number] for number in self.stacked), last):
            if output.shape[-1] == grid:
                pooled.append(output)
            else:
                pooled += [adaptive_avg_pool2d(output, grid), adaptive_max_pool2d(output, grid)]
        return torch.cat(pooled, 1) if len(pooled) > 1 else pooled[0]


class Backbone(NamedTuple):
    """Frozen convolutional layers, and what their input is like.

    Attributes
    ----------
    settings : BackboneSettings
    layers : StackedLayers
        ``features[:cut]`` in evaluation mode, float32, no parameter with a gradient; stacked as `settings` says.
    mean, std : tuple of three floats
        What is subtracted from red, green and blue on the scale of 0 to 255, and what the rest is divided by.
    """

    settings: BackboneSettings
    layers: StackedLayers
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def with_layers(self, state: Mapping[str, torch.Tensor]) -> "Backbone":
        """Return a backbone with the weights and biases of ``state``, those of ``features[:cut]`` by their names."""
        return self._replace(layers=_frozen_layers(self.settings, state))

    def to_input(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Enlarge grey images, copy them to three channels, and normalise them as the weights expect.

        Parameters
        ----------
        images : array of uint8, or tensor of float with values from 0 to 255, shape (n, height, width)

        Returns
        -------
        Tensor of float32, shape (n, 3, input_size, input_size)
            A tensor's gradient flows through.

        Raises
        ------
        ValueError
            If the shape is another, or an array is not `uint8`.
        """
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8:
                raise ValueError(f"images must be an array of uint8 (0 to 255, not scaled); got {images.dtype}")
            images = torch.from_numpy(np.ascontiguousarray(images)).float()
        if images.ndim != 3:
            raise ValueError(f"images must have shape (n, height, width); got {tuple(images.shape)}")
        size = (self.settings.input_size, self.settings.input_size)
        grey = interpolate(images[:, None], size, mode="bilinear", align_corners=False)
        return self.normalise(grey.expand(-1, 3, -1, -1))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Subtract `mean` from images of shape (n, 3, height, width), 0 to 255, and divide by `std`."""
        mean, std = (images.new_tensor(channels).view(3, 1, 1) for channels in (self.mean, self.std))
        return (images - mean) / std

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the output for one image."""
        output = copy.deepcopy(self.layers).to("meta")(_shapes_only(self.settings.input_size))
        return tuple(output.shape[1:])


def load_backbone(settings: BackboneSettings) -> Backbone:
    """Load pretrained layers and freeze them.

    Raises
    ------
    DataError
        If the embedded file is missing or altered.
    WeightsError
        If a download fails, or the weights do not fit the architecture.
    """
    if settings.weights == EMBEDDED:
        state = {name: torch.from_numpy(array).float() for name, array in load_vgg16_features().items()}
        mean, std = RGB_MEAN, (1.0, 1.0, 1.0)
    else:
        state, mean, std = _download(settings.weights)
    kept = {name: tensor for name, tensor in state.items() if int(name.split(".")[0]) < settings.cut}
    try:
        layers = _frozen_layers(settings, kept)
    except RuntimeError as error:
        message = f"weights must be those of VGG16's features; {settings.weights!r} does not fit: {error}"
        raise WeightsError(message) from None
    return Backbone(settings, layers, mean, std)


def _frozen_layers(
    settings: BackboneSettings,
    state: Mapping[str, torch.Tensor],
) -> StackedLayers:
    """Load weights and biases into ``features[:cut]``, and freeze them."""
    kept = _architecture().features[: settings.cut]
    layers = StackedLayers(kept, settings.stacked, settings.grid)
    layers.load_state_dict(state, assign=True)
    for parameter in layers.parameters():
        parameter.requires_grad_(False)  # no gradient, so no update
    return layers.eval()


def assemble(backbone: Backbone, head: nn.Module) -> VGG:
    """Put a backbone and a head into torchvision's VGG, which then maps `backbone.to_input(images)` to logits.

    The backbone stays frozen, and gradients flow through it to the input. VGG's pooling to 7x7 before the dense layers
    is left out: the head takes the grid as it is.

    Returns
    -------
    VGG
        In evaluation mode; from shape (n, 3, input_size, input_size) to (n, number of classes).
    """
    model = _architecture()
    model.features, model.avgpool, model.classifier = backbone.layers, nn.Identity(), head
    return model.eval()


def describe_layers(model: VGG, input_size: int) -> pd.DataFrame:
    """Name every layer with its parameters, as the assignment asks.

    Parameters
    ----------
    model : VGG
        Of :func:`assemble`.
    input_size : int

    Returns
    -------
    DataFrame
        A row a layer: `layer` (its place in the model), `kind`, `units` (filters of a convolution, outputs of a dense
        layer; "–" elsewhere), `kernel size`, `stride`, `padding` (in pixels), `output` (shape for one image),
        `parameters`, and `trained`: "frozen" or "trained", "left out" behind the cut, "–" where there is nothing to
        train. A row between backbone and head says what is stacked, if anything is.
    """
    x = _shapes_only(input_size)
    rows, cut, outputs = [], len(model.features), {}
    for number, layer in enumerate(_architecture().features):
        x = layer(x)
        left_out = {"trained": "left out"} if number >= cut else {}
        described = _describe(layer if left_out else model.features[number])
        rows.append({"layer": f"features.{number}"} | described | {"output": _shape(x)} | left_out)
        outputs[number + 1] = x
    x = model.features.stack(outputs, outputs[cut])
    if tuple(x.shape) != tuple(outputs[cut].shape):
        rows.insert(cut, _described_stack(model.features) | {"output": _shape(x)})
    x = x.flatten(1)
    for number, layer in enumerate(copy.deepcopy(model.classifier).to("meta")):
        x = layer(x)
        rows.append({"layer": f"classifier.{number}"} | _describe(layer) | {"output": _shape(x)})
    table = pd.DataFrame(rows)
    return table[["layer", "kind", "units", "kernel size", "stride", "padding", "output", "parameters", "trained"]]


def _described_stack(features: StackedLayers) -> dict[str, Any]:
    nothing = dict.fromkeys(("units", "kernel size", "stride", "padding", "trained"), "–")
    numbers = ", ".join(f"features.{number - 1}" for number in (*features.stacked, len(features)))
    return nothing | {"layer": "stack", "kind": f"mean and max pooling, stacking of {numbers}", "parameters": 0}


def _describe(layer: nn.Module) -> dict[str, Any]:
    parameters = list(layer.parameters())
    trained = "trained" if any(p.requires_grad for p in parameters) else "frozen"
    size = {"kernel size": "–", "stride": "–", "padding": "–"}
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        size = {name: _side(getattr(layer, name)) for name in ("stride", "padding")}
        size["kernel size"] = "×".join([str(_side(layer.kernel_size))] * 2)
    kind = KINDS.get(type(layer), type(layer).__name__)
    return size | {
        "kind": f"{kind} {layer.p:g}" if isinstance(layer, nn.Dropout | nn.Dropout2d) else kind,
        "units": getattr(layer, "out_channels", getattr(layer, "out_features", "–")),
        "parameters": sum(p.numel() for p in parameters),
        "trained": trained if parameters else "–",
    }


def _shapes_only(size: int) -> torch.Tensor:
    """An input that goes through layers without memory and without products, where shapes are all that is wanted."""
    return torch.zeros(1, 3, size, size, device="meta", dtype=torch.float32)


def _side(value: int | tuple[int, int]) -> int:
    """VGG's kernels are squares; PyTorch says so with one number or two."""
    return value if isinstance(value, int) else value[0]


def _shape(x: torch.Tensor) -> str:
    return "×".join(str(size) for size in x.shape[1:])


def _architecture() -> VGG:
    """Torchvision's VGG16 without memory for its weights, half a gigabyte of which would be thrown away."""
    with torch.device("meta"):
        return torchvision.models.vgg16(init_weights=False).float()


def _download(name: str) -> tuple[dict[str, torch.Tensor], tuple[float, ...], tuple[float, ...]]:
    """Return the state of torchvision's `features`, and mean and standard deviation on the scale of 0 to 255."""
    weights = torchvision.models.VGG16_Weights[name]
    try:
        # torch.hub announces its download on stderr, whatever it is told.
        with contextlib.redirect_stderr(io.StringIO()):
            state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; not the file that torchvision knows
        raise WeightsError(
            f"weights {name!r} could not be downloaded ({error}); weights={EMBEDDED!r} needs no network"
        ) from error
    prefix = "features."
    features = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    transforms = weights.transforms()
    return features, tuple(255 * value for value in transforms.mean), tuple(255 * value for value in transforms.std)
