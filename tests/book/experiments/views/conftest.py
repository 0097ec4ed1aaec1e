"""A small VGG-16 as it is loaded and as it is looked into, checked after every test to be as it was."""

import copy

import pytest
import torch
from torch import nn

from book.experiments.vgg.backbone import BackboneSettings, assemble, load_backbone
from book.experiments.vgg.heads import HeadSettings, new_head
from book.experiments.views.hooks import copy_without_inplace_relus
from data import load_fashion_mnist
from tests.small_vgg import SIZE, hooks_of, small_backbone


@pytest.fixture(scope="module")
def backbone():
    return small_backbone()


@pytest.fixture(scope="module")
def model(backbone):
    """As it is loaded: with ReLUs in place."""
    head = new_head(backbone.output_shape, HeadSettings(hidden=(16,))).requires_grad_(False)
    return assemble(backbone, head)


@pytest.fixture(scope="module")
def pretrained():
    backbone = load_backbone(BackboneSettings(cut=30, input_size=SIZE))
    return backbone, copy_without_inplace_relus(assemble(backbone, nn.Linear(2048, 10)))


@pytest.fixture(scope="module")
def probe(model):
    return copy_without_inplace_relus(model)


@pytest.fixture(scope="module")
def images():
    return load_fashion_mnist().test.images[:4]


@pytest.fixture(scope="module")
def inputs(backbone, images):
    return backbone.to_input(images)


@pytest.fixture(autouse=True)
def _models_are_left_as_they_were(model, probe):
    before = {id(one): copy.deepcopy(one.state_dict()) for one in (model, probe)}
    yield
    for one in (model, probe):
        after = one.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before[id(one)].items())
        assert not any(module.training for module in one.modules())
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in one.parameters())
        assert hooks_of(one) == []
