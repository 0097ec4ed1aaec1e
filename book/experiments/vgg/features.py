"""What a frozen backbone makes of images, computed once and kept in a file that is mapped into memory.

The backbone's output for an image never changes, so a head is trained on features that are read, not computed.
The file is filled block by block. Each block's checksum is noted after the block is written; a run that is killed
goes on after the last block noted, and a block that is not what was noted is computed again.
"""

import copy
import fcntl
import hashlib
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from book.experiments.page.progress import reported
from book.experiments.page.storage import keyed_folder
from book.experiments.vgg.backbone import Backbone

PRECISIONS = ("auto", "bfloat16", "float32")

PIXELS_PER_BATCH = 400_000
"""Pixels of a batch, about: enough work for all cores, little enough memory."""

BLOCK_BYTES = 16 * 2**20
"""A block holds about so many bytes of features; so much work at most is lost when a run is killed."""


class CacheWarning(UserWarning):
    """Kept features were not what they should be, and are computed again."""


class Features(NamedTuple):
    """A backbone's output for labelled images.

    Attributes
    ----------
    values : Tensor of bfloat16 or float32, shape (n, channels * height * width)
        In the order of VGG's own ``flatten``. Mapped from a file: it takes page cache, no memory of its own.
    labels : Tensor of int64, shape (n,)
    shape : tuple of three int
        Channels, height and width of the backbone's output for one image.
    name : str
        Names all that the values depend on.
    """

    values: torch.Tensor
    labels: torch.Tensor
    shape: tuple[int, int, int]
    name: str

    def first(self, n: int) -> "Features":
        """The first `n` rows, which are mapped and not copied."""
        return self._replace(values=self.values[:n], labels=self.labels[:n], name=f"{self.name}[:{n}]")


def backbone_features(
    backbone: Backbone, images: np.ndarray, labels: np.ndarray, precision: str, task: str
) -> Features:
    """Find a backbone's features for images, or compute what is missing of them.

    Parameters
    ----------
    backbone : Backbone
    images : ndarray of uint8, shape (n, 28, 28)
    labels : ndarray of int, shape (n,)
    precision : str
        One of `PRECISIONS`; "auto" takes the faster on this machine. Also the type of the result.
    task : str
        What the terminal calls this step.

    Raises
    ------
    ValueError
        If `precision` is unknown, or there are not as many labels as images.

    Warns
    -----
    CacheWarning
        If kept features were altered. They are computed again.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {list(PRECISIONS)}; got {precision!r}")
    if len(images) != len(labels):
        raise ValueError(f"labels must be as many as images ({len(images)}); got {len(labels)}")
    dtype = getattr(torch, fastest_precision() if precision == "auto" else precision)
    settings = backbone.settings
    folder = keyed_folder(
        f"features-{settings.input_size}px",
        {
            "weights": _digest(*(p.numpy().tobytes() for p in backbone.layers.state_dict().values())),
            "cut": settings.cut,
            "input_size": settings.input_size,
            "normalisation": [backbone.mean, backbone.std],
            "precision": str(dtype),
            "images": _digest(str(images.shape).encode(), np.ascontiguousarray(images).tobytes()),
        },
    )
    width = int(np.prod(backbone.output_shape))
    with _locked(folder), reported(task, len(images)) as progress:
        kept = _KeptBlocks(folder, len(images), width, dtype)
        if kept.altered:
            progress.advance(0, "altered blocks are computed again")
            altered = f"{kept.altered} of {kept.num_blocks} blocks of features were altered and are computed again"
            warnings.warn(f"{folder.name}: {altered}", CacheWarning, stacklevel=2)
        for block in range(kept.num_blocks):
            rows = kept.rows(block)
            if block in kept.sound:
                progress.advance(rows.stop - rows.start, "found")
                continue
            batches = []
            for batch in forward(backbone, images[rows], dtype):
                batches.append(batch)
                progress.advance(len(batch))
            kept.write(block, torch.cat(batches))
        return Features(
            kept.mapped(), torch.from_numpy(np.asarray(labels, np.int64)), backbone.output_shape, folder.name
        )


def pooled(features: Features) -> Features:
    """What one more pooling layer of VGG would make of kept features; the result lies in memory.

    Saves a second run of the backbone where the cut before a pooling is compared with the cut after it.
    """
    grids = max_pool2d(features.values.unflatten(1, features.shape), 2)
    return Features(grids.flatten(1), features.labels, tuple(grids.shape[1:]), f"{features.name}, pooled")


def forward(backbone: Backbone, images: np.ndarray, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Put images through a backbone, batch by batch.

    Channels lie innermost in memory, as the processor's convolutions like them best. CUDA is used where there is one.

    Yields
    ------
    Tensor of `dtype` on the CPU, shape (batch, channels * height * width)
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = copy.deepcopy(backbone.layers).to(device, dtype, memory_format=torch.channels_last)
    size = max(1, PIXELS_PER_BATCH // backbone.settings.input_size**2)
    for start in range(0, len(images), size):
        with torch.inference_mode():
            x = backbone.to_input(images[start : start + size])
            x = x.to(device, dtype, memory_format=torch.channels_last)
            yield layers(x).flatten(1).cpu()


def fastest_precision() -> str:
    """Measure whether matrix products are faster in bfloat16 or float32 here; a quarter of a second.

    bfloat16 is fast only on processors that have instructions for it (AVX512-BF16, AMX), and on GPUs. The two are
    measured in turn, and the best of many rounds counts: what else the machine does must not decide.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best = dict.fromkeys(("bfloat16", "float32"), float("inf"))
    factors = {precision: torch.ones(1024, 1024, dtype=getattr(torch, precision), device=device) for precision in best}
    for _ in range(12):
        for precision, factor in factors.items():
            start = time.perf_counter()
            (factor @ factor)[0, 0].item()
            best[precision] = min(best[precision], time.perf_counter() - start)
    return min(best, key=best.get)


