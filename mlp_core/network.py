"""The neural network."""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mlp_core.activations import ACTIVATIONS, softmax
from mlp_core.initialization import WEIGHT_INITS
from mlp_core.losses import cross_entropy, cross_entropy_gradient
from mlp_core.validation import (
    as_class_indices,
    as_labels,
    as_samples,
    check_choice,
    check_integer,
    check_layer_sizes,
    check_positive,
)
from mlp_core.workspace import Workspace

EVALUATION_CHUNK = 512
"""Samples sent through the network at a time outside training; their activations stay in the processor's cache."""


class NotFittedError(ValueError, AttributeError):
    """The network has no weights yet."""


class DivergenceError(ArithmeticError):
    """Training stopped because the gradient or the loss is no longer finite.

    The epoch in which that happens is undone: ``network.weights_``, ``network.biases_`` and ``network.history_`` are
    those of the last epoch that was finished, and finite.

    Attributes
    ----------
    epoch : int
        The epoch, counted from 1, that could not be finished.
    """

    def __init__(self, message: str, epoch: int):
        super().__init__(message)
        self.epoch = epoch

    def __reduce__(self):  # so that it comes back whole from a worker process
        return type(self), (*self.args, self.epoch)


class NeuralNetwork:
    """A fully connected classifier with a softmax output, trained on the cross-entropy by mini-batch SGD.

    Parameters
    ----------
    n_layers : int
        Number of layers, input and output included; at least 2.
    layer_sizes : sequence of int
        Nodes of each layer, length ``n_layers``; the last is the number of classes.
    activation : {"relu", "sigmoid", "linear", "tanh", "softmax"}
        Activation of the hidden layers.
    learning_rate : float
    weight_init : {"zero", "random", "normal"}
        Initial weights: zeros, Uniform[-1, 1) * 0.01 or Normal(0, 1) * 0.01. Biases start at zero.
    batch_size : int
        Samples in a gradient step. The last batch of an epoch may be smaller; its gradient is its own mean.
    num_epochs : int
        Passes over the training set, each in a fresh random order.
    seed : int, optional
        Makes initial weights and shuffling repeatable. None draws from the operating system.
    dtype : {"float32", "float64"}
        Precision of weights and arithmetic; also as NumPy's type.
    max_grad_norm : float, optional
        Scale a step's gradient down to this global L2 norm where it exceeds it (Pascanu, Mikolov and Bengio, 2013).
        None is plain gradient descent.

    Attributes
    ----------
    weights_ : list of ndarray
        ``weights_[l]`` has shape (layer_sizes[l], layer_sizes[l + 1]).
    biases_ : list of ndarray
        ``biases_[l]`` has shape (layer_sizes[l + 1],).
    classes_ : ndarray
        The labels, sorted; column k of ``predict_proba`` belongs to ``classes_[k]``.
    history_ : dict of list
        One entry an epoch: ``train_loss``, ``train_accuracy`` and, with validation data, ``validation_loss`` and
        ``validation_accuracy``, all of the whole set with the weights at the epoch's end (mean cross-entropy in nats;
        fraction of correct predictions); ``gradient_norm``, a list with the L2 norm of each layer's gradient
        (weights and bias, before clipping), averaged over the epoch's steps.

    Raises
    ------
    ValueError
        For any parameter outside its range.
    """

    def __init__(
        self,
        n_layers: int,
        layer_sizes: Sequence[int],
        activation: str = "relu",
        learning_rate: float = 0.1,
        weight_init: str = "normal",
        batch_size: int = 32,
        num_epochs: int = 100,
        *,
        seed: int | None = None,
        dtype: str | type | np.dtype = "float32",
        max_grad_norm: float | None = None,
    ):
        check_layer_sizes(n_layers, layer_sizes)
        check_choice("activation", activation, ACTIVATIONS)
        check_positive("learning_rate", learning_rate)
        check_choice("weight_init", weight_init, WEIGHT_INITS)
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("num_epochs", num_epochs, minimum=1)
        if seed is not None:
            check_integer("seed", seed, minimum=0)
        if isinstance(dtype, type | np.dtype) and dtype in (np.float32, np.float64):
            dtype = np.dtype(dtype).name  # as NumPy's users write it
        check_choice("dtype", dtype, ("float32", "float64"))
        if max_grad_norm is not None:
            check_positive("max_grad_norm", max_grad_norm)
        self.n_layers = int(n_layers)
        self.layer_sizes = [int(size) for size in layer_sizes]
        self.activation = activation
        # NumPy's numbers become Python's, which compute in the precision of the arrays that they meet.
        self.learning_rate = float(learning_rate)
        self.weight_init = weight_init
        self.batch_size = int(batch_size)
        self.num_epochs = int(num_epochs)
        self.seed = None if seed is None else int(seed)
        self.dtype = dtype
        self.max_grad_norm = None if max_grad_norm is None else float(max_grad_norm)

    # Training

    def initialize(self, y: Any) -> "NeuralNetwork":
        """Draw fresh weights and forget any training.

        Parameters
        ----------
        y : array-like of int or str, shape (n,)
            Labels; each of the ``layer_sizes[-1]`` classes at least once.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the labels are no such array, or hold more or fewer classes.
        """
        return self._initialize(self._classes_of(as_labels("y", y, n_samples=np.size(y))))

    def _initialize(self, classes):
        weight_seed, shuffle_seed = np.random.SeedSequence(self.seed).spawn(2)
        draw, rng = WEIGHT_INITS[self.weight_init], np.random.default_rng(weight_seed)
        # Drawn in float64 whatever the precision, so that both precisions start from the same point.
        self.weights_ = [
            draw(rng, fan_in, fan_out).astype(self.dtype) for fan_in, fan_out in pairwise(self.layer_sizes)
        ]
        self.biases_ = [np.zeros(size, self.dtype) for size in self.layer_sizes[1:]]
        self.classes_ = classes
        self.history_ = {"train_loss": [], "train_accuracy": [], "gradient_norm": []}
        self._shuffle_rng = np.random.default_rng(shuffle_seed)
        return self

    def fit(
        self,
        X: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None = None,
        on_epoch_end: Callable[["NeuralNetwork", int], None] | None = None,
    ) -> "NeuralNetwork":
        """Train a new model.

        Parameters
        ----------
        X : array-like of shape (n, layer_sizes[0])
        y : array-like of int or str, shape (n,)
        validation_data : (X, y), optional
            Evaluated after each epoch, never trained on.
        on_epoch_end : callable, optional
            Called as ``on_epoch_end(network, epoch)`` after each epoch, counted from 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For data of the wrong shape, values that are not finite, labels unseen.
        DivergenceError
            At the first step whose gradient, or the first epoch whose loss, is not finite.
        """
        X = as_samples("X", X, self.layer_sizes[0], self.dtype)
        y = as_labels("y", y, len(X))
        classes = self._classes_of(y)
        # Everything is checked before an earlier model is given up.
        evaluated = self._evaluated_parts(X, y, validation_data, classes)
        return self._initialize(classes)._train(evaluated, on_epoch_end)

    def resume(
        self,
        X: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None = None,
        on_epoch_end: Callable[["NeuralNetwork", int], None] | None = None,
    ) -> "NeuralNetwork":
        """Go on training a restored or partly trained model until ``num_epochs`` epochs are done.

        With the data of the first part, on the same processor and with the same libraries, the result is bit for bit
        that of one uninterrupted :meth:`fit`.
        Parameters, return value and errors are those of :meth:`fit`, and:

        Raises
        ------
        NotFittedError
            If there are no weights yet.
        ValueError
            If validation data are given though the first part had none, or the other way round.
        """
        self._check_fitted()
        if self.history_["train_loss"] and ("validation_loss" in self.history_) != (validation_data is not None):
            raise ValueError(
                "validation_data must be given when resuming if and only if it was given before; "
                f"got {type(validation_data).__name__}"
            )
        X = as_samples("X", X, self.layer_sizes[0], self.dtype)
        evaluated = self._evaluated_parts(X, as_labels("y", y, len(X)), validation_data, self.classes_)
        return self._train(evaluated, on_epoch_end)

    def _train(self, evaluated, on_epoch_end):
        """Run the epochs that ``history_`` still lacks, each of them whole or not at all."""
        for epoch in range(len(self.history_["train_loss"]) + 1, self.num_epochs + 1):
            before = copy.deepcopy((self.weights_, self.biases_, self._shuffle_rng))
            try:
                record = self._run_epoch(evaluated, epoch)
            except BaseException:  # divergence or an interrupt; what is left is whole, and can be saved or resumed
                self.weights_, self.biases_, self._shuffle_rng = before
                raise
            for key, value in record.items():
                self.history_.setdefault(key, []).append(value)
            if on_epoch_end is not None:
                on_epoch_end(self, epoch)
        return self

    def _run_epoch(self, evaluated, epoch):
        """Train for one epoch and evaluate; returns what goes into ``history_``."""
        record = {"gradient_norm": self._train_epoch(*evaluated["train"], epoch).tolist()}
        for name, data in evaluated.items():
            loss, record[f"{name}_accuracy"] = self._evaluate(*data)
            if not np.isfinite(loss):
                raise DivergenceError(f"the {name} loss is {loss} after epoch {epoch}", epoch)
            record[f"{name}_loss"] = loss
        return record

    def _train_epoch(self, X, labels, epoch):
        """One pass in a fresh random order.

        Returns the mean gradient norm of each layer. Raises DivergenceError
        at the first step whose gradient is not finite.
        """
        order = self._shuffle_rng.permutation(len(X))
        starts = range(0, len(X), self.batch_size)
        norms = np.empty((len(starts), self.n_layers - 1))
        workspace = Workspace(
            self.layer_sizes,
            min(self.batch_size, len(X)),
            self.dtype,
        )
        # Overflow is no accident to warn of but the sign of divergence, and
        # is caught below as one.
        with np.errstate(over="ignore", invalid="ignore"):
            for step, start in enumerate(starts):
                batch = order[start : start + self.batch_size]
                arrays = workspace.rows(len(batch))
                # The default mode would copy once more.
                np.take(X, batch, axis=0, out=arrays.A[0], mode="clip")
                norms[step] = self._sgd_step(arrays, labels[batch])
                if not np.isfinite(norms[step]).all():
                    raise DivergenceError(
                        "the gradient is not finite in "
                        f"epoch {epoch}, step {step + 1}: training diverged; "
                        f"lower learning_rate ({self.learning_rate}) or "
                        f"set max_grad_norm ({self.max_grad_norm})",
                        epoch,
                    )
        return norms.mean(axis=0)

    def _sgd_step(self, arrays, labels):
        """Take one step on the batch ``arrays.A[0]``.

        Returns the norm of each layer's gradient before clipping.
        """
        self._forward(arrays.A)
        delta = cross_entropy_gradient(
            arrays.A[-1],
            labels,
            out=arrays.delta[-1],
        )
        # All that follows is linear in delta: the gradients come out as steps.
        delta *= self.learning_rate
        self._backward(arrays)
        norms = [
            math.sqrt(gradient.dot(gradient)) / self.learning_rate
            # A layer's dW and db are one vector in `gradients`.
            for gradient in arrays.gradients
        ]
        total_norm = math.hypot(*norms)
        if self.max_grad_norm is not None and total_norm > self.max_grad_norm:
            for gradient in arrays.gradients:
                gradient *= self.max_grad_norm / total_norm
        for W, b, dW, db in zip(
            self.weights_,
            self.biases_,
            arrays.dW,
            arrays.db,
            strict=True,
        ):
            W -= dW
            b -= db
        return norms

    def _forward(self, A):
        """Fill in the activations A[1], ..., A[L-1] and the logits A[L] = Z[L].

        A[0] is the batch.
        """
        forward = ACTIVATIONS[self.activation].forward
        for layer, (W, b) in enumerate(
            zip(self.weights_, self.biases_, strict=True),
        ):
            Z = np.matmul(A[layer], W, out=A[layer + 1])
            Z += b
            if layer < self.n_layers - 2:
                forward(Z, out=Z)

    def _backward(self, arrays):
        """Fill in the gradients ``dW`` and ``db``.

        Needs the activations ``A``, and the logits' gradient ``delta[L]``; if
        this is multiplied by a number, so are the gradients.
        """
        A, delta = arrays.A, arrays.delta
        backward = ACTIVATIONS[self.activation].backward
        for layer in reversed(range(self.n_layers - 1)):
            np.matmul(A[layer].T, delta[layer + 1], out=arrays.dW[layer])
            np.matmul(arrays.ones, delta[layer + 1], out=arrays.db[layer])
            if layer > 0:
                dA = np.matmul(
                    delta[layer + 1],
                    self.weights_[layer].T,
                    out=delta[layer],
                )
                backward(A[layer], dA, out=dA)

    # Using the network

    def gradients(self, X: Any, y: Any) -> tuple[float, list[np.ndarray], list[np.ndarray]]:
        """Mean cross-entropy of a batch and its gradient, without a step.

        Returns
        -------
        loss : float
        weight_gradients, bias_gradients : list of ndarray
            Shapes of ``weights_`` and ``biases_``.

        Raises
        ------
        NotFittedError
            If there are no weights yet.
        ValueError
            For data of the wrong shape, values that are not finite or too large, labels unseen.
        """
        self._check_fitted()
        X, labels = self._check_labelled(("X", "y"), X, y, self.classes_)
        arrays = Workspace(self.layer_sizes, len(X), self.dtype)
        arrays.A[0] = X
        with np.errstate(over="ignore", invalid="ignore"):
            self._forward(arrays.A)
        logits = arrays.A[-1]
        self._check_logits(logits, X)
        cross_entropy_gradient(logits, labels, out=arrays.delta[-1])
        self._backward(arrays)
        return float(cross_entropy(logits, labels).mean()), arrays.dW, arrays.db

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, shape (n, n_classes); rows sum to 1.

        Errors are those of :meth:`predict`.
        """
        return softmax(self._logits(X))

    def predict(self, X: Any) -> np.ndarray:
        """Most probable label of each sample, shape (n,).

        Raises
        ------
        NotFittedError
            If there are no weights yet.
        ValueError
            If X has the wrong shape, or values not finite or too large.
        """
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def score(self, X: Any, y: Any) -> float:
        """Accuracy: the fraction of samples classified correctly, in [0, 1].

        Errors are those of :meth:`gradients`.
        """
        return self.evaluate(X, y)[1]

    def evaluate(self, X: Any, y: Any) -> tuple[float, float]:
        """Mean cross-entropy in nats and accuracy, of labelled samples.

        Errors are those of :meth:`gradients`.
        """
        self._check_fitted()
        X, labels = self._check_labelled(("X", "y"), X, y, self.classes_)
        loss, accuracy = self._evaluate(X, labels)
        self._check_logits(loss, X)
        return loss, accuracy

    def _logits(self, X):
        self._check_fitted()
        X = as_samples("X", X, self.layer_sizes[0], self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = np.concatenate([logits.copy() for logits in self._logits_of_chunks(X)])
        self._check_logits(logits, X)
        return logits

    def _evaluate(self, X, labels):
        """Mean cross-entropy and accuracy of checked data, summed in float64."""
        loss, correct = 0.0, 0
        with np.errstate(over="ignore", invalid="ignore"):
            for logits, labels_chunk in zip(self._logits_of_chunks(X), _chunks(labels), strict=True):
                loss += cross_entropy(logits, labels_chunk).sum(dtype=np.float64)
                correct += int(np.count_nonzero(logits.argmax(axis=1) == labels_chunk))
        return float(loss / len(X)), correct / len(X)

    def _logits_of_chunks(self, X):
        """Yield the logits of one chunk of samples after the other, in a buffer that the next chunk overwrites."""
        buffers = [np.empty((min(EVALUATION_CHUNK, len(X)), size), self.dtype) for size in self.layer_sizes[1:]]
        for chunk in _chunks(X):
            A = [chunk, *(buffer[: len(chunk)] for buffer in buffers)]
            self._forward(A)
            yield A[-1]

    def _classes_of(self, y):
        """The sorted labels; as many as the output layer has nodes."""
        classes = np.unique(y)
        if len(classes) != self.layer_sizes[-1]:
            raise ValueError(
                f"y must hold as many classes as the output layer has nodes, {self.layer_sizes[-1]}; "
                f"got {len(classes)}: {classes.tolist()}"
            )
        return classes

    def _evaluated_parts(self, X, y, validation_data, classes):
        """What is evaluated after each epoch: samples and class indices by the name of the part."""
        parts = {"train": (X, as_class_indices("y", y, classes))}
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise ValueError(f"validation_data must be a pair (X, y); got {type(validation_data).__name__}")
            names = ("validation_data[0]", "validation_data[1]")
            parts["validation"] = self._check_labelled(names, *validation_data, classes)
        return parts

    def _check_labelled(self, names, X, y, classes):
        """Samples and class indices of labelled data, checked; ``names`` are those of X and y in errors."""
        X = as_samples(names[0], X, self.layer_sizes[0], self.dtype)
        return X, as_class_indices(names[1], as_labels(names[1], y, len(X)), classes)

    def _check_logits(self, logits, X):
        """Refuse samples that overflow; takes logits or what is computed from them."""
        if not np.isfinite(logits).all():
            raise ValueError(f"X must be small enough for finite logits in {self.dtype}; got up to {np.abs(X).max():g}")

    def _check_fitted(self):
        if not hasattr(self, "weights_"):
            raise NotFittedError("this NeuralNetwork has no weights yet: call fit first, or load a checkpoint")


def _chunks(array):
    return [array[start : start + EVALUATION_CHUNK] for start in range(0, len(array), EVALUATION_CHUNK)]
