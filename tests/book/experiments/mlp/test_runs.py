import json
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from book.experiments.mlp.comparison import compare_with_mlp
from book.experiments.mlp.runs import check_converged, copy_checkpoints, train_networks
from book.experiments.mlp.samples import training_samples
from book.experiments.mlp.sklearn_mlp import (
    load_sklearn_mlp,
    new_sklearn_mlp,
    sklearn_checkpoint,
    train_sklearn_mlps,
)
from book.experiments.page import storage
from book.experiments.page.execution import parallel
from data import split_80_10_10
from mlp_core import NeuralNetwork, load_parameters
from tests.small_networks import PARAMETERS, files_of, remove

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def reported_epochs(task="task"):
    lines = map(json.loads, Path("progress").read_text().splitlines())
    return sum(line["advance"] for line in lines if line["task"] == task)


def test_training_gives_what_fit_gives(samples):
    run = train_networks({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    network = NeuralNetwork(3, **PARAMETERS).fit(samples.X, samples.y, (samples.X_validation, samples.y_validation))
    assert run.history == network.history_
    assert run.diverged_epoch is None
    weights, _ = load_parameters(run.folder, 4, "relu")
    for saved, own in zip(weights, network.weights_, strict=True):
        assert np.array_equal(saved, own)


BOTH = {"a": PARAMETERS, "b": PARAMETERS | {"seed": 1}, "c": PARAMETERS | {"activation": "tanh"}}


@pytest.mark.parametrize("train", [train_networks, train_sklearn_mlps])
def test_any_number_of_workers_gives_the_same_bytes(samples, monkeypatch, train):
    results = []
    for workers in (1, 2, 3):
        monkeypatch.setenv("BOOK_WORKERS", str(workers))
        with parallel():
            runs = train(BOTH, samples, [4], "task")
        contents = {name: files_of(run) for name, run in runs.items()}
        results.append(contents)
        for run in runs.values():
            remove(run)
    assert results[0] == results[1] == results[2]
    assert all(len(files) >= 2 for files in results[0].values())


def test_finished_training_is_found_and_not_run_again(samples, monkeypatch):
    first = train_networks({"a": PARAMETERS}, samples, [4], "task")["a"]
    monkeypatch.setattr(NeuralNetwork, "fit", lambda *_: pytest.fail("trained again"))
    assert train_networks({"a": PARAMETERS}, samples, [4], "task")["a"] == first
    assert reported_epochs() == 2 * PARAMETERS["num_epochs"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.2}, {"num_epochs": 5}])
def test_training_with_other_parameters_is_another_training(samples, change):
    first = train_networks({"a": PARAMETERS}, samples, [4], "task")["a"]
    assert train_networks({"a": PARAMETERS | change}, samples, [4], "task")["a"].folder != first.folder


def test_training_on_other_samples_is_another_training(samples):
    first = train_networks({"a": PARAMETERS}, samples, [4], "task")["a"]
    other = samples._replace(X=samples.X + 1)
    assert train_networks({"a": PARAMETERS}, other, [4], "task")["a"].folder != first.folder


