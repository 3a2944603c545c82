"""What each quantizer says of its integers is what it computes with."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SCHEMES, images, quantized, small_resnet
from torch import Tensor

from qra.checkpoint import KEY, load
from qra.describe import describe
from qra.quant import (
    LSQ,
    PACT,
    PWLQ,
    SAWB,
    CalibratedUniform,
    DoReFa,
    Fixed,
    Grid,
    LSQActivation,
    LSQPlus,
    QuantScheme,
    Term,
    Uniform,
    WeightGrid,
    WeightQuantizer,
    convert,
    quantize_after_training,
    straight_through,
)
from qra.quant.network import activation_quantizers, quant_layers

PIECEWISE = [
    PWLQ(),
    PWLQ(per_channel=False, convention="paper"),
    PWLQ("bisection", "laplace", convention="paper"),
    PWLQ("bisection", overlapping=True),
    PWLQ("search"),
]
WEIGHTS = [DoReFa(), DoReFa("identity", "all"), SAWB(), LSQ(), Uniform(), Uniform(per_channel=False), *PIECEWISE]
ACTIVATIONS = [PACT(), LSQActivation(), LSQPlus(), CalibratedUniform()]
some = settings(max_examples=10, deadline=None)
bits = st.sampled_from(range(2, 9))
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])


def weights(seed, dtype):
    """A dead channel, an outlier, and scales that differ by channel."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 3, 3, 3, generator=generator) * torch.rand(5, 1, 1, 1, generator=generator)
    w[1], w[2, 0, 0, 0] = 0, 7
    return w.to(dtype)


def state_of(quantizer, seed, b, dtype):
    generator = torch.Generator().manual_seed(seed)
    size = 0.1 + 5 * torch.rand((), generator=generator)
    if isinstance(quantizer, CalibratedUniform):
        return {"low": -float(size) * (seed % 2), "high": 2.5}
    signs = {"offset": -1}
    return {name: signs.get(name, 1) * size.to(dtype) for name in quantizer.start(b)}


@pytest.mark.parametrize("quantizer", WEIGHTS, ids=str)
@some
@given(b=bits, seed=seeds, dtype=dtypes)
def test_weights_are_the_values_of_their_codes_bit_by_bit(quantizer, b, seed, dtype):
    w = weights(seed, dtype)
    state = quantizer.start(w, b)
    grid, q = quantizer.grid(w, b, state), quantizer.quantize(w, b, state)
    assert q.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert torch.equal(grid.dequantize(q.dtype), q)
    for codes, own in grid.terms:
        assert torch.equal(codes, codes.round())
        assert set(codes.unique().int().tolist()) <= set(own.levels)
        assert torch.equal(own.unpack(own.pack(codes)), codes.short())
        assert torch.broadcast_shapes(own.scale.shape, w.shape) == w.shape
    integers = WeightGrid(tuple(Term(term.integers, term.grid) for term in grid.terms))
    assert torch.equal(integers.dequantize(q.dtype), q)


@pytest.mark.parametrize("quantizer", ACTIVATIONS, ids=str)
@some
@given(b=bits, seed=seeds, dtype=dtypes)
def test_activations_are_the_values_of_their_codes_bit_by_bit(quantizer, b, seed, dtype):
    x = (4 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))).to(dtype)
    state = state_of(quantizer, seed, b, dtype)
    q = quantizer.quantize(x, b, state, "ste")
    grid = quantizer.grid(b, state, q.dtype)
    codes = grid.codes(x.to(q.dtype))
    assert torch.equal(grid.dequantize(codes), q)
    assert set(codes.unique().int().tolist()) <= set(grid.levels)
    assert len(grid.levels) == 2**b
    assert grid.bits == b
    assert q.max() <= grid.dequantize(torch.tensor(grid.ends[1]))


def test_a_zero_point_moves_the_codes_of_a_grid():
    grid = Grid(torch.tensor(0.5), range(16), zero_point=torch.tensor(5.0))
    codes = grid.codes(torch.tensor([-9.0, -1.0, 0.0, 1.1, 9.0]))
    assert codes.tolist() == [0, 3, 5, 7, 15]
    assert grid.dequantize(codes).tolist() == [-2.5, -1.0, 0.0, 1.0, 5.0]
    assert torch.equal(grid._replace(zero_point=5).codes(torch.tensor([-9.0, 1.1])), torch.tensor([0.0, 7.0]))


# ----- after training -----


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_fixed_weights_keep_codes_and_scales(weight, corrected):
    network = small_resnet()
    scheme = quantize_after_training(network, QuantScheme(weight, PACT(), 3, 32), [], corrected)
    again = small_resnet()
    convert(again, scheme)
    again.load_state_dict(network.state_dict())
    for name, layer in quant_layers(again).items():
        found = layer.weight_quantizer.grid(layer.weight)
        original = network.get_submodule(name).weight
        assert torch.equal(found.dequantize(torch.float32), original)
        assert all(term.codes.dtype == torch.int16 for term in found.terms)
        with torch.no_grad():
            layer.weight.zero_()  # codes decide
        assert torch.equal(layer.weight_quantizer(layer.weight), original)
    assert torch.equal(again(images()), network(images()))


def test_codes_that_fixed_weights_cannot_have_are_refused():
    w = weights(0, torch.float32)
    fixed = Fixed(PWLQ())
    state = fixed.state(w, 3, {})
    fixed.check(w, 3, state)
    with pytest.raises(ValueError, match="codes out of the range of 3 bits"):
        fixed.check(w, 3, {**state, "codes_0": state["codes_0"] + 100})
    with pytest.raises(ValueError, match="scales that are not finite"):
        fixed.check(w, 3, {**state, "scale_2": state["scale_2"] * float("nan")})


