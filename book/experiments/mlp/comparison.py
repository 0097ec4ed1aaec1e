"""NumPy networks and scikit-learn's in one graph."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from book.experiments.page.figures import BLUE, VERMILLION


def compare_with_mlp(
    activation: str, ours: Sequence[Mapping[str, Sequence]], sklearns: Sequence[Mapping[str, Sequence]]
) -> Figure:
    """Draw the training loss of NumPy networks and of scikit-learn's against the epoch, in one graph.

    Each library is a line, the mean over its runs, in a band from the lowest to the highest run.

    Parameters
    ----------
    activation : str
        Names the graph.
    ours, sklearns : sequence of mappings
        Histories of runs with different seeds, all of the same length; ``train_loss`` is drawn.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for histories, label, style in (
        (ours, "NumPy (ours)", {"color": BLUE, "linestyle": "-", "marker": "o"}),
        (sklearns, "scikit-learn", {"color": VERMILLION, "linestyle": "--", "marker": "s"}),
    ):
        losses = np.array([history["train_loss"] for history in histories])
        epochs = np.arange(1, losses.shape[1] + 1)
        band = losses.min(axis=0), losses.max(axis=0)
        axes.fill_between(epochs, *band, color=style["color"], alpha=0.25, linewidth=0)
        axes.plot(epochs, losses.mean(axis=0), label=label, markevery=max(1, len(epochs) // 10), **style)
    axes.set(xlabel="epoch", ylabel="training loss (nats)", title=activation)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")
    return figure
