"""The figures of the chapter on the NumPy network."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from book.experiments.mlp.diagrams import backpropagation_diagram, power_law_guide


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def diagram():
    return backpropagation_diagram()


def annotations(figure):
    return [child for child in figure.axes[0].texts if getattr(child, "arrow_patch", None) is not None]


def test_diagram_names_every_quantity_of_both_passes(diagram):
    shown = " ".join(text.get_text() for text in diagram.axes[0].texts)
    for quantity in ("A^{[0]} = X", "Z^{[1]}", "A^{[1]}", "Z^{[2]}", r"\delta^{[2]}", r"\delta^{[1]}", "(P - Y)/n"):
        assert quantity in shown
    gradients = re.findall(r"W\^\{\[(\d)\]\}\$? = A\^\{\[(\d)\]\\top\}\\delta\^\{\[(\d)\]\}", shown)
    assert gradients == [("1", "0", "1"), ("2", "1", "2")]


def test_diagram_tells_the_passes_apart_by_line_style_and_direction(diagram):
    styles = {}
    for arrow in annotations(diagram):
        (x0, y0), (x1, y1) = arrow.xyann, arrow.xy
        direction = "down" if x0 == x1 else "forward" if x1 > x0 else "backward"
        styles.setdefault(direction, set()).add(arrow.arrow_patch.get_linestyle())
        assert direction != "down" or y1 < y0
    assert styles == {"forward": {"-"}, "backward": {"--"}, "down": {":"}}


def test_diagram_keeps_every_text_inside_the_figure(diagram):
    diagram.canvas.draw()
    for text in diagram.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= diagram.bbox.x1 and box.y1 <= diagram.bbox.y1


def test_diagram_draws_without_a_warning_in_every_format(diagram, tmp_path, caplog):
    for suffix in ("svg", "pdf", "png"):
        diagram.savefig(tmp_path / f"diagram.{suffix}")
    assert caplog.records == []


@pytest.mark.parametrize("exponent", [2, -1])
def test_guide_has_the_slope_of_its_exponent(exponent):
    _, axes = plt.subplots()
    axes.set(xscale="log", yscale="log")
    power_law_guide(axes, (1e-3, 1e-1), 5e-9, exponent, "guide")
    x, y = axes.lines[0].get_data()
    assert y[0] == 5e-9
    assert np.diff(np.log(y)) / np.diff(np.log(x)) == pytest.approx(exponent)
    assert [text.get_text() for text in axes.texts] == ["guide"]
