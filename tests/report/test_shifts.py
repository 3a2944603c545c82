"""Accuracy on corrupted images in a report: its table, and the claim about it."""

import json

import numpy as np
import pytest
import torch
from made_up import cell, correct_examples

from qra.evaluation.outcome import correct_arrays
from qra.evaluation.shifts import Shift, shift_outcome
from qra.report.cells import read_cells
from qra.report.contents import corrupted
from qra.report.results import Results
from qra.report.shifts import CLAIM
from qra.writing import write_arrays, write_json

N = 1000


def add(directory, accuracies, seed=0):
    """Put outcomes on corrupted images into a cell that is done."""
    made = [
        shift_outcome(Shift(name, severity), "d", torch.arange(N), correct_examples(value, seed, 0.02))
        for (name, severity), value in accuracies.items()
    ]
    result = json.loads((directory / "result.json").read_text())
    with np.load(directory / "correct.npz") as arrays:
        examples = {**arrays, **correct_arrays({each.name: (each.indices, each.correct) for each in made})}
    write_arrays(directory / "correct.npz", examples)
    outcomes = {**result["outcomes"], **{each.name: each.summary() for each in made}}
    write_json(directory / "result.json", {**result, "outcomes": outcomes})


def study(path, lost):
    fog = {("fog", 1): 0.7, ("fog", 2): 0.5, ("snow", 1): 0.6}
    add(cell(path, "float", {"clean": 0.8}, training="adversarial"), fog)
    quantized = cell(path, "pact", {"clean": 0.8}, quantizer="pact", training="adversarial", init="robust", bits=(4, 4))
    add(quantized, {shift: value - lost for shift, value in fog.items()}, 1)
    return Results("s", read_cells(path))


@pytest.mark.parametrize(("lost", "verdict"), [(0.1, "supported"), (0.0, "contradicted"), (-0.1, "contradicted")])
def test_quantization_costs_natural_robustness(tmp_path, lost, verdict):
    found = CLAIM.test(study(tmp_path, lost))
    assert found.verdict == verdict
    (comparison,) = found.judged[0].check.comparisons
    assert comparison.mean == pytest.approx(-lost)
    assert (comparison.seeds[0].p < 0.01) == (lost != 0)


def test_the_table_has_means_over_severities_and_then_corruptions(tmp_path):
    first, second = corrupted(study(tmp_path, 0.1)).rows
    assert [entry.value for entry in first[2:5]] == pytest.approx([60, 60, 60])
    assert [entry.value for entry in second[2:5]] == pytest.approx([50, 50, 50])
    assert first[5:] == ("1, 2", "1000")