@pytest.mark.parametrize("train", [train_networks, train_sklearn_mlps])
def test_interrupted_training_goes_on_to_the_same_result(samples, train):
    whole = train({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    expected = files_of(whole)
    for file in whole.folder.iterdir():
        if not file.name.startswith("2_"):
            file.unlink()
    Path("progress").unlink()
    again = train({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    assert again.history == whole.history
    assert reported_epochs("task") == PARAMETERS["num_epochs"]
    first_line = json.loads(Path("progress").read_text().splitlines()[0])
    assert first_line["advance"] == 2  # it did go on from the checkpoint
    assert files_of(again) == expected


@pytest.mark.parametrize("train", [train_networks, train_sklearn_mlps])
@pytest.mark.parametrize("damaged", ["4_", "2_", "result.json", storage.SEAL])
def test_a_flipped_bit_in_a_cached_file_is_found_and_the_run_recomputed(samples, train, damaged):
    whole = train({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    expected = files_of(whole)
    paths = [path for path in whole.folder.iterdir() if path.name.startswith(damaged)]
    assert paths
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
        Path("progress").unlink()
        again = train({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
        assert files_of(again) == expected
        assert "damaged; computed again" in Path("progress").read_text()
        assert again.history == whole.history


@pytest.mark.parametrize("train", [train_networks, train_sklearn_mlps])
def test_a_damaged_checkpoint_of_an_interrupted_run_gives_way_to_the_one_before(samples, train):
    whole = train({"a": PARAMETERS}, samples, [2, 3], "task")["a"]
    expected = files_of(whole)
    for file in whole.folder.iterdir():
        if not file.name.startswith(("2_", "3_")):
            file.unlink()
        elif file.name.startswith("3_") and "biases" not in file.name:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    Path("progress").unlink()
    again = train({"a": PARAMETERS}, samples, [2, 3], "task")["a"]
    assert files_of(again) == expected
    assert json.loads(Path("progress").read_text().splitlines()[0])["advance"] == 2


@pytest.mark.parametrize("train", [train_networks, train_sklearn_mlps])
def test_divergence_is_recorded_with_the_finished_epochs(samples, train):
    diverging = PARAMETERS | {"activation": "linear", "layer_sizes": [6, 8, 8, 8, 3], "learning_rate": 50.0}
    run = train({"a": diverging}, samples, [4], "task")["a"]
    assert 1 <= run.diverged_epoch <= 4
    assert len(run.history["train_loss"]) == run.diverged_epoch - 1
    assert reported_epochs() == diverging["num_epochs"]


def test_diverged_training_is_refused_by_name_where_it_is_needed(samples):
    diverging = PARAMETERS | {"activation": "linear", "layer_sizes": [6, 8, 8, 8, 3], "learning_rate": 50.0}
    runs = train_networks({"good": PARAMETERS, "bad": diverging}, samples, [4], "task")
    check_converged({"good": runs["good"]})
    with pytest.raises(ValueError, match=rf"diverged: bad in epoch {runs['bad'].diverged_epoch}$"):
        check_converged(runs)


def test_short_training_beside_a_long_one_keeps_the_checkpoints_that_it_reaches_and_its_end(samples):
    both = {"long": PARAMETERS, "short": PARAMETERS | {"num_epochs": 3}}
    runs = train_networks(both, samples, [2, 4], "task")
    kept = {name: sorted(file.name for file in run.folder.glob("*_weights.pkl")) for name, run in runs.items()}
    assert kept == {
        "long": ["2_relu_weights.pkl", "4_relu_weights.pkl"],
        "short": ["2_relu_weights.pkl", "3_relu_weights.pkl"],
    }


@pytest.mark.parametrize("epochs", [[0], [5], [2.0], [True]])
def test_checkpoint_outside_the_training_is_refused(samples, epochs):
    with pytest.raises(ValueError, match=r"checkpoint_epochs\[0\] must be an integer from 1 to 4; got"):
        train_networks({"a": PARAMETERS}, samples, epochs, "task")
    assert not (storage.ROOT / "_build").exists()


def test_copied_checkpoints_have_the_names_of_the_assignment(samples, tmp_path):
    run = train_networks({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    copies = copy_checkpoints(run, "relu", [2, 4], tmp_path / "models")
    assert [path.name for path in copies] == [
        "2_relu_weights.pkl",
        "2_relu_biases.pkl",
        "4_relu_weights.pkl",
        "4_relu_biases.pkl",
    ]
    assert all(path.read_bytes() == (run.folder / path.name).read_bytes() for path in copies)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "linear", "tanh"])
def test_losses_of_sklearns_network_are_those_of_its_own_probabilities(samples, activation):
    parameters = PARAMETERS | {"activation": activation}
    run = train_sklearn_mlps({"a": parameters}, samples, [4], "task")["a"]
    mlp = load_sklearn_mlp(
        sklearn_checkpoint(run.folder, 4, activation), new_sklearn_mlp(parameters, samples.X, samples.y)
    )
    assert run.history["train_loss"][-1] == pytest.approx(log_loss(samples.y, mlp.predict_proba(samples.X)), rel=1e-5)
    assert run.history["validation_accuracy"][-1] == mlp.score(samples.X_validation, samples.y_validation)


def test_sklearns_initial_weights_are_small_normals_and_its_biases_zero():
    rng = np.random.default_rng(0)
    parameters = PARAMETERS | {"layer_sizes": [300, 200, 3]}
    mlp = new_sklearn_mlp(parameters, rng.normal(size=(30, 300)), np.arange(30) % 3)
    assert mlp.coefs_[0].std() == pytest.approx(0.01, rel=0.02)
    assert all(not b.any() for b in mlp.intercepts_)


def test_sklearn_sees_its_batches_in_another_order_each_epoch(samples, monkeypatch):
    mlp = new_sklearn_mlp(PARAMETERS, samples.X, samples.y)
    seen, original = [], type(mlp)._backprop

    def spy(self, X, *rest):
        seen[-1].append(X.copy())
        return original(self, X, *rest)

    monkeypatch.setattr(type(mlp), "_backprop", spy)
    for _ in range(2):
        seen.append([])
        mlp.partial_fit(samples.X, samples.y)
    first, second = (np.concatenate(batches) for batches in seen)
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


def test_training_samples_hold_each_class_equally():
    split = split_80_10_10(0)
    samples = training_samples(split, 200)
    assert samples.X.shape == (200, 784)
    assert samples.X.dtype == np.float32
    assert np.bincount(samples.y).tolist() == [20] * 10
    assert samples.X_validation.shape == (7000, 784)


@pytest.mark.parametrize("num_train", [0, 15, 56010, 20.0, True])
def test_impossible_number_of_training_samples_is_refused(num_train):
    with pytest.raises(ValueError, match="num_train must be a multiple of 10 from 10 to 56000; got"):
        training_samples(split_80_10_10(0), num_train)


def test_comparison_draws_the_mean_of_the_seeds_and_their_range_in_one_graph():
    ours = [{"train_loss": [3.0, 2.0, 1.0]}, {"train_loss": [3.5, 3.0, 1.0]}, {"train_loss": [2.5, 1.0, 1.0]}]
    theirs = [{"train_loss": [3.0, 2.5, 1.5]}, {"train_loss": [3.0, 3.5, 0.5]}]
    (axes,) = compare_with_mlp("tanh", ours, theirs).axes
    assert axes.get_title() == "tanh"
    assert [line.get_ydata().tolist() for line in axes.get_lines()] == [[3.0, 2.0, 1.0], [3.0, 3.0, 1.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["NumPy (ours)", "scikit-learn"]
    band, _ = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners >= {(1, 2.5), (1, 3.5), (2, 1.0), (2, 3.0), (3, 1.0)}


@pytest.mark.parametrize("train", [train_networks, train_sklearn_mlps])
def test_the_files_of_a_run_are_the_same_bytes_each_time(samples, train):
    first = train({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    expected = files_of(first)
    remove(first)
    time.sleep(2.1)  # a date in a zip archive counts steps of two seconds
    again = train({"a": PARAMETERS}, samples, [2, 4], "task")["a"]
    assert files_of(again) == expected
