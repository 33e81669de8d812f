"""The perceptron of a pack against torch's own layers, and its initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iql.networks.mlp import MLP


def by_torch(net: MLP, member: int, copy: int, order: str) -> nn.Sequential:
    """One perceptron of a pack as torch's modules: `order` is of l (linear), n (layer norm), r (ReLU) and g (GELU)."""
    place = (member, copy)
    layers: list[nn.Module] = []
    for number, (kernel, bias) in enumerate(zip(net.kernels, net.biases, strict=True)):
        linear = nn.Linear(*kernel.shape[-2:])
        linear.weight.data, linear.bias.data = kernel[place].T, bias[place]
        if number == len(net.kernels) - 1:
            return nn.Sequential(*layers, linear)
        norm = nn.LayerNorm(kernel.shape[-1], eps=1e-6)
        if "n" in order:
            norm.weight.data, norm.bias.data = net.norm_scales[number][place], net.norm_biases[number][place]
        layers += [{"l": linear, "n": norm, "r": nn.ReLU(), "g": nn.GELU("tanh")}[kind] for kind in order]
    raise AssertionError("a perceptron has a last layer")


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("layer_norm", "order"), [(None, "la"), ("before", "lna"), ("after", "lan")])
def test_a_pack_computes_what_torchs_layers_compute(layer_norm, order, activation):
    net = MLP([3, 8, 7, 2], [0, 1], ["q1", "q2"], "pytorch", layer_norm, activation)
    order = order.replace("a", activation[0])
    generator = torch.Generator().manual_seed(0)
    for parameter in (*net.norm_scales, *net.norm_biases):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 5, 3, generator=generator)
    ours = net(x)
    assert ours.shape == (2, 2, 5, 2)
    for member in range(2):
        for copy in range(2):
            theirs = by_torch(net, member, copy, order)(x[member])
            torch.testing.assert_close(ours[member, copy], theirs)


def test_layer_normalisation_begins_as_the_identity():
    net = MLP([3, 8, 2], [0], ["value"], "orthogonal", "before")
    assert [tuple(each.shape) for each in (*net.norm_scales, *net.norm_biases)] == [(1, 8), (1, 8)]
    assert net.norm_scales[0].unique().tolist() == [1] and net.norm_biases[0].unique().tolist() == [0]


def test_another_place_of_layer_normalisation_is_refused():
    with pytest.raises(ValueError, match="layer_norm must be before, after or null, got 'within'"):
        MLP([3, 8, 2], [0], ["value"], "orthogonal", "within")


def test_orthogonal_kernels_have_gain_sqrt_2_and_no_bias():
    net = MLP([16, 16, 16], [0], ["value"], "orthogonal")
    for kernel, bias in zip(net.kernels, net.biases, strict=True):
        torch.testing.assert_close(kernel[0].T @ kernel[0], 2 * torch.eye(16), atol=1e-5, rtol=0)
        assert not bias.any()


def limits(net: MLP) -> list[tuple[float, float]]:
    """The largest absolute weight and bias of each layer."""
    return [
        (float(kernel.detach().abs().max()), float(bias.detach().abs().max()))
        for kernel, bias in zip(net.kernels, net.biases, strict=True)
    ]


def test_pytorchs_weights_and_biases_fill_one_over_the_root_of_the_inputs():
    for (weight, bias), inputs in zip(limits(MLP([400, 100, 50], [0], ["q1"], "pytorch")), (400, 100), strict=True):
        assert 0.9 * inputs**-0.5 < bias <= weight <= inputs**-0.5


@pytest.mark.parametrize(("name", "last"), [("policy", 1e-3), ("q1", 3e-3), ("q2", 3e-3)])
def test_rebracs_last_layer_is_small_and_its_hidden_biases_are_a_tenth(name, last):
    net = MLP([400, 100, 100, 90], [0], [name], "rebrac")
    *hidden, (weight, bias) = limits(net)
    assert 0.9 * last < bias <= weight <= last
    assert [bias for _, bias in hidden] == pytest.approx([0.1, 0.1])
    assert all(0.9 * n**-0.5 < weight <= n**-0.5 for (weight, _), n in zip(hidden, (400, 100), strict=True))
    assert all(bias.unique().numel() == 1 for bias in net.biases[:-1])


@pytest.mark.parametrize("initialization", ["orthogonal", "pytorch", "rebrac", "xavier"])
def test_a_members_weights_depend_on_its_seed_and_name_alone(initialization):
    pack = MLP([4, 6, 2], [3, 5], ["q1", "q2"], initialization)
    alone = MLP([4, 6, 2], [5], ["q2"], initialization)
    for ours, own in zip(pack.kernels, alone.kernels, strict=True):
        assert torch.equal(ours[1, 1], own[0])
        assert not torch.equal(ours[1, 0], own[0])
        assert not torch.equal(ours[0, 1], own[0])


@pytest.mark.parametrize(("name", "last"), [("policy", 0.1), ("q1", 1.0)])
def test_xavier_fills_the_root_of_six_over_inputs_and_outputs_and_makes_the_policy_start_small(name, last):
    widths = [400, 100, 50]
    net = MLP(widths, [0], [name], "xavier")
    for (weight, bias), inputs, outputs, part in zip(limits(net), widths, widths[1:], (1.0, last), strict=False):
        bound = part * (6 / (inputs + outputs)) ** 0.5
        assert 0.99 * bound < weight <= bound
        assert bias == 0


def test_another_activation_is_refused():
    with pytest.raises(ValueError, match="activation must be relu or gelu, got 'tanh'"):
        MLP([3, 8, 2], [0], ["value"], "orthogonal", None, "tanh")


def test_another_initialization_is_refused():
    with pytest.raises(ValueError, match="must be one of orthogonal, pytorch, rebrac, xavier, got 'zeros'"):
        MLP([3, 8, 2], [0], ["value"], "zeros")
