"""Conversion of a float network into a quantized one and back, in place."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

from torch import Tensor, fx, nn

from qra.quant.activations import ActivationQuantizer
from qra.quant.attention import join_attention, split_attention
from qra.quant.bits import check_overrides
from qra.quant.follow import Flow, follow
from qra.quant.gaps import check_gaps, check_patterns, check_used_once, find_gaps, is_allowed
from qra.quant.layers import (
    ActivationFakeQuantizer,
    QuantLayer,
    QuantPool,
    WeightFakeQuantizer,
    address,
    is_changed,
    is_plain,
    quant_layer,
    uses_of_parameters,
)
from qra.quant.network import activation_quantizers, fake_quantizers
from qra.quant.relus import (
    added_relus,
    clip_of,
    is_inplace,
    is_relu,
    join_relus,
    readers_after,
    relu_called,
    relu_module,
    say_split,
    split_relus,
)
from qra.quant.scheme import OFF, QuantScheme
from qra.quant.trace import calls, enclosing_module, trace
from qra.quant.weights import WeightQuantizer

_KNOWN = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ReLU, nn.ReLU6, nn.Hardtanh)


class Site(NamedTuple):
    """A quantized place in a network.

    Attributes:
        name: Name of the module.
        kind: What is quantized there: the module's weights, its inputs, or its outputs, where a quantizer replaces a
            ReLU.
        bit_width: 2 to 8.
    """

    name: str
    kind: Literal["weight", "input", "activation"]
    bit_width: int


def convert(network: nn.Module, scheme: QuantScheme) -> list[Site]:
    """Quantize a network in place by swapping modules. All float keys remain; only keys of quantizers are added.

    Args:
        network: Takes pixels in [0, 1], (N, C, H, W), and returns logits. Where quantizers replace ReLUs, those that
            are called as functions or more than once first become modules, and a log message says so.
        scheme: Quantizers and bit widths. If both bit widths are 32, nothing changes.

    Returns:
        The quantized sites: weights first, each kind in the order of the modules.

    Raises:
        ValueError: If the network is already quantized or wrapped for parallel training, the scheme finds nothing to
            quantize in it, it computes in ways that swapping modules cannot reach, or a part that
            ``scheme.allow_float`` does not name would stay float. The message names each such place, and the network
            is left unchanged.
    """
    if fake_quantizers(network):
        raise ValueError("the network is already quantized: revert it first")
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"the network is wrapped in {type(network).__name__}: quantize its module, and wrap that again"
        )
    at_relus = scheme.quantizes_activations and scheme.activation.replaces_relu
    split = split_relus(network) if at_relus else []
    if scheme.quantizes_anything:
        split_attention(network)
    try:
        graph = trace(network, "what stays float in it can be seen in a run alone")
        first, last = _ends(network, graph)
        if at_relus and graph is not None:
            _check_called(graph)
        names = _activation_names(network, scheme, graph)
        check_overrides(scheme.overrides, {"weight": _layers(network), "activation": names})
        bits = {name: scheme.activation_bits(name) for name in names}
        sites = [*_weight_sites(network, scheme, {first, last}), *_activation_sites(scheme, bits)]
        flow = None if graph is None else follow(network, graph, bits)
        sites = _without_allowed(network, scheme, sites, flow)
        _check_reachable(network, graph, sites)
        kinds = {site.name: type(network.get_submodule(site.name)).__name__ for site in sites}
        check_patterns(network, scheme)
        check_gaps(find_gaps(network, scheme, kinds, flow), scheme)
        _check_codes(network, scheme, sites)
    except ValueError:
        join_attention(network)
        join_relus(network)
        raise
    say_split(split)
    device = next((tensor.device for tensor in network.parameters()), None)
    for site in sites:
        settings = scheme.weight.for_last_layer() if site.name == last else scheme.weight
        module = _swap(network.get_submodule(site.name), site, settings, scheme.activation)
        network.set_submodule(site.name, module.to(device))
    return sites


def revert(network: nn.Module) -> None:
    """Replace quantized modules by float ones, in place.

    Weights keep their values, even if post-training quantization has replaced them by quantized ones.

    Args:
        network: A network changed by :func:`convert`; any other is left alone.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantLayer):
            network.set_submodule(name, module.to_float())
        elif isinstance(module, QuantPool):
            network.set_submodule(name, module.pool)
    for name, quantizer in activation_quantizers(network).items():
        network.set_submodule(name, relu_module(quantizer.relu_clip, quantizer.inplace).train(quantizer.training))
    join_attention(network)
    join_relus(network)


