from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_1samp, ttest_ind
from scipy.stats import t as student_t
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.weightstats import DescrStatsW

from book.experiments.statistics.seeds import (
    accuracy_over_seeds,
    compare_all_pairs,
    compare_each,
    compare_with_best_over_seeds,
    difference_over_seeds,
)


def crossed_outcomes(rng, accuracies, seeds=5, n=400, seed_sd=0.02, image_sd=1.0):
    """Draw from a model with random seeds and random images; images are as difficult for every model."""
    difficulty = rng.normal(0, image_sd, n)
    results = []
    for accuracy in accuracies:
        # A normal score with total variance 1 + image_sd^2 is above its threshold with the wanted probability.
        spread = np.sqrt(1 + image_sd**2)
        threshold = -spread * norm.ppf(accuracy + rng.normal(0, seed_sd, (seeds, 1)))
        results.append(rng.normal(difficulty, 1, (seeds, n)) > threshold)
    return results


def with_accuracies(counts, n):
    return np.arange(n) < np.array(counts)[:, None]


@pytest.mark.parametrize("seed_sd", [0.0, 0.02])
def test_interval_of_the_difference_covers_it_about_as_often_as_it_says(seed_sd):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        low, high = difference_over_seeds(*crossed_outcomes(rng, (0.85, 0.80), seed_sd=seed_sd)).difference[1:]
        covered.append(low <= 0.05 <= high)
    assert 0.935 <= np.mean(covered) <= 0.97


def test_interval_of_the_mean_of_five_seeds_covers_it_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [accuracy_over_seeds(crossed_outcomes(rng, (0.85,))[0]).mean for _ in range(1000)]
    assert 0.925 <= np.mean([low <= 0.85 <= high for _, low, high in intervals]) <= 0.97


@pytest.mark.parametrize("seeds", [2, 5])
def test_equal_models_are_called_different_no_more_often_than_the_level(seeds):
    rng = np.random.default_rng(2)
    p_values = [difference_over_seeds(*crossed_outcomes(rng, (0.85, 0.85), seeds=seeds)).p for _ in range(1000)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.065


def test_a_test_over_images_alone_would_call_equal_models_different_far_more_often():
    # What the comparison is for: with seeds that vary, a test that covers images only rejects too often.
    rng = np.random.default_rng(3)
    rejected = [
        ttest_1samp(first[0].astype(float) - second[0], 0).pvalue < 0.05
        for first, second in (crossed_outcomes(rng, (0.85, 0.85), seed_sd=0.04) for _ in range(300))
    ]
    assert np.mean(rejected) > 0.2


def test_correcting_for_all_pairs_keeps_the_rate_of_any_false_rejection():
    rng = np.random.default_rng(4)
    smallest = []
    for _ in range(200):
        pairs = combinations(crossed_outcomes(rng, [0.85] * 4, n=200), 2)
        smallest.append(min(difference_over_seeds(first, second).p for first, second in pairs))
    # Holm's method rejects anything at all if and only if it rejects the smallest, times the number of pairs.
    assert np.mean(np.array(smallest) * 6 < 0.05) <= 0.08


def test_variance_of_one_model_is_that_of_two_crossed_random_effects():
    # Written out with the mean squares of the two-way analysis of variance without replicates.
    (correct,) = crossed_outcomes(np.random.default_rng(4), (0.8,), seeds=4, n=60)
    table = pd.DataFrame(correct.astype(float)).melt(var_name="image", ignore_index=False).reset_index(names="seed")
    anova = anova_lm(ols("value ~ C(seed) + C(image)", table).fit())
    seeds, images, residual = anova["mean_sq"]
    assert images > residual
    parts = [seeds / 240, (images - residual) / 240]
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 59)
    half = student_t.ppf(0.975, degrees) * np.sqrt(sum(parts))
    mean = correct.mean()
    assert accuracy_over_seeds(correct).mean == pytest.approx((mean, mean - half, mean + half))


