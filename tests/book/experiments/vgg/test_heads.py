"""Heads: settings refused, training that learns and repeats, a saved model that classifies as the cached path does."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from book.experiments.page import storage
from book.experiments.vgg.backbone import BackboneSettings, assemble, load_backbone
from book.experiments.vgg.features import Features, backbone_features
from book.experiments.vgg.heads import (
    HEAD_FILE,
    HeadSettings,
    evaluate_head,
    fit_head,
    load_transfer_model,
    new_head,
    predict_logits,
    save_head,
    train_heads,
)

SETTINGS = HeadSettings(hidden=(16,), num_epochs=12, batch_size=16, learning_rate=0.01)


def blobs(seed, n=200, dtype=torch.float32, name="blobs"):
    """Ten clouds of points, one a class, that a small head can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    values = 5 * torch.eye(10, 24)[labels] + torch.randn(n, 24, generator=generator)
    return Features(values.to(dtype), labels, (24, 1, 1), f"{name}-{seed}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    return tmp_path / "_build" / "cache"


def fit(settings=SETTINGS, views=None):
    return fit_head(settings, views or [blobs(0)], blobs(1), lambda note: None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": (0,)}, "hidden must be integers of at least 1; got"),
        ({"hidden": "512"}, "hidden must be a sequence of integers; got '512'"),
        ({"hidden": 512}, "hidden must be a sequence of integers; got 512"),
        ({"num_epochs": -1}, "num_epochs must be an integer of at least 1; got -1"),
        ({"num_epochs": 2.5}, "num_epochs must be an integer of at least 1; got 2.5"),
        ({"batch_size": 1}, "batch_size must be an integer of at least 2; got 1"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to less than 1; got 1.0"),
        ({"channel_dropout": -0.1}, "channel_dropout must be a number from 0 to less than 1"),
        ({"label_smoothing": 1}, "label_smoothing must be a number from 0 to less than 1; got 1"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0; got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0; got nan"),
        ({"weight_decay": -1e-3}, "weight_decay must be a number of at least 0"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused_with_name_and_value(changed, message):
    with pytest.raises(ValueError, match=message):
        HeadSettings(**changed)


def test_head_learns_what_can_be_told_apart_and_records_every_epoch():
    head, history = fit()
    assert history["validation_accuracy"][-1] > 0.9 > 0.5 > history["validation_accuracy"][0]
    assert {len(values) for values in history.values()} == {SETTINGS.num_epochs}
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert not head.training


def test_recorded_loss_and_accuracy_are_those_of_all_images_without_dropout():
    head, history = fit(replace(SETTINGS, label_smoothing=0.3))
    features = blobs(1)
    with torch.no_grad():
        logits = head(features.values)
    probability = logits.softmax(1)[torch.arange(len(logits)), features.labels]
    assert history["validation_loss"][-1] == pytest.approx(float(-probability.log().mean()), rel=1e-5)
    assert history["validation_accuracy"][-1] == pytest.approx(
        float((logits.argmax(1) == features.labels).float().mean())
    )


def test_learning_rate_rises_for_a_fifth_of_the_epochs_and_falls_to_nearly_zero():
    rates = fit(replace(SETTINGS, num_epochs=10)).history["learning_rate"]
    assert int(np.argmax(rates)) + 1 == 2
    assert max(rates) == pytest.approx(SETTINGS.learning_rate, rel=0.01)
    assert rates[-1] < 1e-2 * SETTINGS.learning_rate


def test_a_seed_gives_the_same_head_and_another_seed_another():
    first, again, other = fit(), fit(), fit(replace(SETTINGS, seed=1))
    assert first.history == again.history
    assert all(torch.equal(a, b) for a, b in zip(first.head.parameters(), again.head.parameters(), strict=True))
    assert first.history != other.history


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit()
    assert torch.equal(torch.rand(3), expected)


def test_every_view_of_the_images_is_trained_on():
    seen = blobs(0)
    poisoned = seen._replace(values=torch.full_like(seen.values, float("nan")))
    with pytest.raises(ValueError, match="learning_rate must be low enough for a finite loss"):
        fit(views=[seen, poisoned])


def test_bfloat16_features_train_float32_weights_as_well():
    head, history = fit_head(
        SETTINGS, [blobs(0, dtype=torch.bfloat16)], blobs(1, dtype=torch.bfloat16), lambda note: None
    )
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert history["validation_accuracy"][-1] > 0.9


def test_dropout_leaves_out_whole_channels():
    head = new_head((8, 3, 3), replace(SETTINGS, channel_dropout=0.5)).train()
    kept = head[:3](torch.ones(50, 72)).unflatten(1, (8, 9))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept.amin(2), kept.amax(2))


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at most the 8 images; got 16"):
        fit(views=[blobs(0, n=8)])


def test_trained_heads_are_found_again_and_kept_apart_by_settings_features_and_labels(cache, monkeypatch):
    first = train_heads({"a": SETTINGS}, [blobs(0)], blobs(1), "test")["a"]
    assert len(list(cache.glob("head-*"))) == 1
    monkeypatch.setattr("book.experiments.vgg.heads.fit_head", lambda *_: pytest.fail("trained again"))
    found = train_heads({"b": SETTINGS}, [blobs(0)], blobs(1), "test")["b"]
    assert found.history == first.history
    assert torch.equal(predict_logits(found.head, blobs(1)), predict_logits(first.head, blobs(1)))
    monkeypatch.undo()
    monkeypatch.setattr(storage, "ROOT", cache.parents[1])
    relabelled = blobs(0)._replace(labels=blobs(0).labels.flip(0))
    train_heads({"a": replace(SETTINGS, weight_decay=0.5)}, [blobs(0)], blobs(1), "test")
    train_heads({"a": SETTINGS}, [blobs(2)], blobs(1), "test")
    train_heads({"a": SETTINGS}, [relabelled], blobs(1), "test")
    assert len(list(cache.glob("head-*"))) == 4


def test_evaluation_is_the_loss_and_accuracy_of_pytorch():
    features, head = blobs(3), nn.Linear(24, 10)
    loss, accuracy = evaluate_head(head, features)
    logits = head(features.values)
    assert loss == pytest.approx(nn.CrossEntropyLoss()(logits, features.labels).item(), rel=1e-6)
    assert accuracy == pytest.approx((logits.argmax(1) == features.labels).double().mean().item())


@pytest.fixture
def transfer_model(tmp_path):
    """A head trained for a moment on the features of a real backbone, saved, with the images that it was trained on."""
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    backbone = load_backbone(BackboneSettings(cut=30, input_size=32))
    before = {name: tensor.clone() for name, tensor in backbone.layers.state_dict().items()}
    features = backbone_features(backbone, images, np.arange(40) % 10, "float32", "test")
    settings = replace(SETTINGS, num_epochs=2)
    head, _ = fit_head(settings, [features], features, lambda note: None)
    save_head(head, settings, backbone.settings, tmp_path)
    return tmp_path, images, backbone, before, features, head


def test_after_training_each_backbone_tensor_is_bit_for_bit_what_it_was(transfer_model):
    folder, _, backbone, before, _, _ = transfer_model
    for layers in (backbone.layers, load_transfer_model(folder).model.features):
        after = layers.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_step_through_the_whole_model_trains_the_head_and_nothing_else(transfer_model):
    _, images, backbone, before, features, _ = transfer_model
    model = assemble(backbone, new_head(features.shape, SETTINGS)).train()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"classifier.{name}" for name, _ in model.classifier.named_parameters()}
    head_before = [p.clone() for p in model.classifier.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)  # all that can move may move
    nn.functional.cross_entropy(model(backbone.to_input(images)), features.labels).backward()
    optimizer.step()
    assert all(torch.equal(model.features.state_dict()[name], before[name]) for name in before)
    assert not any(torch.equal(p, old) for p, old in zip(model.classifier.parameters(), head_before, strict=True))


def test_loaded_model_classifies_images_exactly_as_the_cached_path_does(transfer_model):
    folder, images, _, _, features, head = transfer_model
    loaded = load_transfer_model(folder)
    with torch.inference_mode():
        end_to_end = loaded.model(loaded.backbone.to_input(images))
    cached = predict_logits(head, features)
    assert torch.equal(end_to_end.argmax(1), cached.argmax(1))
    torch.testing.assert_close(end_to_end, cached, rtol=1e-3, atol=1e-4)


def test_loaded_model_evaluates_and_asks_for_no_gradient(transfer_model):
    loaded = load_transfer_model(transfer_model[0])
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.backbone.settings == BackboneSettings(cut=30, input_size=32)
    assert loaded.head == replace(SETTINGS, num_epochs=2)


def test_file_without_settings_is_refused(transfer_model):
    folder = transfer_model[0]
    save_file(transfer_model[-1].state_dict(), folder / HEAD_FILE)
    with pytest.raises(ValueError, match="must hold the settings of head and backbone"):
        load_transfer_model(folder)


def test_file_whose_weights_do_not_fit_its_settings_is_refused(transfer_model):
    folder, _, backbone, *_ = transfer_model
    metadata = {"head": json.dumps(asdict(SETTINGS)), "backbone": json.dumps(asdict(backbone.settings))}
    save_file({"1.weight": torch.zeros(3, 3)}, folder / HEAD_FILE, metadata)
    with pytest.raises(ValueError, match="does not fit its settings"):
        load_transfer_model(folder)
