"""What a quantized network holds, and the modes that it can be put into for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast, get_args

from torch import Tensor, nn, no_grad

from qra.checks import check_choice
from qra.quant.fixed import Fixed
from qra.quant.layers import ActivationFakeQuantizer, FakeQuantizer, QuantLayer, WeightFakeQuantizer
from qra.quant.rounding import GradientMode


def activation_quantizers(network: nn.Module) -> dict[str, ActivationFakeQuantizer]:
    """The activation quantizers of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ActivationFakeQuantizer)}


def quant_layers(network: nn.Module) -> dict[str, QuantLayer]:
    """The convolutions and linear layers of a network that conversion has swapped, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantLayer)}


def fake_quantizers(network: nn.Module) -> dict[str, FakeQuantizer]:
    """All quantizers of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, FakeQuantizer)}


def quantizer_keys(network: nn.Module) -> dict[str, FakeQuantizer]:
    """The keys in a network's ``state_dict`` that its float original lacks, each with the quantizer that it is of."""
    found = fake_quantizers(network).items()
    return {f"{name}.{key}": quantizer for name, quantizer in found for key in quantizer.state_dict()}


def is_fixed(quantizer: FakeQuantizer) -> bool:
    """Whether a quantizer holds weights that were quantized for good, by their codes."""
    return isinstance(quantizer, WeightFakeQuantizer) and isinstance(quantizer.settings, Fixed)


def check_fixed(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse a state with codes that a network's fixed weights cannot have.

    Args:
        network: Converted.
        state: A ``state_dict`` of the network, from a file.

    Raises:
        ValueError: With the name of the layer.
    """
    for name, layer in quant_layers(network).items():
        quantizer = layer.weight_quantizer
        if quantizer is not None and isinstance(quantizer.settings, Fixed):
            own = {key: state[f"{name}.weight_quantizer.{key}"] for key in quantizer.state_dict()}
            try:
                quantizer.settings.check(layer.weight, quantizer.bit_width, own)
            except ValueError as reason:
                raise ValueError(f"its {name} {reason}") from None


def restart_weight_quantizers(network: nn.Module, keys: set[str]) -> None:
    """Start those weight quantizers again from their weights whose ``state_dict`` keys are given."""
    for name, layer in quant_layers(network).items():
        if any(key.startswith(f"{name}.weight_quantizer.") for key in keys):
            cast(WeightFakeQuantizer, layer.weight_quantizer).restart(layer.weight)


def quantizer_parameters(network: nn.Module) -> list[nn.Parameter]:
    """What the quantizers of a network learn, such as PACT's clip levels."""
    return [parameter for quantizer in fake_quantizers(network).values() for parameter in quantizer.parameters()]


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Run a network in eval mode inside the block; then give each module its mode back."""
    modes = [(module, module.training) for module in network.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run a network in eval mode and without gradients inside the block; then give each module its mode back."""
    with eval_mode(network), no_grad():
        yield


@contextmanager
def float_mode(network: nn.Module) -> Iterator[None]:
    """Turn all quantizers of a network off inside the block: it computes in float."""
    with rounding_off(fake_quantizers(network).values()):
        yield


@contextmanager
def rounding_off(quantizers: Iterable[FakeQuantizer]) -> Iterator[None]:
    """Turn quantizers off inside the block."""
    quantizers = list(quantizers)
    before = [quantizer.enabled for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.enabled = False
        yield
    finally:
        for quantizer, earlier in zip(quantizers, before, strict=True):
            quantizer.enabled = earlier


@contextmanager
def gradient_mode(network: nn.Module, mode: GradientMode) -> Iterator[None]:
    """Choose how the activation quantizers of a network are differentiated inside the block.

    Weights are constants to an attack; in training they are always differentiated straight through.

    Args:
        network: Quantized, or a frozen copy of such a network.
        mode: ``ste``, ``ste_soft``, or ``hard``, which is a diagnosis of gradient masking and never an attack.

    Raises:
        ValueError: If ``mode`` is none of these.
    """
    check_choice("the gradient mode", mode, get_args(GradientMode))
    with gradient_modes(network, dict.fromkeys(activation_quantizers(network), mode)):
        yield


@contextmanager
def gradient_modes(network: nn.Module, modes: Mapping[str, GradientMode]) -> Iterator[None]:
    """Choose how each activation quantizer is differentiated inside the block, by its name."""
    quantizers = activation_quantizers(network)
    before = {name: quantizers[name].gradient for name in modes}
    try:
        for name, mode in modes.items():
            quantizers[name].gradient = mode
        yield
    finally:
        for name, earlier in before.items():
            quantizers[name].gradient = earlier
