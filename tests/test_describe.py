from torch import nn

from qra import models
from qra.attacks import PGD, GaussianStart
from qra.describe import describe


def test_settings_are_described_with_what_they_hold():
    described = describe(PGD(eps=4 / 255, start=GaussianStart(0.01)))
    assert described["class_path"] == "qra.attacks.PGD"
    assert described["init_args"]["eps"] == 4 / 255
    assert described["init_args"]["start"] == {
        "class_path": "qra.attacks.GaussianStart",
        "init_args": {"std": 0.01, "seed": 0},
    }


def test_a_network_around_one_that_is_not_described_is_not_described_either():
    assert describe(models.Normalized(nn.Flatten())) is None
