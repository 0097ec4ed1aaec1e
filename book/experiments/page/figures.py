"""The book's look: colours, line styles, output formats, and the plots that several chapters draw.

No series is told from another by colour alone: colours come with a line style or a marker.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.config import InlineBackend

from book.experiments.checks import check_choice, check_integer, check_that

# Okabe and Ito's colours for all kinds of colour vision; their yellow is left out, it is too faint on white.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
BLACK = "#000000"
GREY = "#767676"  # for what is not a series: baselines, annotations

# One curve for each activation on the same axes: see `plot_activation`.
ACTIVATION_STYLES = {
    "relu": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "sigmoid": {"color": VERMILLION, "linestyle": "--", "marker": "s"},
    "linear": {"color": GREEN, "linestyle": "-.", "marker": "^"},
    "tanh": {"color": PURPLE, "linestyle": ":", "marker": "D"},
    "softmax": {"color": BLACK, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
}

# Two curves of one model on the same axes.
PART_LINES = {"train": "-", "validation": "--"}
PART_LABELS = {"train": "training", "validation": "validation"}

BOOK_STYLE = {
    "figure.figsize": (7, 4),
    "figure.dpi": 150,
    "figure.facecolor": "white",  # opaque, so that the figures stay readable in dark mode
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.framealpha": 0.9,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.87",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "image.cmap": "gray_r",
    "axes.prop_cycle": cycler(color=[BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK])
    + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3))]),
    "svg.fonttype": "path",  # the same letters everywhere, whatever fonts the reader has
    "svg.hashsalt": "from-backprop-to-vgg16",  # otherwise element names are drawn at random
    "pdf.fonttype": 42,
}


def use_book_style() -> None:
    """Set the book's style for all figures to come, and draw them as vectors.

    The same data then give the same bytes: Matplotlib's random element names and dates are fixed.
    """
    plt.rcParams.update(BOOK_STYLE)
    # The fonts of formulas lack a table that fontTools expects, which it reports on stderr though nothing is amiss.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # the date that Matplotlib writes into SVG and PDF
    vector_figures()


def vector_figures() -> None:
    """Emit the notebook's figures as SVG (for the pages) and PDF (for the report): right for line plots."""
    _emit({"svg", "pdf"})


def raster_figures() -> None:
    """Emit the notebook's figures as PNG, from the cell that calls this: for grids of images."""
    _emit({"png"})


def plot_activation(
    axes: Axes, x: Sequence[float], y: Sequence[float], activation: str, label: str | None = None
) -> None:
    """Draw the curve that belongs to an activation, in its colour, line style and marker.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    x, y : sequences of the same length
        The curve. Values that are not finite leave a gap.
    activation : str
        A key of `ACTIVATION_STYLES`.
    label : str, optional
        The name in the legend; the activation's by default.

    Raises
    ------
    ValueError
        If `activation` is unknown.
    """
    check_choice("activation", activation, ACTIVATION_STYLES)
    style = ACTIVATION_STYLES[activation]
    axes.plot(x, y, label=activation if label is None else label, markevery=_marker_step(len(x)), **style)


def plot_history(
    axes: Axes,
    history: Mapping[str, Sequence[float]],
    metric: str = "loss",
    *,
    color: str = BLUE,
) -> None:
    """Draw a metric against the epoch: solid for training, dashed for validation.

    Parameters
    ----------
    axes : Axes
        Where to draw. Axis labels are set, the legend is the caller's.
    history : mapping of sequences, one value an epoch
        Holds `train_<metric>` and, if there was any validation, `validation_<metric>`. Values that are not
        finite leave a gap.
    metric : str
        What to draw, "loss" or "accuracy" for instance.
    color : str
        The colour of both curves.

    Raises
    ------
    ValueError
        If `history` has no `train_<metric>`.
    """
    check_that(f"train_{metric}" in history, "history", f"a mapping with the key 'train_{metric}'", sorted(history))
    for part, line in PART_LINES.items():
        values = np.asarray(history.get(f"{part}_{metric}", []), dtype=float)
        if len(values) == 0:
            continue
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, label=PART_LABELS[part], linestyle=line, color=color)
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric)
    axes.xaxis.get_major_locator().set_params(integer=True)


def image_grid(images: np.ndarray, titles: Sequence[str] = (), columns: int = 10, *, title_size: float = 9) -> Figure:
    """Draw images in a grid, row by row.

    Parameters
    ----------
    images : ndarray, shape (n, height, width) or (n, height, width, 3)
        `uint8` is drawn from 0 to 255, anything else from 0 to 1. Grey values are drawn dark on white.
    titles : sequence of str
        The text above each image. May be shorter than `images`: one title a column heads the columns.
    columns : int
        Images in a row.
    title_size : float
        Font size in points.

    Returns
    -------
    Figure
        Seven inches wide; call `raster_figures()` before it is shown.

    Raises
    ------
    ValueError
        If there is no image, no column, or a title without an image.
    """
    images = np.asarray(images)
    is_stack = (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) and len(images) > 0
    check_that(is_stack, "images", "an array of shape (n, height, width[, 3]) with n at least 1", images.shape)
    check_integer("columns", columns, minimum=1)
    check_that(len(titles) <= len(images), "titles", f"at most {len(images)}, one an image", len(titles))
    rows = math.ceil(len(images) / columns)
    width = 7.0
    title_lines = 1 + max((title.count("\n") for title in titles), default=-1)
    titled_rows = math.ceil(len(titles) / columns)
    image_height = width / columns * images.shape[1] / images.shape[2]
    height = rows * image_height + titled_rows * title_lines * title_size * 1.6 / 72
    figure, grid = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    top = 255 if images.dtype == np.uint8 else 1
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image in zip(grid.flat, images, strict=False):
        axes.imshow(image, vmin=0, vmax=top, interpolation="nearest")
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, fontsize=title_size, pad=2)
    return figure


def _marker_step(num_points: int) -> int:
    """Return the step from marker to marker that puts about eight on a curve."""
    return max(1, num_points // 8)


def _emit(formats: set[str]) -> None:
    """Tell the notebook which formats to store of each figure; without a notebook, do nothing."""
    shell = get_ipython()
    if shell is not None:
        InlineBackend.instance(parent=shell).figure_formats = formats
