"""The coordinates of cells in a study, as studies write and reports read them."""

from enum import StrEnum


class Axis(StrEnum):
    """The axes that every study has; a study may have more."""

    INIT = "init"
    QUANTIZER = "quantizer"
    TRAINING = "training"
    WEIGHT_BITS = "weight_bit_width"
    ACT_BITS = "act_bit_width"
    FRACTION = "fraction"
    CALIBRATION_SIZE = "calibration_size"
    SEED = "seed"
    ADVERSARIAL = "is_adversarial"
    """For trainings that have a name of their own: whether they are adversarial, ``true`` or ``false``."""


OVERRIDES = "overrides"
"""Coordinate for layers with other bit widths; cells without such layers lack it."""
