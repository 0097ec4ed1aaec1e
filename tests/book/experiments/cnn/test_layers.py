import numpy as np
import pytest
import torch
from torch.nn import functional

from book.experiments.cnn.layers import (
    Convolution,
    Dense,
    Flatten,
    MaxPooling,
    ReLU,
    col2im,
    he_normal,
    im2col,
    output_size,
)

ATOL = 1e-10
GEOMETRIES = [  # height, width, kernel_size, stride, padding
    (6, 6, 3, 1, 0),
    (7, 5, 3, 1, 1),
    (7, 6, 3, 2, 0),  # columns that no window covers
    (8, 9, 5, 2, 2),
    (5, 4, 1, 1, 0),
    (5, 7, 2, 3, 1),
    (4, 4, 4, 1, 0),
    (3, 3, 5, 1, 1),  # the kernel is larger than the image without its padding
]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def as_torch(X):
    """Channels first, as PyTorch has them, with a gradient."""
    return torch.from_numpy(np.moveaxis(X, -1, 1).copy()).requires_grad_()


def channels_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def convolution(kernel_size, stride, padding, in_channels=3, out_channels=4):
    rng = np.random.default_rng(1)
    layer = Convolution(in_channels, out_channels, kernel_size, stride, padding, rng=rng, dtype="float64")
    layer.parameters[1][:] = rng.normal(size=out_channels)
    return layer


@pytest.mark.parametrize(("height", "width", "kernel_size", "stride", "padding"), GEOMETRIES)
def test_convolution_and_its_gradients_are_those_of_pytorch(height, width, kernel_size, stride, padding):
    layer = convolution(kernel_size, stride, padding)
    W, b = layer.parameters
    X = random(2, height, width, 3)
    torch_X = as_torch(X)
    torch_W = torch.from_numpy(W.transpose(3, 2, 0, 1).copy()).requires_grad_()
    torch_b = torch.from_numpy(b.copy()).requires_grad_()
    expected = functional.conv2d(torch_X, torch_W, torch_b, stride, padding)
    Z = layer.forward(X)
    assert Z.shape == channels_last(expected).shape
    np.testing.assert_allclose(Z, channels_last(expected), rtol=0, atol=ATOL)

    delta = random(*Z.shape, seed=2)
    expected.backward(torch.from_numpy(np.moveaxis(delta, -1, 1).copy()))
    dW, db = layer.parameter_gradients(delta)
    np.testing.assert_allclose(dW, torch_W.grad.numpy().transpose(2, 3, 1, 0), rtol=0, atol=ATOL)
    np.testing.assert_allclose(db, torch_b.grad.numpy(), rtol=0, atol=ATOL)
    np.testing.assert_allclose(layer.input_gradient(delta), channels_last(torch_X.grad), rtol=0, atol=ATOL)


@pytest.mark.parametrize("has_ties", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(6, 6, 2, None), (7, 5, 2, None), (7, 7, 3, 2), (6, 5, 3, 1), (5, 5, 2, 3), (5, 5, 1, 2)],
)
def test_max_pooling_and_its_gradient_are_those_of_pytorch(height, width, size, stride, has_ties):
    X = random(3, height, width, 2)
    if has_ties:
        X = np.sign(X).clip(0)  # zeros and ones: most windows have several maxima
    torch_X = as_torch(X)
    expected = functional.max_pool2d(torch_X, size, stride)
    layer = MaxPooling(size, stride)
    Z = layer.forward(X)
    np.testing.assert_array_equal(Z, channels_last(expected))
    delta = random(*Z.shape, seed=2)
    expected.backward(torch.from_numpy(np.moveaxis(delta, -1, 1).copy()))
    np.testing.assert_allclose(layer.input_gradient(delta), channels_last(torch_X.grad), rtol=0, atol=ATOL)


