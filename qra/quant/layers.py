"""The modules that conversion puts into a network. They keep the names of the float network's weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from qra.quant.activations import ActivationQuantizer, State
from qra.quant.grid import Grid, WeightGrid
from qra.quant.ranges import RangeEstimator
from qra.quant.rounding import GradientMode
from qra.quant.weights import WeightQuantizer


def _register(module: nn.Module, name: str, value: Tensor, settings: WeightQuantizer | ActivationQuantizer) -> None:
    """Register a value of a quantizer's state, as a parameter if it is learned, else as a buffer."""
    if hasattr(module, name):
        raise ValueError(f"{type(settings).__name__} cannot name a value of its state {name}: use another name")
    if settings.learned:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)


class WeightFakeQuantizer(nn.Module):
    """Quantizer of the weights of one layer. Its parameters are learned values; its buffers are constants.

    Args:
        settings: The quantizer's settings.
        bit_width: 2 to 8.
        weight: Initial weights of the layer.
    """

    def __init__(self, settings: WeightQuantizer, bit_width: int, weight: Tensor) -> None:
        super().__init__()
        self.settings = settings
        self.bit_width = bit_width
        self.enabled = True
        for name, value in settings.start(weight, bit_width).items():
            _register(self, name, value.detach().clone(), settings)

    def forward(self, weight: Tensor) -> Tensor:
        return self.settings.quantize(weight, self.bit_width, self._state()) if self.enabled else weight

    def grid(self, weight: Tensor) -> WeightGrid:
        """Return the grid of the quantized weights: their integer codes and the values they stand for.

        Args:
            weight: Weights of the layer.

        Raises:
            ValueError: If the quantizer does not define a grid.
        """
        if not self.settings.has_grid:
            raise self.settings.no_grid()
        return self.settings.grid(weight, self.bit_width, self._state())

    def _state(self) -> dict[str, Tensor]:
        values = self._parameters if self.settings.learned else self._buffers
        return {name: value for name, value in values.items() if value is not None}

    def replay_state(self) -> Hashable | None:
        """See :class:`qra.graphs.ReplayState`."""
        return (self.enabled,) if self.settings.replayable else None

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.bit_width} bits"

    @torch.no_grad()
    def restart(self, weight: Tensor) -> None:
        """Reinitialize the learned values from ``weight``."""
        for name, value in self.settings.start(weight, self.bit_width).items():
            self.get_parameter(name).copy_(value)

    @torch.no_grad()
    def set_state(self, values: dict[str, Tensor]) -> None:
        """Set the state, by name."""
        for name, value in values.items():
            getattr(self, name).copy_(value)


class ActivationFakeQuantizer(nn.Module):
    """Quantizer of the activations of one site. Its parameters or buffers are the quantizer's state.

    Args:
        settings: The quantizer's settings.
        bit_width: 2 to 8.
        inplace: Whether the ReLU that it replaces works in place.
        relu_clip: Largest output of the ReLU that it replaces, which still applies: 6 for ReLU6; None for no limit.

    Attributes:
        gradient: How it is differentiated, see :func:`qra.quant.network.gradient_mode`.
        enabled: Whether it quantizes. If not, it is the ReLU that it replaced, or the identity.
        observer: Receives the float activations while it is disabled, for calibration.
    """

    def __init__(
        self, settings: ActivationQuantizer, bit_width: int, inplace: bool = False, relu_clip: float | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.bit_width = bit_width
        self.inplace = inplace
        self.relu_clip = relu_clip
        self.gradient: GradientMode = "ste"
        self.enabled = True
        self.observer: RangeEstimator | None = None
        self._constants: dict[str, float] = {}
        self._read_at: list[tuple[int, int]] | None = None
        start = settings.start(bit_width) if relu_clip is None else settings.start_below(bit_width, relu_clip)
        for name, value in start.items():
            _register(self, name, torch.tensor(float(value)), settings)

    def forward(self, input: Tensor) -> Tensor:
        if not self.enabled:
            activation = self.float_activation(input)
            if self.observer is not None:
                self.observer.update(activation)
            return activation
        x = input if self.relu_clip is None else input.clamp(max=self.relu_clip)
        return self.settings.quantize(x, self.bit_width, self._state(), self.gradient)

    def _state(self) -> State:
        return dict(self.named_parameters()) if self.settings.learned else self._numbers()

    def grid(self, dtype: torch.dtype = torch.float32) -> Grid:
        """Return the grid of the activations: their integer codes and the values they stand for.

        Args:
            dtype: Type of the activations, float32 or float64.

        Raises:
            ValueError: If the quantizer does not define a grid, or has not been calibrated.
        """
        if not self.settings.has_grid:
            raise self.settings.no_grid()
        grid = self.settings.grid(self.bit_width, self._state(), dtype)
        if self.relu_clip is None:
            return grid
        highest = int(grid.codes(grid.scale.new_full((), self.relu_clip)))
        return grid._replace(levels=range(grid.levels[0], highest + 1))

    def float_activation(self, x: Tensor) -> Tensor:
        """Apply the float function of the site: the ReLU that the quantizer replaced, or the identity."""
        if not self.settings.replaces_relu:
            return x
        return F.relu(x) if self.relu_clip is None else x.clamp(0, self.relu_clip)

    def replay_state(self) -> Hashable | None:
        """See :class:`qra.graphs.ReplayState`."""
        if self.observer is not None or not self.settings.replayable:
            return None
        numbers = {} if self.settings.learned else self._numbers()
        return self.gradient, self.enabled, *numbers.values()

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.bit_width} bits"

    def _numbers(self) -> dict[str, float]:
        """Return the buffers as numbers.

        Reading them from a GPU would synchronize, and break compiled code into parts. They are therefore read again
        only after writes that PyTorch counts or that :meth:`state_changed` reports.

        Raises:
            ValueError: If they are not finite, because the quantizer has not been calibrated.
        """
        if torch.compiler.is_compiling() and self._constants:
            return self._constants
        buffers = dict(self.named_buffers())
        on_host = all(value.device.type == "cpu" for value in buffers.values())
        writes = None if on_host else [(id(value), _writes(value)) for value in buffers.values()]
        if on_host or not self._constants or writes != self._read_at:
            self._constants = {name: float(value) for name, value in buffers.items()}
            self._read_at = writes
        if not all(map(math.isfinite, self._constants.values())):
            self._constants = {}
            raise ValueError("an activation quantizer has no range yet: calibrate the network, or load one that was")
        return self._constants

    @torch.no_grad()
    def set_state(self, values: dict[str, float]) -> None:
        """Set the state, by name."""
        for name, value in values.items():
            getattr(self, name).fill_(value)
        self.state_changed()

    def state_changed(self) -> None:
        """Must be called after writing to the buffers."""
        self._constants.clear()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.state_changed()


