"""Activation maximisation, saliency, and the checks on it: on VGG-16 with an eighth of its filters, at random."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from scipy.stats import spearmanr
from torch import nn

from book.experiments.vgg.backbone import Backbone, BackboneSettings, assemble, load_backbone, torchvision
from book.experiments.vgg.heads import HeadSettings, new_head
from book.experiments.views.activation_maximisation import (
    PlainSettings,
    RobustSettings,
    from_spectrum,
    maximise_plain,
    maximise_robustly,
    mean_frequency,
    random_image,
    shift_and_scale,
    total_variation,
)
from book.experiments.views.hooks import (
    Target,
    activations,
    convolutions,
    layer_names,
    probe_of,
    recorded,
    responses,
    scan,
)
from book.experiments.views.saliency import (
    brightness_share,
    class_gradients,
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
    largest_over_channels,
    smooth_gradients,
    stretched,
    sum_over_channels,
)
from book.experiments.views.sanity_checks import (
    cascade,
    deletion_and_insertion,
    mean_with_interval,
    per_pixel,
    rank_correlation,
    structural_similarity,
)
from data import load_fashion_mnist
from data.vgg16 import RGB_MEAN

SIZE = 32
CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
FILTER, CLASS = Target(17, 5), Target(None, 3)


WIDTHS = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = torchvision.models.vgg.make_layers(WIDTHS)[:30]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    settings = BackboneSettings(cut=30, input_size=SIZE)
    return Backbone(settings, layers.eval().requires_grad_(False), RGB_MEAN, (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def model(backbone):
    """As it is loaded: with ReLUs in place."""
    head = new_head(backbone.output_shape, HeadSettings(hidden=(16,))).requires_grad_(False)
    return assemble(backbone, head)


@pytest.fixture(scope="module")
def pretrained():
    backbone = load_backbone(BackboneSettings(cut=30, input_size=SIZE))
    return backbone, probe_of(assemble(backbone, nn.Linear(2048, 10)))


@pytest.fixture(scope="module")
def probe(model):
    return probe_of(model)


@pytest.fixture(scope="module")
def images():
    return load_fashion_mnist().test.images[:4]


@pytest.fixture(scope="module")
def inputs(backbone, images):
    return backbone.to_input(images)


def start(count=1, channels=1):
    return np.stack([random_image(SIZE, seed, channels=channels) for seed in range(count)])


def hooks(model):
    return [
        hook
        for module in model.modules()
        for registry in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in registry
    ]


@pytest.fixture(autouse=True)
def _models_are_left_as_they_were(model, probe):
    before = {id(one): copy.deepcopy(one.state_dict()) for one in (model, probe)}
    yield
    for one in (model, probe):
        after = one.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before[id(one)].items())
        assert not any(module.training for module in one.modules())
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in one.parameters())
        assert hooks(one) == []


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
        maps = {response.name: response.maps for response in responses(one, inputs[:1])[0]}
        assert maps["conv1_1"].min() < 0
        np.testing.assert_array_equal(maps["relu1_1"], np.maximum(maps["conv1_1"], 0))


def test_responses_are_those_of_every_layer_with_mean_and_sparsity(probe, inputs):
    of_image = responses(probe, inputs)[2]
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
        assert len(hooks(probe)) == 1
        raise RuntimeError("in the block")
    assert hooks(probe) == []
    with pytest.raises(RuntimeError):
        responses(probe, inputs[:, :, :1, :1])
    assert hooks(probe) == []


@pytest.mark.parametrize("error_in", [guided_backpropagation, grad_cam])
def test_captums_hooks_are_gone_after_an_error(error_in, probe, inputs, monkeypatch):
    def fail(self, x):
        self.features(x)
        raise RuntimeError("in the model")

    monkeypatch.setattr(type(probe), "forward", fail)
    with pytest.raises(RuntimeError, match="in the model"):
        error_in(probe, inputs, [0, 1, 2, 3])
    assert hooks(probe) == []


def test_a_scan_gives_every_filters_mean_and_the_logits(probe, backbone, images):
    done = []
    found = scan(probe, backbone.to_input, images, done.append)
    assert sum(done) == len(images)
    np.testing.assert_allclose(found.logits, probe(backbone.to_input(images)).numpy(), rtol=1e-3, atol=1e-3)
    expected = activations(probe, backbone.to_input(images), [FILTER] * 4).numpy()
    np.testing.assert_allclose(found.means[17][:, 5], expected, rtol=1e-3, atol=1e-3)
    assert found.most_exciting(FILTER, 2).tolist() == np.argsort(-expected)[:2].tolist()


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_both_forms_raise_the_activation_in_every_layer(layer, pretrained):
    backbone, probe = pretrained
    plain = maximise_plain(probe, backbone, [Target(layer, 5)], start(), PlainSettings(num_steps=4))
    assert plain.reached > plain.start
    robust = maximise_robustly(probe, backbone, [Target(layer, 5)], RobustSettings(num_steps=12), size=SIZE)
    assert robust.reached > robust.start


def test_both_forms_raise_the_logit_of_every_class(pretrained):
    backbone, probe = pretrained
    targets = [Target(None, label) for label in range(10)]
    plain = maximise_plain(probe, backbone, targets, start(10), PlainSettings(num_steps=5))
    assert (plain.reached > plain.start).all()
    robust = maximise_robustly(probe, backbone, targets, RobustSettings(num_steps=12), size=SIZE)
    assert (robust.reached > robust.start).all()


def test_a_unit_that_is_off_still_rises(probe, backbone):
    flat = np.full((1, SIZE, SIZE), 127, np.uint8)
    of_layer = probe.features[:18](backbone.to_input(flat))[0].amax(dim=(1, 2))
    target = Target(17, int(of_layer.argmin()))
    assert of_layer.min() < 0  # nothing passes its ReLU
    raised = maximise_plain(probe, backbone, [target], flat, PlainSettings(num_steps=10, learning_rate=0.01))
    assert raised.reached > raised.start


def test_a_batch_gives_the_images_that_its_targets_give_alone(probe, backbone):
    targets, images = [CLASS, FILTER, Target(2, 1)], start(3)
    together = maximise_plain(probe, backbone, targets, images, PlainSettings(num_steps=3))
    for i, target in enumerate(targets):
        alone = maximise_plain(probe, backbone, [target], images[i : i + 1], PlainSettings(num_steps=3))
        assert np.abs(together.images[i].astype(int) - alone.images[0]).mean() < 1
        assert together.reached[i] == pytest.approx(alone.reached[0], rel=1e-2)


def test_a_seed_gives_the_same_image(probe, backbone):
    def grown(seed):
        return maximise_robustly(probe, backbone, [FILTER], RobustSettings(num_steps=3, seed=seed), size=SIZE).images

    np.testing.assert_array_equal(grown(1), grown(1))
    assert (grown(1) != grown(2)).any()
    np.testing.assert_array_equal(random_image(SIZE, 3), random_image(SIZE, 3))
    assert (random_image(SIZE, 3) != random_image(SIZE, 4)).any()


def test_random_images_are_integers_of_the_whole_range():
    image = random_image(64, 0, 150, 180)
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (150, 180)
    with pytest.raises(ValueError, match="low and high must be in order and from 0 to 255; got 10 and 300"):
        random_image(SIZE, 0, 10, 300)


def test_grey_stays_grey_and_colour_is_free(probe, backbone):
    plain = PlainSettings(num_steps=2)
    assert maximise_plain(probe, backbone, [CLASS], start(), plain).images.shape == (1, SIZE, SIZE)
    coloured = maximise_plain(probe, backbone, [CLASS], start(channels=3), plain).images
    assert coloured.shape == (1, SIZE, SIZE, 3)
    settings = RobustSettings(num_steps=2)
    assert maximise_robustly(probe, backbone, [CLASS], settings, size=SIZE).images.shape == (1, SIZE, SIZE)
    grown = maximise_robustly(probe, backbone, [CLASS], settings, size=SIZE, channels=3).images
    assert np.ptp(grown.astype(int), axis=3).max() > 0


def test_what_is_shown_has_the_activation_that_is_reported(probe, backbone):
    raised = maximise_plain(probe, backbone, [FILTER], start(), PlainSettings(num_steps=30))
    assert raised.outside > 0
    shown = activations(probe, backbone.to_input(raised.images), [FILTER])
    assert raised.shown[0] == pytest.approx(float(shown[0]), rel=1e-3)
    assert raised.shown < raised.reached


def test_the_first_step_of_the_plain_form_is_adams(probe, backbone):
    """Adam's first step is the rate times the gradient's sign: 0.1 times 57.63 grey levels."""
    flat = np.full((1, SIZE, SIZE), 127, np.uint8)
    x = torch.from_numpy(flat).float().requires_grad_()
    activations(probe, backbone.to_input(x), [FILTER]).sum().backward()
    moved = maximise_plain(probe, backbone, [FILTER], flat, PlainSettings(num_steps=1)).images.astype(float) - 127
    strong = x.grad.abs().numpy() > 1e-2
    np.testing.assert_allclose(moved[strong], (5.763 * x.grad.sign().numpy())[strong], atol=0.51)


def test_a_grey_spectrum_is_the_colour_one_without_colour():
    coefficients = torch.view_as_complex(torch.randn(2, 3, SIZE, SIZE // 2 + 1, 2))
    grey = from_spectrum(coefficients[:, :1], SIZE)
    coefficients[:, 1:] = 0
    torch.testing.assert_close(from_spectrum(coefficients, SIZE), grey.expand(-1, 3, -1, -1))


def test_amplitude_falls_as_one_over_the_frequency():
    ones = torch.ones(1, 1, SIZE, SIZE // 2 + 1, dtype=torch.complex64)
    amplitude = torch.fft.fft2(from_spectrum(ones, SIZE)).abs()[0, 0]
    np.testing.assert_allclose((amplitude[0, 1] / amplitude[0, [2, 4, 8]]).numpy(), [2, 4, 8], rtol=1e-4)


def test_shifting_and_scaling_by_nothing_changes_nothing():
    images = torch.rand(2, 1, SIZE, SIZE)
    torch.testing.assert_close(shift_and_scale(images, 0, 0), images, atol=1e-5, rtol=0)
    moved = shift_and_scale(images, 0.2, 0.1, torch.Generator().manual_seed(0))
    assert (moved - images).abs().max() > 0.1
    assert moved.min() >= 0 and moved.max() <= 1


def test_total_variation_and_mean_frequency_of_stripes():
    stripes = np.tile([0.0, 1.0], (2, SIZE, SIZE // 2))
    assert total_variation(torch.from_numpy(stripes)[:, None]).tolist() == [1, 1]
    np.testing.assert_allclose(mean_frequency(stripes), 0.5)
    np.testing.assert_allclose(mean_frequency(np.tile(np.sin(np.arange(SIZE) * np.pi / 4), (1, SIZE, 1))), 1 / 8)
    assert mean_frequency(np.ones((1, 8, 8))).tolist() == [0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(1, 0), r"cnn_layer must be .* one of \[0, 2, 5, .*28\]; got 1"),
        (Target(31, 0), r"cnn_layer must be .*; got 31"),
        (Target(0, 8), "filter_pos must be an integer from 0 to 7; got 8"),
        (Target(0, -1), "filter_pos must be an integer from 0 to 7; got -1"),
        (Target(None, 10), "class must be an integer from 0 to 9; got 10"),
    ],
)
def test_a_target_that_does_not_exist_is_refused(target, message, probe, backbone, inputs):
    with pytest.raises(ValueError, match=message):
        activations(probe, inputs[:1], [target])
    with pytest.raises(ValueError, match=message):
        maximise_plain(probe, backbone, [target], start(), PlainSettings())


def test_wrong_shapes_and_settings_are_refused(probe, backbone, inputs):
    with pytest.raises(ValueError, match=r"inputs must have shape \(n, 3, size, size\).*got \(4, 1, 32, 32\)"):
        class_gradients(probe, inputs[:, :1], [0] * 4)
    with pytest.raises(ValueError, match=r"start must be uint8 of shape .* got float64, \(1, 32, 32\)"):
        maximise_plain(probe, backbone, [CLASS], start().astype(float), PlainSettings())
    with pytest.raises(ValueError, match=r"start must be .* got uint8, \(1, 32, 32, 1\)"):
        maximise_plain(probe, backbone, [CLASS], start()[..., None], PlainSettings())
    with pytest.raises(ValueError, match=r"channels must be 1 \(grey\) or 3 \(colour\); got 2"):
        maximise_robustly(probe, backbone, [CLASS], RobustSettings(), size=SIZE, channels=2)
    with pytest.raises(ValueError, match=r"targets must be as many as inputs \(4\); got 1"):
        activations(probe, inputs, [CLASS])
    with pytest.raises(ValueError, match=r"classes must be as many as inputs \(4\); got 1"):
        class_gradients(probe, inputs, [0])
    with pytest.raises(ValueError, match="class must be an integer from 0 to 9; got 10"):
        class_gradients(probe, inputs, [0, 1, 2, 10])
    with pytest.raises(ValueError, match="num_steps must be an integer of at least 1; got 0"):
        PlainSettings(num_steps=0)
    with pytest.raises(ValueError, match="jitter must be a number from 0 to less than 1; got 1"):
        RobustSettings(jitter=1)
    training = copy.deepcopy(probe).train()
    with pytest.raises(ValueError, match="model must be in evaluation mode"):
        class_gradients(training, inputs, [0] * 4)


def test_our_gradients_are_captums(probe, inputs):
    classes = [3, 1, 4, 1]
    ours = class_gradients(probe, inputs, classes)
    theirs = Saliency(probe).attribute(inputs.clone().requires_grad_(), target=torch.tensor(classes), abs=False)
    assert ours.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_our_gradients_are_finite_differences(probe):
    model = copy.deepcopy(probe).double()
    generator = torch.Generator().manual_seed(0)
    # Noise, because a pooling over a flat background has no gradient to compare with.
    x, direction = torch.randn(2, 1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    x = 50 * x
    gradients = class_gradients(model, x, [2])
    step = 1e-6
    with torch.no_grad():
        expected = (model(x + step * direction) - model(x - step * direction))[0, 2] / (2 * step)
    assert float((gradients * direction).sum()) == pytest.approx(float(expected), rel=1e-5)


def test_a_gradient_of_zero_is_not_divided_by():
    zeros = np.zeros((2, 3, 3))
    np.testing.assert_array_equal(stretched(zeros), zeros)
    assert brightness_share(torch.zeros(1, 3, 4, 4)).tolist() == [0]
    assert rank_correlation(zeros, np.random.default_rng(0).random((2, 3, 3))).tolist() == [0, 0]
    assert structural_similarity(zeros, zeros).tolist() == [1, 1]


def test_a_single_bright_pixel_does_not_vanish_when_stretched():
    one = np.zeros((1, 32, 32))
    one[0, 3, 3] = -5
    assert stretched(one).min() == -1


def test_reductions_over_the_channels():
    gradients = torch.tensor([1.0, -3.0, 2.0]).view(1, 3, 1, 1)
    assert largest_over_channels(gradients).item() == 3
    assert sum_over_channels(gradients).item() == 6
    assert brightness_share(torch.ones(1, 3, 2, 2)).item() == pytest.approx(1)
    assert brightness_share(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)).item() == 0


def test_guided_backpropagation_cuts_negative_gradients_at_every_relu(inputs):
    """Checked against a network of two layers, worked by hand."""
    backbone = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
    model = probe_of(assemble(_Layers(backbone), nn.Sequential(nn.Linear(2, 2, bias=False))))
    with torch.no_grad():
        model.features[0].weight[:] = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[..., None, None]
        model.classifier[0].weight[:] = torch.tensor([[2.0, -3.0], [0, 0]])
    x = torch.ones(1, 3, 1, 1)
    assert class_gradients(model, x, [0]).flatten().tolist() == [2, -3, 0]
    assert guided_backpropagation(model, x, [0]).flatten().tolist() == [2, 0, 0]


class _Layers:
    def __init__(self, layers):
        self.layers = layers


def test_smooth_gradients_without_noise_are_gradients_and_a_seed_repeats_them(probe, inputs):
    classes = [0, 1, 2, 3]
    plain = class_gradients(probe, inputs, classes)
    without = smooth_gradients(probe, inputs, classes, 2, 0.0, 0)
    torch.testing.assert_close(without, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))
    state = torch.get_rng_state()
    once, again = (smooth_gradients(probe, inputs, classes, 3, 0.1, 7) for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_integrated_gradients_add_up_to_the_rise_of_the_logit_and_the_gap(probe, backbone, images, inputs):
    black = backbone.to_input(np.zeros((1, 28, 28), np.uint8))
    found = integrated_gradients(probe, inputs, [0, 1, 2, 3], black, 20)
    torch.testing.assert_close(found.attributions.sum(dim=(1, 2, 3)), found.rise + found.gap, rtol=1e-3, atol=1e-3)
    unchanged = (inputs == black).all(dim=1)
    assert found.attributions.sum(dim=1)[unchanged].abs().max() == 0


def test_grad_cam_is_the_weighted_sum_of_the_last_maps(probe, inputs):
    maps = probe.features(inputs).clone().requires_grad_()
    score = probe.classifier(maps.flatten(1))[torch.arange(4), torch.arange(4)].sum()
    weights = torch.autograd.grad(score, maps)[0].mean(dim=(2, 3), keepdim=True)
    expected = nn.functional.interpolate((weights * maps).sum(1, keepdim=True).relu(), (SIZE, SIZE), mode="bilinear")
    found, expected = grad_cam(probe, inputs, [0, 1, 2, 3]), expected[:, 0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_the_cascade_changes_the_head_first_and_the_first_block_last(probe):
    changed, names = {}, []
    for name, model in cascade(probe, 0):
        names.append(name)
        pairs = zip(probe.state_dict().items(), model.state_dict().values(), strict=True)
        changed[name] = {key.partition(".")[0] + key.split(".")[1] for (key, a), b in pairs if not torch.equal(a, b)}
    assert names == ["trained", "head", "+ conv5", "+ conv4", "+ conv3", "+ conv2", "+ conv1"]
    assert changed["trained"] == set()
    assert all(layer.startswith("classifier") for layer in changed["head"])
    of_conv5 = {layer for layer in changed["+ conv5"] if layer.startswith("features")}
    assert of_conv5 == {"features24", "features26", "features28"}
    assert len([layer for layer in changed["+ conv1"] if layer.startswith("features")]) == 13


def test_the_cascade_repeats_with_its_seed(probe):
    once, again = ([model.features[0].weight.clone() for _, model in cascade(probe, 3)][-1] for _ in range(2))
    assert torch.equal(once, again)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 3, 6, 6)).astype(float)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected)


def test_structural_similarity_is_the_published_formula_in_every_window():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 12, 12))
    window = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    padded_a, padded_b = (np.pad(one[0], 6, mode="symmetric") for one in (a, b))
    values = []
    for i, j in np.ndindex(12, 12):
        x, y = (one[i : i + 13, j : j + 13] for one in (padded_a, padded_b))
        mean_x, mean_y = (window * x).sum(), (window * y).sum()
        variance = (window * (x - mean_x) ** 2).sum() + (window * (y - mean_y) ** 2).sum()
        covariance = (window * (x - mean_x) * (y - mean_y)).sum()
        values.append((2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4))
        values[-1] /= (mean_x**2 + mean_y**2 + 1e-4) * (variance + 9e-4)
    assert structural_similarity(a, b)[0] == pytest.approx(np.mean(values))
    assert structural_similarity(a, a)[0] == pytest.approx(1)


def test_deletion_and_insertion_share_their_ends_and_take_the_best_pixels_first(backbone, images):
    model = _Brightness()
    relevance = images.astype(float)
    curves = deletion_and_insertion(model, backbone, images, [1] * 4, relevance, num_steps=4, seed=0)
    np.testing.assert_allclose(curves.share, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curves.deletion[:, 0], curves.insertion[:, -1])
    np.testing.assert_allclose(curves.deletion[:, -1], curves.insertion[:, 0])
    assert (np.diff(curves.deletion) <= 1e-6).all() and (np.diff(curves.insertion) >= -1e-6).all()
    worst = deletion_and_insertion(model, backbone, images, [1] * 4, -relevance, num_steps=4, seed=0)
    for best_area, worst_area, better in zip(curves.areas(), worst.areas(), (np.less, np.greater), strict=True):
        assert better(best_area, worst_area).all()


def test_deletion_refuses_maps_of_another_shape(backbone, images):
    with pytest.raises(
        ValueError, match=r"relevance must have the shape of images \(\(4, 28, 28\)\); got \(4, 32, 32\)"
    ):
        deletion_and_insertion(_Brightness(), backbone, images, [1] * 4, np.zeros((4, 32, 32)), num_steps=2, seed=0)


class _Brightness(nn.Module):
    """Says class 1 the surer, the brighter the image."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(2, 2)

    def forward(self, inputs):
        brightness = inputs.mean(dim=(1, 2, 3)) / 50
        return torch.stack([torch.zeros_like(brightness), brightness], dim=1)


def test_maps_are_averaged_over_the_pixels_that_came_from_one():
    maps = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_allclose(per_pixel(maps, 2), [[[2.5, 4.5], [10.5, 12.5]]])


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_with_interval(rng.normal(1, 2, 8)) for _ in range(1000)]
    assert np.mean([low <= 1 <= high for _, low, high in intervals]) == pytest.approx(0.95, abs=0.02)
    assert mean_with_interval(np.array([3.0])) == (3.0, -np.inf, np.inf)
