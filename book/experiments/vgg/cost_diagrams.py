"""Diagrams of the chapter on 1x1 convolutions: windows, the assignment's two networks, and the Inception module."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from book.experiments.page.figures import BLACK, BLUE, GREY, SKY_BLUE, VERMILLION
from book.experiments.vgg.convolution_cost import Convolution

DEPTH = (0.5, 0.32)
"""Direction in which the side of a block of feature maps goes back, in units of its depth."""


def windows_diagram(kernel: int, channels: int = 3) -> Figure:
    """Draw which inputs one output of a convolution depends on, for a large kernel and for a 1x1 kernel.

    Parameters
    ----------
    kernel : int
        Side of the large kernel.
    channels : int
        Channels that are drawn.

    Returns
    -------
    Figure
        Each channel is a grid; the inputs that take part are filled.
    """
    size = kernel + 2
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.9))
    for axes, side in zip(panels, (kernel, 1), strict=True):
        axes.set_axis_off()
        axes.set_aspect("equal")
        first = (size - side) // 2
        for channel in reversed(range(channels)):
            x, y, z = 2.2 * channel, 1.4 * channel, 2 - channel / 10
            axes.add_patch(Rectangle((x, y), size, size, facecolor="white", edgecolor=BLACK, zorder=z))
            for i in range(1, size):
                axes.plot([x + i, x + i], [y, y + size], color=GREY, linewidth=0.4, linestyle="-", zorder=z)
                axes.plot([x, x + size], [y + i, y + i], color=GREY, linewidth=0.4, linestyle="-", zorder=z)
            axes.add_patch(Rectangle((x + first, y + first), side, side, facecolor=SKY_BLUE, edgecolor=BLUE, zorder=z))
        axes.set(xlim=(-0.3, size + 2.2 * channels), ylim=(-0.3, size + 1.4 * channels))
        positions = "1 position" if side == 1 else f"{side * side} positions"
        axes.set_title(f"{side}x{side}: {positions} of every channel")
    return figure


def networks_diagram(networks: Mapping[str, Sequence[Convolution]], height: int, width: int) -> Figure:
    """Draw networks of convolutions as blocks of feature maps, with the multiplications of each layer.

    Parameters
    ----------
    networks : mapping of names to sequences of Convolution
        All with the same number of input channels.
    height, width : int
        Positions of the input.

    Returns
    -------
    Figure
        A row a network; the drawn depth of a block grows with the root of its number of channels.
    """
    figure, rows = plt.subplots(len(networks), 1, figsize=(7, 2.2 * len(networks)))
    for axes, (name, layers) in zip(rows, networks.items(), strict=True):
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set(xlim=(-0.6, 13), ylim=(-1.0, 3.2))
        axes.text(-0.5, 2.9, f"network {name}", fontweight="bold", va="top")
        shape = (height, width, layers[0].in_channels)
        _block(axes, 0, shape)
        for i, layer in enumerate(layers, start=1):
            millions = layer.cost(*shape[:2]).multiplications / 1e6
            shape = layer.output_shape(*shape[:2])
            axes.annotate("", xy=(5 * i - 0.2, 0.75), xytext=(5 * i - 2.2, 0.75), arrowprops={"arrowstyle": "-|>"})
            label = f"{layer.kernel}x{layer.kernel}, {layer.out_channels} kernels\n{millions:.2f} million"
            axes.text(5 * i - 1.2, 0.85, label, color=VERMILLION, ha="center", va="bottom", fontsize=8)
            _block(axes, 5 * i, shape)
    return figure


def inception_diagram(channels: Mapping[str, int]) -> Figure:
    """Draw the four branches of an Inception module with its 1x1 reductions (Szegedy et al., 2015, figure 2b).

    Parameters
    ----------
    channels : mapping of layers to int
        Output channels of "1x1", "3x3 reduce", "3x3", "5x5 reduce", "5x5" and "pool".
    """
    figure, axes = plt.subplots(figsize=(7, 2.9))
    axes.set_axis_off()
    axes.set(xlim=(-1.1, 7.1), ylim=(-0.4, 3.4))
    total = sum(channels[name] for name in ("1x1", "3x3", "5x5", "pool"))
    for y, text in ((0, "input, the same for all branches"), (3, f"concatenation: {total} channels")):
        axes.add_patch(Rectangle((-1, y - 0.2), 8, 0.4, facecolor="white", edgecolor=BLACK))
        axes.text(3, y, text, ha="center", va="center", fontsize=10)
    branches = (
        {2: f"1x1, {channels['1x1']}"},
        {1: f"1x1, {channels['3x3 reduce']}", 2: f"3x3, {channels['3x3']}"},
        {1: f"1x1, {channels['5x5 reduce']}", 2: f"5x5, {channels['5x5']}"},
        {1: "max pooling 3x3", 2: f"1x1, {channels['pool']}"},
    )
    line = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0}
    for i, branch in enumerate(branches):
        x = 2.0 * i
        ends = [0.2, *(y + side * 0.2 for y in branch for side in (-1, 1)), 2.8]
        for start, end in zip(ends[::2], ends[1::2], strict=True):
            axes.annotate("", xy=(x, end), xytext=(x, start), arrowprops=line)
        for y, text in branch.items():
            color = BLUE if text.startswith("1x1") else VERMILLION
            box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color}
            axes.text(x, y, text, color=color, ha="center", va="center", fontsize=10, bbox=box)
    return figure


def _block(axes: Axes, x: float, shape: tuple[int, int, int]) -> None:
    """Draw feature maps of (height, width, channels) as a box with its front at ``x``."""
    side = 1.5
    dx, dy = (component * _drawn_depth(shape[2]) for component in DEPTH)
    style = {"edgecolor": BLUE, "linewidth": 1}
    axes.add_patch(
        Polygon(
            [(x, side), (x + dx, side + dy), (x + side + dx, side + dy), (x + side, side)], facecolor=SKY_BLUE, **style
        )
    )
    axes.add_patch(
        Polygon(
            [(x + side, 0), (x + side + dx, dy), (x + side + dx, side + dy), (x + side, side)],
            facecolor=SKY_BLUE,
            **style,
        )
    )
    axes.add_patch(Rectangle((x, 0), side, side, facecolor="white", **style))
    axes.text(x + side / 2, -0.15, "x".join(map(str, shape)), ha="center", va="top", fontsize=9)


def _drawn_depth(channels: int) -> float:
    """Drawn depth of a block with so many channels: its root, so that 16 and 192 fit in one figure."""
    return channels**0.5 / 6
