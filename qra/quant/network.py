"""The quantizers of a network, and context managers for its modes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast, get_args

from torch import Tensor, nn, no_grad

from qra.checks import check_choice
from qra.quant.fixed import Fixed
from qra.quant.layers import ActivationFakeQuantizer, FakeQuantizer, QuantLayer, WeightFakeQuantizer
from qra.quant.rounding import GradientMode

Module = TypeVar("Module", bound=nn.Module)


def activation_quantizers(network: nn.Module) -> dict[str, ActivationFakeQuantizer]:
    """Return the activation quantizers of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, ActivationFakeQuantizer)}


def quant_layers(network: nn.Module) -> dict[str, QuantLayer]:
    """Return the quantized convolutions and linear layers of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantLayer)}


def fake_quantizers(network: nn.Module) -> dict[str, FakeQuantizer]:
    """Return all quantizers of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, FakeQuantizer)}


def quantizer_keys(network: nn.Module) -> dict[str, FakeQuantizer]:
    """Return the keys of a network's ``state_dict`` that its float original lacks, with the quantizer of each."""
    found = fake_quantizers(network).items()
    return {f"{name}.{key}": quantizer for name, quantizer in found for key in quantizer.state_dict()}


def is_fixed(quantizer: FakeQuantizer) -> bool:
    """Whether a quantizer holds the codes of weights that post-training quantization has fixed."""
    return isinstance(quantizer, WeightFakeQuantizer) and isinstance(quantizer.settings, Fixed)


def check_fixed(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Reject a ``state_dict`` from a file with codes that a converted network's fixed weights cannot have.

    Raises:
        ValueError: If a layer's state is invalid. The message names the layer.
    """
    for name, layer in quant_layers(network).items():
        quantizer = layer.weight_quantizer
        if quantizer is not None and isinstance(quantizer.settings, Fixed):
            own = {key: state[f"{name}.weight_quantizer.{key}"] for key in quantizer.state_dict()}
            try:
                quantizer.settings.check(layer.weight, quantizer.bit_width, own)
            except ValueError as reason:
                raise ValueError(f"its {name} {reason}") from None


def check_positive_learned(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse a state with clip levels or steps that are not above 0, which quantizers on a GPU do not look at.

    Args:
        network: Converted.
        state: A ``state_dict`` of the network, from a file; those of quantizers may be missing.

    Raises:
        ValueError: With the name of the first.
    """
    for key, quantizer in quantizer_keys(network).items():
        name = key.rpartition(".")[2]
        is_positive = name in quantizer._parameters and name not in quantizer.settings.signed
        if is_positive and key in state and (state[key] <= 0).any():
            raise ValueError(f"its {key} is not above 0, as a learned value of a quantizer must be: it is damaged")


def restart_weight_quantizers(network: nn.Module, keys: set[str]) -> None:
    """Reinitialize the weight quantizers whose ``state_dict`` keys are given from the weights of their layers."""
    for name, layer in quant_layers(network).items():
        if any(key.startswith(f"{name}.weight_quantizer.") for key in keys):
            cast(WeightFakeQuantizer, layer.weight_quantizer).restart(layer.weight)


def quantizer_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the learned values of a network's quantizers, such as PACT's clip levels."""
    return [parameter for quantizer in fake_quantizers(network).values() for parameter in quantizer.parameters()]


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside the block, then restore the mode of each module."""
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
    """Put a network in eval mode without gradients inside the block, then restore the mode of each module."""
    with eval_mode(network), no_grad():
        yield


@contextmanager
def seeing(modules: Mapping[str, Module], see: Callable[[str, Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Call ``see(name, module, first argument, output)`` with each call of some modules inside the block."""

    def hook_of(name: str) -> Callable[[Module, tuple[Any, ...], dict[str, Any], Tensor], None]:
        return lambda module, args, kwargs, output: see(name, module, next(iter((*args, *kwargs.values()))), output)

    handles = [module.register_forward_hook(hook_of(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def float_mode(network: nn.Module) -> Iterator[None]:
    """Disable all quantizers of a network inside the block, so that it computes in float."""
    with disabled(fake_quantizers(network).values()):
        yield


@contextmanager
def disabled(quantizers: Iterable[FakeQuantizer]) -> Iterator[None]:
    """Disable quantizers inside the block."""
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
    """Set how the activation quantizers of a network are differentiated inside the block.

    For an attack, weights are constants; in training they are always differentiated straight through.

    Args:
        network: A quantized network, or a frozen copy of one.
        mode: ``ste``, ``ste_soft`` or ``hard``. ``hard`` only serves to diagnose gradient masking and is never an
            attack.

    Raises:
        ValueError: If ``mode`` is none of these.
    """
    check_choice("the gradient mode", mode, get_args(GradientMode))
    with gradient_modes(network, dict.fromkeys(activation_quantizers(network), mode)):
        yield


@contextmanager
def gradient_modes(network: nn.Module, modes: Mapping[str, GradientMode]) -> Iterator[None]:
    """Set how each activation quantizer, by name, is differentiated inside the block."""
    quantizers = activation_quantizers(network)
    before = {name: quantizers[name].gradient for name in modes}
    try:
        for name, mode in modes.items():
            quantizers[name].gradient = mode
        yield
    finally:
        for name, earlier in before.items():
            quantizers[name].gradient = earlier
