"""Controls: random weights that keep the scale, subsets that do not overlap, trials that learn and are found again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from book.experiments.page import storage
from book.experiments.vgg import controls
from book.experiments.vgg.controls import (
    Trial,
    chosen_rows,
    convolutional_network,
    correct_of_trials,
    pixel_features,
    random_weights,
    settings_for,
)
from book.experiments.vgg.heads import HeadSettings
from data import Part, split_80_20
from tests.small_vgg import small_backbone

SETTINGS = HeadSettings(bottleneck=0, hidden=(16,), channel_dropout=0, dropout=0, num_epochs=2, learning_rate=0.01)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_WORKERS", "1")
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    for name in ("BOOK_SCHEDULER", "BOOK_COSTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def parts():
    split = split_80_20(0)
    return [Part(p.images[:n], p.labels[:n], p.indices[:n]) for p, n in ((split.train, 400), (split.validation, 300))]


@pytest.fixture
def pixels(parts):
    return [pixel_features(part) for part in parts]


def test_random_weights_have_the_shapes_of_the_pretrained_ones_and_hes_variance():
    backbone = small_backbone()
    drawn = random_weights(backbone, seed=3)
    for (name, old), new in zip(backbone.layers.state_dict().items(), drawn.layers.state_dict().values(), strict=True):
        assert new.shape == old.shape, name
        if new.ndim == 1:
            assert not new.any(), name
        elif new.numel() > 3000:
            assert new.var().item() == pytest.approx(2 / new[0].numel(), rel=0.1), name
    assert not any(p.requires_grad for p in drawn.layers.parameters())
    assert drawn.settings == backbone.settings


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (random_weights(small_backbone(), seed).layers[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_pixel_features_are_the_grey_values_between_0_and_1(parts, pixels):
    np.testing.assert_allclose(pixels[0].stored.reshape(-1, 28, 28), parts[0].images / 255, atol=1e-7)
    assert pixels[0].shape == (1, 28, 28) and pixels[0].name != pixels[1].name


def test_the_convolutional_network_halves_the_image_in_each_block_and_repeats_with_its_seed():
    network = convolutional_network((1, 28, 28), (4, 8, 16), SETTINGS)
    assert network(torch.zeros(2, 784)).shape == (2, 10)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [4, 8, 16]
    dense = next(layer for layer in network[-1] if isinstance(layer, nn.Linear))
    assert dense.in_features == 16 * 3 * 3
    again = convolutional_network((1, 28, 28), (4, 8, 16), SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_too_many_blocks_are_refused():
    with pytest.raises(ValueError, match="filters must be of so many blocks that pixels are left"):
        convolutional_network((1, 28, 28), (4,) * 5, SETTINGS)


def test_few_images_get_small_batches_and_many_epochs():
    common = replace(SETTINGS, num_epochs=10, batch_size=256)
    few, many = (settings_for(n, 7, common, num_steps=600) for n in (100, 48_000))
    assert (few.batch_size, few.num_epochs, few.seed) == (16, 100, 7)  # 6 batches an epoch
    assert (many.batch_size, many.num_epochs) == (256, 10)
    assert few.num_epochs * (100 // few.batch_size) >= 600


def test_runs_get_disjoint_images_where_there_are_enough_and_the_first_ones_otherwise():
    assert [chosen_rows(100, 30, run) for run in range(3)] == [slice(0, 30), slice(30, 60), slice(60, 90)]
    assert chosen_rows(100, 30, 3) == slice(0, 30)
    assert chosen_rows(100, 100, 1) == slice(0, 100)
    with pytest.raises(ValueError, match="num_images must be an integer from 1 to 100"):
        chosen_rows(100, 101, 0)


def test_trials_learn_and_are_found_in_the_cache(pixels, monkeypatch):
    train, validation = pixels
    dense, convolutional = (
        [Trial(train, validation, 200, settings_for(200, run, SETTINGS, 60), filters) for run in range(2)]
        for filters in ((), (4, 8))
    )
    trials = {"dense": dense, "convolutional": convolutional}
    outcomes = correct_of_trials(trials, "test")
    for name, correct in outcomes.items():
        assert correct.shape == (2, 300) and correct.dtype == bool
        assert correct.mean() > 0.4, name
        assert (correct[0] != correct[1]).any(), name
    monkeypatch.setattr(controls, "train_epoch", None)  # nothing may be trained again
    again = correct_of_trials(trials, "test")
    assert all(np.array_equal(outcomes[name], again[name]) for name in trials)


def test_a_trial_uses_its_rows_and_no_others(pixels, parts):
    train, validation = pixels
    settings = settings_for(100, 0, SETTINGS, 60)
    part = Part(*(array[:100] for array in parts[0]))
    alone = {"x": [Trial(pixel_features(part), validation, 100, settings)]}
    among = {"x": [Trial(train, validation, 100, settings)]}
    first, second = (correct_of_trials(trials, "test")["x"] for trials in (alone, among))
    assert np.array_equal(first, second)
