"""Cached features: equal to what the backbone gives, loaded again, completed after a kill, never used when altered."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from book.experiments.page import storage
from book.experiments.vgg import features as features_module
from book.experiments.vgg.backbone import BackboneSettings, StackedLayers, load_backbone
from book.experiments.vgg.features import (
    CLEAR_MARGIN,
    DECISION_SECONDS,
    as_stored,
    backbone_features,
    deeper_features,
    faster_of,
    fastest_precision,
    forward,
    pooled,
)

ROOT = Path(features_module.__file__).parents[3]
IMAGES = np.random.default_rng(0).integers(0, 256, (23, 28, 28), np.uint8)
LABELS = np.arange(23) % 10
WIDTH = 2048
NUM_BLOCKS = 5


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneSettings(cut=30, input_size=32))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache with blocks of five images; one worker, which is this process."""
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setattr(features_module, "BLOCK_BYTES", 5 * WIDTH * 4)
    monkeypatch.setenv("BOOK_WORKERS", "1")
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.delenv("BOOK_SCHEDULER", raising=False)
    monkeypatch.delenv("BOOK_COSTS", raising=False)
    return tmp_path / "_build" / "cache"


@pytest.fixture
def counted(monkeypatch):
    """Number of images that went through the backbone, and the devices that they went through it on."""
    count = {"images": 0, "devices": set()}

    def counting(backbone, images, dtype, device, after):
        count["images"] += len(images)
        count["devices"].add(device)
        yield from forward(backbone, images, dtype, device, after)

    monkeypatch.setattr(features_module, "forward", counting)
    # The code of `forward` is part of the key; that of its stand-in must not be.
    monkeypatch.setattr(features_module, "digest_of", lambda *_: "the same code")
    return count


@pytest.fixture
def notices(monkeypatch):
    told = []
    for module in (features_module, storage):
        monkeypatch.setattr(module, "notice", told.append)
    return told


def kept(backbone, precision="float32", images=IMAGES):
    return backbone_features(backbone, images, LABELS[: len(images)], precision, "test")


def direct(backbone, images=IMAGES):
    with torch.inference_mode():
        return backbone.layers(backbone.to_input(images)).flatten(1)


def only_file(cache, name):
    (file,) = cache.glob(f"features-*/{name}")
    return file


def test_kept_features_equal_the_backbones_output_in_vggs_own_order(backbone, cache):
    features = kept(backbone)
    torch.testing.assert_close(features.values, direct(backbone), rtol=1e-4, atol=1e-3)
    assert features.labels.tolist() == LABELS.tolist()
    assert features.labels.dtype == np.int64
    assert features.shape == backbone.output_shape


def test_bfloat16_features_are_off_by_less_than_two_per_cent(backbone, cache):
    exact, rounded = kept(backbone), kept(backbone, "bfloat16")
    assert (rounded.values.dtype, rounded.stored.dtype) == (torch.bfloat16, np.uint16)
    assert 0 < (rounded.values.float() - exact.values).norm() / exact.values.norm() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_stored_array_holds_the_bits_of_the_tensor_and_is_mapped_not_copied(dtype):
    values = torch.randn(6, 4).to(dtype).T  # no rows in a piece
    features = features_module.Features(as_stored(values), np.zeros(4, np.int64), (6, 1, 1), "random")
    assert torch.equal(features.values, values)
    assert features.values.data_ptr() == features.stored.ctypes.data


@pytest.fixture(scope="module")
def stacked():
    return load_backbone(BackboneSettings(cut=24, input_size=32, stacked=(17,)))


def test_one_pass_gives_the_features_of_several_blocks_and_channels_takes_them_apart(stacked, cache):
    features = kept(stacked)
    block_4 = features.channels(512, 1024)
    alone = direct(load_backbone(BackboneSettings(cut=24, input_size=32)))
    torch.testing.assert_close(block_4.values, alone, rtol=1e-4, atol=1e-3)
    assert block_4.shape == (512, 2, 2)
    assert np.shares_memory(block_4.stored, features.stored)
    both = torch.cat([features.channels(0, 512).values, block_4.values], 1)
    assert torch.equal(both, features.values)
    assert len({features.name, block_4.name, features.channels(0, 512).name}) == 3


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 5), (0, 1025)])
def test_channels_that_do_not_exist_are_refused(stacked, cache, start, stop):
    with pytest.raises(ValueError, match="stop must be above start and at most 1024"):
        kept(stacked).channels(start, stop)


