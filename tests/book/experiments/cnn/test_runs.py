import numpy as np
import pytest

from book.experiments.cnn.network import small_network
from book.experiments.cnn.runs import (
    Images,
    as_batch,
    dense_network,
    images_of,
    shuffled,
    shuffled_images,
    train_runs,
    with_parameters,
)
from book.experiments.page import storage
from data import split_80_10_10

COMMON = {"seed": 3, "learning_rate": 0.1, "batch_size": 16, "num_epochs": 2}
CONVOLUTIONAL = COMMON | {"filters": [2, 3], "kernel_size": 5}
DENSE = COMMON | {"layer_sizes": [784, 5, 10]}


@pytest.fixture(scope="module")
def images():
    split = split_80_10_10(0)
    short = images_of(split, 100)
    return short._replace(
        validation=short.validation[:40],
        validation_labels=short.validation_labels[:40],
        test=short.test[:50],
        test_labels=short.test_labels[:50],
    )


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_WORKERS", "1")


@pytest.mark.usefixtures("own_cache")
def test_runs_are_those_of_their_best_epoch_and_loaded_the_second_time(images):
    asked = {"convolutional": (images, CONVOLUTIONAL), "dense": (images, DENSE)}
    first = train_runs(asked, "networks")
    rebuilt = {
        "convolutional": with_parameters(small_network([2, 3], 5, seed=0), first["convolutional"].parameters),
        "dense": dense_network(first["dense"].parameters),
    }
    for name, run in first.items():
        assert len(run.validation_accuracy) == 2
        assert run.best_epoch == np.argmax(run.validation_accuracy) + 1
        accuracy = np.mean(rebuilt[name].predict(as_batch(images.validation)) == images.validation_labels)
        assert accuracy == pytest.approx(max(run.validation_accuracy))
        np.testing.assert_array_equal(rebuilt[name].predict(as_batch(images.test)), run.predictions)
        assert run.num_parameters == rebuilt[name].num_parameters
    again = train_runs(asked, "networks")
    # CPU times differ from one training to the next in the last digits, so these are the stored ones.
    assert [run.cpu_seconds for run in again.values()] == [run.cpu_seconds for run in first.values()]


def test_a_shuffle_moves_the_pixels_of_all_images_alike(images):
    moved = shuffled_images(images, seed=1)
    assert isinstance(moved, Images)
    np.testing.assert_array_equal(np.sort(moved.train[0], axis=None), np.sort(images.train[0], axis=None))
    both = np.concatenate([images.train, images.test])
    np.testing.assert_array_equal(shuffled(both, 1), np.concatenate([moved.train, moved.test]))
    assert not np.array_equal(moved.train, images.train)
    assert not np.array_equal(moved.train, shuffled(images.train, 2))


def test_more_training_images_than_there_are_are_refused():
    with pytest.raises(ValueError, match="num_train must be an integer from 10 to 56000; got 60000"):
        images_of(split_80_10_10(0), 60000)
