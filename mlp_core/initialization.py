"""Initial weights; biases always start at zero."""

from collections.abc import Callable

import numpy as np

SCALE = 0.01
"""Factor of the random initialisations, given by the assignment."""


def zero(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """All zeros, shape (fan_in, fan_out)."""
    return np.zeros((fan_in, fan_out))


def random(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Uniform on [-1, 1), times 0.01, shape (fan_in, fan_out)."""
    return SCALE * rng.uniform(-1, 1, (fan_in, fan_out))


def normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Normal(0, 1), times 0.01, shape (fan_in, fan_out)."""
    return SCALE * rng.standard_normal((fan_in, fan_out))


WEIGHT_INITS: dict[
    str,
    Callable[[np.random.Generator, int, int], np.ndarray],
] = {
    "zero": zero,
    "random": random,
    "normal": normal,
}
