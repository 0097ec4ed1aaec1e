"""The book's figures and tables: what would show on a page if it broke."""

import io
import warnings

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from book.experiments.page import figures
from book.experiments.page.tables import show_table

ACTIVATIONS = ("relu", "sigmoid", "linear", "tanh", "softmax")


@pytest.fixture(autouse=True)
def book_style(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.use_book_style()
        yield
        plt.close("all")


def draw():
    figure, axes = plt.subplots()
    for activation in ACTIVATIONS:
        figures.plot_activation(axes, np.linspace(0, 1, 50), np.random.default_rng(0).random(50), activation)
    axes.fill_between([0, 1], [0, 0], [1, 1], alpha=0.1, hatch="/")
    axes.legend()
    return figure


def rendered(format_):
    buffer = io.BytesIO()
    figure = draw()
    figure.savefig(buffer, format=format_)
    plt.close(figure)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["svg", "pdf", "png"])
def test_two_renders_of_the_same_data_give_identical_bytes(format_):
    assert rendered(format_) == rendered(format_)


@pytest.mark.parametrize("format_", ["svg", "pdf"])
def test_vector_figures_carry_no_date_of_the_day_they_were_made(format_):
    assert b"1970-01-01" in rendered(format_) or b"D:19700101" in rendered(format_)


def test_figures_are_opaque_white_so_that_dark_mode_stays_readable():
    buffer = io.BytesIO()
    draw().savefig(buffer, format="png")
    buffer.seek(0)
    pixels = plt.imread(buffer)
    assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all()
    np.testing.assert_array_equal(pixels[0, 0, :3], 1)


def test_svg_letters_are_outlines_that_need_no_font_of_the_reader():
    assert b"<text" not in rendered("svg")


def test_default_curves_differ_in_colour_and_in_line_style():
    _, axes = plt.subplots()
    lines = [axes.plot([0, 1])[0] for _ in range(7)]
    assert len({line.get_color() for line in lines}) == 7
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 7


def test_each_activation_has_its_own_colour_line_style_and_marker():
    assert tuple(figures.ACTIVATION_STYLES) == ACTIVATIONS
    for property_ in ("color", "linestyle", "marker"):
        assert len({str(style[property_]) for style in figures.ACTIVATION_STYLES.values()}) == 5


def test_activation_is_drawn_in_its_style_under_its_name():
    _, axes = plt.subplots()
    figures.plot_activation(axes, range(100), range(100), "tanh")
    figures.plot_activation(axes, range(3), range(3), "relu", label="ours")
    tanh, relu = axes.get_lines()
    assert (tanh.get_linestyle(), tanh.get_marker(), tanh.get_color()) == (":", "D", figures.PURPLE)
    assert [tanh.get_label(), relu.get_label()] == ["tanh", "ours"]
    assert len(range(0, 100, tanh.get_markevery())) < 12
    assert relu.get_markevery() == 1


def test_unknown_activation_is_refused_by_name():
    _, axes = plt.subplots()
    with pytest.raises(ValueError, match=r"activation must be one of relu, .*; got 'swish'"):
        figures.plot_activation(axes, [0], [0], "swish")


def test_curves_that_are_not_finite_are_drawn_as_gaps():
    figure, axes = plt.subplots()
    figures.plot_activation(axes, range(5), [np.nan] * 5, "linear")
    figures.plot_activation(axes, range(5), [1, 2, np.inf, np.nan, np.nan], "relu")
    figures.plot_history(axes, {"train_loss": [np.nan] * 3, "validation_loss": [1, np.inf, np.nan]})
    figure.canvas.draw()
    assert axes.get_ylim()[1] < 3


