"""Heads: settings refused, training that learns and repeats, a saved model that classifies as the cached path does."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from book.experiments.page import storage
from book.experiments.vgg import heads as heads_module
from book.experiments.vgg.backbone import BackboneSettings, assemble, load_backbone
from book.experiments.vgg.features import Features, as_stored, backbone_features
from book.experiments.vgg.heads import (
    HEAD_FILE,
    SMALLEST_MIXUP,
    HeadSettings,
    _draw_beta,
    evaluate_head,
    fit_head,
    load_transfer_model,
    new_head,
    new_optimizer,
    predict_logits,
    save_head,
    train_epoch,
    train_heads,
)

SETTINGS = HeadSettings(hidden=(16,), num_epochs=12, batch_size=16, learning_rate=0.01)


def blobs(seed, n=200, dtype=torch.float32):
    """Ten clouds of points, one a class, that a small head can tell apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    values = 5 * torch.eye(10, 24)[labels] + torch.randn(n, 24, generator=generator)
    return Features(as_stored(values.to(dtype)), labels.numpy(), (24, 1, 1), f"blobs-{seed}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; one worker, which is this process."""
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_WORKERS", "1")
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.delenv("BOOK_SCHEDULER", raising=False)
    monkeypatch.delenv("BOOK_COSTS", raising=False)
    return tmp_path / "_build" / "cache"


def fit(settings=SETTINGS, views=None, validation=None):
    return fit_head(settings, views or [blobs(0)], validation or blobs(1), lambda note: None, "cpu")


def labels_of(features):
    return torch.from_numpy(features.labels)


def bits(head):
    return [tensor.numpy().tobytes() for tensor in head.state_dict().values()]


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture
def notices(monkeypatch):
    told = []
    monkeypatch.setattr(storage, "notice", told.append)
    return told


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bottleneck": -1}, "bottleneck must be an integer at least 0; got -1"),
        ({"bottleneck": True}, "bottleneck must be an integer at least 0; got True"),
        ({"bottleneck": None}, "bottleneck must be an integer at least 0; got None"),
        ({"hidden": (0,)}, r"hidden\[0\] must be an integer at least 1; got 0"),
        ({"hidden": (8, True)}, r"hidden\[1\] must be an integer at least 1; got True"),
        ({"hidden": "512"}, "hidden must be a sequence of integers; got '512'"),
        ({"hidden": 512}, "hidden must be a sequence of integers; got 512"),
        ({"num_epochs": -1}, "num_epochs must be an integer at least 1; got -1"),
        ({"num_epochs": 2.5}, "num_epochs must be an integer at least 1; got 2.5"),
        ({"num_epochs": True}, "num_epochs must be an integer at least 1; got True"),
        ({"batch_size": 1}, "batch_size must be an integer at least 2; got 1"),
        ({"seed": -1}, "seed must be an integer at least 0; got -1"),
        ({"seed": False}, "seed must be an integer at least 0; got False"),
        ({"dropout": 1.0}, "dropout must be a finite number at least 0 and below 1; got 1.0"),
        ({"dropout": True}, "dropout must be a finite number at least 0 and below 1; got True"),
        ({"channel_dropout": -0.1}, "channel_dropout must be a finite number at least 0 and below 1; got -0.1"),
        ({"channel_dropout": float("nan")}, "channel_dropout must be a finite number .*; got nan"),
        ({"label_smoothing": 1}, "label_smoothing must be a finite number at least 0 and below 1; got 1"),
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0; got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0; got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number above 0; got inf"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number above 0; got '0.1'"),
        ({"weight_decay": -1e-3}, "weight_decay must be a finite number at least 0; got -0.001"),
        ({"weight_decay": True}, "weight_decay must be a finite number at least 0; got True"),
        ({"learning_rate": 10**400}, "learning_rate must be a finite number above 0; got 1000"),
        ({"mixup": -0.1}, "mixup must be a finite number at least 0.05 and at most 100, or 0; got -0.1"),
        ({"mixup": 1e-3}, "mixup must be a finite number at least 0.05 and at most 100, or 0; got 0.001"),
        ({"mixup": 101}, "mixup must be a finite number at least 0.05 and at most 100, or 0; got 101"),
        ({"mixup": False}, "mixup must be a finite number at least 0.05 and at most 100, or 0; got False"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused_with_name_and_value(changed, message):
    with pytest.raises(ValueError, match=message):
        HeadSettings(**changed)


def test_the_smallest_mixup_gives_nearly_all_the_weight_to_one_of_two_images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = np.array([_draw_beta(SMALLEST_MIXUP) for _ in range(2000)])
    # Beta(0.05, 0.05) has the variance 0.25 / (2 * 0.05 + 1).
    assert weights.var() == pytest.approx(0.25 / 1.1, rel=0.05)


def test_hidden_units_given_as_a_list_are_the_same_settings():
    assert HeadSettings(hidden=[16, 8]) == HeadSettings(hidden=(16, 8))


def test_bottleneck_narrows_the_channels_at_each_position_before_the_dense_layer():
    head = new_head((8, 3, 3), replace(SETTINGS, bottleneck=4, hidden=(16,)))
    x = torch.zeros(2, 72)
    shapes = [tuple((x := layer(x)).shape[1:]) for layer in head]
    kinds = [type(layer).__name__ for layer in head]
    assert kinds[:6] == ["Unflatten", "Dropout2d", "Conv2d", "BatchNorm2d", "ReLU", "Flatten"]
    assert shapes[:6] == [(8, 3, 3), (8, 3, 3), (4, 3, 3), (4, 3, 3), (4, 3, 3), (36,)]
    assert shapes[6:] == [(16,), (16,), (16,), (16,), (10,)]
    weights = 8 * 4 + 2 * 4 + 36 * 16 + 2 * 16 + 16 * 10 + 10
    assert sum(parameter.numel() for parameter in head.parameters()) == weights


def test_without_bottleneck_and_hidden_layers_the_head_is_a_linear_classifier_on_standardised_features():
    head = new_head((8, 3, 3), replace(SETTINGS, bottleneck=0, hidden=(), channel_dropout=0.0))
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(72,), (72,), (10, 72), (10,)]
    x = 100 + 50 * torch.randn(64, 72)
    standardised = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(head.train()(x), head[-1](standardised), rtol=1e-4, atol=1e-4)


