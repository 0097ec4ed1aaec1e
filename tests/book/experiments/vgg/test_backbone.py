"""The pretrained backbone: the right weights, frozen, fed as they expect, and torchvision's model with a head."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from book.experiments.vgg import backbone as vgg16
from book.experiments.vgg.backbone import BackboneSettings, WeightsError, assemble, describe_layers, load_backbone
from data import DataError
from data import vgg16 as data_vgg16

SMALL = BackboneSettings(cut=30, input_size=32)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(SMALL)


def caffe_value(backbone, layer, row, column, channel_in, channel_out):
    """A weight by its place in the original release: (row, column, input, output), input BGR."""
    weight = backbone.layers[layer].weight
    return float(weight[channel_out, 2 - channel_in if layer == 0 else channel_in, row, column])


def test_embedded_weights_are_the_published_values_of_the_original_release(backbone):
    half = {"rel": 1e-3}  # they are rounded to float16
    assert caffe_value(backbone, 0, 0, 0, 0, 0) == pytest.approx(0.42947057, **half)
    assert float(backbone.layers[0].bias[25]) == pytest.approx(0.7446502, **half)
    assert caffe_value(backbone, 2, 2, 2, 63, 63) == pytest.approx(0.016082443, **half)
    assert float(backbone.layers[5].bias[1]) == pytest.approx(0.06440781, **half)
    assert caffe_value(backbone, 24, 1, 0, 63, 269) == pytest.approx(-0.011236359, **half)
    assert float(backbone.layers[26].bias[510]) == pytest.approx(0.23517226, **half)
    assert caffe_value(backbone, 28, 0, 2, 0, 400) == pytest.approx(-0.008714244, **half)


def test_every_backbone_parameter_is_frozen_and_the_backbone_evaluates(backbone):
    assert len(list(backbone.layers.parameters())) == 2 * 13
    assert not any(p.requires_grad for p in backbone.layers.parameters())
    assert not backbone.layers.training


@pytest.mark.parametrize("cut", [1, 5, 23, 24, 30, 31])
@pytest.mark.parametrize("size", [32, 45])
def test_output_shape_is_that_of_the_layers_output(cut, size):
    backbone = load_backbone(BackboneSettings(cut=cut, input_size=size))
    output = backbone.layers(backbone.to_input(np.zeros((1, 28, 28), np.uint8)))
    assert tuple(output.shape[1:]) == backbone.output_shape


@pytest.mark.parametrize("size", [32, 45])
def test_stacked_output_holds_mean_and_maximum_of_earlier_blocks_and_then_the_last_block(size):
    backbone = load_backbone(BackboneSettings(cut=24, input_size=size, stacked=(10, 17)))
    x = backbone.to_input(np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8))
    by_hand, outputs = x, {}
    for number, layer in enumerate(load_backbone(BackboneSettings(cut=24)).layers, start=1):
        by_hand = layer(by_hand)
        outputs[number] = by_hand.clone()
    grid = by_hand.shape[-1]
    expected = []
    for block in (outputs[10], outputs[17]):
        expected += [nn.AdaptiveAvgPool2d(grid)(block), nn.AdaptiveMaxPool2d(grid)(block)]
    expected = torch.cat([*expected, by_hand], 1)
    torch.testing.assert_close(backbone.layers(x), expected)
    assert tuple(expected.shape[1:]) == backbone.output_shape == (2 * 128 + 2 * 256 + 512, grid, grid)


def test_pooling_where_the_grid_is_half_the_size_is_that_of_whole_windows():
    features = load_backbone(BackboneSettings(cut=17, input_size=32, grid=2)).layers
    x = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0))
    plain = load_backbone(BackboneSettings(cut=17, input_size=32)).layers(x)
    expected = torch.cat([nn.functional.avg_pool2d(plain, 2), nn.functional.max_pool2d(plain, 2)], 1)
    torch.testing.assert_close(features(x), expected)


def test_gradients_flow_to_the_input_through_every_stacked_output():
    backbone = load_backbone(BackboneSettings(cut=24, input_size=32, stacked=(17,)))
    x = backbone.to_input(np.full((1, 28, 28), 90, np.uint8)).requires_grad_(True)
    for channels in (slice(0, 256), slice(256, 512), slice(512, 1024)):
        (gradient,) = torch.autograd.grad(backbone.layers(x)[:, channels].sum(), x)
        assert gradient.abs().max() > 0


def test_a_part_of_the_stacked_layers_is_a_sequence_without_stacking():
    layers = load_backbone(BackboneSettings(cut=24, input_size=32, stacked=(17,))).layers
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(layers[17:](layers[:17](x)), layers(x)[:, 512:])


def test_double_precision_by_default_changes_nothing():
    settings = BackboneSettings(cut=24, input_size=32, stacked=(17,))
    try:
        torch.set_default_dtype(torch.float64)
        backbone = load_backbone(settings)
        assert backbone.output_shape == (1024, 2, 2)
        model = assemble(backbone, nn.Sequential(nn.Linear(4096, 10, dtype=torch.float32)))
        assert model(backbone.to_input(np.zeros((1, 28, 28), np.uint8))).dtype == torch.float32
        assert describe_layers(model, 32)["output"].iloc[-1] == "10"
    finally:
        torch.set_default_dtype(torch.float32)


def test_input_is_grey_copied_to_rgb_less_the_mean_of_the_release(backbone):
    x = backbone.to_input(np.full((2, 28, 28), 200, np.uint8))
    assert x.shape == (2, 3, 32, 32)
    expected = torch.tensor([200 - 123.68, 200 - 116.779, 200 - 103.939]).view(1, 3, 1, 1).expand_as(x)
    torch.testing.assert_close(x, expected)


def test_input_of_the_embedded_weights_is_torchvisions_transform_up_to_rounding_of_the_mean(backbone):
    image = torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    transform = vgg16.torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.transforms(crop_size=32, resize_size=32)
    theirs = transform(image[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(backbone.to_input(image.numpy()), theirs, atol=0.7, rtol=0)


def test_gradient_flows_through_the_input_of_a_tensor(backbone):
    images = torch.full((1, 28, 28), 100.0, requires_grad=True)
    backbone.to_input(images).sum().backward()
    assert (images.grad > 0).all()


@pytest.mark.parametrize("images", [np.zeros((1, 28, 28), np.float32), np.zeros((28, 28), np.uint8)])
def test_images_of_another_type_or_shape_are_refused(backbone, images):
    with pytest.raises(ValueError, match="images must"):
        backbone.to_input(images)


def test_backbone_and_head_together_are_torchvisions_vgg_with_the_head_as_its_classifier(backbone):
    head = nn.Linear(2048, 10)
    model = assemble(backbone, head)
    assert isinstance(model, vgg16.VGG)
    x = backbone.to_input(np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8))
    torch.testing.assert_close(model(x), head(backbone.layers(x).flatten(1)))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}


def test_backbone_equals_torchvisions_own_model_with_the_same_weights(backbone):
    reference = vgg16.torchvision.models.vgg16(init_weights=False).features[:30]
    state = {name: torch.from_numpy(array).float() for name, array in data_vgg16.load_vgg16_features().items()}
    reference.load_state_dict(state)
    x = backbone.to_input(np.random.default_rng(1).integers(0, 256, (2, 28, 28), np.uint8))
    torch.testing.assert_close(backbone.layers(x), reference(x))


def test_layer_table_says_what_is_stacked():
    backbone = load_backbone(BackboneSettings(cut=24, input_size=32, stacked=(17,)))
    table = describe_layers(assemble(backbone, nn.Sequential(nn.Linear(4096, 10))), 32)
    (row,) = table[table["layer"] == "stack"].to_dict("records")
    assert row["kind"] == "mean and max pooling, stacking of features.16, features.23"
    assert (row["output"], row["parameters"]) == ("1024×2×2", 0)
    assert table.iloc[24]["layer"] == "stack"


def test_layer_table_names_every_layer_with_its_parameters(backbone):
    head = nn.Sequential(
        nn.Dropout(0.3), nn.Linear(2048, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)
    )
    model = assemble(backbone, head)
    table = describe_layers(model, 32)
    used = table[table["trained"] != "left out"]
    assert len(table) == 31 + 5
    assert table.loc[table["trained"] == "left out", "layer"].tolist() == ["features.30"]
    assert used["parameters"].sum() == sum(p.numel() for p in model.parameters())
    first = table.iloc[0]
    assert (first["kind"], first["units"], first["kernel size"], first["stride"], first["padding"]) == (
        "convolution",
        64,
        "3×3",
        1,
        1,
    )
    pooling = table.iloc[4]
    assert (pooling["kind"], pooling["kernel size"], pooling["stride"], pooling["output"]) == (
        "max pooling",
        "2×2",
        2,
        "64×16×16",
    )
    assert set(table.loc[table["kind"] == "convolution", "trained"]) == {"frozen"}
    assert set(table.loc[table["kind"] == "dense", "trained"]) == {"trained"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weights": "IMAGENET"},
            "weights must be one of embedded, IMAGENET1K_FEATURES, IMAGENET1K_V1; got 'IMAGENET'",
        ),
        ({"cut": 0}, "cut must be an integer from 1 to 31; got 0"),
        ({"cut": 32}, "cut must be an integer from 1 to 31; got 32"),
        ({"cut": True}, "cut must be an integer"),
        ({"input_size": 31}, "input_size must be an integer from 32 to 1024; got 31"),
        ({"input_size": 64.0}, "input_size must be an integer"),
        ({"stacked": 17}, "stacked must be a sequence of integers; got 17"),
        ({"stacked": (16,)}, r"stacked\[0\] must be one of \[5, 10, 17, 24\]; got 16"),
        ({"stacked": (24,), "cut": 24}, r"stacked\[0\] must be one of \[5, 10, 17\]; got 24"),
        ({"stacked": (17, 10)}, r"stacked\[1\] must be one of \[24\]; got 10"),
        ({"grid": -1}, "grid must be an integer from 0 to 224; got -1"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused_with_name_value_and_range(settings, message):
    with pytest.raises(ValueError, match=message):
        BackboneSettings(**settings)


def test_altered_weight_file_is_refused(monkeypatch, tmp_path):
    content = bytearray(data_vgg16.FILE.read_bytes())
    content[-1] ^= 1
    altered = tmp_path / "vgg16.safetensors"
    altered.write_bytes(content)
    monkeypatch.setattr(data_vgg16, "FILE", altered)
    with pytest.raises(DataError, match=r"vgg16_features\.safetensors is not the file that this project ships"):
        load_backbone(SMALL)


def test_missing_weight_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(data_vgg16, "FILE", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"found: *missing"):
        load_backbone(SMALL)


def test_weights_that_do_not_fit_the_architecture_are_refused(monkeypatch, tmp_path):
    arrays = dict(data_vgg16.load_vgg16_features())
    arrays["0.weight"] = arrays["0.weight"][:32]
    content = save(arrays)
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    monkeypatch.setattr(data_vgg16, "FILE", path)
    monkeypatch.setattr(data_vgg16, "CHECKSUM", hashlib.sha256(content).hexdigest())
    with pytest.raises(WeightsError, match="must be those of VGG16's features; 'embedded' does not fit"):
        load_backbone(SMALL)


def downloaded(monkeypatch, get_state_dict):
    monkeypatch.setattr(vgg16.torchvision.models.VGG16_Weights, "get_state_dict", get_state_dict)


def test_without_a_network_the_error_names_the_embedded_weights(monkeypatch, capfd):
    def fail(self, **_):
        raise OSError("no route to host")

    downloaded(monkeypatch, fail)
    with pytest.raises(
        WeightsError, match=r"'IMAGENET1K_V1' could not be downloaded.*weights='embedded' needs no network"
    ):
        load_backbone(BackboneSettings("IMAGENET1K_V1"))
    assert capfd.readouterr().err == ""


def test_downloaded_weights_are_checked_against_their_hash_and_come_with_their_own_normalisation(monkeypatch):
    asked = {}

    def give(self, **kwargs):
        asked.update(kwargs)
        state = {f"features.{k}": torch.from_numpy(v).float() for k, v in data_vgg16.load_vgg16_features().items()}
        return state | {"classifier.0.bias": torch.zeros(1)}

    downloaded(monkeypatch, give)
    backbone = load_backbone(BackboneSettings("IMAGENET1K_V1", 30, 32))
    assert asked["check_hash"] is True
    white = backbone.to_input(np.full((1, 28, 28), 255, np.uint8))[0, :, 0, 0]
    torch.testing.assert_close(white, (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))