def _layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return convolutions and linear layers by name, in the order of the modules."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def _ends(network: nn.Module, graph: fx.Graph | None) -> tuple[str | None, str | None]:
    """Return the names of the first convolution and the last linear layer of a forward pass."""
    layers = _layers(network)
    order = [name for name in (calls(graph) if graph else layers) if name in layers]
    convolutions = [name for name in order if isinstance(layers[name], nn.Conv2d)]
    linears = [name for name in order if isinstance(layers[name], nn.Linear)]
    return next(iter(convolutions), None), next(reversed(linears), None)


def _weight_sites(network: nn.Module, scheme: QuantScheme, ends: set[str | None]) -> list[Site]:
    layers = _layers(network)
    if not layers and scheme.weight_bit_width != OFF:
        raise ValueError("the scheme quantizes weights, but the network has no nn.Conv2d and no nn.Linear")
    bits = {name: scheme.weight_bits(name, name in ends) for name in layers}
    return [Site(name, "weight", bit_width) for name, bit_width in bits.items() if bit_width != OFF]


def _activation_names(network: nn.Module, scheme: QuantScheme, graph: fx.Graph | None) -> list[str]:
    """Return the names of the modules at which activations can be quantized."""
    settings = scheme.activation
    if settings.replaces_relu:
        idle = set() if graph is None else added_relus(network) - calls(graph).keys()
        return [name for name, module in network.named_modules() if is_relu(module) and name not in idle]
    images = set() if settings.quantizes_image else _image_layers(network, graph)
    kinds = settings.inputs_of
    return [name for name, module in network.named_modules() if isinstance(module, kinds) and name not in images]


def _activation_sites(scheme: QuantScheme, bits: dict[str, int]) -> list[Site]:
    settings = scheme.activation
    if not bits and scheme.act_bit_width != OFF:
        missing = " and no ".join(f"nn.{kind.__name__}" for kind in settings.inputs_of)
        if settings.replaces_relu:
            missing = "nn.ReLU: quantize at the inputs of layers, by LSQPlus in training or CalibratedUniform after it"
        raise ValueError(f"the scheme quantizes activations, but the network has no {missing}")
    kind: Literal["activation", "input"] = "activation" if settings.replaces_relu else "input"
    return [Site(name, kind, bit_width) for name, bit_width in bits.items() if bit_width != OFF]


def _image_layers(network: nn.Module, graph: fx.Graph | None) -> set[str]:
    """Return the names of the layers that take the image; of the first layer if the network cannot be traced."""
    if graph is None:
        return set(list(_layers(network))[:1])
    return {name for name, source in follow(network, graph, {}).inputs.items() if source.kind == "image"}


def _without_allowed(network: nn.Module, scheme: QuantScheme, sites: list[Site], flow: Flow | None) -> list[Site]:
    """Drop the sites that cannot be quantized but that the scheme allows to stay float."""

    def is_lost(name: str) -> bool:
        return type(network.get_submodule(name)) not in _KNOWN or (flow is not None and not flow.calls[name])

    return [site for site in sites if not (is_lost(site.name) and is_allowed(site.name, scheme))]


