"""Saliency maps against Captum, finite differences and networks worked by hand."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from book.experiments.vgg.backbone import assemble
from book.experiments.views import saliency
from book.experiments.views.hooks import copy_without_inplace_relus
from book.experiments.views.saliency import (
    brightness_fraction,
    class_gradients,
    grad_cam,
    gradient_check,
    guided_backpropagation,
    integrated_gradients,
    largest_over_channels,
    scaled_by_percentile,
    smooth_gradients,
    sum_over_channels,
)
from tests.small_vgg import SIZE, hooks_of


@pytest.mark.parametrize("error_in", [guided_backpropagation, grad_cam])
def test_captums_hooks_are_gone_after_an_error(error_in, probe, inputs, monkeypatch):
    def fail(self, x):
        self.features(x)
        raise RuntimeError("in the model")

    monkeypatch.setattr(type(probe), "forward", fail)
    with pytest.raises(RuntimeError, match="in the model"):
        error_in(probe, inputs, [0, 1, 2, 3])
    assert hooks_of(probe) == []


def test_our_gradients_are_captums(probe, inputs):
    classes = [3, 1, 4, 1]
    ours = class_gradients(probe, inputs, classes)
    theirs = Saliency(probe).attribute(inputs.clone().requires_grad_(), target=torch.tensor(classes), abs=False)
    assert ours.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_our_gradients_are_finite_differences_where_no_pooling_has_a_tie(probe):
    # Noise, because max pooling over a flat background has no gradient to compare with.
    x = 50 * torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = gradient_check(probe, x, [2, 4], num_directions=3, seed=0)
    assert found.shape == (3, 2)
    assert found.max() < 1e-5


def test_the_gradient_check_finds_a_wrong_gradient_and_a_tie_in_max_pooling(probe, monkeypatch):
    x = 50 * torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with monkeypatch.context() as patched:
        patched.setattr(saliency, "class_gradients", lambda *arguments: 1.01 * class_gradients(*arguments))
        assert gradient_check(probe, x, [2], num_directions=3, seed=0).max() > 1e-3
    assert gradient_check(probe, torch.zeros_like(x), [2], num_directions=3, seed=0).max() > 1e-3


def test_a_single_bright_pixel_does_not_vanish_when_stretched():
    one = np.zeros((1, 32, 32))
    one[0, 3, 3] = -5
    assert scaled_by_percentile(one).min() == -1


def test_reductions_over_the_channels():
    gradients = torch.tensor([1.0, -3.0, 2.0]).view(1, 3, 1, 1)
    assert largest_over_channels(gradients).item() == 3
    assert sum_over_channels(gradients).item() == 6
    assert brightness_fraction(torch.ones(1, 3, 2, 2)).item() == pytest.approx(1)
    assert brightness_fraction(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)).item() == 0


def test_guided_backpropagation_cuts_negative_gradients_at_every_relu(inputs):
    """Checked against a network of two layers, worked by hand."""
    backbone = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
    model = copy_without_inplace_relus(assemble(_Layers(backbone), nn.Sequential(nn.Linear(2, 2, bias=False))))
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


def test_a_gradient_of_zero_is_not_divided_by():
    zeros = np.zeros((2, 3, 3))
    np.testing.assert_array_equal(scaled_by_percentile(zeros), zeros)
    assert brightness_fraction(torch.zeros(1, 3, 4, 4)).tolist() == [0]


def test_classes_and_inputs_that_do_not_fit_are_refused(probe, inputs):
    with pytest.raises(ValueError, match=r"inputs must be of shape \(n, 3, size, size\) .*; got \(4, 1, 32, 32\)"):
        class_gradients(probe, inputs[:, :1], [0] * 4)
    with pytest.raises(ValueError, match=r"len\(classes\) must be that of inputs, 4; got 1"):
        class_gradients(probe, inputs, [0])
    with pytest.raises(ValueError, match="class must be an integer from 0 to 9; got 10"):
        class_gradients(probe, inputs, [0, 1, 2, 10])
    with pytest.raises(ValueError, match=r"model\.training must be False, evaluation mode; got True"):
        class_gradients(copy.deepcopy(probe).train(), inputs, [0] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.1, 0), "num_samples must be an integer at least 1; got 0"),
        ((2, "0.1", 0), "noise must be a finite number at least 0; got '0.1'"),
        ((2, float("inf"), 0), "noise must be a finite number at least 0; got inf"),
        ((2, 0.1, True), "seed must be an integer at least 0; got True"),
    ],
)
def test_smooth_gradients_refuse_what_is_no_number(arguments, message, probe, inputs):
    with pytest.raises(ValueError, match=message):
        smooth_gradients(probe, inputs, [0] * 4, *arguments)


@pytest.mark.parametrize("num_steps", [0, True, "20", 2.0])
def test_integrated_gradients_refuse_what_is_no_number_of_steps(num_steps, probe, inputs):
    with pytest.raises(ValueError, match="num_steps must be an integer at least 1; got"):
        integrated_gradients(probe, inputs, [0] * 4, inputs[:1], num_steps)


@pytest.mark.parametrize("percentile", [-1, 101, "99", float("nan")])
def test_a_percentile_is_from_0_to_100(percentile):
    with pytest.raises(ValueError, match="percentile must be a finite number at least 0 and at most 100; got"):
        scaled_by_percentile(np.ones((1, 2, 2)), percentile)
