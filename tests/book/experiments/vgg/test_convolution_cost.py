import numpy as np
import pytest
import torch
from torch import nn

from book.experiments.vgg.convolution_cost import (
    Convolution,
    Inception,
    break_even_width,
    chain_costs,
    count_parameters,
    counted_multiplications,
    inception_branches,
    time_interleaved,
    total,
)

INCEPTION_3A = {"1x1": 64, "3x3 reduce": 96, "3x3": 128, "5x5 reduce": 16, "5x5": 32, "pool": 32}
RNG = np.random.default_rng(0)


def random_convolution():
    kernel, stride, dilation, padding = (int(RNG.integers(low, high)) for low, high in ((1, 6), (1, 4), (1, 4), (0, 4)))
    return Convolution(*(int(n) for n in RNG.integers(1, 9, size=2)), kernel, stride, padding, dilation)


CONVOLUTIONS = [random_convolution() for _ in range(40)]


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_sizes_and_counts_are_those_of_pytorchs_layer(convolution):
    height, width = 17, 22
    layer, x = convolution.layer(), torch.zeros(1, convolution.in_channels, height, width)
    cost = convolution.cost(height, width)
    out_height, out_width, channels = convolution.output_shape(height, width)
    assert layer(x).shape == (1, channels, out_height, out_width)
    assert cost.outputs == layer(x).numel()
    assert cost.multiplications == counted_multiplications(layer, x)
    assert (cost.weights, cost.biases) == (layer.weight.numel(), layer.bias.numel())


@pytest.mark.parametrize("convolution", CONVOLUTIONS[:12], ids=str)
def test_multiplications_inside_are_those_that_see_a_image_of_ones(convolution):
    layer = convolution.layer()
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        seen = layer(torch.ones(1, convolution.in_channels, 17, 22)).sum()
    assert convolution.multiplications_inside(17, 22) == int(seen)


def test_additions_are_one_less_than_products_for_each_output():
    cost = Convolution(3, 2, 2, padding=0).cost(5, 4)
    assert cost.outputs == 4 * 3 * 2
    assert cost.multiplications == cost.outputs * 12
    assert cost.additions == cost.outputs * 11


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 2), (2, 2)])
def test_without_a_padding_a_stride_of_one_keeps_the_size(kernel, dilation):
    convolution = Convolution(1, 1, kernel, dilation=dilation)
    assert convolution.output_shape(28, 9) == (28, 9, 1)


def test_the_assignments_networks_cost_what_is_published():
    direct = Convolution(192, 32, 5)
    narrowed = [Convolution(192, 16, 1), Convolution(16, 32, 5)]
    assert direct.cost(28, 28).multiplications == 120_422_400
    assert total(chain_costs(narrowed, 28, 28)).multiplications == 12_443_648
    assert direct.output_shape(28, 28) == (28, 28, 32)
    assert narrowed[0].output_shape(28, 28) == (28, 28, 16)
    assert (direct.cost(28, 28).weights, total(chain_costs(narrowed, 28, 28)).weights) == (153_600, 15_872)


@pytest.mark.parametrize(
    "direct", [Convolution(192, 32, 5), Convolution(64, 48, 3, stride=2), Convolution(8, 8, 3, padding=0)], ids=str
)
def test_at_the_break_even_width_a_bottleneck_saves_nothing(direct):
    def saved(bottleneck):
        spatial = Convolution(
            bottleneck, direct.out_channels, direct.kernel, direct.stride, direct.padding, direct.dilation
        )
        narrowed = chain_costs([Convolution(direct.in_channels, bottleneck, 1), spatial], 28, 20)
        return direct.cost(28, 20).multiplications - total(narrowed).multiplications

    width = break_even_width(direct, 28, 20)
    assert saved(int(np.floor(width))) >= 0 > saved(int(np.floor(width)) + 1)


@pytest.mark.parametrize("reduced", [True, False])
def test_inception_module_costs_what_pytorch_counts(reduced):
    branches = inception_branches(192, INCEPTION_3A, reduced=reduced)
    module, x = Inception(branches), torch.zeros(1, 192, 28, 28)
    cost = total([cost for layers in branches.values() for cost in chain_costs(layers, 28, 28)])
    assert module(x).shape == (1, 256 if reduced else 64 + 128 + 32 + 192, 28, 28)
    assert cost.multiplications == counted_multiplications(module, x)
    assert cost.weights + cost.biases == count_parameters(module)


def test_inception_3a_costs_what_its_paper_says():
    # Szegedy et al. (2015), table 1: 159K parameters and 128M operations, in units of 1024 and of 1000 * 1000.
    branches = inception_branches(192, INCEPTION_3A, reduced=True)
    cost = total([cost for layers in branches.values() for cost in chain_costs(layers, 28, 28)])
    assert cost.weights // 1024 == 159
    assert round(cost.multiplications / 1e6) == 128


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"in_channels": 0}, "in_channels must be an integer of at least 1; got 0"),
        ({"out_channels": 2.5}, "out_channels must be an integer of at least 1; got 2.5"),
        ({"kernel": -1}, "kernel must be an integer of at least 1; got -1"),
        ({"stride": True}, "stride must be an integer of at least 1; got True"),
        ({"padding": -1}, "padding must be an integer of at least 0; got -1"),
        ({"padding": "same"}, "padding must be an integer of at least 0; got 'same'"),
        ({"dilation": 0}, "dilation must be an integer of at least 1; got 0"),
        ({"kernel": 4}, r"padding must be given .*; got None with kernel 4 and dilation 1"),
    ],
)
def test_what_is_no_convolution_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Convolution(**({"in_channels": 3, "out_channels": 2, "kernel": 3} | parameters))


def test_a_kernel_larger_than_the_padded_image_is_refused():
    message = "kernel must fit into the padded input, 6 wide; got 4 with dilation 2, which reaches over 7"
    with pytest.raises(ValueError, match=message):
        Convolution(1, 1, 4, padding=1, dilation=2).output_size(4)


def test_layers_that_do_not_fit_together_are_refused():
    message = "in_channels of layer 2 must be the 16 output channels of the layer before; got 8"
    with pytest.raises(ValueError, match=message):
        chain_costs([Convolution(192, 16, 1), Convolution(8, 32, 5)], 28, 28)


def test_unknown_branches_of_an_inception_module_are_refused():
    with pytest.raises(ValueError, match=r"channels must have the keys .*; got \['1x1', '7x7'\]"):
        inception_branches(3, {"1x1": 1, "7x7": 2}, reduced=True)


def test_functions_are_timed_in_turn_each_after_a_call_that_does_not_count():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = time_interleaved(functions, num_repeats=4)
    assert calls == list("aabb" * 4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4}


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match="num_repeats must be an integer of at least 1; got 0"):
        time_interleaved({}, 0)
