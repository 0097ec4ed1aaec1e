"""Every published model, loaded on the machine at hand, has the accuracy that was published with it."""

import json

import numpy as np
import pytest
import torch

from book.experiments.mlp.samples import as_samples
from book.experiments.mlp.sklearn_mlp import load_sklearn_mlp, new_sklearn_mlp, sklearn_checkpoint, with_sklearn_weights
from book.experiments.page.storage import published_models
from book.experiments.vgg.features import forward
from book.experiments.vgg.heads import load_transfer_model
from data import split_80_10_10, split_80_20
from mlp_core import NeuralNetwork, load_parameters

LAYER_SIZES = [784, 256, 128, 64, 10]
ACTIVATIONS = ("relu", "sigmoid", "linear", "tanh")
# Another processor adds in another order: logits differ in their last digits, and of 7,000 images the few whose two
# best classes are that close may change sides.
TOLERANCE = 5 / 7000


@pytest.fixture(scope="module")
def validation():
    part = split_80_10_10(seed=0).validation
    return as_samples(part), part.labels


def published_accuracy(chapter, activation, epoch):
    histories = json.loads((published_models(chapter) / "histories.json").read_text())
    return histories[activation]["validation_accuracy"][epoch - 1]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("epoch", [50, 100])
def test_the_pickles_have_the_published_accuracy(activation, epoch, validation):
    network = NeuralNetwork(5, LAYER_SIZES, activation).initialize(validation[1])
    network.weights_, network.biases_ = load_parameters(published_models("four_activations"), epoch, activation)
    expected = published_accuracy("four_activations", activation, epoch)
    assert network.score(*validation) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("epoch", [50, 100])
def test_scikit_learns_networks_have_the_published_accuracy(activation, epoch, validation):
    settings = {"layer_sizes": LAYER_SIZES, "activation": activation, "seed": 1, "learning_rate": 0.1, "batch_size": 32}
    path = sklearn_checkpoint(published_models("scikit_learn"), epoch, activation)
    network = NeuralNetwork(5, LAYER_SIZES, activation)
    with_sklearn_weights(network, load_sklearn_mlp(path, new_sklearn_mlp(settings, *validation)))
    assert network.score(*validation) == pytest.approx(
        published_accuracy("scikit_learn", activation, epoch), abs=TOLERANCE
    )


def test_the_vgg16_has_the_published_accuracy():
    folder = published_models("vgg16")
    transfer_model = load_transfer_model(folder)
    part = split_80_20(seed=0).validation
    num_images = 300
    head = transfer_model.model.classifier.eval()
    with torch.inference_mode():
        features = torch.cat(list(forward(transfer_model.backbone, part.images[:num_images], torch.float32, "cpu")))
        correct = head(features).argmax(1).numpy() == part.labels[:num_images]
    expected = json.loads((folder / "history.json").read_text())["validation_accuracy"][-1]
    # A part of the validation images, since all of them take minutes: four standard errors of a proportion.
    assert correct.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / num_images))
