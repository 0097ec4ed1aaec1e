"""Activation maximisation without and with regularisation."""

import re

import numpy as np
import pytest
import torch

from book.experiments.views.activation_maximisation import (
    RegularisedSettings,
    UnregularisedSettings,
    from_spectrum,
    maximise_regularised,
    maximise_unregularised,
    mean_frequency,
    random_image,
    shift_and_scale,
    total_variation,
)
from book.experiments.views.hooks import Target, activations
from tests.small_vgg import CLASS, CONVOLUTIONS, FILTER, SIZE, start


def test_both_forms_of_ascent_raise_the_activation_in_every_layer(pretrained):
    backbone, probe = pretrained
    targets = [Target(layer, 5) for layer in CONVOLUTIONS]
    images = start(len(targets))
    unregularised = maximise_unregularised(probe, backbone, targets, images, UnregularisedSettings(num_steps=4))
    assert (unregularised.reached > unregularised.start).all()
    regularised = maximise_regularised(probe, backbone, targets, RegularisedSettings(num_steps=12), size=SIZE)
    assert (regularised.reached > regularised.start).all()


def test_both_forms_of_ascent_raise_the_logit_of_every_class(pretrained):
    backbone, probe = pretrained
    targets = [Target(None, label) for label in range(10)]
    plain = maximise_unregularised(probe, backbone, targets, start(10), UnregularisedSettings(num_steps=5))
    assert (plain.reached > plain.start).all()
    robust = maximise_regularised(probe, backbone, targets, RegularisedSettings(num_steps=12), size=SIZE)
    assert (robust.reached > robust.start).all()


def test_the_activation_of_an_inactive_unit_rises(probe, backbone):
    flat = np.full((1, SIZE, SIZE), 127, np.uint8)
    of_layer = probe.features[:18](backbone.to_input(flat))[0].amax(dim=(1, 2))
    target = Target(17, int(of_layer.argmin()))
    assert of_layer.min() < 0  # nothing passes its ReLU
    raised = maximise_unregularised(
        probe, backbone, [target], flat, UnregularisedSettings(num_steps=10, learning_rate=0.01)
    )
    assert raised.reached > raised.start


def test_a_batch_gives_the_images_that_its_targets_give_alone(probe, backbone):
    targets, images = [CLASS, FILTER, Target(2, 1)], start(3)
    together = maximise_unregularised(probe, backbone, targets, images, UnregularisedSettings(num_steps=3))
    for i, target in enumerate(targets):
        alone = maximise_unregularised(probe, backbone, [target], images[i : i + 1], UnregularisedSettings(num_steps=3))
        assert np.abs(together.images[i].astype(int) - alone.images[0]).mean() < 1
        assert together.reached[i] == pytest.approx(alone.reached[0], rel=1e-2)


def test_a_seed_gives_the_same_image(probe, backbone):
    def optimised(seed):
        return maximise_regularised(
            probe, backbone, [FILTER], RegularisedSettings(num_steps=3, seed=seed), size=SIZE
        ).images

    np.testing.assert_array_equal(optimised(1), optimised(1))
    assert (optimised(1) != optimised(2)).any()
    np.testing.assert_array_equal(random_image(SIZE, 3), random_image(SIZE, 3))
    assert (random_image(SIZE, 3) != random_image(SIZE, 4)).any()


def test_random_images_are_integers_of_the_whole_range():
    image = random_image(64, 0, 150, 180)
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (150, 180)


def test_grey_stays_grey_and_colour_is_free(probe, backbone):
    plain = UnregularisedSettings(num_steps=2)
    assert maximise_unregularised(probe, backbone, [CLASS], start(), plain).images.shape == (1, SIZE, SIZE)
    coloured = maximise_unregularised(probe, backbone, [CLASS], start(channels=3), plain).images
    assert coloured.shape == (1, SIZE, SIZE, 3)
    settings = RegularisedSettings(num_steps=2)
    assert maximise_regularised(probe, backbone, [CLASS], settings, size=SIZE).images.shape == (1, SIZE, SIZE)
    optimised = maximise_regularised(probe, backbone, [CLASS], settings, size=SIZE, channels=3).images
    assert np.ptp(optimised.astype(int), axis=3).max() > 0


def test_what_is_shown_has_the_activation_that_is_reported(probe, backbone):
    raised = maximise_unregularised(probe, backbone, [FILTER], start(), UnregularisedSettings(num_steps=30))
    assert raised.outside > 0
    shown = activations(probe, backbone.to_input(raised.images), [FILTER])
    assert raised.shown[0] == pytest.approx(float(shown[0]), rel=1e-3)
    assert raised.shown < raised.reached


def test_the_first_step_without_regularisation_is_adams(probe, backbone):
    """Adam's first step is the rate times the gradient's sign: 0.1 times 57.63 grey levels."""
    flat = np.full((1, SIZE, SIZE), 127, np.uint8)
    x = torch.from_numpy(flat).float().requires_grad_()
    activations(probe, backbone.to_input(x), [FILTER]).sum().backward()
    moved = (
        maximise_unregularised(probe, backbone, [FILTER], flat, UnregularisedSettings(num_steps=1)).images.astype(float)
        - 127
    )
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
        maximise_unregularised(probe, backbone, [target], start(), UnregularisedSettings())


def test_wrong_shapes_are_refused(probe, backbone):
    with pytest.raises(ValueError, match=r"start must be uint8 of shape .* got 'float64 of shape \(1, 32, 32\)'"):
        maximise_unregularised(probe, backbone, [CLASS], start().astype(float), UnregularisedSettings())
    with pytest.raises(ValueError, match=r"start must be .* got 'uint8 of shape \(1, 32, 32, 1\)'"):
        maximise_unregularised(probe, backbone, [CLASS], start()[..., None], UnregularisedSettings())
    with pytest.raises(ValueError, match=r"channels must be 1 \(grey\) or 3 \(colour\); got 2"):
        maximise_regularised(probe, backbone, [CLASS], RegularisedSettings(), size=SIZE, channels=2)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (UnregularisedSettings, "num_steps", 0),
        (UnregularisedSettings, "num_steps", True),
        (UnregularisedSettings, "learning_rate", "0.1"),
        (UnregularisedSettings, "learning_rate", float("inf")),
        (UnregularisedSettings, "learning_rate", True),
        (UnregularisedSettings, "weight_decay", float("nan")),
        (RegularisedSettings, "num_steps", 1.5),
        (RegularisedSettings, "learning_rate", 0),
        (RegularisedSettings, "jitter", 1),
        (RegularisedSettings, "scale", "0.1"),
        (RegularisedSettings, "total_variation", float("inf")),
        (RegularisedSettings, "seed", "0"),
        (RegularisedSettings, "seed", -1),
    ],
)
def test_hyperparameters_outside_their_range_are_refused(settings, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*; got {re.escape(repr(value))}$"):
        settings(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "0"}, "seed must be an integer at least 0; got '0'"),
        ({"size": True}, "size must be an integer at least 1; got True"),
        ({"low": 10, "high": 300}, "high must be an integer from 10 to 255; got 300"),
        ({"low": 10, "high": 9}, "high must be an integer from 10 to 255; got 9"),
        ({"low": -1}, "low must be an integer from 0 to 255; got -1"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colour\); got 2"),
    ],
)
def test_a_random_image_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_image(**{"size": SIZE, "seed": 0, **arguments})
