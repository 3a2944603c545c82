"""Accuracy on corrupted images in a report: its table, and the claim about it."""

import pytest
import torch
from made_up import add, cell, correct_examples, read

from qra.evaluation.shifts import Shift, shift_outcome
from qra.report.contents import corrupted
from qra.report.shifts import CLAIM

N = 1000


def shifted(accuracies, seed=0, images="d"):
    """Outcomes on corrupted images."""
    return [
        shift_outcome(Shift(name, severity), images, torch.arange(N), correct_examples(value, seed, 0.02))
        for (name, severity), value in accuracies.items()
    ]


def study(path, lost, images="d"):
    fog = {("fog", 1): 0.7, ("fog", 2): 0.5, ("snow", 1): 0.6}
    add(cell(path, "float", {"clean": 0.8}, training="adversarial"), shifted(fog))
    quantized = cell(path, "pact", {"clean": 0.8}, quantizer="pact", training="adversarial", init="robust", bits=(4, 4))
    add(quantized, shifted({shift: value - lost for shift, value in fog.items()}, 1, images))
    return read(path)


@pytest.mark.parametrize(("lost", "verdict"), [(0.1, "supported"), (0.0, "contradicted"), (-0.1, "contradicted")])
def test_quantization_costs_natural_robustness(tmp_path, lost, verdict):
    found = CLAIM.test(study(tmp_path, lost))
    assert found.verdict == verdict
    (comparison,) = found.judged[0].check.comparisons
    assert comparison.mean == pytest.approx(-lost)
    assert comparison.accuracies == pytest.approx((0.6 - lost, 0.6))
    assert (comparison.seeds[0].p < 0.01) == (lost != 0)


def test_corrupted_images_of_other_files_are_not_paired_by_their_names(tmp_path):
    (judged,) = CLAIM.test(study(tmp_path, 0.1, images="others")).judged
    assert judged.check.missing == "they were tested on other images"


def test_the_table_has_means_over_severities_and_then_corruptions(tmp_path):
    first, second = corrupted(study(tmp_path, 0.1)).rows
    assert [entry.value for entry in first[2:5]] == pytest.approx([60, 60, 60])
    assert [entry.value for entry in second[2:5]] == pytest.approx([50, 50, 50])
    assert first[5:] == ("1, 2", "1000")
