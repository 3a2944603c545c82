"""Quantization of a copy of a trained network, in one call."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qra.quant.activations import CalibratedUniform
from qra.quant.bits import parse_bits
from qra.quant.calibrate import calibrate, quantize_after_training
from qra.quant.convert import convert
from qra.quant.scheme import OFF, QuantScheme
from qra.quant.watch import check_run
from qra.quant.weights import PWLQ

_BATCH = 4  # PWLQ's ranges depend on it


@torch.inference_mode(False)
def quantize(network: nn.Module, scheme: QuantScheme | str, calibration: Tensor | Iterable[Tensor]) -> nn.Module:
    """Quantize a copy of a trained network; the network itself is not changed.

    Args:
        network: Float network that takes pixels in [0, 1], (N, C, H, W), and returns logits.
        scheme: Quantizers and bit widths. A text such as ``W4A8`` stands for post-training quantization with PWLQ
            weights and uniform activations in all layers; 32 bits stand for float. With a scheme whose activation
            quantizer is learned (PACT, LSQ, LSQ+), the result is the starting point of a training, with clip levels and
            steps from calibration.
        calibration: Calibration images, a few hundred of the training set: uint8 or floating point in [0, 1],
            (n, C, H, W), or batches of such images.

    Returns:
        The copy, in eval mode, on the device of the network. Post-training quantization replaces its weights.

    Raises:
        ValueError: If the network cannot be quantized this way, the scheme leaves all of it float, or ``calibration``
            holds no images or images of another form.
    """
    scheme = _scheme(scheme) if isinstance(scheme, str) else scheme
    if not scheme.quantizes_anything:
        raise ValueError(f"{scheme.bits_text} leaves the whole network float: give at most 8 bits, such as W4A8")
    like = next(network.parameters(), torch.empty(0))
    if like.dtype in (torch.float16, torch.bfloat16):
        kind = str(like.dtype).removeprefix("torch.")
        raise ValueError(f"the network is {kind}: make it float32, by network.float()")
    batches = [x.to(like) for x in map(_pixels, _batches(calibration)) if len(x)]
    if not batches:
        raise ValueError("calibration holds no images: give a few hundred training images")
    quantized = copy.deepcopy(network).eval()
    if scheme.quantizes_activations and scheme.activation.learned:
        convert(quantized, scheme)
        check_run(quantized, scheme, batches[0])
        calibrate(quantized, batches)
    else:
        quantize_after_training(quantized, scheme, batches)
    return quantized


def _scheme(text: str) -> QuantScheme:
    weight, activation = parse_bits(text)
    return QuantScheme(PWLQ(), CalibratedUniform(), weight or OFF, activation or OFF, first_last_bit_width=None)


def _batches(calibration: Tensor | Iterable[Tensor]) -> Iterable[Tensor]:
    return torch.split(calibration, _BATCH) if isinstance(calibration, Tensor) else calibration


def _pixels(x: Any) -> Tensor:
    """Return float pixels in [0, 1]."""
    if not isinstance(x, Tensor):
        raise ValueError(
            f"calibration holds a {type(x).__name__}: give only tensors of images, such as (x for x, y in loader)"
        )
    if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"calibration images are {x.dtype} {tuple(x.shape)}: uint8 or float, (n, C, H, W), is needed")
    pixels: Tensor = x.float() / 255 if x.dtype == torch.uint8 else x
    if len(x) and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):
        raise ValueError(f"calibration pixels range from {x.min():g} to {x.max():g}: divide bytes by 255")
    return pixels
