"""What a study shows in words: computed, so that opposite results give opposite words."""

import numpy as np
import pytest
from made_up import cell, edit, read

from qra.cli import main
from qra.report.claims import judge_all
from qra.report.header import header, is_made_up
from qra.report.paired import Gap
from qra.report.pareto import choices, offers
from qra.report.summary import summary

FLOAT = {"clean": 0.8, "pgd20_8": 0.4}


def study(directory, quantized, plain=0.0, **more):
    """Two float networks and two quantized ones, of that robust accuracy."""
    cell(directory, "float-plain", {"clean": 0.9, "pgd20_8": plain}, **more)
    cell(directory, "float-at", FLOAT, training="adversarial", **more)
    for bits, robust in zip((8, 4), quantized, strict=True):
        about = {"quantizer": "pact", "training": "adversarial", "init": "robust", "bits": (bits, bits)}
        cell(directory, f"w{bits}", {"clean": 0.8, "pgd20_8": robust}, **about | more)
    return directory


def words(directory):
    results = read(directory)
    best = choices(results, offers(results, "size_in_bits", 8192))
    return "\n".join(summary(results, judge_all(results), best).lines)


@pytest.mark.parametrize(
    ("quantized", "said", "unsaid"),
    [
        ((0.2, 0.1), ["2 less robust. Largest loss: 30.0 points, PACT W4A4"], ["more robust", "gain:", "as robust"]),
        ((0.6, 0.7), ["2 more robust. Largest gain: 30.0 points, PACT W4A4"], ["less robust", "Largest loss"]),
        ((0.4, 0.4), ["2 as robust."], ["less robust", "more robust", "Largest"]),
        ((0.5, 0.3), ["1 less robust, 1 more robust. Largest loss", "Largest gain"], ["as robust"]),
    ],
)
def test_what_quantization_does_is_said_as_the_results_are(tmp_path, quantized, said, unsaid):
    found = words(study(tmp_path, quantized))
    assert all(part in found for part in said)
    assert not any(part in found for part in unsaid)


def test_few_images_tell_nothing_apart(tmp_path):
    found = words(study(tmp_path, (0.36, 0.34), n=30, noise=0.3))
    assert "2 undecided." in found
    assert "n = 30 images, so each number is uncertain by up to 17 points." in found


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (0.0, "Without adversarial training, no robustness is left: at most 0.0 %."),
        (0.5, "Without adversarial training, the best robust accuracy is 50.0 %: float, plain training."),
    ],
)
def test_what_plain_training_leaves_is_said_as_it_is(tmp_path, plain, said):
    assert said in words(study(tmp_path, (0.4, 0.4), plain))


def test_the_network_to_take_is_named_with_what_ties(tmp_path):
    best = "PACT W4A4, robust start, adversarial"
    said = words(study(tmp_path / "a", (0.3, 0.6)))
    assert f"Smallest network that no other significantly beats: {best}, 60.0 % (" in said
    tied = words(study(tmp_path / "b", (0.4, 0.4)))
    assert "not significantly worse: 2 other networks" in tied
    # the smallest of equals
    assert f"With adversarial training or a robust start, the best robust accuracy is 40.0 %: {best}." in tied


@pytest.mark.parametrize(
    ("masking", "said"),
    [
        ("suspect", "4 pipelines may mask their gradients"),
        ("not judged", "was not checked for 4 of 4"),
        ("sound", None),
    ],
)
def test_doubts_about_gradients_are_said(tmp_path, masking, said):
    found = words(study(tmp_path, (0.3, 0.2), masking=masking))
    assert ("gradients" in found) == (said is not None)
    assert said is None or said in found


def make_up(directory, said):
    for result in directory.glob("*/result.json"):
        edit(result, lambda content: content["data"].update(said))


def test_made_up_images_are_said_in_a_band_before_anything_else_and_the_path_at_the_end(tmp_path, capsys):
    make_up(study(tmp_path / "s", (0.2, 0.1)), {"made_up": True})
    main(["report", str(tmp_path / "s")])
    page = (tmp_path / "s/report/report.html").read_text()
    assert page.index("class='band'>Synthetic images") < page.index("class='summary'")
    assert "Synthetic images" in (tmp_path / "s/report/report.md").read_text()
    *_, last = lines = capsys.readouterr().out.splitlines()
    assert last == f"written to {tmp_path / 's/report/report.html'}"
    assert any("Synthetic images" in line for line in lines)
    assert any("Largest loss: 30.0 points" in line for line in lines[-12:])


def test_results_of_earlier_versions_tell_made_up_images_by_their_class(tmp_path):
    make_up(study(tmp_path, (0.3, 0.2)), {"class": "SyntheticDataModule"})
    assert is_made_up(read(tmp_path))


def test_images_that_are_not_made_up_have_no_band(tmp_path):
    make_up(study(tmp_path, (0.3, 0.2)), {"made_up": False})
    assert not is_made_up(read(tmp_path))
    assert "Synthetic" not in words(tmp_path)


