import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_mlp, bench_vgg16
from book.experiments.vgg.backbone import BackboneSettings, load_backbone

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "contestant",
    [
        bench_mlp.numpy_epoch,
        bench_mlp.numpy_fit,
        bench_mlp.sklearn_epoch,
        bench_mlp.torch_epoch,
        bench_mlp.matrix_products,
        pytest.param(
            bench_mlp.jax_epoch,
            marks=pytest.mark.skipif(find_spec("jax") is None, reason="JAX, a peer that is timed, is not installed"),
        ),
    ],
)
def test_every_contestant_runs_more_than_one_epoch(contestant):
    rng = np.random.default_rng(0)
    X, y = rng.random((64, 784), dtype=np.float32), np.arange(64) % 10
    run = contestant(X, y)
    run()
    run()


def test_vgg16_contestants_run_more_than_once():
    backbone = load_backbone(BackboneSettings(cut=24, input_size=32))
    images = np.zeros((3, 28, 28), np.uint8)
    for run in (
        bench_vgg16.backbone_pass(backbone, images, torch.bfloat16),
        bench_vgg16.plain_pass(backbone, images),
        bench_vgg16.head_epoch(backbone, 8, torch.bfloat16),
        bench_vgg16.matrix_product(8, torch.float32),
    ):
        run()
        run()


def test_flops_of_an_image_are_those_of_vgg16_counted_by_hand():
    grid, channels, expected = 32, 3, 0
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for filters in block:
            expected += 2 * filters * channels * 9 * grid**2
            channels = filters
        grid //= 2
    assert bench_vgg16.flops_of_one_image(load_backbone(BackboneSettings(input_size=32))) == expected


def test_make_bench_runs_modules_that_are_there():
    modules = re.findall(r"-m (benchmarks\.\w+)", (ROOT / "Makefile").read_text())
    assert len(modules) == 2
    for module in modules:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