def test_stacked_features_are_kept_apart_from_others(name_of):
    settings = [{}, {"stacked": (10,)}, {"stacked": (17,)}, {"grid": 1}]
    backbones = [load_backbone(BackboneSettings(cut=24, input_size=32, **one)) for one in settings]
    assert len({name_of(one) for one in backbones}) == 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("cut", [30, 31])
def test_deeper_features_are_those_of_the_whole_pass(stacked, cache, precision, cut):
    whole = load_backbone(BackboneSettings(cut=cut, input_size=32))
    deeper = deeper_features(whole, kept(stacked, precision).channels(512, 1024), 24, "test")
    once = kept(whole, precision)
    assert deeper.values.dtype == once.values.dtype
    assert (deeper.shape, deeper.labels.tolist()) == (whole.output_shape, LABELS.tolist())
    tolerance = {"float32": 1e-3, "bfloat16": 0.25}[precision]
    torch.testing.assert_close(deeper.values.float(), once.values.float(), rtol=2e-2, atol=tolerance)


def test_deeper_features_are_computed_by_any_number_of_workers_and_cached(stacked, cache, tmp_path, monkeypatch):
    whole = load_backbone(BackboneSettings(cut=31, input_size=32))
    block_4 = kept(stacked).channels(512, 1024)
    contents = set()
    for workers in ("1", "2"):
        monkeypatch.setattr(storage, "ROOT", tmp_path / workers)
        monkeypatch.setenv("BOOK_WORKERS", workers)
        contents.add(deeper_features(whole, block_4, 24, "test").stored.tobytes())
    monkeypatch.setattr(features_module, "forward", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(features_module, "digest_of", lambda *_, real=features_module.digest_of: real(forward, *_[1:]))
    contents.add(deeper_features(whole, block_4, 24, "test").stored.tobytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("settings", "after", "message"),
    [
        ({"stacked": (17,)}, 24, "backbone.settings must be without stacked and grid"),
        ({}, 31, "after must be an integer from 1 to 30"),
        ({}, 17, r"features.shape must be \(256, 4, 4\); got \(512, 2, 2\)"),
    ],
)
def test_deeper_features_refuse_what_does_not_fit(stacked, cache, settings, after, message):
    whole = load_backbone(BackboneSettings(cut=31, input_size=32, **settings))
    with pytest.raises(ValueError, match=message):
        deeper_features(whole, kept(stacked).channels(512, 1024), after, "test")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_number_of_workers_changes_no_bit(backbone, cache, tmp_path, monkeypatch, precision):
    contents = set()
    for workers in ("1", "2", "3"):
        monkeypatch.setattr(storage, "ROOT", tmp_path / workers)
        monkeypatch.setenv("BOOK_WORKERS", workers)
        contents.add(kept(backbone, precision).stored.tobytes())
    assert len(contents) == 1


def test_second_call_finds_the_features_and_runs_no_backbone(backbone, cache, counted):
    first = kept(backbone).values.clone()
    assert counted["images"] == len(IMAGES)
    second = kept(backbone).values
    assert counted["images"] == len(IMAGES)
    assert torch.equal(first, second)


def test_reversed_views_and_read_only_images_give_the_features_of_their_copies(backbone, cache, counted):
    mirrored = IMAGES[::-1, :, ::-1]
    of_copy = kept(backbone, images=mirrored.copy())
    of_view = kept(backbone, images=mirrored)
    read_only = mirrored.copy()
    read_only.flags.writeable = False
    of_read_only = kept(backbone, images=read_only)
    assert of_copy.name == of_view.name == of_read_only.name
    assert counted["images"] == len(IMAGES)
    torch.testing.assert_close(of_view.values, direct(backbone, mirrored.copy()), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_features_are_computed_of_a_view_and_of_read_only_images(backbone, cache):
    read_only = IMAGES.copy()
    read_only.flags.writeable = False
    assert torch.equal(kept(backbone, images=read_only).values, kept(backbone).values)
    backwards = kept(backbone, images=IMAGES[::-1])
    # Another order, other batches: the last digits may differ.
    torch.testing.assert_close(backwards.values.flip(0), kept(backbone).values, rtol=1e-4, atol=1e-3)


@pytest.fixture
def name_of(backbone, cache, monkeypatch):
    """The name of the features, which holds their key, without computing them."""
    monkeypatch.setattr(features_module, "_computed", lambda *_: [])
    monkeypatch.setattr(features_module._Blocks, "mapped", lambda self: np.zeros((self.num_images, self.width)))
    return lambda one=backbone, precision="float32", images=IMAGES: kept(one, precision, images).name


def test_key_depends_on_weights_cut_size_and_normalisation(backbone, name_of):
    changed = load_backbone(backbone.settings)
    with torch.no_grad():
        changed.layers[0].bias[0] += 1
    others = [
        load_backbone(BackboneSettings(cut=29, input_size=32)),
        load_backbone(BackboneSettings(cut=30, input_size=33)),
        changed,
        backbone._replace(mean=(1.0, 2.0, 3.0)),
        backbone._replace(std=(1.0, 2.0, 3.0)),
    ]
    assert len({name_of(one) for one in (backbone, *others)}) == 6


def test_key_depends_on_cut_where_the_layer_more_has_no_weights(name_of):
    cuts = [load_backbone(BackboneSettings(cut=cut, input_size=32)) for cut in (29, 30, 31)]
    assert len({name_of(one) for one in cuts}) == 3


def test_key_depends_on_precision_and_images(backbone, name_of):
    altered = IMAGES.copy()
    altered[3, 5, 7] ^= 1
    names = {name_of(), name_of(precision="bfloat16")}
    names |= {name_of(images=images) for images in (IMAGES[:22], IMAGES[::-1], altered, IMAGES.reshape(23, 14, 56))}
    assert len(names) == 6


def test_key_depends_on_the_code_of_the_pass_and_on_torchs_version(backbone, name_of, monkeypatch):
    asked = []
    before = name_of()
    with monkeypatch.context() as patched:
        patched.setattr(features_module, "digest_of", lambda *objects: asked.extend(objects) or "other code")
        assert name_of() != before
    assert asked == [forward, StackedLayers, type(backbone).to_input, type(backbone).normalise]
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "0.0")
        assert name_of() != before
    assert name_of() == before


def test_key_does_not_depend_on_workers_and_device(name_of, monkeypatch):
    before = name_of()
    monkeypatch.setenv("BOOK_WORKERS", "3")
    monkeypatch.setattr(features_module, "device", lambda: "cuda")
    assert name_of() == before


def test_altered_block_is_computed_again_with_a_notice(backbone, cache, counted, notices):
    good = kept(backbone).values.clone()
    file = only_file(cache, "features.bin")
    content = bytearray(file.read_bytes())
    content[7 * WIDTH * 4] ^= 255  # in the second block of five images
    file.write_bytes(content)
    assert torch.equal(kept(backbone).values, good)
    assert counted["images"] == len(IMAGES) + 5
    assert notices == [f"{file.parent.name}: 1 of {NUM_BLOCKS} blocks are damaged; computed again"]


def test_truncated_file_is_completed_with_a_notice(backbone, cache, counted, notices):
    good = kept(backbone).values.clone()
    file = only_file(cache, "features.bin")
    file.write_bytes(file.read_bytes()[: 12 * WIDTH * 4])
    assert torch.equal(kept(backbone).values, good)
    assert counted["images"] == len(IMAGES) + 13
    assert [notice.split(": ")[1] for notice in notices] == [f"3 of {NUM_BLOCKS} blocks are damaged; computed again"]


@pytest.mark.parametrize("cut_off", [4, -1, 0])
def test_block_that_was_written_but_not_noted_is_computed_again_without_a_notice(
    backbone, cache, counted, notices, cut_off
):
    good = kept(backbone).values.clone()
    log = only_file(cache, "blocks.log")
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:cut_off])  # a kill in the middle of a line
    assert torch.equal(kept(backbone).values, good)
    assert counted["images"] == len(IMAGES) + 8
    kept(backbone)
    assert counted["images"] == len(IMAGES) + 8
    assert notices == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"\xff\xfe\x00\n",
        b"2\n",
        b"2 17 0.1\n",
        b"2 17 0.1 0.2 0.3\n",
        b"two 17 0.1 0.2\n",
        b"-1 17 0.1 0.2\n",
        b"5 17 0.1 0.2\n",
        b"2 crc 0.1 0.2\n",
        b"2 17 nan 0.2\n",
        b"2 17 0.1.1 0.2\n",
        b"2 17 . 0.2\n",
        "2 \u00b2 0.1 0.2\n".encode(),
    ],
)
def test_garbled_lines_of_the_log_do_not_count(backbone, cache, counted, notices, garbage):
    good = kept(backbone).values.clone()
    log = only_file(cache, "blocks.log")
    log.write_bytes(garbage + log.read_bytes() + garbage)
    assert torch.equal(kept(backbone).values, good)
    assert counted["images"] == len(IMAGES)
    assert notices == []