def test_precision_that_layers_have_by_default_changes_nothing():
    views, validation = [blobs(0)], blobs(1)
    expected = fit(replace(SETTINGS, num_epochs=2), views, validation)
    with default_dtype(torch.float64):
        head, history = fit(replace(SETTINGS, num_epochs=2), views, validation)
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}
    assert history["validation_accuracy"] == expected.history["validation_accuracy"]
    assert bits(head) == bits(expected.head)


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
    probability = logits.softmax(1)[torch.arange(len(logits)), labels_of(features)]
    assert history["validation_loss"][-1] == pytest.approx(float(-probability.log().mean()), rel=1e-5)
    assert history["validation_accuracy"][-1] == pytest.approx(
        float((logits.argmax(1) == labels_of(features)).float().mean())
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
    poisoned = seen._replace(stored=np.full_like(seen.stored, np.nan))
    with pytest.raises(ValueError, match="learning_rate must be low enough for a finite loss"):
        fit(views=[seen, poisoned])


def test_bfloat16_features_train_float32_weights_as_well():
    head, history = fit(views=[blobs(0, dtype=torch.bfloat16)], validation=blobs(1, dtype=torch.bfloat16))
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert history["validation_accuracy"][-1] > 0.9


def test_dropout_leaves_out_whole_channels():
    head = new_head((8, 3, 3), replace(SETTINGS, channel_dropout=0.5)).train()
    kept = head[:2](torch.ones(50, 72)).flatten(2)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept.amin(2), kept.amax(2))


def test_fewer_images_than_a_batch_are_refused():
    message = "batch_size must be an integer from 2 to 8; got 16"
    with pytest.raises(ValueError, match=message):
        fit(views=[blobs(0, n=8)])
    with pytest.raises(ValueError, match=message):
        train_heads({"a": SETTINGS}, [blobs(0, n=8)], blobs(1), "test")


def test_too_few_steps_for_the_learning_rate_to_rise_and_fall_are_refused():
    with pytest.raises(ValueError, match="num_epochs must be enough for more than 5 steps of training; got 5"):
        fit(replace(SETTINGS, num_epochs=5), views=[blobs(0, n=16)])
    fit(replace(SETTINGS, num_epochs=6), views=[blobs(0, n=16)])


def test_label_smoothing_keeps_the_predicted_probabilities_from_certainty():
    def highest(smoothing):
        head, _ = fit(replace(SETTINGS, label_smoothing=smoothing, dropout=0.0, channel_dropout=0.0))
        return predict_logits(head, blobs(0)).softmax(1).amax(1).mean()

    assert highest(0.5) < 0.7 < 0.8 < highest(0.0)


