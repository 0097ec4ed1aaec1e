"""NumPy networks and scikit-learn's in one graph."""

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from book.experiments.page.figures import BLUE, VERMILLION


def compare_with_mlp(activation: str, ours: Mapping[str, Sequence], sklearns: Mapping[str, Sequence]) -> Figure:
    """Draw the training loss of the NumPy network and of scikit-learn's against the epoch, in one graph.

    Parameters
    ----------
    activation : str
        Names the graph.
    ours, sklearns : mapping
        Histories; ``train_loss`` is drawn.
    """
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for history, label, style in (
        (ours, "NumPy (ours)", {"color": BLUE, "linestyle": "-", "marker": "o"}),
        (sklearns, "scikit-learn", {"color": VERMILLION, "linestyle": "--", "marker": "s"}),
    ):
        losses = history["train_loss"]
        step = max(1, len(losses) // 10)
        axes.plot(range(1, len(losses) + 1), losses, label=label, markevery=step, **style)
    axes.set(xlabel="epoch", ylabel="training loss (nats)", title=activation)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
