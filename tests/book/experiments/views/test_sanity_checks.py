"""Cascading randomisation, deletion and insertion, and measures of similarity of maps."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from book.experiments.vgg.backbone import assemble
from book.experiments.vgg.heads import HeadSettings, new_head
from book.experiments.views.figures import randomisation_diagram
from book.experiments.views.sanity_checks import (
    cascading_randomisation,
    deletion_and_insertion,
    per_pixel,
    rank_correlation,
    structural_similarity,
)


def test_the_cascade_changes_the_head_first_and_the_first_block_last(probe):
    changed, names = {}, []
    for name, model in cascading_randomisation(probe, 0):
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
    once, again = (
        [model.features[0].weight.clone() for _, model in cascading_randomisation(probe, 3)][-1] for _ in range(2)
    )
    assert torch.equal(once, again)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 3, 6, 6)).astype(float)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected)


def test_zeros_shared_by_two_maps_raise_their_rank_correlation_and_a_mask_leaves_them_out():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 20, 20)) + 1
    garment = np.zeros((1, 20, 20), dtype=bool)
    garment[:, 5:15, 5:15] = True
    a, b = a * garment, b * garment
    assert rank_correlation(a, b)[0] > 0.7
    assert abs(rank_correlation(a, b, garment)[0]) < 0.3
    expected = spearmanr(a[garment], b[garment]).statistic
    assert rank_correlation(a, b, garment)[0] == pytest.approx(expected)
    assert structural_similarity(a, b, garment)[0] < structural_similarity(a, b)[0]


def test_a_masked_similarity_does_not_depend_on_pixels_far_from_the_mask():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 40, 40))
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[:, :8, :8] = True
    other = b.copy()
    other[:, 20:] = 0
    np.testing.assert_allclose(structural_similarity(a, b, mask), structural_similarity(a, other, mask))


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
    rankings, done = {"best": relevance, "worst": -relevance}, []
    both = deletion_and_insertion(model, backbone, images, [1] * 4, rankings, num_steps=4, seed=0, advance=done.append)
    curves, worst = both["best"], both["worst"]
    assert done == [1, 1]
    np.testing.assert_allclose(curves.fraction, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curves.deletion[:, 0], curves.insertion[:, -1])
    np.testing.assert_allclose(curves.deletion[:, -1], curves.insertion[:, 0])
    assert (np.diff(curves.deletion) <= 1e-6).all() and (np.diff(curves.insertion) >= -1e-6).all()
    for best_area, worst_area, better in zip(curves.areas(), worst.areas(), (np.less, np.greater), strict=True):
        assert better(best_area, worst_area).all()


def test_deletion_refuses_maps_of_another_shape(backbone, images):
    with pytest.raises(ValueError, match=r"relevance must be of the shape of images, \(4, 28, 28\); got \(4, 32, 32\)"):
        deletion_and_insertion(
            _Brightness(), backbone, images, [1] * 4, {"a": np.zeros((4, 32, 32))}, num_steps=2, seed=0
        )


class _Brightness(nn.Module):
    """Gives class 1 a higher probability for a brighter image."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(2, 2)

    def forward(self, inputs):
        brightness = inputs.mean(dim=(1, 2, 3)) / 50
        return torch.stack([torch.zeros_like(brightness), brightness], dim=1)


def test_maps_are_averaged_over_the_pixels_that_came_from_one():
    maps = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_allclose(per_pixel(maps, 2), [[[2.5, 4.5], [10.5, 12.5]]])


@pytest.mark.parametrize(("name", "value"), [("num_steps", 0), ("num_steps", 2.0), ("seed", "0"), ("seed", -1)])
def test_deletion_refuses_what_is_no_number_of_steps_or_seed(name, value, backbone, images):
    arguments = {"num_steps": 2, "seed": 0, name: value}
    with pytest.raises(ValueError, match=f"{name} must be an integer at least .; got {value!r}"):
        deletion_and_insertion(_Brightness(), backbone, images, [1] * 4, {"a": images.astype(float)}, **arguments)


def test_a_constant_map_correlates_with_nothing_and_equals_itself():
    zeros = np.zeros((2, 3, 3))
    assert rank_correlation(zeros, np.random.default_rng(0).random((2, 3, 3))).tolist() == [0, 0]
    assert structural_similarity(zeros, zeros).tolist() == [1, 1]


def test_normalisation_of_a_random_head_does_nothing(backbone):
    head = new_head(backbone.output_shape, HeadSettings(bottleneck=8, hidden=(16,)))
    for module in head.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean += 1
            module.weight.data *= 2
    model = assemble(backbone, head.requires_grad_(False).eval())
    (_, _), (_, randomised), *_ = cascading_randomisation(model, 0)
    norms = [one for one in randomised.classifier.modules() if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 2
    for norm in norms:
        assert (norm.running_mean == 0).all() and (norm.weight == 1).all()


def test_the_diagram_names_every_part_and_has_a_random_one_more_a_stage():
    stages = ["trained", "head", "+ conv2", "+ conv1"]
    figure = randomisation_diagram(stages)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("random") == 1 + 2 + 3
    assert [texts.count(part) for part in ("conv1", "conv2")] == [3, 2]
    plt.close(figure)
