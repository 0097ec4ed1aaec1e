"""Occlusion: what is replaced and by what, which images, and an effect that is found where it was planted."""

import numpy as np
import pytest
import torch

from book.experiments.page import storage
from book.experiments.vgg import occlusion
from book.experiments.vgg.backbone import BackboneSettings, assemble, load_backbone
from book.experiments.vgg.heads import HeadSettings, TransferModel, new_head
from book.experiments.vgg.occlusion import (
    changes_of_log_odds,
    choose_images,
    compare_regions,
    log_odds,
    logits_of,
    mean_of_classes,
    occlude,
    regions,
)
from data import load_fashion_mnist


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_WORKERS", "1")
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    for name in ("BOOK_SCHEDULER", "BOOK_COSTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def model():
    backbone = load_backbone(BackboneSettings(cut=10, input_size=32))
    settings = HeadSettings(bottleneck=4, hidden=(8,))
    head = new_head(backbone.output_shape, settings).eval().requires_grad_(False)
    return TransferModel(assemble(backbone, head), backbone, settings)


@pytest.fixture(scope="module")
def images():
    return load_fashion_mnist().test.images[:6]


def test_every_region_has_a_control_of_its_size_that_does_not_overlap():
    for region in regions():
        assert region.mask.shape == region.control.shape == (28, 28)
        assert region.mask.sum() == region.control.sum() > 0, region.name
        assert not (region.mask & region.control).any(), region.name


def test_the_filling_favours_no_class_however_many_images_it_has():
    images = np.stack([np.full((28, 28), value, np.uint8) for value in (10, 10, 10, 50, 90)])
    assert (mean_of_classes(images, np.array([1, 1, 1, 2, 3]), (1, 2)) == 30).all()


def test_occlusion_replaces_the_region_and_leaves_what_is_far_from_it(images):
    region = regions()[0]
    filling = load_fashion_mnist().train.images[:50].mean(axis=0)
    occluded = occlude(images, region.mask, filling)
    assert occluded.dtype == np.uint8 and occluded.shape == images.shape
    np.testing.assert_array_equal(occluded[:, 12:], images[:, 12:])
    factor = images[:, ~region.mask].sum(axis=1) / filling[~region.mask].sum()
    expected = np.clip(factor[:, None] * filling[region.mask], 0, 255)
    np.testing.assert_allclose(occluded[:, region.mask], expected, atol=0.5)


def test_an_image_twice_as_bright_gets_a_filling_twice_as_bright():
    filling = np.full((28, 28), 40.0)
    dark, bright = (np.full((1, 28, 28), value, np.uint8) for value in (20, 40))
    mask = regions()[3].mask
    assert (occlude(dark, mask, filling)[0, mask] == 20).all()
    assert (occlude(bright, mask, filling)[0, mask] == 40).all()


def test_an_image_that_is_the_filling_is_left_as_it_is(images):
    for region in regions():
        np.testing.assert_array_equal(occlude(images[:1], region.mask, images[0].astype(float)), images[:1])


def test_log_odds_are_the_logarithm_of_the_ratio_of_probabilities():
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    first, second = np.arange(5), np.full(5, 7)
    p = logits.double().softmax(1).numpy()
    np.testing.assert_allclose(
        log_odds(logits.numpy(), first, second), np.log(p[range(5), first] / p[range(5), second]), atol=1e-12
    )


def test_confused_and_correct_images_are_as_many_of_each_class():
    labels = np.repeat([0, 1, 2], [20, 20, 5])
    predictions = labels.copy()
    predictions[:6], predictions[20:23], predictions[40:42] = 1, 0, 1
    chosen = choose_images(labels, predictions, (0, 1), number=8)
    assert chosen["confused"].tolist() == [0, 1, 2, 3, 4, 20, 21, 22]  # all three of one class, five of the other
    assert np.bincount(labels[chosen["correct"]]).tolist() == [5, 3]
    assert (predictions[chosen["correct"]] == labels[chosen["correct"]]).all()
    assert len(choose_images(labels, predictions, (0, 1), number=4)["confused"]) == 4


def test_logits_are_those_of_the_whole_network_and_found_in_the_cache(model, images, monkeypatch):
    monkeypatch.setattr(occlusion, "fastest_precision", lambda: "float32")
    expected = model.model(model.backbone.to_input(images)).numpy()
    np.testing.assert_allclose(logits_of(model, images, "test"), expected, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(occlusion, "reported", None)  # nothing may be computed again
    np.testing.assert_allclose(logits_of(model, images, "test"), expected, rtol=1e-4, atol=1e-3)


def test_the_change_of_an_image_that_is_its_own_filling_is_zero(model, images, monkeypatch):
    monkeypatch.setattr(occlusion, "fastest_precision", lambda: "float32")
    changes = changes_of_log_odds(model, images[:1], np.array([1]), np.array([2]), images[0].astype(float), "test")
    assert set(changes) == {name for r in regions() for name in (r.name, f"control of {r.name}")}
    for values in changes.values():
        np.testing.assert_allclose(values, 0, atol=1e-4)


def test_no_images_have_no_changes(model, images):
    changes = changes_of_log_odds(model, images[:0], np.zeros(0, int), np.zeros(0, int), np.ones((28, 28)), "test")
    assert all(values.shape == (0,) for values in changes.values())


def test_the_region_with_a_planted_effect_is_significant_and_the_others_are_not():
    rng = np.random.default_rng(0)
    disturbed = rng.normal(size=40)  # what any replacement does to an image
    changes = {}
    for region in regions():
        changes[region.name] = disturbed + rng.normal(size=40, scale=0.3) + (region.name == "sides")
        changes[f"control of {region.name}"] = disturbed + rng.normal(size=40, scale=0.3)
    table = compare_regions({("A and B", "confused"): changes}).set_index("region")
    assert table["significant"].to_dict() == {"neck": False, "front": False, "sides": True, "chest": False}
    row = table.loc["sides"]
    assert row["low"] < 1 < row["high"] and row["p"] < row["p_holm"] < 0.05
    assert row["difference"] == pytest.approx(row["change"] - row["control"])


def test_a_group_with_a_single_image_is_not_tested():
    changes = {name: np.ones(1) for r in regions() for name in (r.name, f"control of {r.name}")}
    table = compare_regions({("A and B", "confused"): changes})
    assert table["p"].isna().all() and not table["significant"].any()