class QuantConv2d(nn.Conv2d):
    """A convolution with quantized weights, inputs or both. It shares the parameters of the float convolution.

    Args:
        conv: The float convolution.
        weight_quantizer: None for float weights.
        input_quantizer: None for float inputs.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        weight_quantizer: WeightFakeQuantizer | None = None,
        input_quantizer: ActivationFakeQuantizer | None = None,
    ) -> None:
        super().__init__(**conv_arguments(conv))
        share_parameters(self, conv)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def forward(self, input: Tensor) -> Tensor:
        x = input if self.input_quantizer is None else self.input_quantizer(input)
        result: Tensor = self._conv_forward(x, quantized_weight(self), self.bias)
        return result

    def to_float(self) -> nn.Conv2d:
        """Return a plain convolution that shares these parameters."""
        return share_parameters(nn.Conv2d(**conv_arguments(self)), self)


class QuantLinear(nn.Linear):
    """A linear layer with quantized weights, inputs or both; see :class:`QuantConv2d`.

    Args:
        linear: The float layer.
        weight_quantizer: None for float weights.
        input_quantizer: None for float inputs.
    """

    def __init__(
        self,
        linear: nn.Linear,
        weight_quantizer: WeightFakeQuantizer | None = None,
        input_quantizer: ActivationFakeQuantizer | None = None,
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        share_parameters(self, linear)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def forward(self, input: Tensor) -> Tensor:
        x = input if self.input_quantizer is None else self.input_quantizer(input)
        return F.linear(x, quantized_weight(self), self.bias)

    def to_float(self) -> nn.Linear:
        """Return a plain linear layer that shares these parameters."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return share_parameters(plain, self)


class QuantPool(nn.Module):
    """Average pooling of quantized inputs.

    Args:
        pool: The pooling layer.
        input_quantizer: Applied to its inputs.
    """

    def __init__(self, pool: nn.Module, input_quantizer: ActivationFakeQuantizer) -> None:
        super().__init__()
        self.input_quantizer = input_quantizer
        self.pool = pool
        self.train(pool.training)

    def forward(self, input: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.input_quantizer(input))
        return pooled


def _writes(value: Tensor) -> int:
    """Return how often PyTorch has written to a tensor."""
    return 0 if value.is_inference() else value._version


FakeQuantizer = WeightFakeQuantizer | ActivationFakeQuantizer
QuantLayer = QuantConv2d | QuantLinear
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments that create a convolution like ``conv``, without memory for parameters."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(conv, name) for name in names}, "bias": conv.bias is not None, "device": "meta"}


def share_parameters(new: Layer, old: nn.Conv2d | nn.Linear) -> Layer:
    """Give a new layer the parameters and the training mode of an old one."""
    new.weight = old.weight
    new.bias = cast(nn.Parameter, old.bias)  # None if ``old`` has no bias
    new.train(old.training)
    return new


def quant_layer(
    layer: nn.Conv2d | nn.Linear,
    weight_quantizer: WeightFakeQuantizer | None,
    input_quantizer: ActivationFakeQuantizer | None,
) -> QuantLayer:
    """Return the quantized version of a float layer."""
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d(layer, weight_quantizer, input_quantizer)
    return QuantLinear(layer, weight_quantizer, input_quantizer)


def quantized_weight(layer: QuantLayer) -> Tensor:
    """Return the weights that a layer computes with."""
    if layer.weight_quantizer is None:
        return layer.weight
    weight: Tensor = layer.weight_quantizer(layer.weight)
    return weight


def uses_of_parameters(network: nn.Module) -> Counter[int]:
    """Count the uses of each parameter in a network, keyed by :func:`address`."""
    return Counter(address(value) for _, value in network.named_parameters(remove_duplicate=False))


def address(value: Tensor) -> int:
    """Return what identifies a parameter, even if two parameters share their memory: its address."""
    return value.data_ptr() or id(value)


def is_plain(layer: nn.Module) -> bool:
    """Whether a PyTorch layer computes with its own parameters: none is parametrized and no hook changes the result."""
    held = all(name in layer._parameters for name in ("weight", "bias"))
    return held and not is_changed(layer) and not is_parametrized(layer)


def is_changed(module: nn.Module) -> bool:
    """Whether hooks, or methods overridden on this instance, change what a module computes."""
    own = {"forward", "_conv_forward"} & vars(module).keys()
    return bool(module._forward_hooks or module._forward_pre_hooks or own)
