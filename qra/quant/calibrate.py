"""Uses of calibration images: activation ranges, BatchNorm statistics and post-training quantization."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qra.quant.batchnorm import fold_remain_bn
from qra.quant.convert import convert
from qra.quant.fixed import Fixed
from qra.quant.freeze import check_foldable, conv_bn_pairs
from qra.quant.layers import QuantLayer, WeightFakeQuantizer
from qra.quant.network import activation_quantizers, evaluating, float_mode, quant_layers
from qra.quant.pwlq import bias_correction
from qra.quant.scheme import QuantScheme
from qra.quant.watch import check_run


def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the state of activation quantizers from the activations of the network in float and eval mode.

    Args:
        network: A quantized network. Quantizers without a range estimator keep their state.
        batches: Images in [0, 1], (N, C, H, W), on the device of the network. Some range estimators depend on N.

    Raises:
        ValueError: If there are no images, a quantizer never runs, or activations are not finite.
    """
    quantizers = activation_quantizers(network)
    estimators = {
        name: estimator
        for name, quantizer in quantizers.items()
        if (estimator := quantizer.settings.estimator(quantizer.bit_width)) is not None
    }
    if not estimators:
        return
    with evaluating(network), float_mode(network):
        try:
            for name, estimator in estimators.items():
                quantizers[name].observer = estimator
            for x in batches:
                network(x)
        finally:
            for quantizer in quantizers.values():
                quantizer.observer = None
    for name, estimator in estimators.items():
        try:
            found = estimator.range()
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}, or remove modules that the network never runs") from None
        quantizers[name].set_state(quantizers[name].settings.from_range(found, quantizers[name].bit_width))


def reestimate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set BatchNorm statistics to the averages of the batches' means and unbiased variances.

    Quantizing the weights changes their scale, so the float network's statistics no longer fit.

    Args:
        network: The network. Everything but BatchNorm runs in eval mode, with quantizers on.
        batches: Images in [0, 1], (N, C, H, W), on the device of the network.

    Raises:
        ValueError: If there are no images.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    count = 0
    try:
        with evaluating(network):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for count, x in enumerate(batches, start=1):  # noqa: B007
                network(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not count:
        raise ValueError("there are no images to estimate BatchNorm statistics from: give at least one batch")


def quantize_after_training(
    network: nn.Module, scheme: QuantScheme, batches: Iterable[Tensor], bias_corrected: bool = False
) -> QuantScheme:
    """Fold BatchNorm, calibrate activations in float, then replace the weights by quantized ones, in place.

    Folding keeps all keys: the shift remains in each BatchNorm ("remain BN"). A BatchNorm that cannot be folded,
    because the convolution's output is also used elsewhere or either module is used twice, stays as it is, and a
    warning names it.

    Args:
        network: A trained float network.
        scheme: A scheme whose activation quantizer can be set by calibration.
        batches: Images in [0, 1], (N, C, H, W), on the device of the network. The ranges of the paper assume N = 4.
        bias_corrected: Whether to correct the mean and spread of each channel of the quantized weights.

    Returns:
        The scheme of the resulting network, whose weights are :class:`qra.quant.Fixed`.

    Raises:
        ValueError: If the activation quantizer must be trained, the network cannot be converted, or there are no
            images.
    """
    if scheme.activation.learned and scheme.quantizes_activations:
        kind = type(scheme.activation).__name__
        raise ValueError(f"{kind} must be trained: for quantization after training, use CalibratedUniform activations")
    batches = list(batches)
    staying = check_foldable(network)
    convert(network, scheme)
    for x in batches[:1]:
        check_run(network, scheme, x)
    fold(network)
    calibrate(network, batches)
    for layer in quant_layers(network).values():
        if layer.weight_quantizer is not None:
            layer.weight_quantizer.restart(layer.weight)  # folding has changed it
            _fix(layer, layer.weight_quantizer, Fixed(layer.weight_quantizer.settings, bias_corrected))
    if staying:
        names = ", ".join(f"{bn} (behind {conv})" for conv, bn in staying)
        logging.getLogger("qra").warning("batch normalization that cannot be folded is kept: %s", names)
    return replace(scheme, weight=Fixed(scheme.weight, bias_corrected))


@torch.no_grad()
def _fix(layer: QuantLayer, quantizer: WeightFakeQuantizer, fixed: Fixed) -> None:
    """Replace a layer's weights by quantized ones, and its quantizer by ``fixed``."""
    new = WeightFakeQuantizer(fixed, quantizer.bit_width, layer.weight)
    if fixed.has_grid:
        new.set_state(fixed.state(layer.weight, quantizer.bit_width, dict(quantizer.named_parameters())))
        quantized = new(layer.weight)
    else:
        quantized = quantizer(layer.weight)
        quantized = bias_correction(layer.weight, quantized) if fixed.bias_corrected else quantized
    layer.weight.copy_(quantized)
    layer.weight_quantizer = new


@torch.no_grad()
def fold(network: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it, in place; the shift stays in the BatchNorm."""
    for conv_name, bn_name in conv_bn_pairs(network):
        conv, bn = network.get_submodule(conv_name), network.get_submodule(bn_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(bn, _BatchNorm)
        if not bn.affine:
            continue  # it has no bias to hold the shift
        assert bn.running_var is not None
        assert bn.running_mean is not None
        folded = fold_remain_bn(conv.weight, bn)
        if conv.bias is not None:
            conv.bias.mul_(bn.weight * torch.rsqrt(bn.running_var + bn.eps))
        conv.weight.copy_(folded.conv_weight)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(bn, name).copy_(getattr(folded, name))
