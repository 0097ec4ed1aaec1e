"""Load Fashion-MNIST, split it 80/10/10 or 80/20 and scale its pixels.

Every call returns arrays of its own: writing into them changes nobody else's data.
"""

import gzip
import hashlib
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# SHA-256 of the compressed files. The pipeline's freshness key reads this source file, not the 30 MB beside
# it: since loading refuses any other content, these constants stand for the data, and changing one makes
# every chapter that loads it stale.
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}

FOLDER = Path(__file__).resolve().parent / "FashionMNIST" / "raw"
FOLDER_IN_PROJECT = "data/FashionMNIST/raw"

IMAGE_HEADER_BYTES = 16  # IDX: magic number and three sizes, four bytes each
LABEL_HEADER_BYTES = 8  # IDX: magic number and one size
MAX_SEED = 2**32 - 1  # NumPy's legacy generator, which scikit-learn uses, takes no more


class DataError(OSError):
    """A data file is missing or is not the one that the project ships."""


class Part(NamedTuple):
    """Images with their labels.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, 28, 28)
        Grey values, 0 (background) to 255.
    labels : ndarray of int64, shape (n,)
        Positions in `CLASS_NAMES`.
    indices : ndarray of int64, shape (n,)
        Positions among all 70,000 images: 0 to 59,999 are the official training set, 60,000 to 69,999 the
        official test set.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def first(self, n: int) -> "Part":
        """Return the first ``n`` images; where a split has shuffled them, these are a random sample."""
        return Part(self.images[:n], self.labels[:n], self.indices[:n])


class FashionMNIST(NamedTuple):
    """The official parts: `train` with 60,000 images, `test` with 10,000."""

    train: Part
    test: Part
    class_names: tuple[str, ...]


class Split(NamedTuple):
    """All 70,000 images in three parts."""

    train: Part
    validation: Part
    test: Part


def load_fashion_mnist() -> FashionMNIST:
    """Load the official training and test set.

    Returns
    -------
    FashionMNIST
        `train` (60,000 images), `test` (10,000) and `class_names`.

    Raises
    ------
    DataError
        If a file is missing or its SHA-256 is not the one in `CHECKSUMS`.
    """
    train_images, train_labels = _load_part("train")
    test_images, test_labels = _load_part("t10k")
    n_train, n_test = len(train_labels), len(test_labels)
    return FashionMNIST(
        train=Part(train_images, train_labels, np.arange(n_train)),
        test=Part(test_images, test_labels, np.arange(n_train, n_train + n_test)),
        class_names=CLASS_NAMES,
    )


def split_80_10_10(seed: int) -> Split:
    """Pool all 70,000 images and split them into disjoint, stratified parts.

    Every part has the same proportion of each class as the whole, a tenth, and comes in shuffled order.

    Parameters
    ----------
    seed : int
        The same seed gives the same split; 0 to 2**32 - 1.

    Returns
    -------
    Split
        `train` (56,000 images), `validation` (7,000) and `test` (7,000).

    Raises
    ------
    ValueError
        If `seed` is not such an integer.
    DataError
        If a file is missing or altered.
    """
    seed = _checked_seed(seed)
    official = load_fashion_mnist()
    images = np.concatenate([official.train.images, official.test.images])
    labels = np.concatenate([official.train.labels, official.test.labels])

    n_held_out = len(labels) // 10
    rest, test = train_test_split(np.arange(len(labels)), test_size=n_held_out, stratify=labels, random_state=seed)
    train, validation = train_test_split(rest, test_size=n_held_out, stratify=labels[rest], random_state=seed)
    return Split(*(Part(images[indices], labels[indices], indices) for indices in (train, validation, test)))


def split_80_20(seed: int) -> Split:
    """Split the official training set into disjoint, stratified parts, and leave the official test set as it is.

    Parameters
    ----------
    seed : int
        The same seed gives the same split; 0 to 2**32 - 1.

    Returns
    -------
    Split
        `train` (48,000 images) and `validation` (12,000) in shuffled order, `test` (10,000) in the official one.

    Raises
    ------
    ValueError
        If `seed` is not such an integer.
    DataError
        If a file is missing or altered.
    """
    seed = _checked_seed(seed)
    official = load_fashion_mnist()
    images, labels, _ = official.train
    parts = train_test_split(np.arange(len(labels)), test_size=len(labels) // 5, stratify=labels, random_state=seed)
    train, validation = (Part(images[indices], labels[indices], indices) for indices in parts)
    return Split(train, validation, official.test)


def scale_to_unit(images: np.ndarray) -> np.ndarray:
    """Scale grey values from 0..255 to 0..1.

    Parameters
    ----------
    images : ndarray of uint8, any shape
        Grey values as they are stored.

    Returns
    -------
    ndarray of float32, the shape of `images`
        `images` / 255.

    Raises
    ------
    ValueError
        If `images` is not `uint8`: pixels that were scaled before would be scaled twice.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be an array of uint8 (0 to 255, not yet scaled), got {images.dtype}")
    return images / np.float32(255)


def flatten(images: np.ndarray) -> np.ndarray:
    """Lay the rows of each image end to end: shape (n, 28, 28) becomes (n, 784).

    Parameters
    ----------
    images : ndarray, shape (n, ...)
        One image for each entry of the first axis.

    Returns
    -------
    ndarray, shape (n, number of pixels)
        A view of the same values where NumPy can give one.

    Raises
    ------
    ValueError
        If `images` has fewer than two axes.
    """
    images = np.asarray(images)
    if images.ndim < 2:
        raise ValueError(f"images must have an axis of images and at least one of pixels, got {images.shape}")
    return images.reshape(len(images), int(np.prod(images.shape[1:])))


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be an integer from 0 to {MAX_SEED}, got {seed!r}")
    return int(seed)


def _load_part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, shape (n, 28, 28), and the labels, shape (n,), in the files named `prefix`-*."""
    pixels = np.frombuffer(_unpack(f"{prefix}-images-idx3-ubyte.gz"), np.uint8, offset=IMAGE_HEADER_BYTES)
    labels = np.frombuffer(_unpack(f"{prefix}-labels-idx1-ubyte.gz"), np.uint8, offset=LABEL_HEADER_BYTES)
    # A buffer's view is read-only, which PyTorch warns about: hand out copies.
    return pixels.reshape(-1, 28, 28).copy(), labels.astype(np.int64)


def _unpack(name: str) -> bytes:
    """Return the content of a compressed file whose checksum is the expected one."""
    try:
        compressed = (FOLDER / name).read_bytes()
    except FileNotFoundError:
        raise DataError(_complaint(name, "missing")) from None
    found = hashlib.sha256(compressed).hexdigest()
    if found != CHECKSUMS[name]:
        raise DataError(_complaint(name, f"{found} ({len(compressed):,} bytes)"))
    return gzip.decompress(compressed)


def _complaint(name: str, found: str) -> str:
    """Say which file is wrong, how, and what to do."""
    return (
        f"{FOLDER_IN_PROJECT}/{name} is not the file that this project ships.\n"
        f"  expected SHA-256: {CHECKSUMS[name]}\n"
        f"  found:            {found}\n"
        "  To restore it, in the project's root folder: git checkout -- data/FashionMNIST"
    )