def test_mixup_trains_on_weighted_means_of_pairs_and_of_their_losses(monkeypatch):
    train = blobs(0, n=16)
    weight, seen, losses = 0.3, [], []
    monkeypatch.setattr(heads_module, "_draw_beta", lambda alpha: weight)
    plain, plain_loss = heads_module._logits, heads_module.cross_entropy

    def watching(head, x):
        seen.append(x.clone())
        return plain(head, x)

    def adding(logits, labels, **options):
        losses.append((plain_loss(logits, labels, **options).item(), labels.tolist()))
        return plain_loss(logits, labels, **options)

    monkeypatch.setattr(heads_module, "_logits", watching)
    monkeypatch.setattr(heads_module, "cross_entropy", adding)
    head = new_head(train.shape, SETTINGS)
    optimizer, schedule = new_optimizer(head, SETTINGS, 100)
    torch.manual_seed(0)
    order = torch.randperm(16)
    torch.manual_seed(0)
    loss = train_epoch(head, replace(SETTINGS, mixup=0.4), [train], optimizer, schedule)
    x, labels = train.values[order], labels_of(train)[order]
    torch.testing.assert_close(seen[0], weight * x + (1 - weight) * x.roll(1, 0))
    (first, of_first), (second, of_second) = losses
    assert (of_first, of_second) == (labels.tolist(), labels.roll(1).tolist())
    assert loss.item() == pytest.approx(weight * first + (1 - weight) * second, rel=1e-6)
    assert torch.equal(train.values, blobs(0, n=16).values)


def test_weights_of_mixup_follow_the_beta_distribution():
    torch.manual_seed(0)
    draws = np.array([heads_module._draw_beta(0.4) for _ in range(2000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.04)
    assert draws.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.1)  # Beta(a, a): 1 / (4 (2 a + 1))


def test_mixup_keeps_the_predicted_probabilities_from_certainty():
    def highest(mixup):
        head, _ = fit(replace(SETTINGS, mixup=mixup, dropout=0.0, channel_dropout=0.0))
        return predict_logits(head, blobs(0)).softmax(1).amax(1).mean()

    assert highest(1.0) < highest(0.0)


def test_without_curves_the_history_is_that_of_the_last_epoch_and_the_head_is_the_same(cache):
    whole = train_heads({"a": SETTINGS}, [blobs(0)], blobs(1), "test")["a"]
    last = train_heads({"a": SETTINGS}, [blobs(0)], blobs(1), "test", curves=False)["a"]
    assert last.history == {name: values[-1:] for name, values in whole.history.items()}
    assert bits(last.head) == bits(whole.head)


def test_training_metrics_are_those_of_as_many_images_as_there_are_for_validation():
    head, history = fit(validation=blobs(1, n=30))
    loss, accuracy = evaluate_head(head, blobs(0).first(30))
    assert (history["train_loss"][-1], history["train_accuracy"][-1]) == pytest.approx((loss, accuracy))


def test_a_range_of_channels_is_trained_on_like_its_copy():
    whole = blobs(0, dtype=torch.bfloat16)
    part = whole.channels(4, 24)
    copied = part._replace(stored=part.stored.copy())
    assert not part.stored.flags.c_contiguous
    first, second = (fit(replace(SETTINGS, num_epochs=2), [one], one) for one in (part, copied))
    assert bits(first.head) == bits(second.head)


def test_a_step_draws_a_view_for_each_image(monkeypatch):
    views = [blobs(0)._replace(stored=np.full((200, 24), number, np.float32)) for number in range(3)]
    seen = []
    plain = heads_module._logits

    def watching(head, x):
        if head.training:
            seen.append(x.clone())
        return plain(head, x)

    monkeypatch.setattr(heads_module, "_logits", watching)
    fit(replace(SETTINGS, num_epochs=2), views=views)
    shares = torch.bincount(torch.cat(seen)[:, 0].long(), minlength=3)
    assert all(len(batch[:, 0].unique()) == 3 for batch in seen)
    assert (shares / shares.sum() - 1 / 3).abs().max() < 0.1
    assert [float(view.stored.min()) for view in views] == [0, 1, 2]  # and changes none


def test_training_changes_no_feature():
    train = blobs(0)
    before = train.stored.copy()
    fit(views=[train, blobs(2)])
    assert np.array_equal(train.stored, before)


def test_number_of_workers_changes_no_bit(tmp_path, monkeypatch):
    settings = {str(seed): replace(SETTINGS, num_epochs=2, seed=seed) for seed in range(3)}
    found = set()
    for workers in ("1", "2", "3"):
        monkeypatch.setattr(storage, "ROOT", tmp_path / workers)
        monkeypatch.setenv("BOOK_WORKERS", workers)
        runs = train_heads(settings, [blobs(0)], blobs(1), "test")
        assert list(runs) == list(settings)
        found.add(json.dumps([run.history for run in runs.values()]) + str([bits(run.head) for run in runs.values()]))
    assert len(found) == 1


def test_only_heads_that_are_missing_are_trained(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_COSTS", str(tmp_path / "costs"))
    short = replace(SETTINGS, num_epochs=2)
    train_heads({"a": short}, [blobs(0)], blobs(1), "test")
    both = {"a": short, "same": short, "b": replace(short, seed=1)}
    runs = train_heads(both, [blobs(0)], blobs(1), "test")
    assert bits(runs["a"].head) == bits(runs["same"].head) != bits(runs["b"].head)
    assert len(list(cache.glob("head-*"))) == 2
    lines = [json.loads(line) for line in (tmp_path / "costs").read_text().splitlines()]
    assert [line["found"] for line in lines] == [False, True, True, False]
    assert lines[0]["cpu_seconds"] == lines[1]["cpu_seconds"]


@pytest.mark.parametrize("file", [HEAD_FILE, "history.json"])
@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content[:-1] + bytes([content[-1] ^ 1])]
)
def test_damaged_head_is_trained_again_with_a_notice(cache, notices, file, damage):
    settings = replace(SETTINGS, num_epochs=2)
    good = train_heads({"a": settings}, [blobs(0)], blobs(1), "test")["a"]
    (path,) = cache.glob(f"head-*/{file}")
    path.write_bytes(damage(path.read_bytes()))
    again = train_heads({"a": settings}, [blobs(0)], blobs(1), "test")["a"]
    assert bits(again.head) == bits(good.head)
    assert again.history == good.history
    assert [notice.split(": ")[1] for notice in notices] == [f"{file} is damaged; computed again"]
    train_heads({"a": settings}, [blobs(0)], blobs(1), "test")
    assert len(notices) == 1