def test_killed_run_is_gone_on_with_after_the_last_complete_block(tmp_path, backbone, cache, counted, notices):
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import numpy as np, time
from book.experiments.vgg import features
from book.experiments.page import storage
from book.experiments.vgg.backbone import BackboneSettings, StackedLayers, load_backbone
storage.ROOT = Path({str(tmp_path)!r})
features.BLOCK_BYTES = {features_module.BLOCK_BYTES}
slow = features.forward
def forward(*arguments):
    time.sleep(0.2)
    yield from slow(*arguments)
features.forward = forward
features.digest_of = lambda *_: "the same code"
images = np.random.default_rng(0).integers(0, 256, (23, 28, 28), np.uint8)
backbone = load_backbone(BackboneSettings(cut=30, input_size=32))
features.backbone_features(backbone, images, np.arange(23) % 10, "float32", "test")
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, env=os.environ)
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
    assert notices == []
    torch.testing.assert_close(features.values, direct(backbone), rtol=1e-4, atol=1e-3)


def reported_costs(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_cost_is_the_sum_over_blocks_and_reported_as_computed_and_then_as_found(
    backbone, cache, counted, tmp_path, monkeypatch
):
    monkeypatch.setenv("BOOK_COSTS", str(tmp_path / "costs"))
    kept(backbone)
    log = only_file(cache, "blocks.log")
    lines = log.read_text().splitlines(keepends=True)
    kept(backbone)
    log.write_text("".join(lines[:3]))
    kept(backbone)
    computed, found, completed = [
        line for line in reported_costs(tmp_path / "costs") if line["step"] == "features-32px"
    ]
    assert (computed["found"], found["found"], completed["found"]) == (False, True, False)
    for place, name in ((2, "cpu_seconds"), (3, "wall_seconds")):
        values = [float(line.split()[place]) for line in lines]
        assert found[name] == pytest.approx(sum(values), abs=1e-3)
        # Of the three blocks kept, and of the two that were computed again.
        assert completed[name] > sum(values[:3])
    assert found["machine"] == computed["machine"] == storage.machine()


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_flipped_digit_in_any_number_of_the_log_is_found(backbone, cache, counted, tmp_path, monkeypatch, place):
    good = kept(backbone).values.clone()
    log = only_file(cache, "blocks.log")
    lines = log.read_text().splitlines(keepends=True)
    words = lines[2].split()
    words[place] = words[place][:-1] + str((int(words[place][-1]) + 1) % 10)
    log.write_text("".join([*lines[:2], " ".join(words) + "\n", *lines[3:]]))
    assert torch.equal(kept(backbone).values, good)
    assert counted["images"] > len(IMAGES)


def test_damage_in_the_name_of_the_machine_is_found(backbone, cache, counted, tmp_path, monkeypatch):
    kept(backbone)
    path = only_file(cache, "machine.json")
    path.write_text(path.read_text().replace(" cores", " corez"))
    monkeypatch.setenv("BOOK_COSTS", str(tmp_path / "costs"))
    kept(backbone)
    assert reported_costs(tmp_path / "costs")[-1]["machine"] == "unknown"


def test_writing_into_kept_features_leaves_the_file_as_it_was(backbone, cache):
    kept(backbone).values.zero_()
    assert kept(backbone).values.abs().sum() > 0


def test_pooled_features_are_those_of_a_backbone_with_the_last_pooling(backbone, cache):
    longer = kept(load_backbone(BackboneSettings(cut=31, input_size=32)))
    ours = pooled(kept(backbone))
    assert torch.equal(ours.values, longer.values)
    assert ours.shape == longer.shape == (512, 1, 1)
    assert ours.name != kept(backbone).name


def test_pooled_features_keep_the_precision_of_the_features(backbone, cache):
    assert pooled(kept(backbone, "bfloat16")).values.dtype == torch.bfloat16


def test_first_rows_share_the_mapped_memory_and_have_a_name_of_their_own(backbone, cache):
    features = kept(backbone)
    first = features.first(7)
    assert first.values.data_ptr() == features.values.data_ptr()
    assert len(first.values) == len(first.labels) == 7
    assert first.name != features.name


def test_unknown_precision_and_missing_labels_are_refused_before_anything_is_written(backbone, cache):
    with pytest.raises(ValueError, match="precision must be one of auto, bfloat16, float32; got 'half'"):
        backbone_features(backbone, IMAGES, LABELS, "half", "test")
    with pytest.raises(ValueError, match=r"labels must be as many as images \(23\); got 3"):
        backbone_features(backbone, IMAGES, LABELS[:3], "float32", "test")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (IMAGES / 255, r"float64 \(23, 28, 28\)"),
        (IMAGES[0], r"uint8 \(28, 28\)"),
        (IMAGES[:0], r"uint8 \(0, 28, 28\)"),
        (IMAGES.tolist(), r"list \(23, 28, 28\)"),
    ],
)
def test_what_is_no_stack_of_images_is_refused_before_anything_is_written(backbone, cache, images, got):
    with pytest.raises(ValueError, match=rf"images must be an array of uint8, shape \(n, height, width\).*{got}"):
        kept(backbone, images=images)
    assert not cache.exists()


