"""What is quantized, how, and to how many bits."""

from __future__ import annotations

from dataclasses import dataclass, field

from qra.quant.activations import PACT, ActivationQuantizer
from qra.quant.rounding import check_bit_width
from qra.quant.weights import DoReFa, Fixed, WeightQuantizer

OFF = 32
"""The bit width that means: not quantized."""


@dataclass(frozen=True)
class QuantScheme:
    """The quantization of a network, see :func:`qra.quant.convert`.

    Args:
        weight: Quantizer of the weights of convolutions and linear layers. Biases stay float.
        activation: Quantizer of activations.
        weight_bit_width: 2 to 8, or 32 to leave all weights float.
        act_bit_width: 2 to 8, or 32 to leave all activations float.
        first_last_bit_width: Bits of the weights of the first convolution and of the last linear layer, 2 to 8 or 32;
            ``null`` for ``weight_bit_width``.

    Raises:
        ValueError: If a bit width is none of these, or a quantizer is of the wrong kind.
    """

    weight: WeightQuantizer = field(default_factory=DoReFa)
    activation: ActivationQuantizer = field(default_factory=PACT)
    weight_bit_width: int = 4
    act_bit_width: int = 4
    first_last_bit_width: int | None = 8

    def __post_init__(self) -> None:
        for name in ("weight_bit_width", "act_bit_width", "first_last_bit_width"):
            value = getattr(self, name)
            if value not in (OFF, None):
                try:
                    check_bit_width(value)
                except ValueError as reason:
                    raise ValueError(f"{name}: {reason}") from None
        if not isinstance(self.weight, WeightQuantizer):
            raise ValueError(f"{type(self.weight).__name__} does not quantize weights: choose for example DoReFa")
        if not isinstance(self.activation, ActivationQuantizer):
            raise ValueError(
                f"{type(self.activation).__name__} does not quantize activations: choose for example PACT or "
                "CalibratedUniform"
            )

    @property
    def is_fixed(self) -> bool:
        """Whether it describes a network that was quantized after training, whose weights are quantized for good."""
        return isinstance(self.weight, Fixed)

    def layer_bits(self, is_end: bool) -> int:
        """Bits of a layer's weights.

        Args:
            is_end: Whether it is the first convolution or the last linear layer.
        """
        if is_end and self.first_last_bit_width is not None and self.weight_bit_width != OFF:
            return self.first_last_bit_width
        return self.weight_bit_width

    def __str__(self) -> str:
        weight = self.weight.quantizer if isinstance(self.weight, Fixed) else self.weight
        names = type(weight).__name__, type(self.activation).__name__
        return f"W{self.weight_bit_width}A{self.act_bit_width} ({names[0]} weights, {names[1]} activations)"
