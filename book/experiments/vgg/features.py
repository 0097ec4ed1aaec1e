"""What a frozen backbone makes of images, computed once and kept in a file that is mapped into memory.

The backbone's output for an image never changes, so a head is trained on features that are read, not computed.
One pass gives the outputs of several layers, if the backbone stacks them; `Features.channels` takes them apart.
The file is filled block by block. Each block's checksum is noted after the block is written; a run that is killed
goes on after the last block noted, and a block that is not what was noted is computed again.
"""

import copy
import functools
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import delayed
from torch.nn.functional import max_pool2d

from book.experiments.checks import check_choice, check_integer, check_that
from book.experiments.page.execution import as_completed, device, one_thread, parallel
from book.experiments.page.progress import Progress, notice, reported
from book.experiments.page.storage import CachedStep, array_digest, machine, memory_mapped
from book.experiments.vgg.backbone import Backbone, StackedLayers
from book.files import DamagedFileError, read_sealed_json, write_sealed_json
from book.sources import digest_of

PRECISIONS = ("auto", "bfloat16", "float32")

PIXELS_PER_BATCH = 400_000
"""Pixels of a batch, about: enough work for a core, little enough memory."""

BLOCK_BYTES = 16 * 2**20
"""A block holds about so many bytes of features; so much work of each worker at most is lost when a run is killed."""

DECISION_SECONDS = 0.2
"""How long the two precisions are compared; a round that is under way when the time is up is ended."""

CLEAR_MARGIN = 1.3
"""bfloat16 is chosen if it is so many times as fast, so that the choice on one machine is the same each time."""


class Features(NamedTuple):
    """A backbone's output for labelled images.

    Attributes
    ----------
    stored : ndarray of uint16 or float32, shape (n, channels * height * width)
        In the order of VGG's own ``flatten``; uint16 holds the bits of bfloat16. Mapped from a
        file: it takes page cache, no memory of its own, and a worker process is sent the file's name.
    labels : ndarray of int64, shape (n,)
    shape : tuple of three int
        Channels, height and width of the backbone's output for one image.
    name : str
        Names all that the values depend on.
    """

    stored: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int, int]
    name: str

    @property
    def values(self) -> torch.Tensor:
        """The features as a tensor of bfloat16 or float32, on the CPU, mapped and not copied."""
        values = torch.from_numpy(self.stored)
        return values.view(torch.bfloat16) if self.stored.dtype == np.uint16 else values

    def first(self, n: int) -> "Features":
        """The first `n` rows, which are mapped and not copied."""
        return self.rows(slice(n))._replace(name=f"{self.name}[:{n}]")

    def rows(self, rows: slice) -> "Features":
        """Some rows, which are mapped and not copied; under the same name."""
        return self._replace(stored=self.stored[rows], labels=self.labels[rows])

    def channels(self, start: int, stop: int) -> "Features":
        """The channels from `start` up to, not including, `stop`, which are mapped and not copied."""
        channels, height, width = self.shape
        check_that(0 <= start < stop <= channels, "stop", f"above start and at most {channels}", (start, stop))
        return self._replace(
            stored=self.stored[:, start * height * width : stop * height * width],
            shape=(stop - start, height, width),
            name=f"{self.name}, channels {start} to {stop}",
        )


def without_arrays(features: Sequence[Features]) -> tuple[list[Features], list[np.ndarray]]:
    """Take the arrays out of features, to send them to workers as arguments of their own; `with_arrays` reverses it."""
    bare = [one._replace(stored=None, labels=None) for one in features]
    return bare, [array for one in features for array in (one.stored, one.labels)]


def with_arrays(bare: Sequence[Features], arrays: Sequence[np.ndarray]) -> list[Features]:
    """Put back what `without_arrays` has taken out."""
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return [one._replace(stored=stored, labels=labels) for one, (stored, labels) in zip(bare, pairs, strict=True)]


def as_stored(values: torch.Tensor) -> np.ndarray:
    """Return a tensor of bfloat16 or float32 as the array that `Features` holds of it."""
    return (
        values.contiguous()
        .view(torch.int16 if values.dtype == torch.bfloat16 else values.dtype)
        .numpy()
        .view(np.uint16 if values.dtype == torch.bfloat16 else np.float32)
    )


