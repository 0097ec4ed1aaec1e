import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_mlp

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "contestant",
    [
        bench_mlp.numpy_epoch,
        bench_mlp.numpy_fit,
        bench_mlp.sklearn_epoch,
        bench_mlp.torch_epoch,
        bench_mlp.matrix_products,
    ],
)
def test_every_contestant_runs_more_than_one_epoch(contestant):
    rng = np.random.default_rng(0)
    X, y = rng.random((70, 784), dtype=np.float32), np.arange(70) % 10
    run = contestant(X, y)
    run()
    run()


def test_make_bench_runs_a_module_that_is_there():
    (module,) = re.findall(r"-m (benchmarks\.\w+)", (ROOT / "Makefile").read_text())
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
