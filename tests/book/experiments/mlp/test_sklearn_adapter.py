"""The NumPy network as a scikit-learn classifier."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from book.experiments.mlp.sklearn_adapter import NeuralNetworkClassifier
from mlp_core import NeuralNetwork


@pytest.fixture(autouse=True)
def one_thread():
    """Keep BLAS to one thread: on small matrices its threads wait for each other, for minutes on a busy machine."""
    with threadpool_limits(1):
        yield


# Without a single excluded or expected failure.
@parametrize_with_checks([NeuralNetworkClassifier()])
def test_scikit_learns_check(estimator, check):
    check(estimator)


def test_scikit_learn_finds_nothing_to_fail_or_to_skip():
    script = """
        from book.experiments.mlp.sklearn_adapter import NeuralNetworkClassifier
        from sklearn.utils.estimator_checks import check_estimator

        results = check_estimator(NeuralNetworkClassifier(), on_fail=None)
        assert len(results) > 50
        print({result["check_name"]: result["status"] for result in results if result["status"] != "passed"})
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[4],
        # Without the variable, which SciPy reads when it is imported, one check would be skipped.
        env=os.environ | {"SCIPY_ARRAY_API": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "{}"


@pytest.fixture(scope="module")
def digits():
    """Scikit-learn's own 1,797 images of digits, 8x8, a quarter of them for testing."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, random_state=0, stratify=y)


def quick_classifier(**parameters):
    return NeuralNetworkClassifier(**({"hidden_layer_sizes": (32,), "num_epochs": 15, "random_state": 0} | parameters))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predicts_as_the_network_it_wraps(digits, dtype):
    X_train, X_test, y_train, _ = digits
    settings = {
        "activation": "tanh",
        "learning_rate": 0.05,
        "weight_init": "random",
        "batch_size": 50,
        "num_epochs": 4,
        "dtype": dtype,
        "max_grad_norm": 0.5,
    }
    classifier = NeuralNetworkClassifier(hidden_layer_sizes=(20, 12), random_state=3, **settings).fit(X_train, y_train)
    network = NeuralNetwork(4, [64, 20, 12, 10], seed=3, **settings).fit(X_train, y_train)
    np.testing.assert_array_equal(classifier.predict_proba(X_test), network.predict_proba(X_test))
    np.testing.assert_array_equal(classifier.predict(X_test), network.predict(X_test))
    assert classifier.network_.history_ == network.history_


def test_every_parameter_reaches_the_network():
    X, y = np.eye(6), np.array([0, 0, 1, 1, 2, 2])
    settings = {
        "activation": "sigmoid",
        "learning_rate": 0.25,
        "weight_init": "zero",
        "batch_size": 5,
        "num_epochs": 2,
        "dtype": "float32",
        "max_grad_norm": None,
    }
    network = NeuralNetworkClassifier(hidden_layer_sizes=(4, 3), random_state=11, **settings).fit(X, y).network_
    assert {name: getattr(network, name) for name in settings} == settings
    assert network.layer_sizes == [6, 4, 3, 3]
    assert network.seed == 11
    assert set(NeuralNetworkClassifier().get_params()) == set(settings) | {"hidden_layer_sizes", "random_state"}


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "linear"])
def test_defaults_learn_from_unscaled_images(activation, digits):
    X_train, X_test, y_train, y_test = digits
    classifier = NeuralNetworkClassifier(activation=activation, num_epochs=20, random_state=0)
    assert classifier.fit(X_train, y_train).score(X_test, y_test) > 0.85


def test_no_hidden_layer_is_softmax_regression(digits):
    X_train, X_test, y_train, y_test = digits
    classifier = quick_classifier(hidden_layer_sizes=()).fit(X_train / 16, y_train)
    assert classifier.network_.layer_sizes == [64, 10]
    assert classifier.score(X_test / 16, y_test) > 0.9


def test_learns_behind_a_scaler_in_a_pipeline(digits):
    X_train, X_test, y_train, y_test = digits
    pipeline = make_pipeline(StandardScaler(), quick_classifier()).fit(X_train, y_train)
    assert pipeline.score(X_test, y_test) > 0.93
    np.testing.assert_allclose(pipeline.predict_proba(X_test).sum(axis=1), 1, rtol=1e-12)
    by_hand = quick_classifier().fit(StandardScaler().fit_transform(X_train), y_train)
    np.testing.assert_allclose(
        pipeline.predict_proba(X_test),
        by_hand.predict_proba(StandardScaler().fit(X_train).transform(X_test)),
        rtol=1e-12,
    )


def test_grid_search_finds_the_rate_that_learns(digits):
    X_train, X_test, y_train, y_test = digits
    pipeline = make_pipeline(StandardScaler(), quick_classifier(num_epochs=5))
    rates = [1e-6, 0.1]
    search = GridSearchCV(pipeline, {"neuralnetworkclassifier__learning_rate": rates}, cv=3, error_score="raise")
    search.fit(X_train, y_train)
    assert search.best_params_ == {"neuralnetworkclassifier__learning_rate": 0.1}
    worse, better = search.cv_results_["mean_test_score"]
    assert better > worse + 0.3
    assert search.score(X_test, y_test) > 0.8
    assert search.best_estimator_[-1].network_.learning_rate == 0.1


def test_a_diverging_candidate_does_not_stop_a_grid_search(digits):
    X_train, _, y_train, _ = digits
    classifier = quick_classifier(activation="linear", max_grad_norm=None, num_epochs=3)
    search = GridSearchCV(classifier, {"learning_rate": [1e6, 0.001]}, cv=3, error_score=0.0)
    with pytest.warns(FitFailedWarning, match="DivergenceError"):
        search.fit(X_train, y_train)
    assert search.best_params_ == {"learning_rate": 0.001}


def test_cross_validation_in_worker_processes_gives_the_same_scores(digits):
    X_train, _, y_train, _ = digits
    classifier = quick_classifier(num_epochs=2)
    scores = [cross_val_score(classifier, X_train / 16, y_train, cv=2, n_jobs=n_jobs) for n_jobs in (1, 2)]
    np.testing.assert_allclose(scores[1], scores[0])


def test_labels_of_other_kinds_come_back_as_given():
    X = np.eye(6)
    for names in (["bag", "coat"], [-3, 70], [0.0, 1.0], [False, True]):
        y = np.array(names).repeat(3)
        classifier = quick_classifier(num_epochs=50, batch_size=2).fit(X, y)
        np.testing.assert_array_equal(classifier.classes_, names)
        np.testing.assert_array_equal(classifier.predict(X), y)
        assert classifier.predict(X).dtype == y.dtype


def test_clone_has_the_same_parameters_and_no_network(digits):
    X_train, _, y_train, _ = digits
    classifier = quick_classifier(num_epochs=1, hidden_layer_sizes=(8, 8)).fit(X_train, y_train)
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(X_train)


def weights_of(random_state):
    X, y = np.eye(6), np.arange(6) % 2
    return quick_classifier(num_epochs=1, random_state=random_state).fit(X, y).network_.weights_[0]


def test_random_state_follows_scikit_learns_conventions():
    np.testing.assert_array_equal(weights_of(5), weights_of(5))
    assert not np.array_equal(weights_of(5), weights_of(6))
    # An object is drawn from: the same start gives the same sequence of different networks.
    first, second = np.random.RandomState(0), np.random.RandomState(0)
    one, two = weights_of(first), weights_of(first)
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(weights_of(second), one)
    # None is NumPy's global generator.
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(weights_of(None), one)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"activation": "rely"}, "activation must be one of relu"),
        ({"learning_rate": -1}, "learning_rate must be a finite number greater than 0; got -1"),
        ({"hidden_layer_sizes": (0,)}, r"hidden_layer_sizes\[0\] must be an integer at least 1; got 0"),
        ({"hidden_layer_sizes": True}, r"hidden_layer_sizes\[0\] must be an integer at least 1; got True"),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes must be an integer or a sequence of integers; got None"),
        ({"hidden_layer_sizes": 2.5}, r"hidden_layer_sizes must be an integer or a sequence of integers; got 2\.5"),
        ({"hidden_layer_sizes": "8"}, "hidden_layer_sizes must be an integer or a sequence of integers; got '8'"),
        ({"hidden_layer_sizes": np.array(8)}, r"hidden_layer_sizes must be an integer or .*; got array\(8\)"),
        ({"random_state": -1}, "seed must be an integer of at least 0; got -1"),
        ({"random_state": "nonsense"}, "nonsense"),
        ({"dtype": "int"}, "dtype must be one of float32, float64; got 'int'"),
    ],
)
def test_parameters_are_checked_in_fit_and_not_before(bad, message):
    classifier = quick_classifier(**bad)
    with pytest.raises(ValueError, match=message):
        classifier.fit(np.eye(4), [0, 0, 1, 1])


def test_a_number_is_one_hidden_layer_as_in_scikit_learn(digits):
    X_train, _, y_train, _ = digits
    by_number = quick_classifier(hidden_layer_sizes=np.int64(8), num_epochs=1).fit(X_train / 16, y_train)
    in_tuple = quick_classifier(hidden_layer_sizes=(8,), num_epochs=1).fit(X_train / 16, y_train)
    assert by_number.network_.layer_sizes == in_tuple.network_.layer_sizes
    assert np.array_equal(by_number.network_.weights_[0], in_tuple.network_.weights_[0])


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32")])
def test_numpys_own_types_do_for_dtype(digits, dtype):
    X_train, _, y_train, _ = digits
    classifier = quick_classifier(dtype=dtype, num_epochs=1).fit(X_train / 16, y_train)
    assert classifier.network_.weights_[0].dtype == np.float32
