"""Every kind of expensive step, on one worker, on several, and on a cluster that can't import the project."""

from dataclasses import replace

import dask
import numpy as np
import pytest

from book.experiments.cnn.runs import Images, train_runs
from book.experiments.mlp.sharpness import sharpness_of_runs
from book.experiments.page import storage
from book.experiments.page.execution import parallel
from book.experiments.vgg import features as features_module
from book.experiments.vgg import occlusion
from book.experiments.vgg.backbone import BackboneSettings, assemble, load_backbone
from book.experiments.vgg.controls import Trial, correct_of_trials
from book.experiments.vgg.features import Features, backbone_features, deeper_features
from book.experiments.vgg.heads import HeadSettings, TransferModel, new_head, train_head_on_each, train_heads
from book.experiments.vgg.occlusion import logits_of
from tests.clusters import running_cluster
from tests.small_networks import PARAMETERS, small_samples

pytestmark = pytest.mark.xdist_group("cluster")

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
LABELS = np.arange(40) % 10
SETTINGS = HeadSettings(bottleneck=4, hidden=(8,), num_epochs=3, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("elsewhere")) as (address, _):
        yield address


@pytest.fixture(autouse=True)
def several_tasks_of_each_step(monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK_BYTES", 2**18)
    monkeypatch.setattr(occlusion, "CHUNK", 10)
    monkeypatch.setattr(occlusion, "fastest_precision", lambda: "float32")
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    monkeypatch.delenv("BOOK_COSTS", raising=False)


def blobs(seed: int) -> Features:
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(60, 1536)).astype("float32"), np.arange(60) % 10, (24, 8, 8), f"blobs-{seed}")


def of_backbone():
    backbone = load_backbone(BackboneSettings(cut=5, input_size=32))
    return [backbone_features(backbone, IMAGES, LABELS, "float32", "test").stored.tobytes()]


def of_deeper_layers():
    first, whole = (load_backbone(BackboneSettings(cut=cut, input_size=32)) for cut in (5, 10))
    shallow = backbone_features(first, IMAGES, LABELS, "float32", "test")
    return [deeper_features(whole, shallow, 5, "test").stored.tobytes()]


def of_heads():
    trained = train_heads({seed: replace(SETTINGS, seed=seed) for seed in range(3)}, [blobs(0)], blobs(1), "test")
    outputs = {number: (blobs(number), blobs(number + 1)) for number in range(3)}
    trained |= {f"on {name}": run for name, run in train_head_on_each(SETTINGS, outputs, "test").items()}
    return [(run.history, [p.tolist() for p in run.head.parameters()]) for run in trained.values()]


def of_controls():
    trials = {
        name: [Trial(blobs(0), blobs(1), 32, replace(SETTINGS, seed=seed), filters) for seed in range(2)]
        for name, filters in (("dense", ()), ("convolutional", (2,)))
    }
    images = blobs(0)._replace(shape=(1, 32, 48)), blobs(1)._replace(shape=(1, 32, 48))
    trials["convolutional"] = [one._replace(train=images[0], validation=images[1]) for one in trials["convolutional"]]
    return [correct.tolist() for correct in correct_of_trials(trials, "test").values()]


def of_convolutional_and_dense_runs():
    images = Images(IMAGES, LABELS, IMAGES[:20], LABELS[:20], IMAGES[:10], LABELS[:10])
    common = {"learning_rate": 0.1, "batch_size": 8, "num_epochs": 2}
    kinds = ({"filters": [2, 3], "kernel_size": 5}, {"layer_sizes": [784, 5, 10]})
    asked = {
        (number, seed): (images, common | kind | {"seed": seed}) for number, kind in enumerate(kinds) for seed in (0, 1)
    }
    runs = train_runs(asked, "test").values()
    return [(run.validation_accuracy, [array.tobytes() for array in run.parameters]) for run in runs]


def of_occlusion():
    backbone = load_backbone(BackboneSettings(cut=10, input_size=32))
    head = new_head(backbone.output_shape, SETTINGS).requires_grad_(False)
    model = TransferModel(assemble(backbone, head), backbone, SETTINGS)
    return [logits_of(model, IMAGES, "test").tobytes()]


def of_sharpness():
    settings = {"num_images": 20, "every": 5, "last": 2, "num_orders": 1, "num_steps": 2}
    asked = {seed: PARAMETERS | {"num_epochs": 1, "seed": seed} for seed in range(3)}
    with parallel():
        found = sharpness_of_runs(asked, small_samples(), "test", **settings).values()
    return [[np.asarray(values).tolist() for values in one] for one in found]


STEPS = [
    of_backbone,
    of_deeper_layers,
    of_heads,
    of_controls,
    of_convolutional_and_dense_runs,
    of_occlusion,
    of_sharpness,
]


@pytest.mark.parametrize("step", STEPS)
def test_one_worker_two_and_a_cluster_give_the_same_bits(step, address, tmp_path, monkeypatch, recwarn):
    found = []
    for name, variables in {
        "one": {"BOOK_WORKERS": "1"},
        "two": {"BOOK_WORKERS": "2"},
        "cluster": {"BOOK_SCHEDULER": address},
    }.items():
        (tmp_path / name).mkdir()
        with monkeypatch.context() as patched:
            patched.setattr(storage, "ROOT", tmp_path / name)
            patched.setenv("BOOK_PROGRESS", str(tmp_path / name / "progress"))
            for variable in ("BOOK_WORKERS", "BOOK_SCHEDULER"):
                patched.delenv(variable, raising=False)
            for variable, value in variables.items():
                patched.setenv(variable, value)
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "100kB"}):
                found.append(step())
    assert repr(found[1]) == repr(found[0])  # as text, because NaN is not equal to itself
    assert repr(found[2]) == repr(found[0])
    # Arrays go once, and not with every task.
    assert [one for one in recwarn if "Sending large graph" in str(one.message)] == []
