"""Figures of the chapter on convolution that would drown its code."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from book.experiments.checks import check_that
from book.experiments.cnn.layers import output_size
from book.experiments.page.figures import BLUE, GREEN, GREY, VERMILLION

WINDOW_STYLES = (
    {"edgecolor": BLUE, "linestyle": "-"},
    {"edgecolor": VERMILLION, "linestyle": "--"},
)
"""The two windows that the diagrams draw, told apart by line as well as by colour."""


def connections_diagram(num_inputs: int = 8, kernel_size: int = 3) -> Figure:
    """Draw the connections of a dense layer beside those of a convolution, in one dimension.

    Parameters
    ----------
    num_inputs : int
        Inputs of both layers, and outputs of the dense one.
    kernel_size : int
        Inputs that an output of the convolution is connected to.

    Returns
    -------
    Figure
        On the right, connections with the same weight have the same colour and line.
    """
    num_outputs = output_size(num_inputs, kernel_size)
    figure, (dense, convolution) = plt.subplots(1, 2, figsize=(7, 2.6))
    inputs = np.arange(num_inputs, dtype=float)
    for axes, outputs, title in (
        (dense, inputs, f"dense: {num_inputs} x {num_inputs} weights"),
        (convolution, np.arange(num_outputs) + (kernel_size - 1) / 2, f"convolution: {kernel_size} shared weights"),
    ):
        axes.set_axis_off()
        axes.set(xlim=(-1.2, num_inputs - 0.5), ylim=(-0.35, 1.35))
        axes.set_title(title)
        for y, positions in ((0.0, inputs), (1.0, outputs)):
            axes.scatter(positions, np.full(len(positions), y), s=90, color="white", edgecolor="black", zorder=3)
        axes.text(-0.5, 0, "input", ha="right", va="center", fontsize=10)
        axes.text(-0.5, 1, "output", ha="right", va="center", fontsize=10)
    for x in inputs:
        for output in inputs:
            dense.plot([x, output], [0, 1], color=GREY, linewidth=0.6, linestyle="-")
    shared = (
        {"color": BLUE, "linestyle": "-"},
        {"color": VERMILLION, "linestyle": "--"},
        {"color": GREEN, "linestyle": ":"},
    )
    for first in range(num_outputs):
        for place in range(kernel_size):
            output = first + (kernel_size - 1) / 2
            convolution.plot([first + place, output], [0, 1], linewidth=1.6, **shared[place % len(shared)])
    return figure


def worked_example(X: np.ndarray, kernel: np.ndarray, outputs: Sequence[tuple[str, np.ndarray, int, int]]) -> Figure:
    """Draw an image, a kernel, and outputs of their cross-correlation with different strides and paddings.

    Parameters
    ----------
    X : ndarray, shape (H, W)
    kernel : ndarray, shape (k, k)
    outputs : sequence of (title, Z, stride, padding)
        ``Z`` of shape (H', W').

    Returns
    -------
    Figure
        In each output the first value and the last one are framed; an output without padding has their windows
        framed in the image if it is the first one.

    Raises
    ------
    ValueError
        If there is no output.
    """
    check_that(len(outputs) > 0, "outputs", "at least one output", outputs)
    panels = [("image", X), ("kernel", kernel), *((title, Z) for title, Z, _, _ in outputs)]
    widths = [panel.shape[1] for _, panel in panels]
    figure, grid = plt.subplots(1, len(panels), figsize=(7, 2.3), width_ratios=widths, squeeze=False)
    for axes, (title, values) in zip(grid.flat, panels, strict=True):
        number_grid(axes, values)
        axes.set_title(title, fontsize=10)
    _, first, stride, _ = outputs[0]
    corners = ((0, 0), (first.shape[0] - 1, first.shape[1] - 1))
    for (row, col), style in zip(corners, WINDOW_STYLES, strict=True):
        frame(grid.flat[0], row * stride, col * stride, len(kernel), style)
        frame(grid.flat[2], row, col, 1, style)
    return figure


def number_grid(axes: Axes, values: np.ndarray) -> None:
    """Draw a matrix as a grid of its numbers, white where they are 0 and bluer with their size.

    Parameters
    ----------
    axes : Axes
    values : ndarray, shape (H, W)
        Drawn with as few decimals as they need, at most two.
    """
    height, width = values.shape
    top = max(np.abs(values).max(), 1e-12)
    axes.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal")
    axes.set_axis_off()
    for row, col in np.ndindex(height, width):
        value = values[row, col]
        color = BLUE if value > 0 else VERMILLION
        shade = 0.35 * abs(value) / top
        axes.add_patch(Rectangle((col, row), 1, 1, facecolor=color, alpha=shade, linewidth=0))
        axes.add_patch(Rectangle((col, row), 1, 1, fill=False, edgecolor="0.6", linewidth=0.7))
        text = f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "−")
        axes.text(col + 0.5, row + 0.5, text, ha="center", va="center", fontsize=10)


def frame(axes: Axes, row: int, col: int, size: int, style: dict) -> None:
    """Draw a frame around ``size`` x ``size`` cells of a `number_grid`, from (row, col) on."""
    inset = 0.06
    side = size - 2 * inset
    axes.add_patch(Rectangle((col + inset, row + inset), side, side, fill=False, linewidth=2, zorder=4, **style))


def receptive_fields(image: np.ndarray, fields: Sequence[tuple[str, int, int, int]]) -> Figure:
    """Draw an image once for each layer, with the receptive field of one of its outputs framed.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Grey values in [0, 1].
    fields : sequence of (title, row, col, size)
        The first row and column of the field, and its side, in pixels.

    Returns
    -------
    Figure
        Seven inches wide; a raster image for the page.
    """
    figure, grid = plt.subplots(1, len(fields), figsize=(7, 7 / len(fields) + 0.45), squeeze=False)
    for axes, (title, row, col, size) in zip(grid.flat, fields, strict=True):
        axes.imshow(image, vmin=0, vmax=1.4, interpolation="nearest")
        axes.add_patch(Rectangle((col - 0.5, row - 0.5), size, size, fill=False, edgecolor=VERMILLION, linewidth=2))
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


def filter_grid(blocks: Sequence[tuple[str, np.ndarray]], columns: int = 8) -> Figure:
    """Draw kernels of one input channel, blue where a weight is positive, red where it is negative.

    Parameters
    ----------
    blocks : sequence of (title, kernels)
        ``kernels`` of shape (k, k, count) fill whole rows, on one scale for each block, which a colour bar shows.
    columns : int
        Kernels in a row.
    """
    rows = [math.ceil(kernels.shape[-1] / columns) for _, kernels in blocks]
    figure = plt.figure(figsize=(7, 0.5 * len(rows) + 0.72 * sum(rows)))
    for part, row_count, (title, kernels) in zip(
        figure.subfigures(len(rows), height_ratios=rows, squeeze=False)[:, 0], rows, blocks, strict=True
    ):
        grid = part.subplots(row_count, columns, squeeze=False)
        top = np.abs(kernels).max()
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, kernel in zip(grid.flat, np.moveaxis(kernels, -1, 0), strict=False):
            axes.set_axis_on()
            image = axes.imshow(kernel, cmap="RdBu", vmin=-top, vmax=top, interpolation="nearest")
            _bare(axes)
        part.colorbar(image, ax=grid, shrink=0.9, aspect=12)
        part.suptitle(title, fontsize=10)
    return figure


def feature_maps(image: np.ndarray, maps: Sequence[tuple[str, np.ndarray]], columns: int = 8) -> Figure:
    """Draw an image and some of its feature maps, each scaled by its own maximum, dark for large values.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Grey values in [0, 1].
    maps : sequence of (label, values)
        ``values`` of shape (count, H', W') fill whole rows, which begin with the label.
    columns : int
        Feature maps in a row.
    """
    rows = [
        (label, values[start : start + columns]) for label, values in maps for start in range(0, len(values), columns)
    ]
    figure, grid = plt.subplots(len(rows) + 1, columns, squeeze=False, figsize=(7, 0.3 + 0.83 * (len(rows) + 1)))
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(image, vmin=0, vmax=1, interpolation="nearest")
    grid[0, 0].set_axis_on()
    _bare(grid[0, 0])
    grid[0, 0].set_ylabel("image", fontsize=9)
    for line, (label, values) in zip(grid[1:], rows, strict=True):
        for axes, one in zip(line, values, strict=False):
            axes.set_axis_on()
            axes.imshow(one, vmin=0, vmax=max(one.max(), 1e-9), interpolation="nearest")
            _bare(axes)
        line[0].set_ylabel(label, fontsize=9)
    return figure


def _bare(axes: Axes) -> None:
    """Leave of the axes a thin frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.5, edgecolor=GREY)
