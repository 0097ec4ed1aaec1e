"""Sharpness: the largest eigenvalue of the Hessian of the training loss, which limits the learning rate."""

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from book.experiments.checks import check_integer, check_number
from book.experiments.mlp.samples import LabelledSamples
from book.experiments.mlp.torch_mlp import as_torch
from book.experiments.page.execution import as_completed, one_thread
from book.experiments.page.progress import reported
from book.experiments.page.storage import memory_mapped
from mlp_core import DivergenceError, NeuralNetwork


class Sharpness(NamedTuple):
    """The largest eigenvalue of a Hessian.

    Attributes
    ----------
    value : float
        In nats per squared unit of the parameters.
    vector : ndarray, shape (n_parameters,)
        Its eigenvector, of length 1: a start for another Hessian nearby.
    """

    value: float
    vector: np.ndarray


def sharpness(
    network: NeuralNetwork,
    X: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray | None = None,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 200,
) -> Sharpness:
    """Find the largest eigenvalue of the Hessian of the mean cross-entropy by power iteration.

    The product of the Hessian with a vector v is the gradient of g^T v, where g is the gradient of the loss
    (Pearlmutter, 1994); the matrix itself is never formed. Power iteration finds the eigenvalue of largest absolute
    value. Should it be negative, the iteration is repeated with that much added to all eigenvalues, which makes the
    largest one win.

    Parameters
    ----------
    network : NeuralNetwork
        With weights.
    X : ndarray of shape (n, layer_sizes[0])
    labels : ndarray of int, shape (n,)
        Indices of the classes.
    start : ndarray, shape (n_parameters,), optional
        The first vector; drawn from a fixed seed by default.
    tolerance : float
        The iteration ends when a step changes the eigenvalue by less than this fraction of it.
    max_iterations : int

    Returns
    -------
    Sharpness
    """
    check_number("tolerance", tolerance, above=0, below=1)
    check_integer("max_iterations", max_iterations, minimum=1)
    model = as_torch(network)
    parameters = list(model.parameters())
    loss = cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(labels.astype(np.int64)))
    gradient = _as_vector(torch.autograd.grad(loss, parameters, create_graph=True))

    def multiply(vector):
        """Multiply the Hessian by a vector."""
        return _as_vector(
            torch.autograd.grad(
                gradient @ vector,
                parameters,
                retain_graph=True,
            ),
        )

    if start is None:
        start = np.random.default_rng(0).normal(size=len(gradient))
    vector = torch.from_numpy(np.asarray(start)).to(gradient.dtype)
    found = _power_iteration(multiply, vector, 0.0, tolerance, max_iterations)
    if found.value < 0:
        found = _power_iteration(multiply, vector, -found.value, tolerance, max_iterations)
    return found


def _power_iteration(multiply, vector, shift, tolerance, max_iterations):
    """Find the eigenvalue of H for which that of H + shift I has the largest absolute value."""
    vector, value = vector / vector.norm(), np.inf
    for _ in range(max_iterations):
        product = multiply(vector) + shift * vector
        before, value = value, float(product @ vector)
        length = product.norm()
        if not 0 < length < np.inf or abs(value - before) <= tolerance * abs(value):
            break
        vector = product / length
    return Sharpness(value - shift, vector.numpy())


class SharpnessOfRun(NamedTuple):
    """What :func:`sharpness_of_run` measures; steps are counted from 1.

    Attributes
    ----------
    gradient_norms : ndarray of float, shape (n_steps,)
        L2 norm of the whole gradient in each step, before clipping.
    steps : ndarray of int, shape (n,)
        The steps before which the sharpness was measured.
    sharpness : ndarray of float, shape (n,)
        That of the loss on a fixed sample of the training images.
    batch_sharpness : ndarray of float, shape (n,)
        That of the loss on the mini-batch of the step.
    other_orders : ndarray of float, shape (min(last, n_steps),)
        For each of the last steps, earliest first: the fraction of runs that diverge if training goes on from the
        weights before this step with the images in another random order. NaN for a run that did not diverge.
    diverged : bool
    """

    gradient_norms: np.ndarray
    steps: np.ndarray
    sharpness: np.ndarray
    batch_sharpness: np.ndarray
    other_orders: np.ndarray
    diverged: bool

    def num_last_above(self, bound: float) -> int:
        """Count the last steps before each of which the sharpness on the sample is above ``bound``, or overflows."""
        last = self.sharpness[len(self.sharpness) - len(self.other_orders) :]
        below = np.flatnonzero(last <= bound)
        return len(last) - 1 - int(below[-1]) if len(below) else len(last)


TOLERANCE = 0.01
"""Of the eigenvalues along a run: far below the changes from one step to the next."""


