"""The diagram of VGG16 with its frozen blocks and the new heads."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from book.experiments.page.figures import BLACK, BLUE, VERMILLION

CONVOLUTIONS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""For each block of VGG16 the number of its convolutional layers, and of the filters of each."""


def transfer_diagram(input_size: int) -> Figure:
    """Draw VGG16's five blocks, and the two ways from them to a new head.

    Parameters
    ----------
    input_size : int
        Height and width in pixels of the images that are put in.

    Returns
    -------
    Figure
        Frozen parts are solid boxes, trained ones dashed. Behind each block stands the shape of its output.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.set_axis_off()
    axes.set(xlim=(-0.75, 6.75), ylim=(-2.8, 1.4))
    _box(axes, 0, 0, f"image\n3×{input_size}×{input_size}", BLACK, "-")
    size = input_size
    for number, (layers, filters) in enumerate(CONVOLUTIONS, start=1):
        size //= 2
        text = f"block {number}\n{layers} × conv. 3×3,\n{filters} filters;\nmax pool 2×2"
        _box(axes, number, 0, text, BLUE, "-")
        axes.text(number, 0.68, f"{filters}×{size}×{size}", color=BLUE, ha="center", fontsize=7.5)
        _arrow(axes, (number - 0.57, 0), (number - 0.46, 0), BLUE)
    axes.text(3, 1.15, "frozen: VGG16's convolutional layers, trained on ImageNet", color=BLUE, ha="center", fontsize=9)
    _box(axes, 3.5, -1.35, "mean and max pooling of block 3,\nstacking of channels", BLUE, "-")
    for block in (3, 4):
        _arrow(axes, (block, -0.52), (3.5 + 0.5 * (block - 3.5), -1.05), BLUE)
    _box(axes, 3.5, -2.35, "head: conv. 1×1, dense layers,\n10 logits", VERMILLION, "--")
    _arrow(axes, (3.5, -1.68), (3.5, -1.98), VERMILLION)
    _box(axes, 5.9, -2.35, "head: dense layers,\n10 logits", VERMILLION, "--")
    _arrow(axes, (5.1, -0.52), (5.85, -1.98), VERMILLION)
    axes.text(0.9, -2.35, "trained on\nFashion-MNIST", color=VERMILLION, ha="center", va="center", fontsize=9)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, color: str, line: str) -> None:
    style = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": color, "linestyle": line}
    axes.text(x, y, text, color=color, ha="center", va="center", fontsize=7.5, bbox=style)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