def test_each_window_of_max_pooling_passes_its_gradient_to_exactly_one_input():
    layer = MaxPooling(2)
    layer.forward(np.zeros((1, 4, 4, 1)))
    dX = layer.input_gradient(np.ones((1, 2, 2, 1)))
    assert dX[0, :, :, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (convolution(3, 1, 0), (2, 6, 5, 3)),
        (convolution(3, 2, 1), (2, 6, 5, 3)),
        (MaxPooling(2), (2, 5, 6, 3)),
        (MaxPooling(3, 2), (2, 7, 7, 3)),
        (ReLU(), (2, 3, 4, 2)),
        (Flatten(), (2, 3, 4, 2)),
        (Dense(5, 4, rng=np.random.default_rng(0), dtype="float64"), (3, 5)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
def test_gradients_agree_with_central_differences(layer, shape):
    X, step = random(*shape), 1e-6
    delta = random(*layer.forward(X).shape, seed=3)

    def numerical(array):
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = np.vdot(delta, layer.forward(X))
            array[index] = value - step
            gradient[index] = (above - np.vdot(delta, layer.forward(X))) / (2 * step)
            array[index] = value
        layer.forward(X)
        return gradient

    np.testing.assert_allclose(layer.input_gradient(delta), numerical(X), atol=1e-7)
    gradients = layer.parameter_gradients(delta)
    for parameter, gradient in zip(layer.parameters, gradients, strict=True):
        np.testing.assert_allclose(gradient, numerical(parameter), atol=1e-7)


@pytest.mark.parametrize(("height", "width", "kernel_size", "stride", "padding"), GEOMETRIES)
def test_col2im_is_the_transpose_of_im2col(height, width, kernel_size, stride, padding):
    X = random(2, height, width, 3)
    columns = im2col(X, kernel_size, stride, padding)
    other = random(*columns.shape, seed=1)
    assert np.vdot(columns, other) == pytest.approx(np.vdot(X, col2im(other, X.shape, kernel_size, stride, padding)))


def test_a_row_of_im2col_is_a_window_channels_last():
    X = random(2, 5, 6, 3)
    columns = im2col(X, 2, stride=2).reshape(2, 2, 3, 2, 2, 3)
    np.testing.assert_array_equal(columns[1, 1, 2], X[1, 2:4, 4:6])


def test_a_convolution_without_padding_is_equivariant_to_translation():
    layer = convolution(3, 1, 0)
    X = random(1, 9, 9, 3)
    Z, shifted = layer.forward(X[:, :-2, :-1]), layer.forward(X[:, 2:, 1:])
    np.testing.assert_allclose(shifted[:, :-2, :-1], Z[:, 2:, 1:], atol=ATOL)


def test_max_pooling_is_equivariant_to_translation_by_its_stride():
    X = random(1, 10, 10, 3)
    Z, shifted = MaxPooling(2).forward(X[:, :-2]), MaxPooling(2).forward(X[:, 2:])
    np.testing.assert_array_equal(shifted[:, :-1], Z[:, 1:])


def test_a_convolution_with_a_kernel_as_large_as_the_image_is_a_dense_layer():
    layer = convolution(4, 1, 0)
    X = random(2, 4, 4, 3)
    W, b = layer.parameters
    np.testing.assert_allclose(layer.forward(X).reshape(2, -1), X.reshape(2, -1) @ W.reshape(-1, 4) + b, atol=ATOL)


def test_layers_keep_the_precision_of_float32():
    layers = [Convolution(1, 2, 3, rng=np.random.default_rng(0)), ReLU(), MaxPooling(2), Flatten()]
    layers.append(Dense(8, 3, rng=np.random.default_rng(0)))
    A = random(2, 6, 6, 1).astype("float32")
    for layer in layers:
        A = layer.forward(A)
        assert A.dtype == np.float32
    for layer in reversed(layers):
        assert all(gradient.dtype == np.float32 for gradient in layer.parameter_gradients(A))
        A = layer.input_gradient(A)
        assert A.dtype == np.float32


def test_weights_start_with_the_variance_of_he():
    weights = he_normal(np.random.default_rng(0), (5, 5, 8, 500), "float64")
    assert weights.var() == pytest.approx(2 / 200, rel=0.02)
    assert abs(weights.mean()) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "size must be"),
        ((5, 6), "kernel_size must be an integer from 1 to 5; got 6"),
        ((5, 3, 0), "stride must be an integer at least 1; got 0"),
        ((5, 3, 1, -1), "padding must be an integer at least 0; got -1"),
        ((5, 3, True), "stride must be"),
        ((5, 2.5), "kernel_size must be"),
    ],
)
def test_output_sizes_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        output_size(*arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rng: Convolution(0, 4, 3, rng=rng), "in_channels must be"),
        (lambda rng: Convolution(1, 4, 3, stride=0, rng=rng), "stride must be"),
        (lambda rng: Convolution(1, 4, 3, padding=-1, rng=rng), "padding must be"),
        (lambda rng: MaxPooling(0), "kernel_size must be"),
        (lambda rng: MaxPooling(2, 0), "stride must be"),
        (lambda rng: Dense(3, 0, rng=rng), "out_features must be"),
        (lambda rng: Convolution(2, 4, 3, rng=rng).forward(np.zeros((1, 5, 5, 1))), "X must be of shape"),
        (lambda rng: Convolution(1, 4, 6, rng=rng).forward(np.zeros((1, 5, 5, 1))), "kernel_size must be"),
        (lambda rng: MaxPooling(2).forward(np.zeros((5, 5))), "X must be of shape"),
        (lambda rng: MaxPooling(3).forward(np.zeros((1, 2, 5, 1))), "kernel_size must be"),
        (lambda rng: Dense(3, 2, rng=rng).forward(np.zeros((1, 4))), "X must be of shape"),
    ],
)
def test_arguments_and_inputs_of_the_wrong_size_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(np.random.default_rng(0))
