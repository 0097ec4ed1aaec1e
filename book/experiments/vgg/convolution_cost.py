"""What a convolution costs: sizes and operations by formula, counted by PyTorch, and timed.

Sizes follow Dumoulin and Visin (2016): each edge gets ``padding`` zeros, and a window that does not fit is left out.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlp_core.validation import check_integer

BYTES = 4
"""Of a number in single precision."""


class Cost(NamedTuple):
    """What one layer, or several, cost for one image.

    Attributes
    ----------
    multiplications : int
        Those with zeros of the padding included, as usual.
    additions : int
        Without biases; with them there is one more for each output.
    weights, biases : int
        Parameters.
    outputs : int
        Numbers that are computed and stored.
    """

    multiplications: int
    additions: int
    weights: int
    biases: int
    outputs: int


@dataclass(frozen=True)
class Convolution:
    """A square two-dimensional convolution.

    Parameters
    ----------
    in_channels, out_channels, kernel : int
        At least 1.
    stride, dilation : int
        At least 1.
    padding : int, optional
        Zeros at each edge. None takes half of what the kernel reaches over, so that a stride of 1 keeps the size
        ("same").

    Raises
    ------
    ValueError
        For any parameter outside its range, and for None where no padding keeps the size.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int | None = None
    dilation: int = 1

    def __post_init__(self):
        for name in ("in_channels", "out_channels", "kernel", "stride", "dilation"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.padding is not None:
            check_integer("padding", self.padding, minimum=0)
        elif self.reach % 2 == 0:
            raise ValueError(
                f"padding must be given when dilation * (kernel - 1) is odd, since no padding keeps the size; "
                f"got None with kernel {self.kernel} and dilation {self.dilation}"
            )

    @property
    def reach(self) -> int:
        """Positions from the first to the last that one window touches, both included."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def zeros(self) -> int:
        """Zeros at each edge."""
        return (self.reach - 1) // 2 if self.padding is None else self.padding

    def output_size(self, size: int) -> int:
        """Positions of the output along a side of the input.

        Raises
        ------
        ValueError
            If not even one window fits.
        """
        check_integer("size", size, minimum=1)
        if self.reach > size + 2 * self.zeros:
            raise ValueError(
                f"kernel must fit into the padded input, {size + 2 * self.zeros} wide; "
                f"got {self.kernel} with dilation {self.dilation}, which reaches over {self.reach}"
            )
        return (size + 2 * self.zeros - self.reach) // self.stride + 1

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Height, width and channels of the output."""
        return self.output_size(height), self.output_size(width), self.out_channels

    def cost(self, height: int, width: int) -> Cost:
        """Count what an input of this height and width costs."""
        outputs = int(np.prod(self.output_shape(height, width)))
        products = self.kernel**2 * self.in_channels  # in the sum for one output
        return Cost(
            multiplications=outputs * products,
            additions=outputs * (products - 1),
            weights=products * self.out_channels,
            biases=self.out_channels,
            outputs=outputs,
        )

    def multiplications_inside(self, height: int, width: int) -> int:
        """Count the multiplications whose factor from the image is not a zero of the padding."""
        return self._taps_inside(height) * self._taps_inside(width) * self.in_channels * self.out_channels

    def _taps_inside(self, size):
        positions = np.arange(self.output_size(size))[:, None] * self.stride - self.zeros
        taps = positions + np.arange(self.kernel) * self.dilation
        return int(((taps >= 0) & (taps < size)).sum())

    def layer(self) -> nn.Conv2d:
        """Make the layer in PyTorch, with biases."""
        return nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel,
            stride=self.stride,
            padding=self.zeros,
            dilation=self.dilation,
        )


def total(costs: Sequence[Cost]) -> Cost:
    """Add costs up."""
    return Cost(*(sum(values) for values in zip(*costs, strict=True)))


