"""A VGG-16 with an eighth of its filters and random weights, and what tests of it share."""

import numpy as np
import torch
from torch import nn

from book.experiments.vgg.backbone import Backbone, BackboneSettings, StackedLayers, torchvision
from book.experiments.views.activation_maximisation import random_image
from book.experiments.views.hooks import Target
from data.vgg16 import RGB_MEAN

SIZE = 32
CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
WIDTHS = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
FILTER, CLASS = Target(17, 5), Target(None, 3)


def small_backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = StackedLayers(torchvision.models.vgg.make_layers(WIDTHS)[:30])
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    settings = BackboneSettings(cut=30, input_size=SIZE)
    return Backbone(settings, layers.eval().requires_grad_(False), RGB_MEAN, (1.0, 1.0, 1.0))


def start(count=1, channels=1):
    return np.stack([random_image(SIZE, seed, channels=channels) for seed in range(count)])


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for registry in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in registry
    ]
