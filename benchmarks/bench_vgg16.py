"""Images a second through VGG16's backbone, ours and plain torchvision, and through a head on cached features.

All run in turn, several rounds, on all threads of the processor; what counts is the ratio within a round, because the
machine's speed drifts. The yardstick of the backbone is this processor's own rate of matrix products in the backbone's
precision.
"""

import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from book.experiments.vgg.backbone import Backbone, BackboneSettings, load_backbone
from book.experiments.vgg.features import Features, as_stored, fastest_precision, forward
from book.experiments.vgg.heads import HeadSettings, new_head, new_optimizer, train_epoch

SETTINGS = BackboneSettings(cut=24, input_size=112, stacked=(17,))
NUM_IMAGES, NUM_FEATURES = 128, 2048
PLAIN_BATCH = 32
MATRIX_SIZE = 2048
ROUNDS = 5


def backbone_pass(backbone: Backbone, images: np.ndarray, dtype: torch.dtype):
    """Our pass: the faster precision, channels innermost, inference mode."""

    def run():
        for _ in forward(backbone, images, dtype, "cpu"):
            pass

    return run


def plain_pass(backbone: Backbone, images: np.ndarray):
    """The loop of a tutorial: float32, channels outermost, no gradients."""

    def run():
        with torch.no_grad():
            for batch in np.split(images, range(PLAIN_BATCH, len(images), PLAIN_BATCH)):
                backbone.layers(backbone.to_input(batch))

    return run


def head_epoch(backbone: Backbone, num_images: int, dtype: torch.dtype):
    """One epoch of the chapter's head on cached features."""
    shape = backbone.output_shape
    values = torch.rand(num_images, int(np.prod(shape))).to(dtype)
    features = Features(as_stored(values), np.arange(num_images) % 10, shape, "random")
    settings = HeadSettings(hidden=(512,), mixup=0.4, batch_size=min(256, num_images))
    head = new_head(shape, settings)
    optimizer, schedule = new_optimizer(head, settings, num_steps=10**6)
    return lambda: train_epoch(head, settings, [features], optimizer, schedule)


def matrix_product(size: int, dtype: torch.dtype):
    """One product of square matrices."""
    factor = torch.rand(size, size).to(dtype)
    return lambda: factor @ factor


def flops_of_one_image(backbone: Backbone) -> int:
    """Multiplications and additions of the backbone, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.layers(backbone.to_input(np.zeros((1, 28, 28), np.uint8)))
    return counter.get_total_flops()


def main():
    """Measure and print a table."""
    backbone = load_backbone(SETTINGS)
    precision = fastest_precision()
    dtype = getattr(torch, precision)
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 28, 28), np.uint8)
    contestants = {
        f"backbone, ours, {precision}": (backbone_pass(backbone, images, dtype), NUM_IMAGES),
        "backbone, plain float32": (plain_pass(backbone, images), NUM_IMAGES),
        "head on cached features": (head_epoch(backbone, NUM_FEATURES, dtype), NUM_FEATURES),
        f"matrix product, {precision}": (matrix_product(MATRIX_SIZE, dtype), 1),
    }
    per_second = {name: [] for name in contestants}
    for _ in range(ROUNDS + 1):
        for name, (run, units) in contestants.items():
            start = time.perf_counter()
            run()
            per_second[name].append(units / (time.perf_counter() - start))
    ours, plain, head, product = (np.array(measured[1:]) for measured in per_second.values())  # the first warms up

    flops = flops_of_one_image(backbone)
    backbone_rate, product_rate = ours * flops, product * 2 * MATRIX_SIZE**3
    print(
        f"VGG16, {SETTINGS.input_size} px, first {SETTINGS.cut} layers ({flops / 1e9:.2f} GFLOP an image), "
        f"{torch.get_num_threads()} threads; median of {ROUNDS} rounds in turn"
    )
    for name, rates in zip(contestants, (ours, plain, head), strict=False):
        print(f"{name:30}{np.median(rates):9,.1f} images/s")
    print(f"{'backbone, ours':30}{np.median(backbone_rate) / 1e9:9,.0f} GFLOP/s")
    print(f"{'matrix products alone':30}{np.median(product_rate) / 1e9:9,.0f} GFLOP/s")
    for text, ratio in (
        ("backbone's share of the rate of matrix products", backbone_rate / product_rate),
        ("our backbone over plain float32", ours / plain),
        ("epoch of the head over epoch through the backbone", head / ours),
    ):
        print(f"{text:48}{np.median(ratio):7.2f} ({ratio.min():.2f} to {ratio.max():.2f})")


if __name__ == "__main__":
    main()