def chain_costs(layers: Sequence[Convolution], height: int, width: int) -> list[Cost]:
    """Count what each of several layers costs, each taking the output of the one before.

    Raises
    ------
    ValueError
        If a layer's input channels are not the output channels of the one before.
    """
    costs = []
    for number, layer in enumerate(layers):
        if number and layer.in_channels != layers[number - 1].out_channels:
            raise ValueError(
                f"in_channels of layer {number + 1} must be the {layers[number - 1].out_channels} output channels "
                f"of the layer before; got {layer.in_channels}"
            )
        costs.append(layer.cost(height, width))
        height, width, _ = layer.output_shape(height, width)
    return costs


def break_even_width(direct: Convolution, height: int, width: int) -> float:
    """Width of a 1x1 bottleneck before ``direct`` at which it needs as many multiplications as ``direct`` alone."""
    positions = direct.output_size(height) * direct.output_size(width)
    window = direct.kernel**2 * direct.out_channels * positions
    return window * direct.in_channels / (height * width * direct.in_channels + window)


class Inception(nn.Module):
    """An Inception module (Szegedy et al., 2015): branches side by side, their outputs stacked as channels.

    Parameters
    ----------
    branches : mapping of names to sequences of Convolution
        A ReLU follows each convolution. The branch called "pool" begins with a 3x3 maximum of stride 1 that keeps
        the size.
    """

    def __init__(self, branches: Mapping[str, Sequence[Convolution]]):
        super().__init__()
        self.branches = nn.ModuleList()
        for name, layers in branches.items():
            modules = [nn.MaxPool2d(3, stride=1, padding=1)] if name == "pool" else []
            for layer in layers:
                modules += [layer.layer(), nn.ReLU()]
            self.branches.append(nn.Sequential(*modules))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stacked outputs, shape (n, channels, height, width)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception_branches(in_channels: int, channels: Mapping[str, int], *, reduced: bool) -> dict[str, list[Convolution]]:
    """Give the convolutions of an Inception module, branch by branch.

    Parameters
    ----------
    in_channels : int
    channels : mapping
        Output channels by the names in the table of Szegedy et al. (2015): "1x1", "3x3 reduce", "3x3", "5x5 reduce",
        "5x5" and "pool".
    reduced : bool
        Whether 1x1 convolutions narrow the input of the large kernels and the output of the pooling, or, as in the
        paper's naive version, nothing does.

    Raises
    ------
    ValueError
        If ``channels`` has other keys.
    """
    keys = {"1x1", "3x3 reduce", "3x3", "5x5 reduce", "5x5", "pool"}
    if set(channels) != keys:
        raise ValueError(f"channels must have the keys {sorted(keys)}; got {sorted(channels)}")
    branches = {"1x1": [Convolution(in_channels, channels["1x1"], 1)]}
    for size in (3, 5):
        name = f"{size}x{size}"
        narrow = channels[f"{name} reduce"] if reduced else in_channels
        reduction = [Convolution(in_channels, narrow, 1)] if reduced else []
        branches[name] = [*reduction, Convolution(narrow, channels[name], size)]
    branches["pool"] = [Convolution(in_channels, channels["pool"], 1)] if reduced else []
    return branches


def counted_multiplications(module: nn.Module, x: torch.Tensor) -> int:
    """Multiplications of ``module(x)`` by PyTorch's count, which takes a multiplication and an addition for two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(x)
    return counter.get_total_flops() // 2


def count_parameters(module: nn.Module) -> int:
    """Count the parameters, biases included."""
    return sum(parameter.numel() for parameter in module.parameters())


def time_interleaved(functions: Mapping[str, Callable[[], object]], num_repeats: int) -> dict[str, np.ndarray]:
    """Time functions in turn, so that whatever else the machine does hits all of them alike.

    A function is called twice in each round and timed the second time: it should not pay for a cache that the one
    before it has filled with other data. When PyTorch has one thread, the clock is that thread's, which stands still
    while another process has the core; otherwise it is the wall clock.

    Parameters
    ----------
    functions : mapping of names to callables
    num_repeats : int
        Rounds.

    Returns
    -------
    dict of ndarray, shape (num_repeats,)
        Seconds of each call that was timed.
    """
    check_integer("num_repeats", num_repeats, minimum=1)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = {name: [] for name in functions}
    with torch.inference_mode():
        for _ in range(num_repeats):
            for name, function in functions.items():
                function()
                start = clock()
                function()
                seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}