def test_the_header_tells_data_network_images_seeds_and_dates(tmp_path):
    study(tmp_path, (0.3, 0.2), data="0123456789", seed=3)
    for day, result in enumerate(sorted(tmp_path.glob("*/result.json")), 1):
        about = {"class_path": "qra.models.ResNet", "init_args": {"blocks": 3, "normalize": [1.0]}}
        edit(result, lambda content: content.update(date=f"2026-01-{day:02d}T10:00:00", architecture=about))  # noqa: B023
    facts = {fact.name: fact.text for fact in header(read(tmp_path))}
    assert facts == {
        "data": "CIFAR10 (01234567)",
        "network": "ResNet (blocks 3), 269,722 parameters",
        "test images": "1,000 clean, 1,000 attacked",
        "seeds": "1 (3)",
        "date": "2026-01-01 to 2026-01-04",
    }


PACT = {"training": "adversarial", "quantizer": "pact", "init": "robust"}


def test_cells_of_other_test_images_are_said_and_recommended_against_nothing(tmp_path):
    cell(tmp_path, "float", FLOAT, training="adversarial")
    cell(tmp_path, "here", {"clean": 0.8, "pgd20_8": 0.3}, bits=(4, 4), **PACT)
    cell(tmp_path, "else", {"clean": 0.95, "pgd20_8": 0.9}, bits=(2, 2), data="e", **PACT)
    said = words(tmp_path)
    assert "1 cell with other test images, not compared with the rest: else." in said
    assert "1 less robust" in said
    assert "Smallest network that no other significantly beats: float" in said
    assert "90.0 %" not in said


def shift(directory):
    """Let the examples of a cell be others."""
    with np.load(directory / "correct.npz") as arrays:
        moved = {name: array + 5000 if name.endswith(".indices") else array for name, array in arrays.items()}
    np.savez(directory / "correct.npz", **moved)


def test_cells_that_were_attacked_on_other_examples_are_said_and_recommended_against_nothing(tmp_path):
    cell(tmp_path, "float", FLOAT, training="adversarial")
    cell(tmp_path, "here", {"clean": 0.8, "pgd20_8": 0.3}, bits=(4, 4), **PACT)
    shift(cell(tmp_path, "else", {"clean": 0.95, "pgd20_8": 0.9}, bits=(2, 2), **PACT))
    said = words(tmp_path)
    assert "1 cell attacked on other test images, not compared with the rest: else." in said
    assert "1 less robust" in said
    assert "Smallest network that no other significantly beats: float" in said
    assert "90.0 %" not in said
    judged = judge_all(read(tmp_path))["adversarial-keeps"].judged
    assert [each.check.missing for each in judged if each.check.missing] == [Gap.EXAMPLES]


def test_cells_that_do_not_count_or_lack_numbers_are_said(tmp_path):
    study(tmp_path, (0.3, 0.2))
    cell(tmp_path, "x-again", {"clean": 0.8, "pgd20_8": 0.9}, bits=(4, 4), **PACT)
    edit(tmp_path / "w8/result.json", lambda result: result["outcomes"]["pgd20_8"].update(accuracy=0.95))
    said = words(tmp_path)
    assert "1 cell with the same coordinates and seed as another, not counted: x-again." in said
    assert "1 cell with damaged or contradictory files, so that numbers are missing: w8." in said
    assert "One seed per pipeline" in said
    assert "90.0 %" not in said
    assert "95.0 %" not in said


def test_seeds_that_were_tested_on_other_images_are_not_averaged(tmp_path):
    for seed, (robust, data) in enumerate(((0.4, "d"), (0.4, "d"), (0.6, "other"))):
        cell(tmp_path, f"seed{seed}", {"pgd20_8": robust}, training="adversarial", seed=seed, data=data)
    results = read(tmp_path)
    assert [len(pipeline.cells) for pipeline in results.pipelines] == [2, 1]
    assert results.comparable[0].robust(results.headline).value == pytest.approx(0.4)


def test_pipelines_that_met_fewer_attacks_are_counted(tmp_path):
    both = {**FLOAT, "autoattack_8": 0.3}
    cell(tmp_path, "float", both, training="adversarial")
    cell(tmp_path, "w4", both, bits=(4, 4), **PACT)
    assert "fewer attacks" not in words(tmp_path)
    cell(tmp_path, "w2", {"clean": 0.8, "pgd20_8": 0.35}, bits=(2, 2), **PACT)
    assert "1 pipeline met fewer attacks than others" in words(tmp_path)


def test_what_no_check_would_have_noticed_is_that_of_the_weakest(tmp_path):
    study(tmp_path, (0.3, 0.2))
    for name, limit in (("float-at", 0.031), ("w8", 0.012)):
        edit(
            tmp_path / name / "result.json",
            lambda content, limit=limit: content["masking"].update(detection_limit=limit),
        )
    assert "an overstatement below 3.1 points" in words(tmp_path)
