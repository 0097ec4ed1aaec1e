import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

from book.experiments.vgg.convolution_cost import Convolution
from book.experiments.vgg.cost_diagrams import inception_diagram, networks_diagram, windows_diagram


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("kernel", [1, 3, 5, 11])
def test_the_filled_windows_have_the_size_of_the_kernel_and_lie_within_the_channels(kernel):
    figure = windows_diagram(kernel)
    for axes, side in zip(figure.axes, (kernel, 1), strict=True):
        rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        for channel, window in zip(rectangles[::2], rectangles[1::2], strict=True):
            assert window.get_width() == window.get_height() == side
            assert channel.get_x() <= window.get_x() <= channel.get_x() + channel.get_width() - side


def test_the_networks_are_labelled_with_their_sizes_and_counts():
    network_b = [Convolution(192, 16, 1), Convolution(16, 32, 5)]
    texts = texts_of(networks_diagram({"A": [Convolution(192, 32, 5)], "B": network_b}, 28, 28))
    assert {"28x28x192", "28x28x16", "28x28x32"} < set(texts)
    assert "5x5, 32 kernels\n120.42 million" in texts
    assert "1x1, 16 kernels\n2.41 million" in texts


def test_the_inception_module_ends_in_as_many_channels_as_its_branches_have():
    channels = {"1x1": 1, "3x3 reduce": 20, "3x3": 2, "5x5 reduce": 30, "5x5": 3, "pool": 4}
    texts = texts_of(inception_diagram(channels))
    assert "concatenation: 10 channels" in texts
    assert {"1x1, 1", "1x1, 20", "3x3, 2", "1x1, 30", "5x5, 3", "max pooling 3x3", "1x1, 4"} < set(texts)