def test_key_depends_on_code_device_and_torchs_version(cache, monkeypatch):
    def keep(number):
        train_heads({"a": replace(SETTINGS, num_epochs=1)}, [blobs(0)], blobs(1), "test")
        assert len(list(cache.glob("head-*"))) == number

    asked = []
    keep(1)
    with monkeypatch.context() as patched:
        patched.setattr(heads_module, "digest_of", lambda *objects: asked.extend(objects) or "other code")
        keep(2)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "2.0.0")
        keep(3)
    assert {"new_head", "fit_head", "new_optimizer", "train_epoch"} <= {one.__name__ for one in asked}
    keep(3)


@pytest.fixture
def moved(monkeypatch):
    """A "cuda" that is this processor in disguise; what is moved to it, by kind."""
    moves = []
    original = nn.Module.to

    def to(self, where, *arguments, **options):
        moves.append(where)
        return original(self, "cpu" if where == "cuda" else where, *arguments, **options)

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(heads_module, "device", lambda: "cuda")
    return moves


def test_with_a_gpu_heads_are_moved_to_it_and_trained_one_after_the_other_and_come_back(cache, moved, monkeypatch):
    settings = {str(seed): replace(SETTINGS, num_epochs=2, seed=seed) for seed in range(2)}
    with monkeypatch.context() as patched:
        patched.setattr("joblib.Parallel", lambda **_: pytest.fail("a worker was started"))
        runs = train_heads(settings, [blobs(0)], blobs(1), "test")
    assert moved == ["cuda", "cuda"]
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 for p in runs["0"].head.parameters())
    monkeypatch.setattr(heads_module, "device", lambda: "cpu")
    train_heads(settings, [blobs(0)], blobs(1), "test")
    assert len(list(cache.glob("head-*"))) == 4  # a GPU rounds in another way: its heads are kept apart