# ----- quantizers of one's own -----


@dataclass(frozen=True)
class FP4(WeightQuantizer):
    """Four bits of floating point: one for the sign, two for the exponent, one for the mantissa."""

    bit_widths = (4,)

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        positive = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        table = torch.cat([-positive.flip(0), positive])
        scale = w.abs().flatten(1).amax(1).view(-1, 1, 1, 1) / 6
        codes = (w.unsqueeze(-1) / scale.unsqueeze(-1) - table).abs().argmin(-1)
        return WeightGrid((Term(codes, Grid(scale, range(16), table=table)),))


@dataclass(frozen=True)
class Rounded(WeightQuantizer):
    """Says nothing of integers."""

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return straight_through(w, (w.detach() * 8).round() / 8)


class Halved(Uniform):
    """Its grid is another's."""

    def quantize(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> Tensor:
        return super().quantize(w, bit_width, learned) / 2


def test_a_table_of_values_is_a_grid_in_training_and_after_it():
    w = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    q = FP4().quantize(w, 4, {})
    units = q / (w.abs().flatten(1).amax(1).view(-1, 1, 1, 1) / 6)
    assert {round(2 * value) / 2 for value in units.unique().tolist()} <= {
        0,
        *(s * v for s in (-1, 1) for v in (0.5, 1, 1.5, 2, 3, 4, 6)),
    }
    q.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))
    fixed = Fixed(FP4())
    fixed.start(w.detach(), 4)
    assert torch.equal(fixed.quantize(w, 4, fixed.state(w.detach(), 4, {})), q)


@pytest.mark.parametrize("weight", [Rounded(), Halved()], ids=["Rounded", "Halved"])
def test_a_quantizer_without_grid_works_and_is_refused_by_name_where_one_is_needed(weight):
    network = quantized(QuantScheme(weight, PACT(), 4, 4))
    with pytest.raises(
        ValueError, match=rf"{type(weight).__name__} does not define which integers .* define grid\(self, w"
    ):
        network.conv1.weight_quantizer.grid(network.conv1.weight)
    after = small_resnet()
    quantize_after_training(after, QuantScheme(weight, CalibratedUniform(), 4, 4), images().split(4), True)
    assert after.conv1.weight_quantizer.state_dict() == {}
    assert after(images()).isfinite().all()
    with pytest.raises(ValueError, match="does not define which integers"):
        after.conv1.weight_quantizer.grid(after.conv1.weight)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_every_site_of_a_network_says_its_grid(scheme):
    network = quantized(scheme)
    for layer in quant_layers(network).values():
        if layer.weight_quantizer is not None:
            grid = layer.weight_quantizer.grid(layer.weight)
            assert torch.equal(grid.dequantize(torch.float32), layer.weight_quantizer(layer.weight))
    for quantizer in activation_quantizers(network).values():
        x = 3 * torch.randn(50, generator=torch.Generator().manual_seed(0))
        grid = quantizer.grid()
        assert torch.equal(grid.dequantize(grid.codes(x)), quantizer(x))


def test_a_calibrated_checkpoint_of_an_older_version_says_what_to_do(tmp_path):
    network = small_resnet()
    scheme = quantize_after_training(network, SCHEMES["pwlq"], images().split(4))
    about = {"network": describe(network), "scheme": describe(scheme)}
    state = network.state_dict()
    older = {name: value for name, value in state.items() if ".codes_" not in name and ".scale_" not in name}
    codes = "fc.weight_quantizer.codes_0"
    for name, kept in (("new", state), ("old", older), ("bad", {**state, codes: state[codes] + 99})):
        torch.save(
            {"state_dict": {f"network.{key}": value for key, value in kept.items()}, KEY: about}, tmp_path / name
        )
    assert torch.equal(load(tmp_path / "new")(images()), network(images()))
    with pytest.raises(ValueError, match=r"has no codes of its quantized weights .*: calibrate the float checkpoint"):
        load(tmp_path / "old")
    with pytest.raises(ValueError, match="its fc has codes out of the range of 4 bits"):
        load(tmp_path / "bad")


@dataclass(frozen=True)
class OneTooMany(WeightQuantizer):
    """A quantizer of one's own that rounds the largest weight to a level that is not there, or not at all."""

    steps: int
    highest: int
    rounds: bool = True

    def grid(self, w: Tensor, bit_width: int, learned: Mapping[str, Tensor]) -> WeightGrid:
        scale = w.abs().max() / self.steps
        codes = (w / scale).round() if self.rounds else w / scale
        return WeightGrid((Term(codes, Grid(scale, range(-self.steps, self.highest + 1))),))


@pytest.mark.parametrize(
    ("quantizer", "reason"),
    [
        (OneTooMany(7, 6), "codes that are not among its levels"),
        (OneTooMany(7, 7, rounds=False), "codes that are not among its levels"),
        (OneTooMany(20, 20), "has 41 levels, more than 4 bits can represent"),
    ],
)
def test_a_quantizer_of_other_weights_than_its_bits_hold_is_refused_and_nothing_is_changed(quantizer, reason):
    network = small_resnet()
    network.conv1.weight.data[0, 0, 0, 0] = 2.0
    kinds = [type(module) for module in network.modules()]
    with pytest.raises(ValueError, match=reason):
        convert(network, QuantScheme(quantizer, PACT(), 4, 32, first_last_bit_width=None))
    assert [type(module) for module in network.modules()] == kinds
    convert(network, QuantScheme(OneTooMany(7, 7), PACT(), 4, 32, first_last_bit_width=None))
