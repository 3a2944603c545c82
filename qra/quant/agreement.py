"""Check that the attack-time copy of a network computes the same function as the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qra.precision import float32
from qra.quant.network import activation_quantizers, disabled, evaluating, float_mode

EXAMPLES = 8
"""Number of images of the first batch on which logits are compared."""
TOLERANCE = 1e-6
"""Largest accepted difference of logits in float64, relative to the largest logit."""
TOLERANCE32 = 1e-4
"""Largest accepted difference in float32, for networks that cannot compute in float64."""


class Difference(NamedTuple):
    """Difference between the logits of two networks, relative to the largest logit.

    Attributes:
        value: The largest relative difference. It is infinite if the second network fails, if shapes differ, or if one
            network's logits are finite where the other's are not.
        tolerance: Largest value that counts as no difference.
    """

    value: float
    tolerance: float

    @property
    def is_none(self) -> bool:
        """Whether the two networks compute the same function, up to the tolerance."""
        return self.value <= self.tolerance


Values = Callable[[torch.dtype | None], Mapping[str, Tensor]]


def difference(network: nn.Module, values: Values, other: nn.Module, other_values: Values, x: Tensor) -> Difference:
    """Compare the logits of two networks in eval mode, with activation quantizers off.

    Modes, gradients, random generators and the networks' own tensors are left unchanged. The comparison is in float64,
    or in float32 if ``network`` cannot compute in float64. If ``network`` cannot run at all, the difference is zero.

    Args:
        network: The reference.
        values: Returns the parameters and buffers of ``network`` by name, with floating-point tensors in the given
            dtype (None: in their own).
        other: The network to compare.
        other_values: The same for ``other``.
        x: Images in [0, 1], (N, C, H, W), of which the first ``EXAMPLES`` are used.
    """
    x = x[:EXAMPLES].detach()
    ways: tuple[tuple[torch.dtype | None, float], ...] = ((torch.float64, TOLERANCE), (None, TOLERANCE32))
    for dtype, tolerance in ways:
        expected = _logits(network, values, x, dtype)
        if expected is not None:
            found = _logits(other, other_values, x, dtype)
            return Difference(float("inf") if found is None else _apart(expected, found), tolerance)
    return Difference(0.0, TOLERANCE)  # the network cannot be run, so the attack itself will raise the error


def suits_channels_last(network: nn.Module, copy: nn.Module, x: Tensor) -> bool:
    """Whether a channels-last copy, given channels-last images, computes the same function as its network in float32.

    Args:
        network: The network.
        copy: Copy of the network, in the channels-last memory format.
        x: Images in [0, 1], (N, C, H, W), of which the first ``EXAMPLES`` are used.
    """
    x = x[:EXAMPLES].detach()
    expected = _logits(network, lambda dtype: {}, x, None)
    found = _logits(copy, lambda dtype: {}, x.contiguous(memory_format=torch.channels_last), None)
    return expected is None or (found is not None and _apart(expected, found) <= TOLERANCE32)


def _logits(network: nn.Module, values: Values, x: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    """Return logits, converted to float64, or None if the network cannot compute them in this precision."""
    try:
        with torch.inference_mode(False), _undisturbed(network, x.device):
            if dtype is None:
                with disabled(activation_quantizers(network).values()):
                    logits = network(x.clone())
            else:
                stored = _places(network, values(dtype))  # weights as they are rounded in the network's own precision
                with float_mode(network):
                    logits = functional_call(network, stored, (x.to(dtype),), tie_weights=False)
        usable = isinstance(logits, Tensor) and logits.dtype in (dtype or logits.dtype, torch.float64)
        return logits.double() if usable else None
    except Exception:  # copies may fail in any way, networks for lack of float64 operations: see `difference`
        return None


def _places(network: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the value of each attribute of each module. Shared tensors have only one name in ``values``."""
    names = {id(value): name for name, value in (*network.named_parameters(), *network.named_buffers())}
    places = {}
    for module_name, module in network.named_modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None:
                places[f"{module_name}.{name}" if module_name else name] = values[names[id(value)]]
    return places


@contextmanager
def _undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with evaluating(network), float32(device), torch.random.fork_rng(devices):
        if any(module._compiled_call_impl is not None for module in network.modules()):
            with torch.compiler.set_stance("force_eager"):  # compiling does not pay off for one forward pass
                yield
        else:
            yield


def _apart(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    apart = (expected - found)[finite].abs().max() / expected[finite].abs().max().clamp_min(1e-12)
    return float(apart)
