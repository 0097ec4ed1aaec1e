"""The diagram of the two models: its numbers are those of the architecture."""

import pytest
from torch import nn

from book.experiments.vgg.backbone import ENDS_OF_BLOCKS, BackboneSettings, load_backbone
from book.experiments.vgg.diagrams import CONVOLUTIONS, transfer_diagram


def test_blocks_of_the_diagram_are_those_of_vgg16():
    layers, start = load_backbone(BackboneSettings(cut=31, input_size=32)).layers, 0
    for end, (number, filters) in zip(ENDS_OF_BLOCKS, CONVOLUTIONS, strict=True):
        block = [layer for layer in layers[start:end] if isinstance(layer, nn.Conv2d)]
        assert (len(block), {layer.out_channels for layer in block}) == (number, {filters})
        assert isinstance(layers[end - 1], nn.MaxPool2d)
        start = end


@pytest.mark.parametrize("size", [32, 112])
def test_diagram_shows_the_shapes_of_the_outputs(size):
    figure = transfer_diagram(size)
    texts = {text.get_text() for text in figure.axes[0].texts}
    for number, cut in enumerate(ENDS_OF_BLOCKS):
        shape = load_backbone(BackboneSettings(cut=cut, input_size=size)).output_shape
        assert shape[0] == CONVOLUTIONS[number][1]
        assert "×".join(map(str, shape)) in texts
