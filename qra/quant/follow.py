"""Trace what reaches each layer of a network through its graph: the image, quantized values or float values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from qra.quant.layers import ActivationFakeQuantizer, QuantLayer
from qra.quant.trace import call_name, caller

LAYERS = (_ConvNd, nn.Linear, nn.Bilinear)
"""Layers that multiply by weights."""

FLOAT_BITS = 32
IMAGE_BITS = 8
"""Bits of a pixel that has not been quantized."""


class Source(NamedTuple):
    """Origin and precision of a value.

    Attributes:
        kind: ``image``: pixels, or anything computed from pixels and constants only; ``quantized`` values; ``float``
            values; or a ``constant``, such as a parameter.
        bits: Bits of one value.
        name: Name of what produced the value, for messages.
    """

    kind: Literal["image", "quantized", "float", "constant"]
    bits: int
    name: str


IMAGE = Source("image", IMAGE_BITS, "the image")
CONSTANT = Source("constant", FLOAT_BITS, "a constant")

_PASSING_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.UpsamplingNearest2d),
)
"""Modules that move values and keep their bits. Averages of quantized values count as such, as in the literature."""

_PASSING_CALLS = {
    *("flatten", "unflatten", "view", "reshape", "view_as", "reshape_as", "permute", "transpose", "t", "movedim"),
    *("swapaxes", "squeeze", "unsqueeze", "contiguous", "clone", "detach", "to", "float", "type", "expand"),
    *("expand_as", "repeat", "getitem", "__getitem__", "__get__", "chunk", "split", "narrow", "select", "unbind"),
    *("cat", "concat", "concatenate", "stack", "pad", "roll", "flip", "channel_shuffle", "pixel_shuffle"),
    *("pixel_unshuffle", "dropout", "dropout2d", "feature_dropout", "stochastic_depth", "amax", "mean"),
    *("max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices"),
    *("windows_of", "image_of"),
}
_PLAIN_CALLS = frozenset(("size", "dim", "numel", "ndimension", "shape", "ndim", "dtype", "device", "is_cuda"))
"""Calls that do not return a tensor."""


_LAYER_CALLS = {
    *("linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("multi_head_attention_forward", "shifted_window_attention"),
}
"""Functions that are layers when given weights."""
_MULTIPLYING_CALLS = {
    *("matmul", "__matmul__", "__rmatmul__", "linalg_matmul", "mm", "_sparse_mm", "bmm", "einsum", "tensordot"),
    *("addmm", "addbmm", "baddbmm", "mv", "addmv", "inner", "dot", "linalg_vecdot", "linalg_multi_dot"),
    *("scaled_dot_product_attention", "cosine_similarity", "cdist"),
}
"""Functions that multiply any two tensors as layers multiply inputs and weights, or compare them as costly."""


class Multiplication(NamedTuple):
    """A function call that multiplies as layers do.

    Attributes:
        module: Name of the module in whose forward pass it is called.
        call: Name of the function.
        by_weights: Whether one factor is a parameter or computed from parameters only.
    """

    module: str
    call: str
    by_weights: bool

    def __str__(self) -> str:
        return f"{self.call} in {self.module or 'the network itself'}"


@dataclass
class Flow:
    """Values and calls in a forward pass.

    Attributes:
        inputs: Source of each layer's input, by layer name, in the order of the first calls.
        calls: Number of calls of each module.
        multiplications: Calls of functions that multiply as layers do.
    """

    inputs: dict[str, Source] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    multiplications: list[Multiplication] = field(default_factory=list)

    def enter(self, name: str, module: nn.Module, source: Source | None) -> None:
        """Record a call of a module."""
        self.calls[name] += 1
        if isinstance(module, LAYERS) and source is not None:
            self.inputs[name] = max(source, self.inputs.get(name, source), key=_doubt)

    def call(self, name: str, call: str, sources: list[Source | None]) -> Source | None:
        """Record a call of a function or method, and return the source of its result; None if that is not a tensor.

        Args:
            name: Name of the module in whose forward pass it is called.
            call: Name of the function.
            sources: Sources of its arguments, None for those that are not tensors.
        """
        call = call.removesuffix(".default")  # of an operation of ATen
        by_weights = any(source is not None and source.kind == "constant" for source in sources)
        if call in _LAYER_CALLS or call in _MULTIPLYING_CALLS:
            self.multiplications.append(Multiplication(name, call, by_weights or call in _LAYER_CALLS))
        made = f"{call} in {name or 'the network itself'}"
        before = merged(sources, made)
        if before is None or before.kind in ("image", "constant") or call in _PASSING_CALLS:
            return before
        return _float(made)


def follow(network: nn.Module, graph: fx.Graph, sites: Mapping[str, int] | None = None) -> Flow:
    """Trace values through the graph of a network's forward pass.

    Args:
        network: Float or quantized.
        graph: Graph of the forward pass.
        sites: Bits of the quantizers that are to be placed at the inputs of modules, or to replace them, by module
            name; by default the network's own quantizers.
    """
    modules = dict(network.named_modules())
    sites = quantizer_sites(network) if sites is None else sites
    values: dict[fx.Node, Source | None] = {}
    flow = Flow()
    for node in graph.nodes:
        sources = [values[source] for source in node.all_input_nodes]
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op in ("placeholder", "get_attr"):
            values[node] = IMAGE if node.op == "placeholder" else CONSTANT
        elif module is not None:
            name = str(node.target)
            flow.enter(name, module, before_module(name, sites, sources))
            values[node] = after_module(name, module, sites, sources)
        else:
            values[node] = None if _is_plain_call(node) else flow.call(caller(node), call_name(node), sources)
    return flow


def before_module(name: str, sites: Mapping[str, int], sources: Iterable[Source | None]) -> Source | None:
    """Return the source of a module's input, which is quantized if the module is a site."""
    return _quantized(sites[name], name) if name in sites else merged(sources, name)


