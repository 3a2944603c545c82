"""The quantizers as pure functions of tensors. Piecewise linear quantization is in :mod:`qra.quant.pwlq`."""

from __future__ import annotations

from qra.quant.dorefa import DoReFaGradient, dorefa_weight
from qra.quant.lsq import lsq, lsq_initial_step
from qra.quant.pact import pact
from qra.quant.rounding import GradientMode, check_bit_width, check_positive, straight_through
from qra.quant.sawb import sawb_clip, sawb_weight
from qra.quant.uniform import uniform_affine, uniform_symmetric, uniform_unsigned

__all__ = [
    "DoReFaGradient",
    "GradientMode",
    "check_bit_width",
    "check_positive",
    "dorefa_weight",
    "lsq",
    "lsq_initial_step",
    "pact",
    "sawb_clip",
    "sawb_weight",
    "straight_through",
    "uniform_affine",
    "uniform_symmetric",
    "uniform_unsigned",
]
