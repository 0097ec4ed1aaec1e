"""Units of a layer that are alike: what is left of the symmetry of equal initial weights."""

import numpy as np

from book.experiments.checks import check_number

ROUNDING = 1e-3
"""Two units whose weights differ by less than this fraction of their length count as equal.

A float32 has a relative precision of 6e-8. Rounding errors of thousands of steps add up to more, but remain far below
this; units that start from independent random weights differ by about their length.
"""


def num_distinct_units(W: np.ndarray, tolerance: float = ROUNDING) -> int:
    """Count the units of a layer, those with equal weights once.

    Parameters
    ----------
    W : ndarray of shape (fan_in, fan_out)
        A column for each unit.
    tolerance : float
        Two columns are equal if the length of their difference is at most this fraction of the longer one.

    Returns
    -------
    int
        From 1 to ``fan_out``.
    """
    check_number("tolerance", tolerance, minimum=0, below=1)
    distinct = []
    for column in W.T:
        length = np.linalg.norm(column)
        limits = (tolerance * max(length, np.linalg.norm(other)) for other in distinct)
        if all(np.linalg.norm(column - other) > limit for other, limit in zip(distinct, limits, strict=True)):
            distinct.append(column)
    return len(distinct)
