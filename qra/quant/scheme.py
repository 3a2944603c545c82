"""Quantization schemes: what is quantized, how, and to how many bits."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from qra.describe import is_rebuilt, unrecorded
from qra.quant.activations import PACT, ActivationQuantizer
from qra.quant.bits import Kind, override, parse_bits
from qra.quant.fixed import Fixed
from qra.quant.rounding import check_bit_width
from qra.quant.weights import DoReFa, WeightQuantizer

OFF = 32
"""The bit width that stands for no quantization."""


@dataclass(frozen=True)
class QuantScheme:
    """The quantization of a network, see :func:`qra.quant.convert`.

    Args:
        weight: Quantizer of the weights of convolutions and linear layers. Biases stay float.
        activation: Quantizer of activations.
        weight_bit_width: 2 to 8, or 32 to leave all weights float.
        act_bit_width: 2 to 8, or 32 to leave all activations float.
        first_last_bit_width: Bits of the weights of the first convolution and the last linear layer, 2 to 8 or 32;
            ``null`` to use ``weight_bit_width``.
        overrides: Bits of individual layers by shell pattern on module names, such as ``{"stages.0.*": W8A8, fc: W8}``.
            The last match wins, also over ``first_last_bit_width``; 32 leaves a layer float.
        allow_float: Shell patterns on the names of modules whose weights or inputs may stay float, or that may never
            run; other such modules are rejected. Names and results then state how much of the network is float.

    Raises:
        ValueError: If a bit width is invalid or not supported by its quantizer, a quantizer is of the wrong kind or no
            dataclass, or allow_float is not a list of patterns.
    """

    weight: WeightQuantizer = field(default_factory=DoReFa)
    activation: ActivationQuantizer = field(default_factory=PACT)
    weight_bit_width: int = 4
    act_bit_width: int = 4
    first_last_bit_width: int | None = 8
    overrides: dict[str, str] = field(default_factory=dict)
    allow_float: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.weight, WeightQuantizer):
            raise ValueError(f"{type(self.weight).__name__} does not quantize weights: choose for example DoReFa")
        if not isinstance(self.activation, ActivationQuantizer):
            raise ValueError(
                f"{type(self.activation).__name__} does not quantize activations: choose for example PACT or "
                "CalibratedUniform"
            )
        self._check_recorded(self.weight)
        self._check_recorded(self.activation)
        patterns: Any = self.allow_float  # of a checkpoint, or a caller that is not checked for types
        if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(f"allow_float is {patterns!r}: give a list of patterns, such as ['fc']")
        self._check_bits("weight_bit_width", self.weight, self.weight_bit_width)
        self._check_bits("first_last_bit_width", self.weight, self.first_last_bit_width)
        self._check_bits("act_bit_width", self.activation, self.act_bit_width)
        for pattern, text in self.overrides.items():
            try:
                weight, activation = parse_bits(text)
            except ValueError as reason:
                raise ValueError(f"overrides: {pattern}: {reason}") from None
            self._check_bits(f"overrides: {pattern}", self.weight, weight)
            self._check_bits(f"overrides: {pattern}", self.activation, activation)

    @staticmethod
    def _check_recorded(quantizer: Any) -> None:
        if not is_dataclass(quantizer) or unrecorded(type(quantizer), [field.name for field in fields(quantizer)]):
            raise ValueError(
                f"{type(quantizer).__name__} is not a dataclass, or takes arguments that are not its fields: decorate "
                "it with @dataclass(frozen=True), so that checkpoints can describe it"
            )

    @staticmethod
    def _check_bits(name: str, quantizer: WeightQuantizer | ActivationQuantizer, bit_width: int | None) -> None:
        if bit_width in (OFF, None):
            return
        try:
            check_bit_width(bit_width)
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}") from None
        if bit_width not in quantizer.bit_widths:
            known = ", ".join(map(str, quantizer.bit_widths))
            raise ValueError(f"{name}: {type(quantizer).__name__} cannot quantize to {bit_width} bits, only to {known}")

    @property
    def is_fixed(self) -> bool:
        """Whether it describes a network after post-training quantization, whose weights are fixed."""
        return isinstance(self.weight, Fixed)

    @property
    def quantizes_activations(self) -> bool:
        """Whether activations are quantized anywhere."""
        return self._quantizes("activation", self.act_bit_width)

    @property
    def quantizes_anything(self) -> bool:
        """Whether weights or activations are quantized anywhere."""
        return self.quantizes_activations or self._quantizes("weight", self.weight_bit_width)

    def _quantizes(self, kind: Kind, usual: int) -> bool:
        overrides = (getattr(parse_bits(text), kind) for text in self.overrides.values())
        return any(bits not in (OFF, None) for bits in (usual, *overrides))

    def weight_bits(self, name: str, is_end: bool) -> int:
        """Return the bits of a layer's weights.

        Args:
            name: Name of the layer.
            is_end: Whether it is the first convolution or the last linear layer.
        """
        own = override(self.overrides, "weight", name)
        if own is not None:
            return own
        if is_end and self.first_last_bit_width is not None and self.weight_bit_width != OFF:
            return self.first_last_bit_width
        return self.weight_bit_width

    def activation_bits(self, name: str) -> int:
        """Return the bits of a site's activations.

        Args:
            name: Name of the module that is the site, or whose input is.
        """
        own = override(self.overrides, "activation", name)
        return self.act_bit_width if own is None else own

    def check_stored(self) -> None:
        """Check that a checkpoint can describe the quantizers.

        Raises:
            ValueError: If one has a field that is not a plain value, or such a value within lists and dataclasses.
        """
        quantizers: Any = (self.weight, self.activation)  # that they are dataclasses was checked
        for quantizer in quantizers:
            for name, value in ((each.name, getattr(quantizer, each.name)) for each in fields(quantizer)):
                if not is_rebuilt(value):
                    raise ValueError(
                        f"{name} of {type(quantizer).__name__} is a {type(value).__name__}, which checkpoints cannot "
                        "describe: make it a number, text, a list, a mapping or a dataclass of these"
                    )

    @property
    def bits_text(self) -> str:
        """Bit widths such as ``W4A4``, with a star if individual layers have other bits."""
        return f"W{self.weight_bit_width}A{self.act_bit_width}{'*' if self.overrides else ''}"

    def __str__(self) -> str:
        weight = self.weight.quantizer if isinstance(self.weight, Fixed) else self.weight
        names = type(weight).__name__, type(self.activation).__name__
        return f"{self.bits_text} ({names[0]} weights, {names[1]} activations)"
