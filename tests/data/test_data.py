"""The data set: what the loaders promise, and what they refuse."""

import hashlib
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import data
from data import fashion_mnist

README = Path(data.__file__).with_name("README.md")
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def official():
    return data.load_fashion_mnist()


@pytest.fixture(scope="module")
def split():
    return data.split_80_10_10(seed=0)


@pytest.fixture
def copied_folder(tmp_path, monkeypatch):
    """Point the loader to a copy of the files that a test may damage."""
    folder = tmp_path / "raw"
    shutil.copytree(fashion_mnist.FOLDER, folder)
    monkeypatch.setattr(fashion_mnist, "FOLDER", folder)
    return folder


def test_official_parts_have_60000_and_10000_images(official):
    assert official.train.images.shape == (60_000, 28, 28)
    assert official.test.images.shape == (10_000, 28, 28)
    assert official.train.labels.shape == (60_000,)
    assert official.test.labels.shape == (10_000,)


def test_images_are_uint8_over_the_whole_range_and_labels_int64(official):
    for part in (official.train, official.test):
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert part.images.min() == 0
        assert part.images.max() == 255


def test_official_parts_hold_a_tenth_of_each_of_ten_named_classes(official):
    assert official.class_names == data.CLASS_NAMES
    assert len(set(data.CLASS_NAMES)) == 10
    for part in (official.train, official.test):
        np.testing.assert_array_equal(np.bincount(part.labels), np.full(10, len(part.labels) // 10))


def test_labels_go_with_their_images(official):
    """The first training images are a boot and two T-shirts; trousers are narrow, bags are wide."""
    names = [data.CLASS_NAMES[label] for label in official.train.labels[:3]]
    assert names == ["Ankle boot", "T-shirt/top", "T-shirt/top"]
    width = (official.test.images > 0).any(axis=1).sum(axis=1)
    mean_width = {name: width[official.test.labels == label].mean() for label, name in enumerate(data.CLASS_NAMES)}
    assert min(mean_width, key=mean_width.get) == "Trouser"
    assert mean_width["Bag"] > 24


def test_class_names_are_in_the_order_that_the_readme_gives():
    text = " ".join(README.read_text("utf-8").split())
    assert f"their names, in that order, are {', '.join(data.CLASS_NAMES)}." in text


def test_split_parts_have_56000_7000_and_7000_images(split):
    assert [len(getattr(split, name).labels) for name in PARTS] == [56_000, 7_000, 7_000]
    for name in PARTS:
        part = getattr(split, name)
        assert part.images.shape == (len(part.labels), 28, 28)
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize("name", PARTS)
def test_split_is_stratified_every_class_is_exactly_a_tenth_of_each_part(split, name):
    labels = getattr(split, name).labels
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, len(labels) // 10))


def test_split_parts_are_disjoint_and_together_all_70000_images(split):
    indices = np.concatenate([getattr(split, name).indices for name in PARTS])
    assert len(indices) == 70_000
    np.testing.assert_array_equal(np.sort(indices), np.arange(70_000))


@pytest.mark.parametrize("name", PARTS)
def test_split_indices_point_at_the_pooled_images_and_labels(split, official, name):
    part = getattr(split, name)
    images = np.concatenate([official.train.images, official.test.images])
    labels = np.concatenate([official.train.labels, official.test.labels])
    np.testing.assert_array_equal(part.images, images[part.indices])
    np.testing.assert_array_equal(part.labels, labels[part.indices])


def test_same_seed_gives_the_same_split_and_another_seed_another(split):
    again, other = data.split_80_10_10(seed=0), data.split_80_10_10(seed=1)
    for name in PARTS:
        np.testing.assert_array_equal(getattr(split, name).indices, getattr(again, name).indices)
        assert set(getattr(split, name).indices) != set(getattr(other, name).indices)


def test_a_numpy_integer_is_a_seed_too(split):
    np.testing.assert_array_equal(data.split_80_10_10(np.int64(0)).test.indices, split.test.indices)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "0", None, True])
def test_a_seed_that_is_no_non_negative_integer_is_refused_by_name_value_and_range(seed):
    with pytest.raises(ValueError, match=re.escape(f"seed must be an integer from 0 to 4294967295, got {seed!r}")):
        data.split_80_10_10(seed)


def test_callers_do_not_share_arrays_and_may_write_into_them(split):
    again = data.split_80_10_10(seed=0)
    parts = [*split, *again, *data.load_fashion_mnist()[:2]]
    arrays = [array for part in parts for array in part]
    assert all(array.flags.writeable for array in arrays)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


