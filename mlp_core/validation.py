"""Checks of what comes in. Each error names the parameter, the value and what is allowed."""

import math
import numbers
from collections.abc import Iterable, Sequence

import numpy as np


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of the ``allowed`` names."""
    if not (isinstance(value, str) and value in allowed):
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def check_integer(name: str, value: object, minimum: int) -> None:
    """Raise ValueError unless ``value`` is an integer (not a bool) of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}; got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a finite number greater than zero."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not _is_finite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number greater than 0; got {value!r}")


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def check_layer_sizes(n_layers: object, layer_sizes: object) -> None:
    """Raise ValueError unless ``layer_sizes`` is a sequence of ``n_layers`` positive integers, at least two."""
    check_integer("n_layers", n_layers, minimum=2)
    is_vector = isinstance(layer_sizes, np.ndarray) and layer_sizes.ndim == 1
    if not (is_vector or isinstance(layer_sizes, Sequence)) or isinstance(layer_sizes, str):
        raise ValueError(f"layer_sizes must be a sequence of {n_layers} integers; got {layer_sizes!r}")
    if len(layer_sizes) != n_layers:
        raise ValueError(
            f"layer_sizes must have n_layers = {n_layers} entries, input and output layer included; "
            f"got {len(layer_sizes)}: {list(layer_sizes)}"
        )
    for i, size in enumerate(layer_sizes):
        check_integer(f"layer_sizes[{i}]", size, minimum=1)


def as_samples(name: str, X: object, width: int, dtype: np.dtype) -> np.ndarray:
    """Convert to a C-contiguous matrix of shape (n, width), n >= 1, all finite, or raise ValueError."""
    try:
        if np.iscomplexobj(X):  # NumPy would drop the imaginary part with a warning
            raise TypeError("complex numbers")
        with np.errstate(over="ignore"):  # a number too large for dtype becomes inf and is refused below
            X = np.ascontiguousarray(X, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a matrix of numbers; got {type(X).__name__}: {error}") from error
    if X.ndim != 2 or X.shape[1] != width or len(X) == 0:
        raise ValueError(f"{name} must have shape (n, {width}) with n >= 1; got {X.shape}")
    finite = np.isfinite(X)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name} must be finite in {np.dtype(dtype).name}; got {X[row, column]} in row {row}, column {column}"
        )
    return X


def as_labels(name: str, y: object, n_samples: int) -> np.ndarray:
    """Convert to a vector of ``n_samples`` integer or string labels, or raise ValueError."""
    try:
        y = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{name} must be a vector of labels; got {type(y).__name__}: {error}") from error
    if y.shape != (n_samples,):
        raise ValueError(f"{name} must have shape ({n_samples},), one label a sample; got {y.shape}")
    if y.dtype == object and all(isinstance(label, str) for label in y):
        y = y.astype(str)
    if y.dtype.kind not in "biuUS":
        raise ValueError(f"{name} must hold integers or strings; got dtype {y.dtype}")
    return y


def as_class_indices(name: str, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Index of each label in the sorted ``classes``; ValueError for a label that is not there."""
    unseen = np.setdiff1d(y, classes)
    if len(unseen):
        raise ValueError(f"{name} must hold labels seen in training, {classes.tolist()}; got {unseen.tolist()}")
    return np.searchsorted(classes, y)
