"""Small networks to train, on small samples, and the files that a training run leaves."""

import numpy as np

from book.experiments.mlp.runs import OWNER, TrainingRun
from book.experiments.mlp.samples import LabelledSamples
from book.experiments.page import storage

PARAMETERS = {
    "layer_sizes": [6, 8, 3],
    "activation": "relu",
    "learning_rate": 0.1,
    "batch_size": 8,
    "num_epochs": 4,
    "seed": 0,
}


def small_samples() -> LabelledSamples:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 6)).astype("float32"), np.arange(90) % 3
    X += y[:, None]
    return LabelledSamples(X[:60], y[:60], X[60:], y[60:])


def files_of(run: TrainingRun) -> dict[str, bytes]:
    """All that is a result; the seal holds the time that the run took."""
    return {path.name: path.read_bytes() for path in run.folder.iterdir() if path.name not in (OWNER, storage.SEAL)}


def remove(run: TrainingRun) -> None:
    for path in run.folder.iterdir():
        path.unlink()
