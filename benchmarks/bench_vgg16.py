"""Pictures a second through VGG-16's trunk, ours and plain torchvision, and through a head on kept features.

All run in turn, several rounds, on all threads; what counts is the ratio within a round, because the machine's speed
drifts. The yardstick of the trunk is this processor's own rate of matrix products in the trunk's precision.
"""

import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from book.experiments.vgg.backbone import Trunk, TrunkSettings, load_trunk
from book.experiments.vgg.features import Features, fastest_precision, forward
from book.experiments.vgg.heads import HeadSettings, new_head, new_optimizer, train_epoch

SETTINGS = TrunkSettings(cut=24, input_size=112)
NUM_IMAGES, NUM_FEATURES = 128, 2048
PLAIN_BATCH = 32
MATRIX_SIZE = 2048
ROUNDS = 5


def trunk_pass(trunk: Trunk, images: np.ndarray, dtype: torch.dtype):
    """Our pass: the faster precision, channels innermost, inference mode."""

    def run():
        for _ in forward(trunk, images, dtype):
            pass

    return run


def plain_pass(trunk: Trunk, images: np.ndarray):
    """The loop of a tutorial: float32, channels outermost, no gradients."""

    def run():
        with torch.no_grad():
            for batch in np.split(images, range(PLAIN_BATCH, len(images), PLAIN_BATCH)):
                trunk.layers(trunk.to_input(batch))

    return run


def head_epoch(trunk: Trunk, num_pictures: int, dtype: torch.dtype):
    """One epoch of the chapter's head on kept features."""
    shape = trunk.output_shape
    values = torch.rand(num_pictures, int(np.prod(shape))).to(dtype)
    features = Features(values, torch.arange(num_pictures) % 10, shape, "random")
    settings = HeadSettings(batch_size=min(256, num_pictures))
    head = new_head(shape, settings)
    optimizer, schedule = new_optimizer(head, settings, num_steps=10**6)
    return lambda: train_epoch(head, settings, [features], optimizer, schedule)


def matrix_product(size: int, dtype: torch.dtype):
    """One product of square matrices."""
    factor = torch.rand(size, size).to(dtype)
    return lambda: factor @ factor


def flops_of_one_picture(trunk: Trunk) -> int:
    """Multiplications and additions of the trunk, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trunk.layers(trunk.to_input(np.zeros((1, 28, 28), np.uint8)))
    return counter.get_total_flops()


def main():
    """Measure and print a table."""
    trunk = load_trunk(SETTINGS)
    precision = fastest_precision()
    dtype = getattr(torch, precision)
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 28, 28), np.uint8)
    contestants = {
        f"trunk, ours, {precision}": (trunk_pass(trunk, images, dtype), NUM_IMAGES),
        "trunk, plain float32": (plain_pass(trunk, images), NUM_IMAGES),
        "head on kept features": (head_epoch(trunk, NUM_FEATURES, dtype), NUM_FEATURES),
        f"matrix product, {precision}": (matrix_product(MATRIX_SIZE, dtype), 1),
    }
    per_second = {name: [] for name in contestants}
    for _ in range(ROUNDS + 1):
        for name, (run, units) in contestants.items():
            start = time.perf_counter()
            run()
            per_second[name].append(units / (time.perf_counter() - start))
    ours, plain, head, product = (np.array(measured[1:]) for measured in per_second.values())  # the first warms up

    flops = flops_of_one_picture(trunk)
    trunk_rate, product_rate = ours * flops, product * 2 * MATRIX_SIZE**3
    print(
        f"VGG-16, {SETTINGS.input_size} px, first {SETTINGS.cut} layers ({flops / 1e9:.2f} GFLOP a picture), "
        f"{torch.get_num_threads()} threads; median of {ROUNDS} rounds in turn"
    )
    for name, rates in zip(contestants, (ours, plain, head), strict=False):
        print(f"{name:30}{np.median(rates):9,.1f} pictures/s")
    print(f"{'trunk, ours':30}{np.median(trunk_rate) / 1e9:9,.0f} GFLOP/s")
    print(f"{'matrix products alone':30}{np.median(product_rate) / 1e9:9,.0f} GFLOP/s")
    for text, ratio in (
        ("trunk's share of the rate of matrix products", trunk_rate / product_rate),
        ("our trunk over plain float32", ours / plain),
        ("epoch of the head over epoch through the trunk", head / ours),
    ):
        print(f"{text:48}{np.median(ratio):7.2f} ({ratio.min():.2f} to {ratio.max():.2f})")


if __name__ == "__main__":
    main()