def test_models_that_never_agree_on_an_image_more_than_by_chance_are_compared_by_the_t_test_of_welch():
    # Each image is classified correctly by equally many runs of a model: images contribute nothing, only the runs vary.
    first = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1]], bool)
    second = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], bool)
    result = difference_over_seeds(first, second)
    welch = ttest_ind(first.mean(axis=1), second.mean(axis=1), equal_var=False)
    assert result.p == pytest.approx(welch.pvalue)
    assert result.difference[1:] == pytest.approx(tuple(welch.confidence_interval(0.95)))


def test_without_variation_over_seeds_the_comparison_is_the_paired_t_test_over_images():
    rng = np.random.default_rng(5)
    first, second = rng.random((2, 300)) < 0.8
    result = difference_over_seeds(np.tile(first, (3, 1)), np.tile(second, (3, 1)))
    paired = first.astype(float) - second
    assert result.p == pytest.approx(ttest_1samp(paired, 0).pvalue)
    assert result.difference[1:] == pytest.approx(DescrStatsW(paired).tconfint_mean())


def test_variance_of_a_difference_adds_seeds_and_images_and_subtracts_once_what_is_in_both():
    first, second = crossed_outcomes(np.random.default_rng(6), (0.9, 0.6), n=50)
    parts = [first.mean(1).var(ddof=1) / 5, second.mean(1).var(ddof=1) / 5]
    images = (first.mean(0) - second.mean(0)).var(ddof=1) / 50
    for correct in (first, second):
        residual = correct - correct.mean(1, keepdims=True) - correct.mean(0) + correct.mean()
        images -= (residual**2).sum() / (4 * 49) / 250
    assert images > 0
    parts.append(images)
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 4 + parts[2] ** 2 / 49)
    half = student_t.ppf(0.975, degrees) * np.sqrt(sum(parts))
    difference = first.mean() - second.mean()
    expected = (difference, difference - half, difference + half)
    assert difference_over_seeds(first, second).difference == pytest.approx(expected)


def test_exchanging_the_models_changes_the_sign_alone():
    first, second = crossed_outcomes(np.random.default_rng(7), (0.9, 0.7), n=50)
    (value, low, high), p = difference_over_seeds(first, second)
    assert difference_over_seeds(second, first) == ((-value, -high, -low), p)


def test_standard_deviation_over_seeds_is_that_of_a_sample():
    mean, sd = accuracy_over_seeds(with_accuracies([80, 84, 88], 100))
    assert mean.value == pytest.approx(0.84)
    assert sd == pytest.approx(0.04)


def test_models_that_never_vary_have_an_interval_of_no_width():
    all_correct, none_correct = np.ones((2, 5), bool), np.zeros((2, 5), bool)
    assert difference_over_seeds(all_correct, all_correct) == ((0, 0, 0), 1.0)
    assert difference_over_seeds(all_correct, none_correct) == ((1, 1, 1), 0.0)