def sharpness_of_runs(
    hyperparameters: Mapping[str, Mapping[str, Any]], samples: LabelledSamples, task: str, **settings: int
) -> dict[str, SharpnessOfRun]:
    """Call :func:`sharpness_of_run` for several networks, side by side within :func:`execution.parallel`.

    Parameters
    ----------
    hyperparameters : mapping of names to dict
    samples : LabelledSamples
    task : str
        What the terminal calls this step.
    **settings
        The other arguments of :func:`sharpness_of_run`.

    Returns
    -------
    dict of SharpnessOfRun
        Under the names given.
    """
    arrays = memory_mapped("samples", samples._asdict())
    tasks = {
        name: joblib.delayed(sharpness_of_run)(dict(one), arrays["X"], arrays["y"], **settings)
        for name, one in hyperparameters.items()
    }
    measured = {}
    with reported(task, len(tasks)) as progress:
        for name, one in as_completed(tasks):
            progress.advance()
            measured[name] = one
    return {name: measured[name] for name in hyperparameters}


def sharpness_of_run(
    hyperparameters: Mapping[str, Any],
    X: np.ndarray,
    labels: np.ndarray,
    *,
    num_images: int,
    every: int,
    last: int,
    num_orders: int,
    num_steps: int,
) -> SharpnessOfRun:
    """Train a network on one thread and measure the sharpness on the way and in the last steps.

    Parameters
    ----------
    hyperparameters : mapping
        Parameters of ``NeuralNetwork``, without ``n_layers``.
    X : ndarray of shape (n, layer_sizes[0])
    labels : ndarray of int, shape (n,)
    num_images : int
        Size of the fixed sample, at most n.
    every : int
        The sharpness is measured before the first step, and every so many steps after it.
    last : int
        It is measured before each of so many last steps as well.
    num_orders, num_steps : int
        From each of the last steps of a run that diverges, so many runs of so many steps go on in another order.

    Returns
    -------
    SharpnessOfRun
    """
    for name, value in (("every", every), ("last", last), ("num_orders", num_orders), ("num_steps", num_steps)):
        check_integer(name, value, minimum=1)
    check_integer("num_images", num_images, minimum=1, maximum=len(X))
    X, labels = np.asarray(X), np.asarray(labels)  # plain views: indexing a memory map is slow
    chosen = np.random.default_rng(0).choice(len(X), num_images, replace=False)
    with one_thread():
        network = _MeasuredNetwork(len(hyperparameters["layer_sizes"]), **hyperparameters)
        network.measure(X[chosen], labels[chosen], every, last)
        try:
            network.fit(X, labels)
            diverged = False
        except DivergenceError:
            diverged = True
        for step, state, batch, batch_labels in network.last:
            network.measure_at(step, state, batch, batch_labels)
        other_orders = [
            _fraction_diverging(network, step, state, X, labels, num_orders, num_steps) if diverged else np.nan
            for step, state, _, _ in network.last
        ]
    steps = sorted(network.measured)
    on_sample, on_batch = np.array([network.measured[step] for step in steps]).T
    return SharpnessOfRun(
        np.array(network.norms), np.array(steps), on_sample, on_batch, np.array(other_orders), diverged
    )


class _MeasuredNetwork(NeuralNetwork):
    """A network that measures the sharpness while it is trained, and keeps what it had before the last steps."""

    def measure(self, X, labels, every, last):
        self.norms, self.measured, self.last = [], {}, deque(maxlen=last)
        self._sample, self._every, self._start = (X, labels), every, None

    def measure_at(self, step, state, batch, batch_labels):
        """Measure before ``step``, from the weights and biases ``state``; once is enough."""
        if step in self.measured:
            return
        current = self.weights_, self.biases_
        self.weights_, self.biases_ = state
        on_sample = sharpness(self, *self._sample, self._start, tolerance=TOLERANCE)
        on_batch = sharpness(self, batch, batch_labels, self._start, tolerance=TOLERANCE)
        self.weights_, self.biases_ = current
        self.measured[step] = on_sample.value, on_batch.value
        # The eigenvectors of neighbouring steps are alike, unless the run is about to overflow.
        self._start = on_sample.vector if np.isfinite(on_sample.vector).all() else None

    def _sgd_step(self, arrays, labels):
        step = len(self.norms) + 1
        state = copy.deepcopy((self.weights_, self.biases_))
        self.last.append((step, state, arrays.A[0].copy(), labels))
        if (step - 1) % self._every == 0:
            self.measure_at(*self.last[-1])
        norms = super()._sgd_step(arrays, labels)
        self.norms.append(float(np.linalg.norm(norms)))
        return norms


def _fraction_diverging(network, step, state, X, labels, num_orders, num_steps):
    """Fraction of runs that diverge within ``num_steps`` steps from ``state``, each in an order of its own."""
    num_diverged = 0
    for order in range(num_orders):
        rng = np.random.default_rng([step, order])
        chosen = rng.choice(len(X), min(len(X), num_steps * network.batch_size), replace=False)
        other = NeuralNetwork(
            network.n_layers,
            network.layer_sizes,
            network.activation,
            network.learning_rate,
            batch_size=network.batch_size,
            num_epochs=1,
            dtype=network.dtype,
            max_grad_norm=network.max_grad_norm,
            seed=order,
        )
        other.initialize(labels)
        other.weights_, other.biases_ = copy.deepcopy(state)
        try:
            other.resume(X[chosen], labels[chosen])
        except DivergenceError:
            num_diverged += 1
    return num_diverged / num_orders


def _as_vector(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
