"""Figures of the chapter on the NumPy network that would drown its code."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from book.experiments.page.figures import BLACK, BLUE, GREEN, GREY, VERMILLION

BOXES = {
    r"$A^{[0]} = X$": 0.0,
    r"$Z^{[1]}$": 2.0,
    r"$A^{[1]}$": 4.0,
    r"$Z^{[2]}$": 6.0,
    r"$\mathcal{L}$": 8.0,
}
"""What a network with one hidden layer computes, and where the diagram shows it."""


def backpropagation_diagram() -> Figure:
    """Draw the forward and the backward pass of a network with one hidden layer.

    Returns
    -------
    Figure
        Solid arrows to the right are the forward pass, dashed arrows to the left the backward pass, dotted arrows
        downwards the gradients of the parameters.
    """
    figure, axes = plt.subplots(figsize=(7, 2.9))
    axes.set_axis_off()
    axes.set(xlim=(-0.7, 8.7), ylim=(-2.75, 1.15))
    for text, x in BOXES.items():
        _box(axes, x, 0, text, BLACK)
    forward = {
        1: r"$\cdot\, W^{[1]} + b^{[1]}$",
        3: r"$\varphi$",
        5: r"$\cdot\, W^{[2]} + b^{[2]}$",
        7: "softmax,\n$-\\log$",
    }
    for x, text in forward.items():
        _arrow(axes, (x - 0.4, 0), (x + 0.4, 0), BLUE, "-")
        axes.text(x, 0.22, text, color=BLUE, ha="center", va="bottom", fontsize=10)
    # The prime as a character: in mathematics it would come from a font that makes fontTools warn.
    backward = {7: r"$(P - Y)/n$", 5: r"$\cdot\, W^{[2]\top}$", 3: "$\\odot$ φ′"}
    for x, text in backward.items():
        _arrow(axes, (x + 0.45, -1.2), (x - 0.45, -1.2), VERMILLION, "--")
        axes.text(x, -1.08, text, color=VERMILLION, ha="center", va="bottom", fontsize=10)
    axes.text(8, -1.2, r"$1$", color=VERMILLION, ha="center", va="center")
    _box(axes, 6, -1.2, r"$\delta^{[2]}$", VERMILLION)
    axes.text(4, -1.2, r"$\dfrac{\partial\mathcal{L}}{\partial A^{[1]}}$", color=VERMILLION, ha="center", va="center")
    _box(axes, 2, -1.2, r"$\delta^{[1]}$", VERMILLION)
    for x, layer in ((2, 1), (6, 2)):
        _arrow(axes, (x, -1.55), (x, -1.95), GREEN, ":")
        gradient = rf"$\partial\mathcal{{L}}/\partial W^{{[{layer}]}} = A^{{[{layer - 1}]\top}}\delta^{{[{layer}]}}$"
        axes.text(x, -2.0, gradient, color=GREEN, ha="center", va="top", fontsize=10)
        sums = rf"$\partial\mathcal{{L}}/\partial b^{{[{layer}]}} =$ column sums of $\delta^{{[{layer}]}}$"
        axes.text(x, -2.4, sums, color=GREEN, ha="center", va="top", fontsize=10)
    axes.text(-0.6, -1.2, "backward", color=VERMILLION, fontsize=10, va="center")
    axes.text(-0.6, 0.8, "forward", color=BLUE, fontsize=10, va="center")
    return figure


def power_law_guide(axes: Axes, x: tuple[float, float], start: float, exponent: float, label: str) -> None:
    """Draw y = start (x / x[0])^exponent as a thin grey line on logarithmic axes, named at its middle.

    Parameters
    ----------
    axes : Axes
        With both scales logarithmic.
    x : pair of float
        Where the line begins and ends.
    start : float
        Its height at ``x[0]``.
    exponent : float
        Its slope.
    label : str
        Its name.
    """
    heights = [start, start * (x[1] / x[0]) ** exponent]
    axes.plot(x, heights, color=GREY, linestyle="-", linewidth=1)
    middle = (x[0] * x[1]) ** 0.5
    axes.annotate(
        label,
        (middle, start * (middle / x[0]) ** exponent),
        xytext=(5, -2),
        textcoords="offset points",
        color=GREY,
        ha="left",
        va="top" if exponent > 0 else "bottom",
    )


def _box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.text(
        x,
        y,
        text,
        color=color,
        ha="center",
        va="center",
        bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color},
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, line: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linestyle": line, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