def backbone_features(
    backbone: Backbone, images: np.ndarray, labels: np.ndarray, precision: str, task: str
) -> Features:
    """Load a backbone's features for images from the cache, and compute what is missing of them.

    The blocks are distributed to the workers; each is computed on one thread, so that their number changes no bit.

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
        If `precision` is unknown, the images are no such array, or there are not as many labels as images.
    """
    check_choice("precision", precision, PRECISIONS)
    is_stack = isinstance(images, np.ndarray) and images.ndim == 3 and images.dtype == np.uint8 and len(images) > 0
    what = "an array of uint8, shape (n, height, width) with n > 0"
    check_that(is_stack, "images", what, f"{getattr(images, 'dtype', type(images).__name__)} {np.shape(images)}")
    check_that(len(images) == len(labels), "labels", f"as many as images ({len(images)})", len(labels))
    dtype = getattr(torch, fastest_precision() if precision == "auto" else precision)
    # Writable, because PyTorch warns of anything else.
    images = np.require(images, requirements=["C_CONTIGUOUS", "WRITEABLE"])
    depends_on = {"images": array_digest(images)}
    return _from_cache(backbone, images, labels, dtype, depends_on, task)


def deeper_features(backbone: Backbone, features: Features, after: int, task: str) -> Features:
    """Put cached features through the layers of a backbone behind those that gave them.

    Saves the pass through the first layers; the cache, the workers and the precision are those of `backbone_features`.

    Parameters
    ----------
    backbone : Backbone
        Without stacked outputs.
    features : Features
        The output of the first layers, nothing pooled or stacked.
    after : int
        How many layers gave them.
    task : str
        What the terminal calls this step.

    Raises
    ------
    ValueError
        If no layer is left, or the features do not fit the next one.
    """
    settings = backbone.settings
    check_that(not settings.stacked and not settings.grid, "backbone.settings", "without stacked and grid", settings)
    check_integer("after", after, 1, settings.cut - 1)
    expected = backbone._replace(layers=backbone.layers[:after]).output_shape
    check_that(features.shape == expected, "features.shape", str(expected), features.shape)
    depends_on = {"features": features.name, "after": after}
    return _from_cache(backbone, features, features.labels, features.values.dtype, depends_on, task, after)


def _from_cache(
    backbone: Backbone,
    inputs: "np.ndarray | Features",
    labels: np.ndarray,
    dtype: torch.dtype,
    depends_on: Mapping[str, Any],
    task: str,
    after: int = 0,
) -> Features:
    """Load what the layers of a backbone make of images or of features, and compute what is missing of it."""
    settings = backbone.settings
    step = CachedStep(
        f"features-{settings.input_size}px",
        {
            "weights": array_digest(*_weights_of(backbone).values()),
            "cut": settings.cut,
            "stacked": settings.stacked,
            "grid": settings.grid,
            "input_size": settings.input_size,
            "normalisation": [backbone.mean, backbone.std],
            "precision": str(dtype),
            "code": digest_of(forward, StackedLayers, Backbone.to_input, Backbone.normalise),
            "torch": torch.__version__,
            **depends_on,
        },
    )
    num_images, width = len(labels), int(np.prod(backbone.output_shape))
    with step.locked(), reported(task, num_images) as progress:
        blocks = _Blocks(step.folder, num_images, width, dtype)
        if blocks.num_damaged:
            notice(f"{step.folder.name}: {blocks.num_damaged} of {blocks.number} blocks are damaged; computed again")
        missing = [block for block in range(blocks.number) if block not in blocks.whole]
        progress.advance(num_images - sum(blocks.num_rows(block) for block in missing), "from the cache")
        started = time.perf_counter()
        computed = _computed(backbone, inputs, dtype, blocks, missing, progress, after)
        for block, features, cpu_seconds in computed:
            blocks.write(block, features, cpu_seconds, time.perf_counter() - started)
            started = time.perf_counter()
        step.report(blocks.cost(), found=not missing)
        stored = blocks.mapped()
    return Features(stored, np.asarray(labels, np.int64), backbone.output_shape, step.folder.name)


def pooled(features: Features) -> Features:
    """What one more max pooling layer of VGG would make of cached features.

    Saves a second pass through the backbone where the cut before a pooling layer is compared with the cut after it.
    """
    grids = max_pool2d(features.values.unflatten(1, features.shape), 2)
    stored = memory_mapped("pooled", {"features": as_stored(grids.flatten(1))}, mode="c")["features"]
    return Features(stored, features.labels, tuple(grids.shape[1:]), f"{features.name}, pooled")


