"""Lowering of layers with weights: their weights as integers, their inputs as codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from qra.deploy.ops import Convolution, Linear, Part
from qra.deploy.symbolic import OTHER_SIZE, Builder, Value, number
from qra.quant.grid import Term
from qra.quant.layers import QuantConv2d, QuantLayer, QuantLinear

FLOAT_WEIGHTS = "has float weights, which have no integer form: quantize them (8 bits are enough)"
_LARGEST = 2**15 - 1


@dataclass(frozen=True)
class IntegerWeights:
    """One summand of a layer's weights.

    Attributes:
        codes: Integers, int64, (O, ...); (1, ...) if all channels are equal.
        scale: Their factor, float64: one value, or one per channel, (O,).
    """

    codes: Tensor
    scale: Tensor


def integer_weights(layer: QuantLayer, name: str, exactly: bool) -> list[IntegerWeights]:
    """Return the weights of a layer as integers.

    Args:
        layer: A quantized layer.
        name: Name of the layer, for messages.
        exactly: Whether a sum of several terms remains one; otherwise it becomes a single term of 8 bits.

    Raises:
        ValueError: If the weights are float, their quantizer does not define a grid, or they are not integer multiples
            of one step per channel that fit 16 bits.
    """
    if layer.weight_quantizer is None:
        raise ValueError(f"{name} {FLOAT_WEIGHTS}")
    try:
        grid = layer.weight_quantizer.grid(layer.weight)
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}") from None
    if len(grid.terms) > 1 and not exactly:
        return [_eight_bits(grid.dequantize(torch.float64))]
    first, *others = (_whole(term, name) for term in grid.terms)
    return [first, *(_shared(term, isinstance(layer, QuantConv2d) and layer.groups == 1) for term in others)]


def _whole(term: Term, name: str) -> IntegerWeights:
    """Return codes on a grid as integer multiples of one step, or of one step per channel."""
    codes, grid = term
    scale = grid.scale.double()
    if grid.table is None:
        steps = codes.double() - grid.zero_point
    else:
        table = grid.table.double().to(scale)
        step = table.abs()[table != 0].min() if table.any() else number(1.0)
        steps, scale = (table / step)[codes.long()], scale * step
    if not float(steps.abs().max()) <= _LARGEST:
        raise ValueError(f"{name}: its weights reach {float(steps.abs().max()):g} steps, beyond 16 bits")
    if not torch.equal(steps, steps.round()):
        raise ValueError(f"{name}: its weights are not integer multiples of one step, and so have no integer form")
    if scale.numel() != 1 and (scale.numel() != len(codes) or scale.shape[0] != len(codes)):
        raise ValueError(f"{name}: its weights have scales of shape {tuple(scale.shape)}, not one or one per channel")
    return IntegerWeights(steps.long(), scale.reshape(()) if scale.numel() == 1 else scale.flatten())


def _eight_bits(weight: Tensor) -> IntegerWeights:
    scale = weight.abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return IntegerWeights((weight / scale.view(-1, *[1] * (weight.ndim - 1))).round().long(), scale)


def _shared(term: IntegerWeights, may_be: bool) -> IntegerWeights:
    """Replace many equal channels, such as those of a constant, by a single one. The first term keeps all channels."""
    first = term.codes[:1]
    return replace(term, codes=first) if may_be and bool((term.codes == first).all()) else term


def convolve(builder: Builder, layer: QuantConv2d, name: str, value: Value) -> Value:
    """Lower a convolution.

    Args:
        builder: The program so far.
        layer: The convolution.
        name: Name of its sums.
        value: Input of the layer: codes, of which each channel may have its own scale and offset.

    Raises:
        ValueError: If it cannot be lowered.
    """
    source, factor = _codes(builder, value, name)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(
            f"{name}: only padding with a given number of zeros is supported in integer form, not {layer.padding}"
        )
    weights = integer_weights(layer, name, builder.exactly)
    shape = _result_shape(layer, value.shape, name)
    placed = _Placed(builder, layer, name, source, shape)
    if factor.ndim == 0:
        result = (placed.together(weights) if layer.groups == 1 else placed.one_by_one(weights)).scaled(factor)
    else:
        result = placed.by_channel(weights, factor)
    return result.moved(_constant(layer, weights, value.offset, value.shape, shape[0]))


@dataclass(frozen=True)
class _Placed:
    """A convolution to be added to a program, with its input and the shape of its result."""

    builder: Builder
    layer: QuantConv2d
    name: str
    source: str
    shape: tuple[int, int, int]

    def together(self, weights: Sequence[IntegerWeights]) -> Value:
        """Compute all terms as channels of one convolution."""
        return self._add(self.name, torch.cat([term.codes for term in weights]), 1, weights)

    def one_by_one(self, weights: Sequence[IntegerWeights]) -> Value:
        """Compute each term as its own convolution, for layers with groups."""
        first, *others = weights
        result = self._add(self.name, first.codes, self.layer.groups, [first])
        for term in others:
            name = self.builder.name(f"{self.name}.term")
            result = result.plus(self._add(name, term.codes, self.layer.groups, [term]))
        return result

    def by_channel(self, weights: Sequence[IntegerWeights], factors: Tensor) -> Value:
        """Convolve each input channel separately, because each has its own scale."""
        if self.layer.groups != 1:
            raise ValueError(f"{self.name}: groups of channels with different scales are not supported in integer form")
        stacked = torch.cat([term.codes for term in weights])
        codes = stacked.transpose(0, 1).reshape(-1, 1, *stacked.shape[2:])
        each = [replace(term, scale=term.scale * factor) for factor in factors for term in weights]
        return self._add(self.name, codes, len(factors), each)

    def _add(self, name: str, codes: Tensor, groups: int, terms: Sequence[IntegerWeights]) -> Value:
        """Add a convolution with the channels of all terms in sequence, and return their weighted sum."""
        layer = self.layer
        stride, padding, dilation = (
            (int(pair[0]), int(pair[1])) for pair in (layer.stride, layer.padding, layer.dilation)
        )
        op = Convolution(name, self.source, integers(codes), stride, padding, dilation, groups)
        self.builder.add(op, "sums", (len(codes), *self.shape[1:]))
        parts, start = [], 0
        for term in terms:
            parts.append(Part(name, start, start + len(term.codes)))
            start += len(term.codes)
        return Value(tuple(parts), tuple(term.scale for term in terms), number(0.0), self.shape)


def multiply(builder: Builder, layer: QuantLinear, name: str, value: Value) -> Value:
    """Lower a linear layer; arguments and errors as for :func:`convolve`."""
    if len(value.shape) == 3 and value.shape[1:] == (1, 1):
        raise ValueError(f"{name} takes rows and columns: flatten its input")
    if len(value.shape) != 1:
        raise ValueError(
            f"{name} is applied to each position of {value.shape}, which is not supported in integer form: flatten it"
        )
    if value.shape[0] != layer.in_features:
        raise ValueError(f"{name} takes {layer.in_features} values, not {value.shape[0]}: {OTHER_SIZE}")
    source, factor = _codes(builder, value, name)
    if factor.ndim:
        raise ValueError(
            f"{name} takes values whose channels have scales of their own, which is not supported in integer form: "
            "quantize its input, or normalize all channels of the images by one standard deviation"
        )
    weights = integer_weights(layer, name, builder.exactly)
    codes = torch.cat([term.codes for term in weights])
    size = (layer.out_features,)
    builder.add(Linear(name, source, integers(codes)), "sums", (len(codes),))
    starts = range(0, len(codes), layer.out_features)
    parts = tuple(Part(name, start, start + layer.out_features) for start in starts)
    result = Value(parts, tuple(term.scale * factor for term in weights), number(0.0), size)
    real = torch.stack([(term.codes * _column(term.scale)).double() for term in weights]).sum(0)
    offset = real @ value.offset.expand(layer.in_features)
    return result.moved(offset if layer.bias is None else offset + layer.bias.double())


def integers(codes: Tensor) -> Tensor:
    """Return codes in the smallest integer type that holds them, int8 or int16."""
    is_byte = int(codes.min()) >= -128 and int(codes.max()) <= 127
    return codes.to(torch.int8 if is_byte else torch.int16).contiguous()


def _codes(builder: Builder, value: Value, name: str) -> tuple[str, Tensor]:
    """Return the name of a layer's input codes and their scale: one, or one per channel if they differ."""
    if builder.kind_of(value) != "codes":
        raise ValueError(f"{name} has float inputs: quantize its input, or the ReLU before it")
    factor = value.factors[0]
    if factor.ndim and bool((factor == factor[0]).all()):
        factor = factor[0]
    return value.parts[0].source, factor


