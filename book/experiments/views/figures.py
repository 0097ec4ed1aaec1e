"""Figures of images, saliency maps and feature maps in rows, on one scale."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from book.experiments.page.figures import BLACK, SKY_BLUE, VERMILLION
from book.experiments.views.hooks import LayerOutput

WIDTH = 7.0
LABEL_WIDTH = 0.25
TITLE_SIZE = 8.0
BAR_HEIGHT = 0.55


def image_rows(
    rows: Sequence[Sequence[np.ndarray | None]],
    labels: Sequence[str] = (),
    titles: Sequence[Sequence[str]] = (),
    *,
    limits: tuple[float, float] = (0, 255),
    cmap: str = "gray",
    scale: str = "",
    grey_rows: Sequence[int] = (),
) -> Figure:
    """Draw rows of images, all on one scale, white being the highest value of a grey image.

    Parameters
    ----------
    rows : sequence of sequences of ndarray, shape (height, width) or (height, width, 3), or None
        Square images, or nothing in a place. Colour images hold `uint8`, or floats from 0 to 1.
    labels : sequence of str
        The name of each row, at its left.
    titles : sequence of sequences of str
        The texts above the images of each row; an empty sequence for a row without.
    limits : pair of float
        Lowest and highest value of the scale.
    cmap : str
    scale : str
        What the values are; it names the colour bar, which is left out without it.
    grey_rows : sequence of int
        Rows that hold data images (0 to 255), which do not share the scale.

    Returns
    -------
    Figure
        Seven inches wide; call `raster_figures()` before it is shown.
    """
    columns = max(len(row) for row in rows)
    side = (WIDTH - (LABEL_WIDTH if labels else 0)) / columns
    lines = [1 + max(title.count("\n") for title in row) if len(row) else 0 for row in titles]
    height = len(rows) * side + sum(lines) * TITLE_SIZE * 1.5 / 72 + (BAR_HEIGHT if scale else 0)
    figure, grid = plt.subplots(len(rows), columns, figsize=(WIDTH, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.01, hspace=0.01)
    mappable = None
    for i, (axes_row, row) in enumerate(zip(grid, rows, strict=True)):
        for j, axes in enumerate(axes_row):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if j < len(row) and row[j] is not None:
                low, high = (0, 255) if i in grey_rows else limits
                colours = "gray" if i in grey_rows else cmap
                image = axes.imshow(row[j], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
                mappable = mappable if i in grey_rows or np.ndim(row[j]) == 3 else image
            if i < len(titles) and j < len(titles[i]):
                axes.set_title(titles[i][j], fontsize=TITLE_SIZE, pad=2, linespacing=1.05)
        if i < len(labels):
            axes_row[0].set_ylabel(labels[i], fontsize=TITLE_SIZE, labelpad=3)
    if scale:
        bar = figure.colorbar(mappable, ax=grid, location="bottom", aspect=50, fraction=0.05, pad=0.01)
        bar.set_label(scale, fontsize=TITLE_SIZE)
        bar.ax.tick_params(labelsize=TITLE_SIZE)
    return figure


def tiled(images: Sequence[np.ndarray], columns: int, gap: int = 2, fill: float = 255) -> np.ndarray:
    """Put images of one shape side by side into one, with gaps between them."""
    height, width = images[0].shape
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), fill, dtype=np.float64)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def feature_map_figure(outputs: Sequence[LayerOutput], columns: int = 6) -> Figure:
    """Draw the four feature maps of every layer with the highest mean, each layer divided by its largest value."""
    sheets, titles = [], []
    for output in outputs:
        strongest = output.strongest(4)
        top = np.abs(output.maps).max()
        maps = output.maps[strongest] / (top if top > 0 else 1)
        # Cells of small maps are repeated, so that the gap within a panel is thinner than that between panels.
        repeat = max(1, 112 // maps.shape[1])
        sheets.append(tiled(list(maps.repeat(repeat, axis=1).repeat(repeat, axis=2)), 2, 3, np.nan))
        largest = format(top, ",.0f" if top >= 10 else ".2g")
        titles.append(f"{output.name}, {largest}\n{', '.join(str(i) for i in strongest)}")
    rows = [sheets[i : i + columns] for i in range(0, len(sheets), columns)]
    named = [titles[i : i + columns] for i in range(0, len(titles), columns)]
    scale = "value divided by the layer's largest absolute value"
    return image_rows(rows, titles=named, limits=(-1, 1), cmap="RdBu_r", scale=scale)


def randomisation_diagram(stages: Sequence[str]) -> Figure:
    """Draw which parts of the network have random weights at each stage of the cascading randomisation.

    Parameters
    ----------
    stages : sequence of str
        As :func:`sanity_checks.cascading_randomisation` names them: "trained", then a part a stage, from the top down.
    """
    parts = [stage.removeprefix("+ ") for stage in stages[1:]]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.42 * len(parts) + 1.1))
    axes.set_axis_off()
    axes.set(xlim=(-0.5, len(stages) - 0.5), ylim=(-len(parts) - 0.9, 1.0))
    for i, stage in enumerate(stages):
        axes.text(i, 0.75, stage, ha="center", va="center")
        for j, part in enumerate(parts):
            is_random = j < i
            face, edge, hatch = ("white", VERMILLION, "////") if is_random else (SKY_BLUE, BLACK, "")
            box = Rectangle((i - 0.38, -j - 0.4), 0.76, 0.8, facecolor=face, edgecolor=edge, hatch=hatch, alpha=0.5)
            axes.add_patch(box)
            label = {"backgroundcolor": "white"} if is_random else {}
            axes.text(i, -j, "random" if is_random else part, ha="center", va="center", fontsize=TITLE_SIZE, **label)
        axes.text(
            i, -len(parts) - 0.3, "map" if i else "map of reference", ha="center", va="center", fontsize=TITLE_SIZE
        )
    return figure


def signed_colours(gradients: np.ndarray) -> np.ndarray:
    """Show gradients of red, green and blue (-1 to 1) as colours: no gradient is grey, shape (n, height, width, 3)."""
    return np.moveaxis((1 + gradients) / 2, 1, -1)
