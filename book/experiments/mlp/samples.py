"""What the dense networks are trained on: images as rows of grey values."""

from typing import NamedTuple

import numpy as np

from book.experiments.checks import check_that
from data import Part, Split, flatten, scale_to_unit

NUM_CLASSES = 10


class LabelledSamples(NamedTuple):
    """The samples of a training run.

    Attributes
    ----------
    X, X_validation : ndarray of float32, shape (n, 784)
        Grey values in [0, 1].
    y, y_validation : ndarray of int, shape (n,)
    """

    X: np.ndarray
    y: np.ndarray
    X_validation: np.ndarray
    y_validation: np.ndarray


def as_samples(part: Part) -> np.ndarray:
    """Images as rows of 784 grey values in [0, 1], shape (n, 784), float32."""
    return flatten(scale_to_unit(part.images))


def training_samples(split: Split, num_train: int) -> LabelledSamples:
    """Training and validation samples, the training part cut to the first ``num_train / 10`` of each class.

    Raises
    ------
    ValueError
        Unless ``num_train`` is a multiple of 10 from 10 to the size of the training part.
    """
    size = len(split.train.labels)
    is_possible = isinstance(num_train, int) and not isinstance(num_train, bool) and 10 <= num_train <= size
    check_that(
        is_possible and num_train % NUM_CLASSES == 0, "num_train", f"a multiple of 10 from 10 to {size}", num_train
    )
    rank_in_class = np.empty(size, dtype=int)
    for label in range(NUM_CLASSES):
        members = split.train.labels == label
        rank_in_class[members] = np.arange(members.sum())
    chosen = rank_in_class < num_train // NUM_CLASSES
    return LabelledSamples(
        as_samples(split.train)[chosen],
        split.train.labels[chosen],
        as_samples(split.validation),
        split.validation.labels,
    )