class _KeptBlocks:
    """The file of features, and beside it a log with a line "block checksum" for each block that is complete."""

    def __init__(self, folder: Path, num_images: int, width: int, dtype: torch.dtype):
        self.file, self.log = folder / "features.bin", folder / "blocks.log"
        self.num_images, self.width, self.dtype = num_images, width, dtype
        self.row_bytes = width * dtype.itemsize
        self.block_rows = max(1, BLOCK_BYTES // self.row_bytes)
        self.num_blocks = -(-num_images // self.block_rows)
        self.file.touch()
        self.log.touch()
        noted = self._noted()
        self.sound = {block for block, checksum in noted.items() if checksum == zlib.crc32(self._read(block))}
        self.altered = len(noted) - len(self.sound)

    def rows(self, block: int) -> slice:
        start = block * self.block_rows
        return slice(start, min(start + self.block_rows, self.num_images))

    def write(self, block: int, features: torch.Tensor) -> None:
        """Write a block, then note it: what is noted is complete."""
        content = features.contiguous().view(torch.uint8).numpy().tobytes()
        with open(self.file, "r+b") as file:
            file.seek(block * self.block_rows * self.row_bytes)
            file.write(content)
        with open(self.log, "ab", buffering=0) as file:
            file.write(f"{block} {zlib.crc32(content)}\n".encode())
        self.sound.add(block)

    def mapped(self) -> torch.Tensor:
        # Copy on write: PyTorch wants memory that may be written to, the file must stay as it is.
        content = np.memmap(self.file, np.uint8, mode="c", shape=(self.num_images, self.row_bytes))
        return torch.from_numpy(content).view(self.dtype)

    def _read(self, block: int) -> bytes:
        rows = self.rows(block)
        with open(self.file, "rb") as file:
            file.seek(rows.start * self.row_bytes)
            return file.read((rows.stop - rows.start) * self.row_bytes)

    def _noted(self) -> dict[int, int]:
        """Checksums by block; the last line of a block holds, and one that a kill cut off does not count."""
        noted = {}
        for line in self.log.read_text(errors="replace").splitlines(keepends=True):
            words = line.split()
            if line.endswith("\n") and len(words) == 2 and all(word.isdigit() for word in words):
                block, checksum = map(int, words)
                if block < self.num_blocks:
                    noted[block] = checksum
        return noted


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time fill a folder; the others wait and then find what it left."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()