class Clock:
    """Stands still but for what the products take."""

    def __init__(self, **seconds):
        self.now, self.seconds, self.products = 0.0, seconds, []

    def __call__(self):
        return self.now

    def multiply(self, name):
        self.products.append(name)
        self.now += self.seconds[name]

    def faster(self):
        return faster_of(self.multiply, self)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "faster"),
    [
        (1e-3, 0.25e-3, "bfloat16"),
        (1e-3, 0.99e-3 / CLEAR_MARGIN, "bfloat16"),
        (1e-3, 1.01e-3 / CLEAR_MARGIN, "float32"),  # faster, but not clearly
        (1e-3, 1e-3, "float32"),
        (0.3e-3, 36e-3, "float32"),  # a processor without instructions for bfloat16
        (36e-3, 36e-3, "float32"),
        (0.3e-3, 2 * DECISION_SECONDS, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_clearly_faster(float32, bfloat16, faster):
    assert Clock(float32=float32, bfloat16=bfloat16).faster() == faster


@pytest.mark.parametrize("bfloat16", [36e-3, 0.3e-3])
def test_comparison_of_the_precisions_ends_soon(bfloat16):
    clock = Clock(float32=0.3e-3, bfloat16=bfloat16)
    clock.faster()
    assert clock.now <= DECISION_SECONDS + bfloat16
    assert clock.products.count("bfloat16") >= 3


def test_the_first_product_of_a_precision_prepares_and_does_not_count():
    clock = Clock(float32=1e-3, bfloat16=1e-3)
    slow_start = {"bfloat16": 50e-3, "float32": 50e-3}

    def multiply(name):
        clock.now += slow_start.pop(name, 0)
        clock.seconds = {"float32": 1e-3, "bfloat16": 0.5e-3}
        clock.multiply(name)

    assert faster_of(multiply, clock) == "bfloat16"


def test_measured_precision_is_one_that_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    fastest_precision.cache_clear()
    assert fastest_precision() in features_module.PRECISIONS[1:]


@pytest.fixture
def moved(monkeypatch):
    """A "cuda" that is this processor in disguise; what is moved to it, by kind."""
    moves = []
    for kind in (torch.Tensor, nn.Module):
        original = kind.to

        def to(self, where=None, *arguments, _original=original, **options):
            if where == "cuda":
                moves.append((type(self), tuple(getattr(self, "shape", ()))))
                where = "cpu"
            return _original(self, *(() if where is None else (where,)), *arguments, **options)

        monkeypatch.setattr(kind, "to", to)
    monkeypatch.setattr(features_module, "device", lambda: "cuda")
    return moves


def test_with_a_gpu_layers_and_images_are_moved_to_it_and_no_worker_is_started(
    backbone, cache, counted, moved, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr("joblib.Parallel", lambda **_: pytest.fail("a worker was started"))
        features = kept(backbone, "bfloat16")
    assert counted["devices"] == {"cuda"}
    assert [kind for kind, _ in moved].count(StackedLayers) == NUM_BLOCKS // 2 + 1  # blocks of ten in bfloat16
    assert sum(shape[0] for kind, shape in moved if kind is torch.Tensor) == len(IMAGES)
    assert features.values.device.type == "cpu"
    assert (features.values.dtype, features.values.shape) == (torch.bfloat16, (len(IMAGES), WIDTH))
    assert all(parameter.device.type == "cpu" for parameter in backbone.layers.parameters())
    monkeypatch.setattr(features_module, "device", lambda: "cpu")
    assert torch.equal(kept(backbone, "bfloat16").values, features.values)  # found: one key for both


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_of_a_gpu_are_those_of_the_processor_up_to_rounding(backbone, cache, monkeypatch, precision):
    exact = direct(backbone)
    monkeypatch.setenv("BOOK_DEVICE", "cuda")
    features = kept(backbone, precision)
    assert features.values.device.type == "cpu"
    assert (features.values.float() - exact).norm() / exact.norm() < 0.02
