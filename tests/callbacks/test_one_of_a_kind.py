"""What evaluations are refused before they run."""

import pytest

from qra.attacks import PGD
from qra.callbacks import (
    AdversarialExamples,
    AttackEvaluation,
    CorruptionEvaluation,
    MaskingCheck,
    PWLQCalibration,
)
from qra.callbacks.measurement import check_names
from qra.quant import CalibratedUniform, QuantScheme, Uniform


def test_two_callbacks_that_would_say_the_same_in_a_result_are_refused():
    check_names([MaskingCheck(), AttackEvaluation(PGD()), AttackEvaluation(PGD(steps=3))], "test")
    with pytest.raises(ValueError, match="there are two callbacks MaskingCheck, but result"):
        check_names([MaskingCheck(), MaskingCheck(n=12)], "test")
    check_names([MaskingCheck(), MaskingCheck()], "fit")  # where they take no part


def test_two_callbacks_that_would_quantize_the_network_are_refused():
    uniform = PWLQCalibration(QuantScheme(Uniform(), CalibratedUniform(), 4, 8))
    for stage in ("fit", "test"):
        check_names([PWLQCalibration(), MaskingCheck()], stage)
        with pytest.raises(ValueError, match="there are two callbacks PWLQCalibration, but result"):
            check_names([PWLQCalibration(), uniform], stage)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: CorruptionEvaluation(corruptions=[]), "corruptions is empty"),
        (lambda: PWLQCalibration(QuantScheme(Uniform(), CalibratedUniform(), 32, 32)), "W32A32 quantizes nothing"),
        (lambda: PWLQCalibration(attack=PGD(loss="kl")), "has the loss kl, but calibration uses labels"),
        (lambda: AdversarialExamples(PGD(targeted=True)), "is targeted, but predict needs an untargeted"),
    ],
)
def test_what_would_do_nothing_or_the_contrary_is_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()
