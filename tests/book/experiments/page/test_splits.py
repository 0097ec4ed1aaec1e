import matplotlib.pyplot as plt
import numpy as np
import pytest

from book.experiments.page.splits import shared_images, splits_diagram
from data import Part, Split


def split_of(train, validation, test):
    return Split(*(Part(None, None, np.array(indices)) for indices in (train, validation, test)))


FIRST = split_of([0, 1, 2, 3, 4, 5], [6, 7], [8, 9])
SECOND = split_of([9, 0, 1, 2], [3, 4, 6], [5, 7, 8])


def test_every_image_is_counted_where_both_splits_have_it():
    assert shared_images(FIRST, SECOND).tolist() == [[3, 2, 1], [0, 1, 1], [1, 0, 1]]


def test_the_areas_are_in_proportion_to_the_images():
    figure = splits_diagram(FIRST, SECOND, ("first", "second"))
    areas = [patch.get_width() * patch.get_height() for patch in figure.axes[0].patches]
    assert pytest.approx(shared_images(FIRST, SECOND) / 10) == np.reshape(areas, (3, 3)).T
    hatched = [patch.get_hatch() is not None for patch in figure.axes[0].patches]
    assert hatched == [False] * 8 + [True]
    plt.close(figure)
