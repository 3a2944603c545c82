"""What places a cell in a study: names that studies write and reports read."""

from enum import StrEnum


class Axis(StrEnum):
    """The axes that every study has; one may have more."""

    INIT = "init"
    QUANTIZER = "quantizer"
    TRAINING = "training"
    WEIGHT_BITS = "weight_bit_width"
    ACT_BITS = "act_bit_width"
    FRACTION = "fraction"
    CALIBRATION_SIZE = "calibration_size"
    SEED = "seed"
    ADVERSARIAL = "is_adversarial"
    """Of trainings that have a name of their own: whether they are under attack, ``true`` or ``false``."""
