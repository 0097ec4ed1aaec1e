import matplotlib.pyplot as plt
import numpy as np
import pytest

from book.experiments.cnn import figures


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_convolution_has_three_connections_for_each_output_and_a_dense_layer_all():
    dense, convolution = figures.connections_diagram(num_inputs=6, kernel_size=3).axes
    assert len(dense.lines) == 6 * 6
    assert len(convolution.lines) == 3 * 4
    styles = {(line.get_color(), line.get_linestyle()) for line in convolution.lines}
    assert len(styles) == 3
    assert len({line for _, line in styles}) == 3  # told apart without colour as well


def test_the_worked_example_shows_every_number_and_frames_the_windows_of_the_framed_outputs():
    X, kernel = np.arange(16.0).reshape(4, 4), np.array([[1.0, -1.0], [0.5, 0.0]])
    Z = np.array([[1.0, 2.0], [3.0, -4.0]])
    figure = figures.worked_example(X, kernel, [("output", Z, 2, 0)])
    image, weights, output = figure.axes
    assert texts(image) == [str(number) for number in range(16)]
    assert texts(weights) == ["1", "−1", "0.5", "0"]
    assert texts(output) == ["1", "2", "3", "−4"]
    corners = [patch.get_xy() for patch in image.patches if patch.get_width() > 1]
    assert np.round(corners).tolist() == [[0, 0], [2, 2]]


def test_a_worked_example_without_an_output_is_refused():
    with pytest.raises(ValueError, match="outputs must be"):
        figures.worked_example(np.ones((4, 4)), np.ones((2, 2)), [])


def test_a_receptive_field_is_framed_along_the_edges_of_its_pixels():
    figure = figures.receptive_fields(np.zeros((28, 28)), [("first", 3, 4, 5), ("second", 0, 0, 16)])
    first, second = (axes.patches[0] for axes in figure.axes)
    assert (first.get_x(), first.get_y(), first.get_width(), first.get_height()) == (3.5, 2.5, 5, 5)
    assert (second.get_x(), second.get_y(), second.get_width()) == (-0.5, -0.5, 16)


def test_all_kernels_of_a_block_are_drawn_on_one_scale():
    kernels = np.random.default_rng(0).normal(size=(3, 3, 5))
    figure = figures.filter_grid([("after", kernels), ("change", 2 * kernels)], columns=4)
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 10
    np.testing.assert_array_equal(images[4].get_array(), kernels[:, :, 4])
    top = np.abs(kernels).max()
    assert {image.get_clim() for image in images[:5]} == {(-top, top)}
    assert {image.get_clim() for image in images[5:]} == {(-2 * top, 2 * top)}


def test_feature_maps_fill_rows_and_an_inactive_one_is_white():
    maps = np.random.default_rng(0).random((5, 4, 4))
    maps[1] = 0
    figure = figures.feature_maps(np.zeros((8, 8)), [("layer 1", maps)], columns=4)
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 1 + 5
    assert images[1].get_clim() == (0, maps[0].max())
    low, high = images[2].get_clim()
    assert low == 0 < high
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["image", "layer 1", "layer 1"]
