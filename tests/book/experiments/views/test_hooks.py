"""Names of layers, activations of units, recorded feature maps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from book.constraints import read_front_matter
from book.experiments.vgg.backbone import StackedLayers, assemble
from book.experiments.views.hooks import (
    Target,
    activations,
    convolutions,
    layer_names,
    layer_outputs,
    recorded,
    scan,
)
from tests.small_vgg import CLASS, CONVOLUTIONS, FILTER, hooks_of


def test_layers_are_named_by_block_and_number(model):
    names = layer_names(model.features)
    assert names[:6] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1"]
    assert names[28:] == ["conv5_3", "relu5_3"]
    assert list(convolutions(model)) == CONVOLUTIONS


def test_an_activation_is_the_mean_of_a_map_before_its_relu_or_a_logit(probe, inputs):
    targets = [CLASS, Target(0, 7), FILTER, Target(28, 50)]
    values = activations(probe, inputs, targets)
    expected = [
        probe(inputs[:1])[0, 3],
        probe.features[:1](inputs[1:2])[0, 7].mean(),
        probe.features[:18](inputs[2:3])[0, 5].mean(),
        probe.features[:29](inputs[3:])[0, 50].mean(),
    ]
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-4, atol=1e-3)


def test_relus_in_place_change_neither_activations_nor_their_gradients(model, probe, inputs):
    assert any(layer.inplace for layer in model.features if isinstance(layer, nn.ReLU))
    assert not any(layer.inplace for layer in probe.modules() if isinstance(layer, nn.ReLU))
    targets, results = [Target(10, 1), FILTER, CLASS, Target(0, 2)], []
    # In one memory format: another order of additions can tip a pooling, and with it whole gradients.
    for one in (model, copy.deepcopy(probe).to(memory_format=torch.contiguous_format)):
        x = inputs.clone().requires_grad_()
        values = activations(one, x, targets)
        results.append((values, torch.autograd.grad(values.sum(), x)[0]))
    torch.testing.assert_close(results[0], results[1])


def test_a_recorded_convolution_keeps_its_negative_values_though_a_relu_in_place_follows(model, probe, inputs):
    for one in (model, probe):
        maps = {response.name: response.maps for response in layer_outputs(one, inputs[:1])[0]}
        assert maps["conv1_1"].min() < 0
        np.testing.assert_array_equal(maps["relu1_1"], np.maximum(maps["conv1_1"], 0))


def test_responses_are_those_of_every_layer_with_mean_and_sparsity(probe, inputs):
    of_image = layer_outputs(probe, inputs)[2]
    assert [response.name for response in of_image] == layer_names(probe.features)
    x = inputs[2:3]
    for layer, response in zip(probe.features, of_image, strict=True):
        x = layer(x)
        np.testing.assert_allclose(response.maps, x[0].numpy(), rtol=1e-3, atol=1e-2)
    last = of_image[-1]
    assert last.sparsity == pytest.approx(1 - last.positive)
    means = last.maps.mean(axis=(1, 2))
    assert means[last.strongest(3)].tolist() == sorted(means, reverse=True)[:3]


def test_hooks_are_gone_after_an_error(probe, inputs):
    with pytest.raises(RuntimeError, match="in the block"), recorded({"first": probe.features[0]}):
        assert len(hooks_of(probe)) == 1
        raise RuntimeError("in the block")
    assert hooks_of(probe) == []
    with pytest.raises(RuntimeError):
        layer_outputs(probe, inputs[:, :, :1, :1])
    assert hooks_of(probe) == []


def test_a_scan_gives_every_filters_mean_and_the_logits(probe, backbone, images):
    done = []
    found = scan(probe, backbone.to_input, images, done.append)
    assert sum(done) == len(images)
    np.testing.assert_allclose(found.logits, probe(backbone.to_input(images)).numpy(), rtol=1e-3, atol=1e-3)
    expected = activations(probe, backbone.to_input(images), [FILTER] * 4).numpy()
    np.testing.assert_allclose(found.means[17][:, 5], expected, rtol=1e-3, atol=1e-3)
    assert found.most_activating(FILTER, 2).tolist() == np.argsort(-expected)[:2].tolist()


def test_inputs_of_wrong_shape_number_or_mode_are_refused(probe, inputs):
    with pytest.raises(ValueError, match=r"inputs must be of shape \(n, 3, size, size\) .*; got \(4, 1, 32, 32\)"):
        activations(probe, inputs[:, :1], [CLASS] * 4)
    with pytest.raises(ValueError, match=r"len\(targets\) must be that of inputs, 4; got 1"):
        activations(probe, inputs, [CLASS])
    with pytest.raises(ValueError, match=r"model.training must be False, evaluation mode; got True"):
        activations(copy.deepcopy(probe).train(), inputs, [CLASS] * 4)


@pytest.mark.parametrize("count", [0, True, "9", 2.0])
def test_a_number_of_maps_or_images_is_a_positive_integer(count, probe, backbone, images):
    with pytest.raises(ValueError, match="count must be an integer at least 1; got"):
        layer_outputs(probe, backbone.to_input(images[:1]))[0][0].strongest(count)
    with pytest.raises(ValueError, match="count must be an integer at least 1; got"):
        scan(probe, backbone.to_input, images[:1]).most_activating(CLASS, count)


def test_the_chapters_table_allows_exactly_the_filters_of_vgg16(pretrained):
    _, probe = pretrained
    table = read_front_matter("convolutions")["parameters"]
    filters = {str(layer): probe.features[layer].out_channels for layer in convolutions(probe)}
    assert table["cnn_layer"]["choices"] == list(convolutions(probe))
    assert table["filter_pos"]["below"] == {"by": "cnn_layer", "values": filters}


def test_the_logit_of_a_class_counts_all_stacked_layers(probe, inputs):
    features = StackedLayers(copy.deepcopy(probe.features)[:24], stacked=(17,))
    width = features(inputs[:1]).flatten(1).shape[1]
    model = assemble(_Layers(features), nn.Linear(width, 10).requires_grad_(False)).eval()
    found = activations(model, inputs, [CLASS, FILTER, CLASS, Target(0, 2)])
    expected = model(inputs)[[0, 2], [3, 3]]
    torch.testing.assert_close(found[[0, 2]], expected, rtol=1e-4, atol=1e-3)


class _Layers:
    def __init__(self, layers):
        self.layers = layers
