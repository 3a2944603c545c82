"""A quantized copy of a trained network, in one call."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qra.quant.activations import CalibratedUniform
from qra.quant.bits import parse_bits
from qra.quant.calibrate import calibrate, quantize_after_training
from qra.quant.convert import convert
from qra.quant.scheme import OFF, QuantScheme
from qra.quant.watch import check_run
from qra.quant.weights import PWLQ

_BATCH = 4  # ranges of PWLQ depend on it


def quantize(network: nn.Module, scheme: QuantScheme | str, calibration: Tensor | Iterable[Tensor]) -> nn.Module:
    """Quantize a copy of a trained network; the network itself stays as it is.

    Args:
        network: Float network; takes pixels in [0, 1], (N, C, H, W), and returns logits.
        scheme: Quantizers and bit widths. ``W4A8`` and the like stand for quantization after training, PWLQ weights
            and uniform activations in all layers, 32 for what stays float. One whose activation quantizer learns (PACT,
            LSQ, LSQ+) gives the start of a training, with clip levels and steps by calibration.
        calibration: Images to take ranges from, a few hundred of the training set: uint8 or floating point in [0, 1],
            (n, C, H, W), or batches of such images.

    Returns:
        The copy, in eval mode, on the device of the network. Where scheme quantizes after training, its weights are
        quantized for good.

    Raises:
        ValueError: If the network cannot be quantized so, the scheme leaves all of it float, or calibration holds no
            images or others than these.
    """
    scheme = _scheme(scheme) if isinstance(scheme, str) else scheme
    if not scheme.quantizes_anything:
        raise ValueError(f"{scheme.bits_text} leaves the whole network float: give at most 8 bits, such as W4A8")
    like = next(network.parameters(), torch.empty(0))
    if like.dtype in (torch.float16, torch.bfloat16):
        kind = str(like.dtype).removeprefix("torch.")
        raise ValueError(f"the network is {kind}: make it float32, by network.float()")
    batches = [_pixels(x).to(like) for x in _batches(calibration) if len(x)]
    if not batches:
        raise ValueError("calibration holds no images: give a few hundred of the training set")
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


def _pixels(x: Tensor) -> Tensor:
    """Float pixels in [0, 1]."""
    if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"calibration images are {x.dtype} {tuple(x.shape)}: uint8 or float, (n, C, H, W), is needed")
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    if not (float(x.min()) >= 0 and float(x.max()) <= 1):
        raise ValueError(f"calibration pixels run from {x.min():g} to {x.max():g}: divide bytes by 255")
    return x