def quantizer_sites(network: nn.Module) -> dict[str, int]:
    """Return the bits of the activation quantizers and of the layers with a quantizer at their inputs, by name."""
    found, inside = {}, set[str]()
    for name, module in network.named_modules():
        if isinstance(module, ActivationFakeQuantizer) and name not in inside:
            found[name] = module.bit_width
        elif isinstance(module, QuantLayer) and module.input_quantizer is not None:
            found[name] = module.input_quantizer.bit_width
            inside.add(f"{name}.input_quantizer")
    return found


def after_module(
    name: str, module: nn.Module, sites: Mapping[str, int], sources: Iterable[Source | None]
) -> Source | None:
    """Return the source of a PyTorch module's output."""
    made = f"{type(module).__name__.removeprefix('Quant')} {name}"
    if isinstance(module, LAYERS):
        return _float(made)
    if name in sites:  # a quantizer, a ReLU to be replaced by one, or a pooling layer after one
        return _quantized(sites[name], name)
    before = merged(sources, made)
    if before is None or before.kind == "image" or isinstance(module, _PASSING_MODULES):
        return before
    return _float(made)


def merged(sources: Iterable[Source | None], made: str) -> Source | None:
    """Return the least precise source. A constant leaves an image an image, but makes quantized values float."""
    tensors = [source for source in sources if source is not None]
    real = [source for source in tensors if source.kind != "constant"]
    if not real:
        return CONSTANT if tensors else None
    worst = max(real, key=_doubt)
    return _float(made) if worst.kind == "quantized" and len(real) < len(tensors) else worst


def _is_plain_call(node: fx.Node) -> bool:
    """Whether a node asks a tensor for something that is not a tensor, such as its shape."""
    call = call_name(node)
    return call in _PLAIN_CALLS or (call == "getattr" and str(node.args[1]) in _PLAIN_CALLS)


def _doubt(source: Source) -> tuple[bool, int]:
    return source.kind == "float", source.bits


def _quantized(bits: int, name: str) -> Source:
    return Source("quantized", bits, name)


def _float(name: str) -> Source:
    return Source("float", FLOAT_BITS, name)
