"""Cached features: equal to what the backbone gives, loaded again, completed after a kill, never used when altered."""

import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from book.experiments.page import storage
from book.experiments.vgg import features as features_module
from book.experiments.vgg.backbone import BackboneSettings, load_backbone
from book.experiments.vgg.features import CacheWarning, backbone_features, fastest_precision, forward, pooled

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 28, 28), np.uint8)
LABELS = np.arange(23) % 10


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneSettings(cut=30, input_size=32))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache with blocks of five images."""
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setattr(features_module, "BLOCK_BYTES", 5 * 2048 * 4)
    return tmp_path / "_build" / "cache"


@pytest.fixture
def counted(monkeypatch):
    """Number of images that went through the backbone."""
    count = {"images": 0}

    def counting(backbone, images, dtype):
        count["images"] += len(images)
        yield from forward(backbone, images, dtype)

    monkeypatch.setattr(features_module, "forward", counting)
    return count


def kept(backbone, precision="float32", images=IMAGES):
    return backbone_features(backbone, images, LABELS[: len(images)], precision, "test")


def test_kept_features_equal_the_backbones_output_in_vggs_own_order(backbone, cache):
    with torch.inference_mode():
        direct = backbone.layers(backbone.to_input(IMAGES)).flatten(1)
    features = kept(backbone)
    torch.testing.assert_close(features.values, direct, rtol=1e-4, atol=1e-3)
    assert features.labels.tolist() == LABELS.tolist()


def test_bfloat16_features_are_off_by_less_than_two_per_cent(backbone, cache):
    exact, rounded = kept(backbone).values, kept(backbone, "bfloat16").values
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).norm() / exact.norm() < 0.02


def test_second_call_finds_the_features_and_runs_no_backbone(backbone, cache, counted):
    first = kept(backbone).values.clone()
    assert counted["images"] == len(IMAGES)
    second = kept(backbone).values
    assert counted["images"] == len(IMAGES)
    assert torch.equal(first, second)


def test_features_are_kept_apart_by_images_precision_size_cut_and_weights(backbone, cache):
    others = [
        load_backbone(BackboneSettings(cut=29, input_size=32)),
        load_backbone(BackboneSettings(cut=30, input_size=33)),
    ]
    changed = load_backbone(BackboneSettings(cut=30, input_size=32))
    with torch.no_grad():
        changed.layers[0].bias[0] += 1
    names = {kept(one).name for one in (backbone, *others, changed)}
    names |= {
        kept(backbone, "bfloat16").name,
        kept(backbone, images=IMAGES[:22]).name,
        kept(backbone, images=IMAGES[::-1]).name,
    }
    assert len(names) == 7


def test_altered_block_is_computed_again_with_a_warning(backbone, cache, counted):
    good = kept(backbone).values.clone()
    file = next(cache.glob("features-*/features.bin"))
    content = bytearray(file.read_bytes())
    content[7 * 2048 * 4] ^= 255  # in the second block of five images
    file.write_bytes(content)
    with pytest.warns(CacheWarning, match="1 of 5 blocks of features were altered"):
        again = kept(backbone).values
    assert torch.equal(again, good)
    assert counted["images"] == len(IMAGES) + 5


def test_truncated_file_is_completed_with_a_warning(backbone, cache, counted):
    good = kept(backbone).values.clone()
    file = next(cache.glob("features-*/features.bin"))
    file.write_bytes(file.read_bytes()[: 12 * 2048 * 4])
    with pytest.warns(CacheWarning, match="3 of 5 blocks"):
        assert torch.equal(kept(backbone).values, good)


def test_block_that_was_written_but_not_noted_is_computed_again_without_a_warning(backbone, cache, counted):
    good = kept(backbone).values.clone()
    log = next(cache.glob("features-*/blocks.log"))
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:4])  # a kill in the middle of a line
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        assert torch.equal(kept(backbone).values, good)
    assert counted["images"] == len(IMAGES) + 8


def test_killed_run_is_gone_on_with_after_the_last_complete_block(tmp_path, backbone, cache, counted):
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(features_module.__file__.rsplit("/book/", 1)[0])!r})
import numpy as np, time
from book.experiments.vgg import features
from book.experiments.page import storage
from book.experiments.vgg.backbone import BackboneSettings, load_backbone
storage.ROOT = Path({str(tmp_path)!r})
features.BLOCK_BYTES = {features_module.BLOCK_BYTES}
slow = features.forward
def forward(*arguments):
    time.sleep(0.2)
    yield from slow(*arguments)
features.forward = forward
images = np.random.default_rng(0).integers(0, 256, (23, 28, 28), np.uint8)
backbone = load_backbone(BackboneSettings(cut=30, input_size=32))
features.backbone_features(backbone, images, np.arange(23) % 10, "float32", "test")
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        logs = list(cache.glob("features-*/blocks.log"))
        if logs and logs[0].read_text().count("\n") >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    features = kept(backbone)
    assert 0 < counted["images"] <= len(IMAGES) - 10
    with torch.inference_mode():
        direct = backbone.layers(backbone.to_input(IMAGES)).flatten(1)
    torch.testing.assert_close(features.values, direct, rtol=1e-4, atol=1e-3)


def test_writing_into_kept_features_leaves_the_file_as_it_was(backbone, cache):
    kept(backbone).values.zero_()
    assert kept(backbone).values.abs().sum() > 0


def test_pooled_features_are_those_of_a_backbone_with_the_last_pooling(backbone, cache):
    longer = kept(load_backbone(BackboneSettings(cut=31, input_size=32)))
    assert torch.equal(pooled(kept(backbone)).values, longer.values)
    assert pooled(kept(backbone)).shape == longer.shape == (512, 1, 1)


def test_first_rows_share_the_mapped_memory_and_have_a_name_of_their_own(backbone, cache):
    features = kept(backbone)
    first = features.first(7)
    assert first.values.data_ptr() == features.values.data_ptr()
    assert len(first.values) == len(first.labels) == 7
    assert first.name != features.name


def test_unknown_precision_and_missing_labels_are_refused_before_anything_is_written(backbone, cache):
    with pytest.raises(ValueError, match=r"precision must be one of \['auto', 'bfloat16', 'float32'\]; got 'half'"):
        backbone_features(backbone, IMAGES, LABELS, "half", "test")
    with pytest.raises(ValueError, match=r"labels must be as many as images \(23\); got 3"):
        backbone_features(backbone, IMAGES, LABELS[:3], "float32", "test")
    assert not cache.exists()


def test_measured_precision_is_one_that_can_be_asked_for():
    assert fastest_precision() in features_module.PRECISIONS[1:]