def test_p_values_of_holm_are_as_computed_by_hand():
    rng = np.random.default_rng(8)
    pairs = compare_all_pairs(dict(zip("abc", crossed_outcomes(rng, (0.85, 0.83, 0.8)), strict=True)))
    smallest, middle, largest = np.sort(pairs["p"])
    expected = np.maximum.accumulate([3 * smallest, 2 * middle, largest]).clip(max=1)
    assert np.sort(pairs["p_holm"]) == pytest.approx(expected)
    assert (pairs["significant"] == (pairs["p_holm"] < 0.05)).all()
    assert pairs[["first", "second"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_ranking_is_best_first_with_the_deficit_of_each_model():
    rng = np.random.default_rng(9)
    correct = dict(zip(["low", "high", "middle"], crossed_outcomes(rng, (0.6, 0.86, 0.85), n=1000), strict=True))
    ranking = compare_with_best_over_seeds(correct)
    assert ranking["model"].tolist() == ["high", "middle", "low"]
    assert ranking["worse"].tolist() == [False, False, True]
    assert np.isnan(ranking["deficit"][0])
    last = ranking.iloc[2]
    expected = difference_over_seeds(correct["high"], correct["low"])
    assert tuple(last[["deficit", "deficit_low", "deficit_high"]]) == pytest.approx(tuple(expected.difference))
    assert (last["accuracy"], last["low"], last["high"]) == accuracy_over_seeds(correct["low"]).mean
    # The smallest one-sided p-value, times the two models that may be better.
    smallest = min(difference_over_seeds(correct[other], correct["low"]).p / 2 for other in ("high", "middle"))
    assert last["p"] == pytest.approx(2 * smallest)


def test_a_model_is_worse_than_the_best_by_the_clearest_of_the_models_above_it():
    # The most accurate one varies over its seeds so much that it shows nothing; the second shows that "c" is worse.
    n = 1000
    correct = {
        "a": with_accuracies([800, 900, 1000], n),
        "b": with_accuracies([889, 890, 891], n),
        "c": with_accuracies([859, 860, 861], n),
    }
    assert difference_over_seeds(correct["a"], correct["c"]).p > 0.2
    ranking = compare_with_best_over_seeds(correct).set_index("model")
    assert ranking["worse"].tolist() == [False, False, True]
    assert ranking["p"]["c"] == pytest.approx(difference_over_seeds(correct["b"], correct["c"]).p)


def test_the_best_model_is_seldom_called_worse_however_many_are_nearly_as_good():
    rng = np.random.default_rng(12)
    accuracies = [0.85] * 8
    called_worse = [
        compare_with_best_over_seeds(
            dict(zip("abcdefgh", crossed_outcomes(rng, accuracies, n=100), strict=True))
        ).set_index("model")["worse"]["a"]
        for _ in range(100)
    ]
    assert np.mean(called_worse) <= 0.1


def test_equal_models_are_both_among_the_best():
    same = with_accuracies([80, 84, 88], 100)
    ranking = compare_with_best_over_seeds({"a": same, "b": same.copy()})
    assert ranking["model"].tolist() == ["a", "b"]
    assert ranking["worse"].tolist() == [False, False]
    assert ranking["deficit"][1] == 0


def test_models_of_the_same_name_are_compared_and_corrected_for_the_number_of_names():
    rng = np.random.default_rng(10)
    a, b, c, d = crossed_outcomes(rng, (0.9, 0.8, 0.85, 0.84))
    table = compare_each({"relu": a, "tanh": c}, {"tanh": d, "relu": b})
    assert table["name"].tolist() == ["relu", "tanh"]
    assert table["p"].tolist() == [difference_over_seeds(a, b).p, difference_over_seeds(c, d).p]
    assert table["p_holm"][0] == pytest.approx(2 * table["p"][0])


@pytest.mark.parametrize("seeds", [0, 1])
def test_fewer_than_two_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match=rf"first must be of shape \(S, n\) with at least 2 seeds.*\({seeds}, 9\)"):
        difference_over_seeds(np.ones((seeds, 9), bool), np.ones((2, 9), bool))


def test_other_arrays_are_refused():
    right = np.ones((2, 9), bool)
    with pytest.raises(ValueError, match=r"second must be about the 9 images of first; got 8"):
        difference_over_seeds(right, right[:, :8])
    with pytest.raises(ValueError, match=r"correct must be of bool; got dtype\('float64'\)"):
        accuracy_over_seeds(np.ones((2, 9)))
    with pytest.raises(ValueError, match=r"correct must be of at least 2 models; got \['a'\]"):
        compare_all_pairs({"a": right})
    with pytest.raises(ValueError, match=r"second must be of the models \['a'\]; got \['b'\]"):
        compare_each({"a": right}, {"b": right})
    with pytest.raises(ValueError, match=r"first must be of at least 1 model; got \[\]"):
        compare_each({}, {})
    with pytest.raises(ValueError, match=r"correct must be of bool; got \[\[True, True\], \[True, False\]\]"):
        accuracy_over_seeds([[True, True], [True, False]])