def forward(
    backbone: Backbone,
    inputs: np.ndarray | Features,
    dtype: torch.dtype,
    device: str,
    after: int = 0,
) -> Iterator[torch.Tensor]:
    """Put images through a backbone, batch by batch.

    Or features of its first layers through the rest of them. Channels lie
    innermost in memory, as processors and GPUs convolve fastest.

    Parameters
    ----------
    backbone : Backbone
    inputs : ndarray of uint8, shape (n, height, width), or Features
    dtype : torch.dtype
        The precision of the convolutions.
    device : str
        "cpu" or "cuda".
    after : int
        How many layers gave the features; 0 for images.

    Yields
    ------
    Tensor of `dtype` on the CPU, shape (batch, channels * height * width)
    """
    layers = backbone.layers[after:] if after else backbone.layers
    innermost = torch.channels_last
    layers = copy.deepcopy(layers).to(device, dtype, memory_format=innermost)
    size = max(1, PIXELS_PER_BATCH // backbone.settings.input_size**2)
    count = len(inputs.labels) if after else len(inputs)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        with torch.inference_mode():
            x = inputs.values[rows] if after else inputs[rows]
            x = x.unflatten(1, inputs.shape) if after else backbone.to_input(x)
            x = x.to(device, dtype, memory_format=innermost)
            yield layers(x).flatten(1).cpu()


@functools.cache
def fastest_precision() -> str:
    """Decide once in a process whether bfloat16 or float32 is faster here.

    bfloat16 is fast only on processors that have instructions for it (AVX512-BF16, AMX), and on GPUs.
    """
    if device() == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    factors = {name: torch.ones(256, 256, dtype=getattr(torch, name)) for name in ("float32", "bfloat16")}
    with one_thread():
        return faster_of(lambda name: (factors[name] @ factors[name])[0, 0].item(), time.perf_counter)


def faster_of(multiply: Callable[[str], object], clock: Callable[[], float]) -> str:
    """Compare products in "bfloat16" and in "float32", in turn; the best of several rounds counts.

    Parameters
    ----------
    multiply : callable
        Does one product in the precision that it is given the name of.
    clock : callable
        Seconds.

    Returns
    -------
    str
        "bfloat16" if it is `CLEAR_MARGIN` times as fast.
    """
    best = {"float32": float("inf"), "bfloat16": float("inf")}
    for name in best:
        multiply(name)  # the first product also prepares the next ones
    deadline = clock() + DECISION_SECONDS
    for number in range(1, 31):
        for name in best:
            start = clock()
            multiply(name)
            best[name] = min(best[name], clock() - start)
        is_plain = number > 2 and max(best.values()) > 4 * min(best.values())
        if is_plain or clock() > deadline:
            break
    return "bfloat16" if CLEAR_MARGIN * best["bfloat16"] < best["float32"] else "float32"


class SentBackbone(NamedTuple):
    """A backbone on its way to workers, without the arrays of its weights: they are arguments of their own.

    Attributes
    ----------
    bare : Backbone
        Without layers.
    names : tuple of str
        Of the arrays.
    digest : str
        Of their numbers.
    """

    bare: Backbone
    names: tuple[str, ...]
    digest: str

    def rebuilt(self, arrays: Sequence[np.ndarray]) -> Backbone:
        """Put the layers back; a process keeps the last backbone, which serves several tasks."""
        if self not in _last_rebuilt:
            state = {name: torch.from_numpy(np.array(array)) for name, array in zip(self.names, arrays, strict=True)}
            _last_rebuilt.clear()
            _last_rebuilt[self] = self.bare.with_layers(state)
        return _last_rebuilt[self]


_last_rebuilt: dict[SentBackbone, Backbone] = {}


def sent(backbone: Backbone) -> tuple[SentBackbone, list[np.ndarray]]:
    """Take a backbone apart for `SentBackbone.rebuilt`; the arrays are mapped from files."""
    weights = _weights_of(backbone)
    digest = array_digest(*weights.values())
    mapped = memory_mapped("backbone", weights)
    return SentBackbone(backbone._replace(layers=None), tuple(weights), digest), list(mapped.values())


def _weights_of(backbone: Backbone) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in backbone.layers.state_dict().items()}


def _computed(backbone, inputs, dtype, blocks, missing, progress, after):
    """Yield the number, the features and the CPU seconds of each missing block, as they come."""

    def inputs_of(block):
        rows = blocks.rows(block)
        return inputs.rows(rows) if after else inputs[rows]

    if device() == "cuda":
        for block in missing:
            yield block, *_computed_block(backbone, "cuda", inputs_of(block), dtype, progress, after)
    elif missing:
        without_layers, weights = sent(backbone)

        def task_of(block):
            bare, arrays = without_arrays([inputs_of(block)]) if after else ([], [inputs_of(block)])
            return delayed(_block_of_worker)(without_layers, bare, dtype, progress, after, *weights, *arrays)

        with parallel():
            for block, (features, cpu_seconds) in as_completed({block: task_of(block) for block in missing}):
                yield block, features, cpu_seconds


