"""Parts of a network that a scheme leaves float. They are rejected by name unless the scheme allows them by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from qra.quant.follow import Flow
from qra.quant.scheme import OFF, QuantScheme

_FLOAT_KINDS = (_ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)
"""PyTorch's layers that multiply by weights that no quantizer reaches, except for nn.Conv2d, also a _ConvNd."""

_SHOWN = 4


class Gap(NamedTuple):
    """A part that would stay float.

    Attributes:
        name: Name of the module.
        reason: Text that says what is float there.
    """

    name: str
    reason: str


def float_kinds(network: nn.Module) -> dict[str, str]:
    """Return the kinds of the layers whose weights no quantizer reaches, by name."""
    found = {name: module for name, module in network.named_modules() if _is_float(module)}
    return {name: type(module).__name__ for name, module in found.items() if not isinstance(module, nn.Conv2d)}


def _is_float(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return any(weight.ndim > 1 for weight in module.parameters(recurse=False))
    return isinstance(module, _FLOAT_KINDS)


def find_gaps(network: nn.Module, scheme: QuantScheme, sites: Mapping[str, str], flow: Flow | None) -> list[Gap]:
    """Find the parts of a network that a scheme leaves float, and quantized modules that never run.

    Float inputs count if the scheme quantizes activations, float weights if it quantizes weights. The image as an input
    does not count.

    Args:
        network: Float or quantized.
        scheme: Scheme by which the network is, or is to be, quantized.
        sites: Kind of each quantized module, by name.
        flow: Flow of values through a forward pass; None if unknown.
    """
    gaps: list[Gap] = []
    if scheme.weight_bit_width != OFF:
        gaps += [Gap(name, f"{kind} {name} keeps float weights") for name, kind in float_kinds(network).items()]
    if flow is None:
        return gaps
    gaps += [Gap(name, f"{kind} {name} never runs") for name, kind in sites.items() if not flow.calls[name]]
    called = (each for each in flow.multiplications if each.by_weights)
    if sites:
        gaps += [Gap(each.module, f"{each} is called as a function, not as a module of torch.nn") for each in called]
    if scheme.act_bit_width != OFF:
        found = ((name, source) for name, source in flow.inputs.items() if source.kind in ("float", "constant"))
        gaps += [Gap(name, f"{name} gets its input from {source.name}") for name, source in found]
    return gaps


def check_gaps(gaps: Iterable[Gap], scheme: QuantScheme) -> None:
    """Reject parts that would stay float without being allowed by name.

    Raises:
        ValueError: If there are any. The message names them and says how to resolve it.
    """
    refused = [gap for gap in gaps if not is_allowed(gap.name, scheme)]
    if not refused:
        return
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN + 1 else ""
    places = "; ".join(gap.reason for gap in (refused[:_SHOWN] if more else refused))
    inputs = any("gets its input from" in gap.reason for gap in refused)
    other = ", or quantize at the inputs of layers, by LSQPlus in training or CalibratedUniform after it"
    names = ", ".join(dict.fromkeys(gap.name or "''" for gap in refused[:2]))
    raise ValueError(
        f"the scheme would leave a part of the network float: {places}{more}. Name it in the scheme's allow_float "
        f"(patterns such as {names}{', ...' if len(refused) > 2 else ''}), which results then record"
        f"{other if inputs and scheme.activation.replaces_relu else ', or remove it from the network'}"
    )


def check_used_once(names: Iterable[str], uses: Mapping[str, int]) -> None:
    """Reject modules that are used more than once, which would share a quantizer.

    Raises:
        ValueError: If there are any. The message names them.
    """
    if shared := [name for name in names if uses[name] > 1]:
        raise ValueError(
            f"the network uses modules in more than one place: {', '.join(shared)}; use one module per place"
        )


def is_allowed(name: str, scheme: QuantScheme) -> bool:
    """Whether a scheme allows a module to stay float."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in scheme.allow_float)


def check_patterns(network: nn.Module, scheme: QuantScheme) -> None:
    """Reject a pattern of ``allow_float`` that matches no module.

    Raises:
        ValueError: If there is one. The message quotes it.
    """
    names = [name for name, _ in network.named_modules()]
    for pattern in scheme.allow_float:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"allow_float: no module of the network matches {pattern!r}")