def _result_shape(layer: QuantConv2d, shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] != layer.in_channels:
        raise ValueError(f"{name} takes {layer.in_channels} channels, not values of the shape {tuple(shape)}")
    x = torch.empty(1, *shape, device="meta")
    weight = torch.empty(layer.weight.shape, device="meta")
    try:
        found = F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    except RuntimeError:
        raise ValueError(f"{name} is larger than its input of {shape[1]} x {shape[2]}: {OTHER_SIZE}") from None
    return (found.shape[1], found.shape[2], found.shape[3])


def _constant(
    layer: QuantConv2d, weights: Sequence[IntegerWeights], offset: Tensor, shape: Sequence[int], channels: int
) -> Tensor:
    """Return the convolution of the input's offset, which the zero padding does not have, plus the bias."""
    bias = number(0.0) if layer.bias is None else layer.bias.double()
    if not float(offset.abs().max()):
        return bias
    real = sum((term.codes * _column(term.scale)[..., None, None]).double() for term in weights)
    assert isinstance(real, Tensor)
    spread = (offset[:, None, None] if offset.ndim == 1 else offset).expand(1, *shape)
    kernel = real.expand(channels, *real.shape[1:])
    found = F.conv2d(spread, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)[0]
    if bool((found == found[:, :1, :1]).all()):
        found = found[:, 0, 0]
    return found + (bias[:, None, None] if found.ndim == 3 and bias.ndim else bias)


def _column(scale: Tensor) -> Tensor:
    return scale[:, None] if scale.ndim else scale