def _block_of_worker(without_layers: SentBackbone, bare, dtype, progress: Progress, after: int, *arrays):
    """Compute a block in a worker process, which builds the backbone once."""
    num_weights = len(without_layers.names)
    weights, inputs = arrays[:num_weights], arrays[num_weights:]
    with one_thread():
        backbone = without_layers.rebuilt(weights)
        return _computed_block(
            backbone, "cpu", with_arrays(bare, inputs)[0] if after else inputs[0], dtype, progress, after
        )


def _computed_block(backbone, device, inputs, dtype, progress: Progress, after):
    """Return the features of a block and the CPU seconds that they took."""
    started = time.process_time()
    batches = []
    for batch in forward(backbone, inputs, dtype, device, after):
        batches.append(batch)
        progress.advance(len(batch))
    return as_stored(torch.cat(batches)), time.process_time() - started


class _Blocks:
    """The file of features, and a log with a line "block checksum CPU-seconds wall-seconds" for each whole block.

    The checksum covers the block's features and the line's other numbers.
    """

    def __init__(self, folder: Path, num_images: int, width: int, dtype: torch.dtype):
        self.file, self.log, self.machine = (folder / name for name in ("features.bin", "blocks.log", "machine.json"))
        self.num_images, self.width = num_images, width
        self.dtype = np.dtype(np.uint16 if dtype == torch.bfloat16 else np.float32)
        self.row_bytes = width * self.dtype.itemsize
        self.block_rows = max(1, BLOCK_BYTES // self.row_bytes)
        self.number = -(-num_images // self.block_rows)
        self.file.touch()
        self.log.touch()
        noted = self._noted()
        self.whole = {
            block: words
            for block, words in noted.items()
            if words[0] == _checksum(self._read(block), block, *words[1:])
        }
        self.num_damaged = len(noted) - len(self.whole)

    def rows(self, block: int) -> slice:
        start = block * self.block_rows
        return slice(start, min(start + self.block_rows, self.num_images))

    def num_rows(self, block: int) -> int:
        return len(range(self.num_images)[self.rows(block)])

    def write(self, block: int, features: np.ndarray, cpu_seconds: float, wall_seconds: float) -> None:
        """Write a block, then note it: what is noted is whole."""
        content = features.tobytes()
        with open(self.file, "r+b") as file:
            file.seek(block * self.block_rows * self.row_bytes)
            file.write(content)
        costs = f"{cpu_seconds:.3f}", f"{wall_seconds:.3f}"
        words = (_checksum(content, block, *costs), *costs)
        if not self.machine.exists():
            write_sealed_json(self.machine, machine())
        # The line before may have been cut off.
        newline = "" if self.log.read_bytes()[-1:] in (b"", b"\n") else "\n"
        with open(self.log, "ab", buffering=0) as file:
            file.write(f"{newline}{block} {' '.join(words)}\n".encode())
        self.whole[block] = words

    def cost(self) -> dict[str, object]:
        """What all blocks cost when they were computed, however many attempts that took."""
        cpu, wall = (round(sum(float(line[place]) for line in self.whole.values()), 3) for place in (1, 2))
        return {"cpu_seconds": cpu, "wall_seconds": wall, "machine": self._noted_machine()}

    def mapped(self) -> np.ndarray:
        # Copy on write: PyTorch wants memory that may be written to, the file must stay as it is.
        return np.memmap(self.file, self.dtype, mode="c", shape=(self.num_images, self.width))

    def _noted_machine(self) -> str:
        """The machine that the first block was computed on."""
        try:
            return read_sealed_json(self.machine)
        except (FileNotFoundError, DamagedFileError):
            return "unknown"

    def _read(self, block: int) -> bytes:
        rows = self.rows(block)
        with open(self.file, "rb") as file:
            file.seek(rows.start * self.row_bytes)
            return file.read((rows.stop - rows.start) * self.row_bytes)

    def _noted(self) -> dict[int, tuple[str, str, str]]:
        """Lines by block; the last line of a block holds, and one that is cut off or garbled does not count."""
        noted = {}
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            block, *words = line.split() or [""]
            is_whole = line.endswith("\n") and len(words) == 3 and block.isdecimal() and words[0].isdecimal()
            if (
                is_whole
                and all(word.replace(".", "", 1).isdecimal() for word in words[1:])
                and int(block) < self.number
            ):
                noted[int(block)] = tuple(words)
        return noted


def _checksum(content: bytes, block: int, *costs: str) -> str:
    """Sum up a block's features with all that the log says of it, so that no digit of a cost changes unnoticed."""
    return str(zlib.crc32(" ".join((str(block), *costs)).encode(), zlib.crc32(content)))
