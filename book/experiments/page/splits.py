"""How two splits of the same images overlap."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from book.experiments.page.figures import BLACK, GREEN, SKY_BLUE, VERMILLION
from data import Split


def shared_images(first: Split, second: Split) -> np.ndarray:
    """Count the images that each part of one split has in common with each part of another.

    Parameters
    ----------
    first, second : Split
        Of the same images.

    Returns
    -------
    ndarray of int, shape (3, 3)
    """
    return np.array([[len(np.intersect1d(a.indices, b.indices)) for b in second] for a in first])


def splits_diagram(first: Split, second: Split, titles: tuple[str, str]) -> Figure:
    """Draw the images that two splits share as areas, with their numbers.

    Parameters
    ----------
    first, second : Split
        Of the same images.
    titles : two str
        What the two splits are called, at the rows and the columns.

    Returns
    -------
    Figure
        A column a part of ``second`` and in it a field a part of ``first``, with areas in proportion to the images.
        The images that are in both test sets are framed and hatched.
    """
    counts = shared_images(first, second)
    figure, axes = plt.subplots(figsize=(7, 3.4))
    axes.grid(False)
    total = counts.sum()
    lefts = np.concatenate([[0], np.cumsum(counts.sum(axis=0))]) / total
    colors = (SKY_BLUE, GREEN, VERMILLION)
    for column, (left, right) in enumerate(pairwise(lefts)):
        tops = 1 - np.concatenate([[0], np.cumsum(counts[:, column])]) / counts[:, column].sum()
        for row, (top, bottom) in enumerate(pairwise(tops)):
            is_new_to_both = row == len(first) - 1 and column == len(second) - 1
            style = {"hatch": "//", "edgecolor": BLACK, "zorder": 3} if is_new_to_both else {"edgecolor": "white"}
            axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, facecolor=colors[row], **style))
            label = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}, "zorder": 4, "fontsize": 9}
            axes.text(
                (left + right) / 2, (top + bottom) / 2, f"{counts[row, column]:,}", ha="center", va="center", **label
            )
    axes.set_xticks((lefts[:-1] + lefts[1:]) / 2, second._fields)
    edges = 1 - np.concatenate([[0], np.cumsum(counts.sum(axis=1))]) / total
    axes.set_yticks((edges[:-1] + edges[1:]) / 2, first._fields)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=titles[1], ylabel=titles[0])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
