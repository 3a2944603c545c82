"""Quantizers as pure functions of tensors, and the estimates that they need."""

from qra.quant.batchnorm import RemainingBN, fold_batch_norm, fold_remain_bn
from qra.quant.functional import (
    DoReFaGradient,
    GradientMode,
    check_bit_width,
    check_positive,
    dorefa_weight,
    lsq,
    lsq_initial_step,
    pact,
    sawb_clip,
    sawb_weight,
    straight_through,
    uniform_affine,
    uniform_symmetric,
    uniform_unsigned,
)
from qra.quant.pwlq import (
    bias_correction,
    optimal_breakpoint,
    piecewise_linear_quantize,
    search_breakpoint,
    weight_breakpoint,
)
from qra.quant.ranges import MinMaxRange, MSERange, PercentileRange, Range, RangeEstimator, TopKMedianRange

__all__ = [
    "DoReFaGradient",
    "GradientMode",
    "MSERange",
    "MinMaxRange",
    "PercentileRange",
    "Range",
    "RangeEstimator",
    "RemainingBN",
    "TopKMedianRange",
    "bias_correction",
    "check_bit_width",
    "check_positive",
    "dorefa_weight",
    "fold_batch_norm",
    "fold_remain_bn",
    "lsq",
    "lsq_initial_step",
    "optimal_breakpoint",
    "pact",
    "piecewise_linear_quantize",
    "sawb_clip",
    "sawb_weight",
    "search_breakpoint",
    "straight_through",
    "uniform_affine",
    "uniform_symmetric",
    "uniform_unsigned",
    "weight_breakpoint",
]