def test_batches_follow_the_head_to_its_device(monkeypatch):
    """On "meta" there are shapes and no numbers; an operation with a tensor left on the CPU fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none for "meta"
    head = new_head((24, 1, 1), SETTINGS).to("meta")
    optimizer, schedule = new_optimizer(head, SETTINGS, 100)
    optimizer.step = schedule.step = lambda: None
    train_epoch(head, SETTINGS, [blobs(0)], optimizer, schedule)
    assert {parameter.grad.device.type for parameter in head.parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_trains_on_a_gpu_and_comes_back(monkeypatch, dtype):
    monkeypatch.setenv("BOOK_DEVICE", "cuda")
    views, validation = [blobs(0, dtype=dtype)], blobs(1, dtype=dtype)
    head, history = train_heads({"a": SETTINGS}, views, validation, "test")["a"]
    assert history["validation_accuracy"][-1] > 0.9
    assert {(p.device.type, p.dtype) for p in head.parameters()} == {("cpu", torch.float32)}


def test_trained_heads_are_found_again_and_kept_apart_by_settings_features_and_labels(cache, monkeypatch):
    first = train_heads({"a": SETTINGS}, [blobs(0)], blobs(1), "test")["a"]
    assert len(list(cache.glob("head-*"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(heads_module, "_train_one", lambda *_: pytest.fail("trained again"))
        found = train_heads({"b": SETTINGS}, [blobs(0)], blobs(1), "test")["b"]
    assert found.history == first.history
    assert torch.equal(predict_logits(found.head, blobs(1)), predict_logits(first.head, blobs(1)))
    relabelled = blobs(0)._replace(labels=blobs(0).labels[::-1].copy())
    train_heads({"a": replace(SETTINGS, weight_decay=0.5)}, [blobs(0)], blobs(1), "test")
    train_heads({"a": SETTINGS}, [blobs(2)], blobs(1), "test")
    train_heads({"a": SETTINGS}, [relabelled], blobs(1), "test")
    assert len(list(cache.glob("head-*"))) == 4


def test_evaluation_is_the_loss_and_accuracy_of_pytorch():
    features, head = blobs(3), nn.Linear(24, 10)
    loss, accuracy = evaluate_head(head, features)
    logits = head(features.values)
    assert loss == pytest.approx(nn.CrossEntropyLoss()(logits, labels_of(features)).item(), rel=1e-6)
    assert accuracy == pytest.approx((logits.argmax(1) == labels_of(features)).double().mean().item())


@pytest.fixture
def transfer_model(tmp_path):
    """A head trained for a moment on the features of a real backbone, saved, with the images that it was trained on."""
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    backbone = load_backbone(BackboneSettings(cut=30, input_size=32))
    before = {name: tensor.clone() for name, tensor in backbone.layers.state_dict().items()}
    features = backbone_features(backbone, images, np.arange(40) % 10, "float32", "test")
    settings = replace(SETTINGS, num_epochs=3)
    head, _ = fit(settings, [features], features)
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
    nn.functional.cross_entropy(model(backbone.to_input(images)), labels_of(features)).backward()
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
    assert loaded.head == replace(SETTINGS, num_epochs=3)


def test_file_without_settings_is_refused(transfer_model):
    folder = transfer_model[0]
    save_file(transfer_model[-1].state_dict(), folder / HEAD_FILE)
    with pytest.raises(ValueError, match=r"must be a file with the settings of head and backbone; got \[\]"):
        load_transfer_model(folder)


def test_file_whose_weights_do_not_fit_its_settings_is_refused(transfer_model):
    folder, _, backbone, *_ = transfer_model
    metadata = {"settings": json.dumps({"head": asdict(SETTINGS), "backbone": asdict(backbone.settings)})}
    save_file({"1.weight": torch.zeros(3, 3)}, folder / HEAD_FILE, metadata)
    with pytest.raises(ValueError, match="does not fit its settings"):
        load_transfer_model(folder)


def test_the_same_head_is_saved_as_the_same_bytes_by_every_process(tmp_path):
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from book.experiments.vgg.backbone import BackboneSettings
from book.experiments.vgg.heads import HeadSettings, new_head, save_head
settings = HeadSettings(bottleneck=4, hidden=(8,))
save_head(new_head((16, 2, 2), settings), settings, BackboneSettings(cut=30, input_size=32), Path(sys.argv[2]))
"""
    root = heads_module.__file__.rsplit("/book/", 1)[0]
    contents = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, root, str(folder)], check=True, env=environment)
        contents.add((folder / HEAD_FILE).read_bytes())
    assert len(contents) == 1
