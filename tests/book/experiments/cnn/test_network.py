import numpy as np
import pytest
import torch

from book.experiments.cnn.layers import Convolution, Dense, MaxPooling, ReLU
from book.experiments.cnn.network import Network, receptive_field, small_network, train
from mlp_core import DivergenceError, cross_entropy

TRAINING = {"learning_rate": 0.1, "batch_size": 16, "num_epochs": 3, "seed": 0}


def stripes(n=96):
    """Images of horizontal (class 0) or vertical stripes (class 1), at a random position, in noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    X = rng.normal(0, 0.1, (n, 12, 12, 1)).astype("float32")
    for image, label, start in zip(X, labels, rng.integers(0, 3, n), strict=True):
        (image if label == 0 else image.swapaxes(0, 1))[start::3] += 1
    return X, labels


def network(seed=0, dtype="float32"):
    return small_network([4, 6], 3, seed=seed, image_size=12, num_classes=2, dtype=dtype)


def torch_twin(ours):
    """The same network in PyTorch; flattening follows NumPy's order of axes."""
    modules = []
    for layer in ours.layers:
        name = type(layer).__name__
        if isinstance(layer, Convolution):
            W, b = layer.parameters
            module = torch.nn.Conv2d(W.shape[2], W.shape[3], W.shape[0], dtype=torch.float64)
            module.weight.data = torch.from_numpy(W.transpose(3, 2, 0, 1).copy())
            module.bias.data = torch.from_numpy(b.copy())
        elif isinstance(layer, Dense):
            W, b = layer.parameters
            module = torch.nn.Linear(*W.shape, dtype=torch.float64)
            module.weight.data, module.bias.data = torch.from_numpy(W.T.copy()), torch.from_numpy(b.copy())
        else:
            module = {"ReLU": torch.nn.ReLU(), "MaxPooling": torch.nn.MaxPool2d(2), "Flatten": None}[name]
        modules.append(module)
    return modules


def test_the_gradients_of_a_whole_network_are_those_of_pytorch():
    X, labels = stripes(8)
    ours = network(dtype="float64")
    loss, gradients = ours.gradients(X.astype("float64"), labels)
    modules = torch_twin(ours)
    A = torch.from_numpy(X.astype("float64").transpose(0, 3, 1, 2).copy())
    for module in modules:
        A = A.permute(0, 2, 3, 1).flatten(1) if module is None else module(A)
    expected = torch.nn.functional.cross_entropy(A, torch.from_numpy(labels))
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-10)
    for module, layer_gradients in zip(modules, gradients, strict=True):
        if layer_gradients:
            dW, db = layer_gradients
            weight = module.weight.grad.numpy()
            weight = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
            np.testing.assert_allclose(dW, weight, rtol=0, atol=1e-10)
            np.testing.assert_allclose(db, module.bias.grad.numpy(), rtol=0, atol=1e-10)


def test_training_learns_what_a_shift_does_not_change():
    X, labels = stripes()
    learned, losses = network(), []
    train(learned, X, labels, **TRAINING, on_epoch_end=lambda epoch, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    assert np.mean(learned.predict(X) == labels) > 0.95


def test_training_is_repeatable_and_depends_on_both_seeds():
    X, labels = stripes()

    def trained(weights_seed, order_seed):
        learned = network(weights_seed)
        train(learned, X, labels, **TRAINING | {"seed": order_seed})
        return learned.logits(X).tobytes()

    assert trained(0, 0) == trained(0, 0)
    assert len({trained(0, 0), trained(1, 0), trained(0, 1)}) == 3


def test_the_last_batch_counts_by_its_own_mean():
    X, labels = stripes(20)
    learned, expected = network(dtype="float64"), network(dtype="float64")
    X = X.astype("float64")
    train(learned, X, labels, **TRAINING | {"num_epochs": 1})
    order = np.random.default_rng(0).permutation(20)
    for batch in (order[:16], order[16:]):
        _, gradients = expected.gradients(X[batch], labels[batch])
        for layer, layer_gradients in zip(expected.layers, gradients, strict=True):
            for parameter, gradient in zip(layer.parameters, layer_gradients, strict=True):
                parameter -= 0.1 * gradient
    np.testing.assert_array_equal(learned.logits(X), expected.logits(X))


def test_chunks_change_no_prediction():
    X, _ = stripes(300)
    ours = network(dtype="float64")
    whole = ours.forward(X)[-1]
    np.testing.assert_allclose(ours.logits(X), whole, rtol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), whole.argmax(axis=1))


def test_parameters_are_counted_as_by_hand():
    ours = small_network([8, 16], 5, seed=0)
    assert ours.num_parameters == (25 * 8 + 8) + (25 * 8 * 16 + 16) + (4 * 4 * 16 * 10 + 10)


def test_the_initial_loss_is_near_that_of_a_guess():
    X, labels = stripes()
    assert cross_entropy(network().logits(X), labels).mean() < 3 * np.log(2)


def test_divergence_is_an_error_and_no_nan():
    X, labels = stripes()
    with pytest.raises(DivergenceError, match="lower learning_rate"):
        train(network(), X, labels, **TRAINING | {"learning_rate": 1e30})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"num_epochs": 0}, "num_epochs must be"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(changed, message):
    X, labels = stripes(4)
    with pytest.raises(ValueError, match=message):
        train(network(), X, labels, **TRAINING | changed)


def test_images_without_labels_are_refused():
    X, labels = stripes(4)
    with pytest.raises(ValueError, match="labels must be"):
        train(network(), X, labels[:3], **TRAINING)


def test_images_too_small_for_the_blocks_are_refused():
    with pytest.raises(ValueError, match="kernel_size must be"):
        small_network([4, 4, 4], 5, seed=0)


def test_the_first_layer_computes_no_gradient_of_the_images():
    class Refusing(Convolution):
        def input_gradient(self, delta):
            raise AssertionError

    rng = np.random.default_rng(0)
    ours = Network([Refusing(1, 2, 3, rng=rng), *network().layers[1:3]])
    ours.backward(ours.forward(stripes(2)[0])[-1])


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: [Convolution(1, 1, 3, rng=rng)],
        lambda rng: [Convolution(1, 1, 3, rng=rng), ReLU(), MaxPooling(2), Convolution(1, 1, 3, rng=rng)],
        lambda rng: [Convolution(1, 1, 2, stride=3, rng=rng), Convolution(1, 1, 3, stride=2, rng=rng)],
    ],
)
def test_the_receptive_field_is_where_the_gradient_of_one_output_can_be_other_than_zero(make):
    chain = make(np.random.default_rng(0))
    side, step = receptive_field(chain)
    seen = np.zeros((24, 24), bool)
    for seed in range(50):  # a maximum passes its gradient to one input only, so many images are needed
        A = np.random.default_rng(seed).normal(size=(1, 24, 24, 1)).astype("float32")
        for layer in chain:
            A = layer.forward(A)
        delta = np.zeros_like(A)
        delta[0, 1, 0] = 1
        for layer in reversed(chain):
            delta = layer.input_gradient(delta)
        seen |= delta[0, :, :, 0] != 0
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (cols.min(), cols.max()) == (0, side - 1)
    assert (rows.min(), rows.max()) == (step, step + side - 1)
