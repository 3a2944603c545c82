"""The attack-time network: the same function as a network in eval mode, at a fraction of the cost."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from qra.graphs import Work
from qra.parts import Parts
from qra.precision import Precision, searching
from qra.quant.agreement import Difference, difference, suits_channels_last
from qra.quant.frozen_conv import frozen
from qra.quant.layers import (
    ActivationFakeQuantizer,
    QuantConv2d,
    WeightFakeQuantizer,
    address,
    is_plain,
    quantized_weight,
    uses_of_parameters,
)
from qra.quant.network import activation_quantizers, eval_mode, gradient_modes, quant_layers
from qra.quant.passes import Passes
from qra.quant.rounding import GradientMode
from qra.quant.trace import calls, copied, find_graph, trace
from qra.quant.unrounded import unrounded

ConvBN = tuple[str, str]
Folding = Literal["folds", "stays", "unknown"]
"""Whether a batch normalization folds into the convolution before it.

``stays``: both modules are plain, but the convolution's output is also used elsewhere, or one module is used twice.
"""


class FrozenNetwork(nn.Module):
    """A copy of a network in eval mode for computing input gradients; see :func:`freeze`.

    Attributes:
        network: The copy, or the network itself if no copy computes the same function.
        folded: The (convolution, batch normalization) pairs, by name, that were folded into one convolution.
        precision: Precision to compute in, whatever the surrounding settings; None to follow the surrounding settings.
        passes: How it runs, see :class:`qra.quant.passes.Passes`.
        parts: How many images it runs on at a time.
    """

    precision: Precision | None = None

    def __init__(self, network: nn.Module, pairs: list[ConvBN]) -> None:
        super().__init__()
        self._source = [network]  # in a list: not a submodule
        self._ways: list[list[ConvBN] | None] = [pairs, [], None] if pairs else [[], None]
        self._modes: dict[str, GradientMode] = {}
        self._unrounded: list[FrozenNetwork | None] = []  # in a list: not a submodule
        self._due, self._was_refreshed = True, False
        self.folded: list[ConvBN] = []
        self.parts = Parts()
        self.network, self.passes = network, Passes(network)
        self._make("")

    def _make(self, reason: str) -> None:
        """Make the next simpler copy that works. The last resort is the network itself."""
        while (pairs := self._ways.pop(0)) is not None:
            try:
                self._copy(pairs)
                break
            except Exception as error:  # user-defined networks can fail to copy in any way
                reason = f"it cannot be copied: {' '.join(str(error).split())[:200]}"
        else:
            self.network, self.folded = self._source[0], []
            self._renew()
        if reason:
            instead = "the network itself" if pairs is None else "a copy without folded batch normalization"
            warnings.warn(f"{instead} is attacked instead of the attack-time copy: {reason}", stacklevel=2)

    @torch.inference_mode(False)  # what is made in inference mode never takes part in a gradient
    def _copy(self, pairs: list[ConvBN]) -> None:
        self.network = copied(self._source[0]).eval().requires_grad_(False)
        self.folded = pairs
        for layer in quant_layers(self.network).values():
            layer.weight_quantizer = None
        for conv_name, bn_name in pairs:
            conv = cast(nn.Conv2d, self.network.get_submodule(conv_name))
            conv.bias = nn.Parameter(conv.weight.new_zeros(len(conv.weight)), requires_grad=False)
            self.network.set_submodule(conv_name, frozen(conv))
            self.network.set_submodule(bn_name, nn.Identity().eval())
        self.network.to(memory_format=torch.channels_last)
        self._quantizers = activation_quantizers(self.network)
        self.passes = Passes(self.network)
        self._renew()

    @property
    def is_copy(self) -> bool:
        """Whether it is a copy, not the network itself."""
        return self.network is not self._source[0]

    @torch.no_grad()
    def refresh(self) -> FrozenNetwork:
        """Copy the current weights and statistics of the source network, in place.

        Returns:
            This network.
        """
        if not self._due and not self._was_refreshed:
            self._due = self._was_refreshed = True
        self._renew()
        return self

    def _renew(self) -> None:
        self._unrounded.clear()
        modules = dict(self._source[0].named_modules())
        self._modes = {name: m.gradient for name, m in modules.items() if isinstance(m, ActivationFakeQuantizer)}
        if not self.is_copy:
            return
        of_weights = [module for module in modules.values() if isinstance(module, WeightFakeQuantizer)]
        self.passes.again(self._take_over, modules.values(), of_weights)
        for name, quantizer in self._quantizers.items():
            if quantizer.gradient != self._modes[name]:  # setting a module's attribute is slow
                quantizer.gradient = self._modes[name]
            quantizer.state_changed()

    @torch.no_grad()
    def _take_over(self) -> None:
        values = self._values()
        held = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        if held:
            torch._foreach_copy_([*held.values()], [values[name] for name in held])

    def _values(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return the copy's parameters and buffers as the source has them now; without folding, the source's own."""
        values = self._source_values(dtype)
        for conv_name, bn_name in self.folded:
            bn = cast(nn.BatchNorm2d, self._source[0].get_submodule(bn_name))
            values[f"{conv_name}.weight"], values[f"{conv_name}.bias"] = _folded(values, conv_name, bn_name, bn.eps)
        return values

    def _source_values(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        source = self._source[0]
        values = {**dict(source.named_parameters()), **dict(source.named_buffers())}
        for name, layer in quant_layers(source).items():
            values[f"{name}.weight"] = quantized_weight(layer)
        if dtype is None:
            return values
        return {name: v.to(dtype) if v.is_floating_point() else v.clone() for name, v in values.items()}

    def check(self, x: Tensor) -> None:
        """Compare its logits with those of the source network, on first use and after the first refresh.

        A copy that computes another function is replaced by a simpler one, and finally by the network itself, with a
        warning. The result is stored as the source network's ``attack_copy``.

        Args:
            x: Images in [0, 1], (N, C, H, W).
        """
        if not self._due or len(x) == 0:
            return
        self._due = False
        found = self._difference(x)
        while not found.is_none:
            compiled = self.network._compiled_call_impl is not None
            self._make(f"their logits differ by {found.value:.1g} of the largest")
            if compiled and self.is_copy:
                self.network.compile()
            found = self._difference(x)
        self.passes.contiguous = not suits_channels_last(self._source[0], self.network, x)
        kind = "the network itself" if not self.is_copy else "folded" if self.folded else "not folded"
        vars(self._source[0])["attack_copy"] = {"kind": kind, "difference": found.value}

    def _difference(self, x: Tensor) -> Difference:
        if not self.is_copy:
            return Difference(0.0, 0.0)
        used = {name for name, _ in (*self.network.named_parameters(), *self.network.named_buffers())}

        def values(dtype: torch.dtype | None) -> dict[str, Tensor]:
            return {name: value for name, value in self._values(dtype).items() if name in used}

        return difference(self._source[0], self._source_values, self.network, values, x)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if x.requires_grad and torch.is_grad_enabled():
            return self._run(x)  # not in parts: the backward pass runs on the whole batch
        return self.parts(lambda part: (self._run(part),), x)[0]

    def _run(self, x: Tensor) -> Tensor:
        if self.is_copy:
            return self.passes(x, self.precision)
        modes = eval_mode(self.network), gradient_modes(self.network, self._modes)
        with searching(self.precision, x.device), modes[0], modes[1]:
            logits: Tensor = self.network(x)
        return logits

    def replay(self, work: Work, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run work that uses this network, replaying a recording if possible; see :func:`qra.attacks.base.replayed`."""
        self.check(tensors[0])
        if not self.is_copy:
            return self.parts(lambda *part: work(self, *part), *tensors)
        return self.parts(lambda *part: self.passes.replay(self, work, part, self.precision), *tensors)

    def unrounded(self) -> FrozenNetwork | None:
        """Return the same network without the rounding of activations, see :func:`qra.quant.unrounded`.

        Returns:
            The frozen unrounded network; None if the network does not round activations.

        Raises:
            ValueError: If the unrounded form of a quantizer is unknown. The message names it.
        """
        if not self._unrounded:
            with torch.inference_mode(False):
                found = unrounded(self._source[0])
                self._unrounded.append(None if found is None else freeze(found))
        (copy,) = self._unrounded
        if copy is not None:
            copy.precision = self.precision
        return copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        self.passes.clear()  # weights move in memory
        self._unrounded.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def freeze(network: nn.Module) -> FrozenNetwork:
    """Make the attack-time copy of a network.

    Weights are quantized once, batch normalization in eval mode is folded into the convolution before it, parameters
    have no gradients, and activations are channels-last internally. Activation quantizers and their gradient mode are
    those of ``network``. Call ``refresh`` after the source network has been trained further.

    Only plain convolutions whose kernel is neither computed nor shared are folded. On first use, and after the first
    refresh, the copy's logits are compared with those of ``network`` (float64, activation quantizers off). If they
    differ, the copy is made again without folding; if they still differ, ``network`` itself is run.

    Sums are taken in another order than in ``network``. Without activation quantizers, the logits agree in eval mode
    within 1e-4 in float32. With them, they agree in float64; in float32 some values round the other way, so an attack
    on the copy counts only if it also succeeds on ``network``.

    Args:
        network: Takes pixels in [0, 1], (N, C, H, W), and returns logits. It is not changed.

    Returns:
        The copy, on the same device. If the network cannot be traced, batch normalization is not folded, and a warning
        says so.
    """
    return FrozenNetwork(network, conv_bn_pairs(network))


def conv_bn_pairs(network: nn.Module) -> list[ConvBN]:
    """Find each plain convolution whose output goes to one batch normalization and nowhere else.

    Returns:
        Names of convolution and batch normalization. Empty, with a warning, if ``torch.fx`` cannot trace the network.
    """
    graph = trace(network, "batch normalization is not folded")
    return [] if graph is None else [pair for pair, found in _candidates(network, graph).items() if found == "folds"]


def check_foldable(network: nn.Module) -> list[ConvBN]:
    """Reject a network in which a batch normalization follows a convolution and either is not a plain module.

    Returns:
        The pairs of plain modules that stay separate, including those whose batch normalization has no bias to hold the
        shift.

    Raises:
        ValueError: If there is such a pair, or there are batch normalizations and the network cannot be traced. The
            message names them.
    """
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return []
    try:
        candidates = _candidates(network, find_graph(network))
    except ValueError as reason:
        raise ValueError(f"{', '.join(norms)} cannot be folded for quantization after training: {reason}") from None
    if stuck := [f"{bn} (behind {conv})" for (conv, bn), found in candidates.items() if found == "unknown"]:
        names = ", ".join(stuck)
        raise ValueError(f"{names} cannot be folded for quantization after training: put a plain nn.Conv2d before each")
    affine = {bn: cast(nn.BatchNorm2d, network.get_submodule(bn)).affine for _, bn in candidates}
    return [pair for pair, found in candidates.items() if found == "stays" or not affine[pair[1]]]


def _candidates(network: nn.Module, graph: fx.Graph) -> dict[ConvBN, Folding]:
    """Return each pair of convolution and batch normalization, and whether the two can be folded."""
    modules = dict(network.named_modules())
    count = calls(graph)
    uses = uses_of_parameters(network)
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found: dict[ConvBN, Folding] = {}
    for node in graph.nodes:
        bn = modules.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if isinstance(bn, nn.BatchNorm2d) and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, names = modules[str(before.target)], (str(before.target), str(node.target))
        if isinstance(bn, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d):
            alone = len(before.users) == 1 and count[names[0]] == count[names[1]] == 1 and not read.intersection(names)
            exact = type(conv) in (nn.Conv2d, QuantConv2d) and type(bn) is nn.BatchNorm2d
            tracked = bn.running_mean is not None
            own = all(is_plain(module) and _are_own(module, uses) for module in (conv, bn))
            known = exact and tracked and own
            found[names] = "unknown" if not known else "folds" if alone else "stays"
    return found


def _are_own(module: nn.Module, uses: Counter[int]) -> bool:
    return all(uses[address(value)] == 1 for value in module.parameters())


def _folded(values: dict[str, Tensor], conv: str, bn: str, eps: float) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals ``conv`` and ``bn`` in eval mode, in their dtype."""
    statistics = values[f"{bn}.running_mean"], values[f"{bn}.running_var"]
    affine = values.get(f"{bn}.weight"), values.get(f"{bn}.bias")
    return fuse_conv_bn_weights(values[f"{conv}.weight"], values.get(f"{conv}.bias"), *statistics, eps, *affine)
