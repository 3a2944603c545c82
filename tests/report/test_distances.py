"""Distances of adversarial examples in a report: their table, their curves and the claim about them."""

import numpy as np
import pytest
import torch
from made_up import add, cell
from matplotlib.image import imread

from qra.evaluation.outcome import Outcome
from qra.evaluation.radii import Radii, radii_arrays
from qra.report.cells import read_cells
from qra.report.command import write_report
from qra.report.radii import CLAIM, security_curves
from qra.report.radii import distances as table
from qra.report.results import Results
from qra.writing import write_arrays

N = 200


def distances(shift, seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.2, N)
    levels = np.maximum(np.linspace(-3, 17, N) * (1 + shift) + noise, 0)
    return Radii(torch.arange(N), torch.from_numpy(levels / 255), torch.ones(N, dtype=torch.bool))


def put(directory, *found):
    """Put distances, all by one attack, into a cell that is done."""
    named = {f"fmn_8-{number}": radii for number, radii in enumerate(found)}
    write_arrays(directory / "radii.npz", radii_arrays(named))
    add(directory, [
        Outcome(name, "FMN", {"class_path": "FMN"}, radii.indices, radii.correct(8 / 255), 8 / 255, radii=radii)
        for name, radii in named.items()
    ])  # fmt: skip


@pytest.fixture
def study(tmp_path):
    def made(shift, masking="sound"):
        accuracies = {"clean": 0.8, "pgd20_8": 0.4}
        put(cell(tmp_path / "s", "float", accuracies, training="adversarial"), distances(0))
        put(cell(tmp_path / "s", "pact", accuracies, quantizer="pact", training="adversarial", init="robust",
                 bits=(4, 4), masking=masking), distances(shift, 1))  # fmt: skip
        return tmp_path / "s"

    return made


@pytest.mark.parametrize(("shift", "verdict"), [(-0.1, "supported"), (0.1, "contradicted"), (0.0, "contradicted")])
def test_quantization_brings_adversarial_examples_nearer(study, shift, verdict):
    found = CLAIM.test(Results("s", read_cells(study(shift))))
    assert found.verdict == verdict
    (comparison,) = found.judged[0].check.comparisons
    assert comparison.accuracies[0] == pytest.approx(1 + shift, abs=0.03)
    assert (comparison.seeds[0].p < 0.05) == (shift != 0)


def test_the_shift_is_that_of_examples_that_say_something(study):
    made = study(-0.1)
    (judged,) = CLAIM.test(Results("s", read_cells(made))).judged
    for name, shift, seed in (("float", 0, 0), ("pact", -0.1, 1)):
        found = distances(shift, seed)
        nothing = torch.arange(N, 3 * N)  # misclassified without an attack by both, or broken by nothing
        radius = torch.cat([found.radius, torch.zeros(N).double(), torch.ones(N).double()])
        is_found = torch.cat([found.found, torch.arange(2 * N) < N])
        put(made / name, Radii(torch.cat([found.indices, nothing]), radius, is_found))
    (again,) = CLAIM.test(Results("s", read_cells(made))).judged
    means = [each.check.comparisons[0].mean for each in (judged, again)]
    assert means[0] == pytest.approx(means[1])  # the median is the same, since as many were added below as above
    assert means[0] < -0.05


def test_distances_of_suspect_gradients_are_upper_bounds_only(study):
    assert CLAIM.test(Results("s", read_cells(study(0.1, "suspect")))).verdict == "undecided"


def test_of_two_searches_by_one_attack_that_on_most_examples_is_compared_and_shown(study):
    directory = study(-0.1)
    few = Radii(*(part[: N // 2] for part in distances(0.1, 1)))
    for first, second in ((few, distances(-0.1, 1)), (distances(-0.1, 1), few)):
        put(directory / "pact", first, second)
        results = Results("s", read_cells(directory))
        (comparison,) = CLAIM.test(results).judged[0].check.comparisons
        assert comparison.n == N
        assert [row[-1] for row in table(results).rows] == [str(N), str(N)]


def test_the_report_has_distances_and_security_curves(study, tmp_path):
    write_report(study(-0.1), tmp_path / "out")
    text = (tmp_path / "out/tables/distances.md").read_text()
    assert "| float" in text
    assert "| sound | FMN, L-inf | 6." in text
    assert imread(tmp_path / "out/figures/security-1.png").std() > 0
    assert "Quantization brings adversarial examples nearer" in (tmp_path / "out/claims.md").read_text()


@pytest.mark.parametrize("is_found", [True, False])
def test_security_curves_show_networks_that_nothing_or_everything_breaks(tmp_path, is_found):
    radii = Radii(torch.arange(N), torch.full((N,), float(not is_found)).double(), torch.full((N,), is_found))
    put(cell(tmp_path, "float", {"clean": 0.8}), radii)
    assert len(security_curves(Results("s", read_cells(tmp_path)))) == 1
