"""What goes into the book: the files, and the functions that load them."""

from data.fashion_mnist import (
    CHECKSUMS,
    CLASS_NAMES,
    DataError,
    FashionMNIST,
    Part,
    Split,
    flatten,
    load_fashion_mnist,
    scale_to_unit,
    split_80_10_10,
    split_80_20,
)

__all__ = [
    "CHECKSUMS",
    "CLASS_NAMES",
    "DataError",
    "FashionMNIST",
    "Part",
    "Split",
    "flatten",
    "load_fashion_mnist",
    "scale_to_unit",
    "split_80_10_10",
    "split_80_20",
]