def test_scaling_gives_float32_from_0_to_1_and_keeps_the_shape(split):
    scaled = data.scale_to_unit(split.test.images)
    assert scaled.dtype == np.float32
    assert scaled.shape == split.test.images.shape
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(np.rint(scaled * 255), split.test.images)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_scaling_refuses_pixels_that_may_be_scaled_already(dtype):
    with pytest.raises(ValueError, match=f"images must be an array of uint8.*got {np.dtype(dtype)}"):
        data.scale_to_unit(np.zeros((2, 28, 28), dtype))


def test_flattening_lays_the_rows_of_each_image_end_to_end(split):
    flat = data.flatten(split.validation.images)
    assert flat.shape == (7_000, 784)
    np.testing.assert_array_equal(flat[3], np.concatenate(list(split.validation.images[3])))
    assert data.flatten(np.zeros((0, 28, 28))).shape == (0, 784)


def test_flattening_refuses_a_vector():
    with pytest.raises(ValueError, match=re.escape("images must have an axis of images")):
        data.flatten(np.zeros(784))


@pytest.mark.parametrize("name", fashion_mnist.CHECKSUMS)
def test_a_missing_file_is_named_with_the_expected_checksum_and_the_way_to_restore_it(copied_folder, name):
    (copied_folder / name).unlink()
    with pytest.raises(data.DataError) as caught:
        data.load_fashion_mnist()
    assert_complaint(str(caught.value), name, found="missing")


@pytest.mark.parametrize("name", fashion_mnist.CHECKSUMS)
def test_a_truncated_file_is_named_with_both_checksums(copied_folder, name):
    path = copied_folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(data.DataError) as caught:
        data.load_fashion_mnist()
    assert_complaint(str(caught.value), name, found=sha256(path))


@pytest.mark.parametrize("name", fashion_mnist.CHECKSUMS)
def test_a_file_with_one_altered_byte_is_named_with_both_checksums(copied_folder, name):
    path = copied_folder / name
    content = bytearray(path.read_bytes())
    content[5] ^= 1  # in gzip's time stamp: it still unpacks to the same images, and is still refused
    path.write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        data.split_80_10_10(seed=0)
    assert_complaint(str(caught.value), name, found=sha256(path))


def test_readme_lists_the_checksums_that_the_loader_expects():
    rows = re.findall(r"^\| `FashionMNIST/raw/(\S+)` \|.*\| `([0-9a-f]{64})` \|$", README.read_text("utf-8"), re.M)
    assert dict(rows) == data.CHECKSUMS
    assert len(rows) == len(data.CHECKSUMS)


def test_the_licence_travels_with_the_files():
    text = (fashion_mnist.FOLDER.parent / "LICENSE").read_text("utf-8")
    assert "MIT License" in text
    assert "2017 Zalando SE" in text


def assert_complaint(message, name, found):
    assert f"data/FashionMNIST/raw/{name}" in message
    assert f"expected SHA-256: {data.CHECKSUMS[name]}" in message
    assert re.search(rf"found: +{found}", message)
    assert "git checkout -- data/FashionMNIST" in message


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_split_80_20_divides_the_official_training_set_and_keeps_the_official_test_set():
    split = data.split_80_20(0)
    assert [len(part.labels) for part in split] == [48_000, 12_000, 10_000]
    assert sorted([*split.train.indices, *split.validation.indices]) == list(range(60_000))
    official = data.load_fashion_mnist()
    assert np.array_equal(split.test.images, official.test.images)
    assert np.array_equal(split.train.images, official.train.images[split.train.indices])
    assert set(np.bincount(split.train.labels)) == {4_800}
    assert set(np.bincount(split.validation.labels)) == {1_200}


def test_split_80_20_repeats_for_a_seed_and_differs_for_another():
    assert np.array_equal(data.split_80_20(3).train.indices, data.split_80_20(3).train.indices)
    assert not np.array_equal(data.split_80_20(3).train.indices, data.split_80_20(4).train.indices)


@pytest.mark.parametrize("seed", [-1, 0.5, True, None])
def test_split_80_20_refuses_a_seed_that_is_none(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        data.split_80_20(seed)


def test_the_first_images_of_a_part_keep_their_labels_and_indices():
    part = data.split_80_20(0).validation
    few = part.first(3)
    for whole, short in zip(part, few, strict=True):
        np.testing.assert_array_equal(short, whole[:3])
    assert type(few) is type(part)
