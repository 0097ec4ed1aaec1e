"""The NumPy network as a scikit-learn classifier, for ``Pipeline``, ``GridSearchCV`` and the like."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from book.experiments.checks import check_integer, check_that
from mlp_core import NeuralNetwork


class NeuralNetworkClassifier(ClassifierMixin, BaseEstimator):
    """A :class:`mlp_core.NeuralNetwork` whose first and last layer are as wide as the data ask.

    The defaults are those of the network, with three exceptions. One hidden layer, as in scikit-learn's MLPClassifier:
    the assignment's three, drawn at the scale 0.01, are still on their plateau after 100 epochs of 300 samples. Clipped
    gradients: estimators are handed data of any scale, and plain descent at 0.1 fails on pixels from 0 to 16. And
    float64: scikit-learn wants a sample's probabilities to agree within 1e-7 whatever samples come with it, which is as
    much as float32 can tell apart.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int
        Nodes of each hidden layer; a number is one layer, as in scikit-learn; ``()`` is softmax regression.
    activation, learning_rate, weight_init, batch_size, num_epochs, dtype, max_grad_norm
        See :class:`mlp_core.NeuralNetwork`.
    random_state : int, RandomState or None
        An int is the network's seed. A RandomState, or NumPy's global one for None, draws the seed at each ``fit``.

    Attributes
    ----------
    network_ : NeuralNetwork
        The trained network; it numbers the classes, ``classes_`` names them.
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only where ``X`` has names.
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        learning_rate: float = 0.1,
        weight_init: str = "normal",
        batch_size: int = 32,
        num_epochs: int = 100,
        random_state: int | np.random.RandomState | None = None,
        dtype: str | type | np.dtype = "float64",
        max_grad_norm: float | None = 5.0,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.learning_rate = learning_rate
        self.weight_init = weight_init
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.random_state = random_state
        self.dtype = dtype
        self.max_grad_norm = max_grad_norm

    def fit(self, X: Any, y: Any) -> "NeuralNetworkClassifier":
        """Train a new network.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
            Labels of any kind that scikit-learn takes for classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters or data outside their range.
        mlp_core.DivergenceError
            Where training leaves the finite numbers.
        """
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        hidden_layer_sizes = self.hidden_layer_sizes
        if isinstance(hidden_layer_sizes, numbers.Integral):
            hidden_layer_sizes = [hidden_layer_sizes]
        is_vector = isinstance(hidden_layer_sizes, np.ndarray) and hidden_layer_sizes.ndim == 1
        is_sequence = isinstance(hidden_layer_sizes, Sequence) and not isinstance(hidden_layer_sizes, str)
        what = "an integer or a sequence of integers"
        check_that(is_vector or is_sequence, "hidden_layer_sizes", what, hidden_layer_sizes)
        for i, size in enumerate(hidden_layer_sizes):
            check_integer(f"hidden_layer_sizes[{i}]", size, minimum=1)
        layer_sizes = [X.shape[1], *hidden_layer_sizes, len(self.classes_)]
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            seed = int(check_random_state(seed).randint(np.iinfo(np.int32).max))
        self.network_ = NeuralNetwork(
            len(layer_sizes),
            layer_sizes,
            self.activation,
            self.learning_rate,
            self.weight_init,
            self.batch_size,
            self.num_epochs,
            seed=seed,
            dtype=self.dtype,
            max_grad_norm=self.max_grad_norm,
        ).fit(X, labels)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each of ``classes_``, shape (n, n_classes)."""
        check_is_fitted(self)
        return self.network_.predict_proba(validate_data(self, X, reset=False))

    def predict(self, X: Any) -> np.ndarray:
        """Most probable label of each sample, shape (n,)."""
        check_is_fitted(self)
        return self.classes_[self.network_.predict(validate_data(self, X, reset=False))]
