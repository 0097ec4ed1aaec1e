"""Load the convolutional layers of VGG-16 that lie beside this file.

Not part of what ``import data`` gives: most of the book needs images only.
"""

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from data.fashion_mnist import DataError

FILE_IN_PROJECT = "data/vgg16/vgg16_features.safetensors"
FILE = Path(__file__).resolve().parents[1] / FILE_IN_PROJECT

# As in `data.fashion_mnist`, this constant stands for the file in the pipeline's key.
CHECKSUM = "dc4779b85a8de11f658e742b68b89b6686f868ee6c9f0e6d886d39a1ce39d962"

RGB_MEAN = (123.68, 116.779, 103.939)
"""What the network was trained to have subtracted from red, green and blue, on the scale of 0 to 255."""


def load_vgg16_features() -> dict[str, np.ndarray]:
    """Load the weights and biases of the 13 convolutional layers, trained on ImageNet.

    Returns
    -------
    dict of ndarray of float16
        Names, shapes and order of ``torchvision.models.vgg16().features.state_dict()``: "0.weight" with shape
        (64, 3, 3, 3), "0.bias" with shape (64,), and so on. The input is RGB, 0 to 255, less `RGB_MEAN`.

    Raises
    ------
    DataError
        If the file is missing or its SHA-256 is not `CHECKSUM`.
    """
    try:
        content = FILE.read_bytes()
    except FileNotFoundError:
        raise DataError(_complaint("missing")) from None
    found = hashlib.sha256(content).hexdigest()
    if found != CHECKSUM:
        raise DataError(_complaint(f"{found} ({len(content):,} bytes)"))
    return load(content)


def _complaint(found: str) -> str:
    """Say which file is wrong, how, and what to do."""
    return (
        f"{FILE_IN_PROJECT} is not the file that this project ships.\n"
        f"  expected SHA-256: {CHECKSUM}\n"
        f"  found:            {found}\n"
        f"  To restore it, in the project's root folder: git checkout -- {FILE_IN_PROJECT}"
    )