def _check_reachable(network: nn.Module, graph: fx.Graph | None, sites: list[Site]) -> None:
    """Reject modules that cannot be swapped or that would share a quantizer."""
    names = {site.name: network.get_submodule(site.name) for site in sites}
    foreign = [f"{name} ({type(m).__name__})" for name, m in names.items() if type(m) not in _KNOWN]
    if foreign:
        raise ValueError(
            f"only plain layers of torch.nn can be quantized, not {', '.join(foreign)}: use plain ones, or name "
            "them in the scheme's allow_float"
        )
    _check_own_weights(network, names)
    every_name = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    count = calls(graph) if graph else Counter()
    check_used_once(names, {name: max(count[name], every_name[id(module)]) for name, module in names.items()})
    _check_replaced(network, graph, {site.name: names[site.name] for site in sites if site.kind == "activation"})


def _check_called(graph: fx.Graph) -> None:
    """Reject ReLUs that are still called as functions."""
    calls_of = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    if found := [node for node in calls_of if relu_called(node) is not None]:
        places = ", ".join(f"{node.name} in {enclosing_module(node)}" for node in found)
        raise ValueError(
            f"ReLUs are called as functions that cannot be replaced by modules: {places}; use nn.ReLU there"
        )


def _check_replaced(network: nn.Module, graph: fx.Graph | None, relus: dict[str, nn.Module]) -> None:
    """Reject ReLUs that do more than a quantizer in their place would."""
    if changed := [name for name, relu in relus.items() if is_changed(relu)]:
        raise ValueError(f"hooks change what {', '.join(changed)} computes: remove them before quantization")
    for node in graph.nodes if graph else ():
        its_own = node.op == "call_module" and str(node.target) in relus
        if its_own and is_inplace(node, network) and (later := readers_after(node)):
            raise ValueError(
                f"{node.target} changes its input in place, unlike a quantizer, and {later[0].name} reads that input "
                "afterwards: let it use the output of the ReLU instead"
            )


def _check_own_weights(network: nn.Module, sites: dict[str, nn.Module]) -> None:
    """Reject layers whose weights are computed or shared with another layer."""
    layers = {name: layer for name, layer in sites.items() if isinstance(layer, nn.Conv2d | nn.Linear)}
    if computed := [name for name, layer in layers.items() if not is_plain(layer)]:
        raise ValueError(
            f"the weights of {', '.join(computed)} are computed, or hooks change the inputs or outputs: fuse weight "
            "norm, spectral norm or pruning into the weights and remove hooks before quantization"
        )
    uses = uses_of_parameters(network)
    if tied := [name for name, layer in layers.items() if uses[address(layer.weight)] > 1]:
        raise ValueError(f"{', '.join(tied)} share their weights with others: give each layer its own weights")


def _check_codes(network: nn.Module, scheme: QuantScheme, sites: list[Site]) -> None:
    """Reject a weight quantizer whose codes are not on its grid."""
    for site in sites:
        weight = network.get_submodule(site.name).weight if site.kind == "weight" else None
        if isinstance(weight, Tensor) and not weight.is_meta:
            scheme.weight.check_codes(weight, site.bit_width)


def _swap(module: nn.Module, site: Site, weight: WeightQuantizer, activation: ActivationQuantizer) -> nn.Module:
    """Return the module that replaces ``module`` to quantize a site."""
    if site.kind == "weight":
        assert isinstance(module, nn.Conv2d | nn.Linear)
        return quant_layer(module, WeightFakeQuantizer(weight, site.bit_width, module.weight), None)
    clip, inplace = clip_of(module), bool(getattr(module, "inplace", False))
    quantizer = ActivationFakeQuantizer(activation, site.bit_width, inplace, clip).train(module.training)
    if site.kind == "activation":
        return quantizer
    if isinstance(module, QuantLayer):  # its weights were quantized before
        module.input_quantizer = quantizer
        return module
    return (
        quant_layer(module, None, quantizer)
        if isinstance(module, nn.Conv2d | nn.Linear)
        else QuantPool(module, quantizer)
    )
