"""Quantization schemes, conversion and calibration of networks, and the pure functions they are built from."""

from qra.precision import at_least_float32
from qra.quant.activations import PACT, ActivationQuantizer, CalibratedUniform, LSQActivation, State
from qra.quant.batchnorm import RemainingBN, fold_batch_norm, fold_remain_bn
from qra.quant.calibrate import calibrate, fold, quantize_after_training, reestimate_batch_norm
from qra.quant.convert import Site, convert, revert
from qra.quant.cost import Cost, LayerCost, cost
from qra.quant.dorefa import DoReFaGradient, dorefa_weight
from qra.quant.fixed import Fixed
from qra.quant.freeze import FrozenNetwork, freeze
from qra.quant.grid import Grid, Term, WeightGrid
from qra.quant.lsq import lsq, lsq_initial_step
from qra.quant.lsq_plus import LSQPlus, lsq_plus
from qra.quant.network import float_mode, gradient_mode
from qra.quant.pact import pact
from qra.quant.pwlq import (
    bias_correction,
    optimal_breakpoint,
    piecewise_linear_quantize,
    search_breakpoint,
    weight_breakpoint,
)
from qra.quant.ranges import LeastSquares, MinMax, Percentile, Range, RangeEstimator, RangeSettings, TopK
from qra.quant.requantize import requantize
from qra.quant.rounding import GradientMode, check_bit_width, check_positive, straight_through
from qra.quant.sawb import sawb_clip, sawb_weight
from qra.quant.scheme import QuantScheme
from qra.quant.uniform import uniform_affine, uniform_symmetric, uniform_unsigned
from qra.quant.unrounded import unrounded
from qra.quant.watch import check_run
from qra.quant.weights import LSQ, PWLQ, SAWB, DoReFa, Uniform, WeightQuantizer

__all__ = [
    "LSQ",
    "PACT",
    "PWLQ",
    "SAWB",
    "ActivationQuantizer",
    "CalibratedUniform",
    "Cost",
    "DoReFa",
    "DoReFaGradient",
    "Fixed",
    "FrozenNetwork",
    "GradientMode",
    "Grid",
    "LSQActivation",
    "LSQPlus",
    "LayerCost",
    "LeastSquares",
    "MinMax",
    "Percentile",
    "QuantScheme",
    "Range",
    "RangeEstimator",
    "RangeSettings",
    "RemainingBN",
    "Site",
    "State",
    "Term",
    "TopK",
    "Uniform",
    "WeightGrid",
    "WeightQuantizer",
    "at_least_float32",
    "bias_correction",
    "calibrate",
    "check_bit_width",
    "check_positive",
    "check_run",
    "convert",
    "cost",
    "dorefa_weight",
    "float_mode",
    "fold",
    "fold_batch_norm",
    "fold_remain_bn",
    "freeze",
    "gradient_mode",
    "lsq",
    "lsq_initial_step",
    "lsq_plus",
    "optimal_breakpoint",
    "pact",
    "piecewise_linear_quantize",
    "quantize_after_training",
    "reestimate_batch_norm",
    "requantize",
    "revert",
    "sawb_clip",
    "sawb_weight",
    "search_breakpoint",
    "straight_through",
    "uniform_affine",
    "uniform_symmetric",
    "uniform_unsigned",
    "unrounded",
    "weight_breakpoint",
]