def test_history_is_drawn_from_epoch_1_solid_for_training_and_dashed_for_validation():
    _, axes = plt.subplots()
    history = {"train_loss": [3, 2, 1], "validation_loss": [3, 2.5, 2.6], "train_accuracy": [0, 0, 0]}
    figures.plot_history(axes, history, color="red")
    train, validation = axes.get_lines()
    assert (train.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert {train.get_color(), validation.get_color()} == {"red"}
    assert train.get_xdata().tolist() == [1, 2, 3]
    assert train.get_ydata().tolist() == [3, 2, 1]
    assert validation.get_ydata().tolist() == [3, 2.5, 2.6]
    assert [train.get_label(), validation.get_label()] == ["training", "validation"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")


@pytest.mark.parametrize("extra", [{}, {"validation_loss": []}])
def test_history_without_validation_draws_one_curve(extra):
    _, axes = plt.subplots()
    figures.plot_history(axes, {"train_loss": [3, 2], **extra})
    assert [line.get_label() for line in axes.get_lines()] == ["training"]


def test_history_without_the_metric_is_refused_by_name():
    _, axes = plt.subplots()
    with pytest.raises(ValueError, match="history must be a mapping with the key 'train_acuracy'; got"):
        figures.plot_history(axes, {"train_accuracy": [1]}, "acuracy")


def test_image_grid_shows_every_image_in_order_and_heads_the_columns():
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 4, 4), np.uint8)
    figure = figures.image_grid(images, titles=["a", "b", "c"], columns=3)
    figure.canvas.draw()
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    assert [int(image.get_array()[0, 0]) for image in shown] == [0, 1, 2, 3, 4]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "", "", ""]
    assert figure.get_size_inches()[0] == 7


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.float32, 1)])
def test_image_grid_draws_all_images_on_the_same_grey_scale(dtype, top):
    images = np.zeros((2, 4, 4), dtype)
    images[1] = 1
    figure = figures.image_grid(images)
    assert {image.get_clim() for axes in figure.axes for image in axes.images} == {(0, top)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((0, 4, 4))}, "images must"),
        ({"images": np.zeros((4, 4))}, "images must"),
        ({"images": np.zeros((2, 4, 4)), "columns": 0}, "columns must"),
        ({"images": np.zeros((2, 4, 4)), "titles": "abc"}, "titles must"),
    ],
)
def test_image_grid_refuses_what_it_cannot_draw_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.image_grid(**arguments)


def cells(markdown):
    """Split a pipe table into rows of cells, at the bars that are not escaped."""
    rows = markdown.data.replace(r"\|", "\0").splitlines()
    return [[cell.strip().replace("\0", r"\|") for cell in row.strip("|").split("|")] for row in rows]


def test_table_aligns_numbers_right_and_text_left():
    table = show_table(pd.DataFrame({"model": ["a"], "loss": [0.5], "mixed": [1]}).astype({"mixed": object}))
    assert [rule.endswith(":") for rule in cells(table)[1]] == [False, True, True]


def test_table_escapes_bars_in_cells_and_head_and_keeps_line_breaks_out():
    table = show_table(pd.DataFrame({"P(a|b)": ["x|y\nz"]}))
    assert cells(table) == [[r"P(a\|b)"], cells(table)[1], [r"x\|y z"]]


def test_table_formats_floats_integers_and_named_columns():
    frame = pd.DataFrame({"loss": [0.12345], "n": [56000], "accuracy": np.float32([0.8912]), "epoch": [1000]})
    table = show_table(frame, {"accuracy": ".1%", "epoch": "d"})
    assert cells(table)[2] == ["0.123", "56,000", "89.1%", "1000"]


def test_table_keeps_text_that_looks_like_a_number():
    assert cells(show_table(pd.DataFrame({"version": ["1.10", "0xff"]})))[2:] == [["1.10"], ["0xff"]]


def test_table_writes_nan_in_a_column_of_numbers_and_a_dash_for_missing_text():
    frame = pd.DataFrame({"loss": [0.5, np.nan], "note": ["x", None]})
    assert cells(show_table(frame))[2:] == [["0.500", "x"], ["NaN", "–"]]


def test_table_formats_the_numbers_of_a_column_that_also_has_text():
    frame = pd.DataFrame({"loss": [0.5, "diverged"]})
    assert cells(show_table(frame, {"loss": ".2f"}))[2:] == [["0.50"], ["diverged"]]


def test_table_shows_the_index_under_its_name_when_asked():
    frame = pd.DataFrame({"n": [1]}, index=pd.Index(["Coat"], name="class"))
    assert cells(show_table(frame, index=True))[::2] == [["class", "n"], ["Coat", "1"]]
    assert cells(show_table(frame))[::2] == [["n"], ["1"]]


def test_table_without_rows_still_has_its_head():
    assert cells(show_table(pd.DataFrame({"a": [], "b": []})))[0] == ["a", "b"]


def test_table_refuses_a_format_for_a_column_that_it_has_not():
    with pytest.raises(ValueError, match=r"formats must be a mapping of columns of the table, .*; got \['los'\]"):
        show_table(pd.DataFrame({"loss": [1.0]}), {"los": ".1f"})
