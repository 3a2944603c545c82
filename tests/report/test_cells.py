"""Files of cells are untrusted: what is wrong with them is said, and stops nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up import by_name, cell, edit, read

from qra.evaluation.measured import Accuracy, Measured, ThreatModel
from qra.report.cells import CellResult, read_cell, read_cells
from qra.report.contents import state_counts
from qra.report.results import Results

AT_8 = ThreatModel("linf", 8 / 255)
GOOD = {"clean": 0.9, "pgd20_8": 0.4}


def test_a_done_cell_is_read_whole(tmp_path):
    found = read_cell(cell(tmp_path, "a", GOOD, quantizer="pact", bits=(4, 8), masking="suspect"))
    assert (found.name, found.state, found.doubt.state) == ("a", "done", "suspect")
    assert found.doubt.reasons == ("zero gradients",)
    assert found.outcomes["pgd20_8"].accuracy.value == 0.4
    assert (found.outcomes["pgd20_8"].kind, found.outcomes["pgd20_8"].threat_model.levels) == ("PGD-20", 8)
    assert found.cost["size_in_bits"] == 269_722 * 4
    assert found.seconds == {"fit": 100, "test": 20}
    assert found.commands[0] == "qra fit --config a.yaml"


def test_examples_are_those_of_the_accuracy(tmp_path):
    indices, correct = read_cell(cell(tmp_path, "a", GOOD)).per_example["pgd20_8"]
    assert (int(correct.sum()), len(indices)) == (400, 1000)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cell.json", '{"schema": 1, "na', "cell.json is truncated or not JSON"),
        ("cell.json", "[" * 100_000, "cell.json is truncated or not JSON"),
        ("cell.json", "[]", "cell.json does not have schema 1"),
        ("cell.json", '{"schema": 2}', "cell.json does not have schema 1"),
        ("cell.json", '{"schema": 1, "coordinates": 3}', "coordinates is missing or not a mapping"),
        ("cell.json", '{"schema": 1, "coordinates": {}, "state": "dreaming"}', "state is 'dreaming'"),
        ("cell.json", "\xff\xfe", "cell.json is truncated or not JSON"),
        ("result.json", '{"schema": 1, "outc', "result.json is truncated or not JSON"),
        ("result.json", '{"schema": 1}', "outcomes is missing or not a mapping"),
        ("result.json", '{"schema": 3, "outcomes": {}}', "result.json has schema 3, of a newer version of qra"),
        ("result.json", '{"schema": true, "outcomes": {}}', "result.json is not a result of schema 2 or 1"),
        ("result.json", None, "there is no result.json"),
    ],
)
def test_a_cell_that_cannot_be_read_says_why(tmp_path, name, content, reason):
    directory = cell(tmp_path, "a", GOOD)
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content.encode("latin-1"))
    found = read_cell(directory)
    assert found.state == "unreadable"
    assert reason in found.reason
    assert not found.outcomes


@pytest.mark.parametrize("where", ["result.json", "training.json"])
def test_a_result_of_an_unfinished_training_is_no_result(tmp_path, where):
    training = {"finished": False, "epochs": 3, "epochs_asked": 40}
    directory = cell(tmp_path, "a", {"clean": 0.9, "pgd20_8": 0.4})
    if where == "result.json":
        edit(directory / where, lambda result: result.update(training=training))
    else:
        (directory / where).write_text(json.dumps(training))
    found = read_cell(directory)
    assert (found.state, found.outcomes) == ("unfinished", {})
    assert found.reason == "its training is unfinished, 3 of 40 epochs done"
    assert "1 unfinished" in state_counts(Results("study", [found]))


def test_a_failed_cell_keeps_its_reason_and_has_no_outcomes(tmp_path):
    directory = cell(tmp_path, "a", GOOD)
    edit(directory / "cell.json", lambda content: content.update(state="failed", reason="out of memory"))
    found = read_cell(directory)
    assert (found.state, found.reason, dict(found.outcomes)) == ("failed", "out of memory", {})
    edit(directory / "cell.json", lambda content: content.update(state="running"))
    assert read_cell(directory).state == "running"  # whatever an earlier run has left


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        ({"accuracy": 1.7, "n": 100}, "accuracy is 1.7 of 100 examples"),
        ({"accuracy": 0.5, "n": 0}, "of 0 examples"),
        ({"accuracy": 0.5, "n": 1e200}, "of 1e+200 examples"),
        ({"accuracy": 0.5, "n": 7.5}, "of 7.5 examples"),
        ({"accuracy": float("nan"), "n": 100}, "accuracy, n or eps is not a number"),
        ({"accuracy": 10**400, "n": 100}, "accuracy, n or eps is not a number"),
        ({"accuracy": True, "n": 100}, "accuracy, n or eps is not a number"),
        ({"accuracy": 0.5, "n": 100, "eps": -0.5}, "eps is -0.5"),
        ({"accuracy": 0.5, "n": 100, "role": "hero"}, "role is 'hero', not one of clean, robust"),
        ({"accuracy": 0.5, "n": 100, "role": ["robust"]}, "role is ['robust'], not one of"),
        ("half", "accuracy, n or eps is not a number"),
    ],
)
def test_an_outcome_that_cannot_be_is_named_and_left_out_with_all_that_it_might_have_lowered(tmp_path, summary, reason):
    directory = cell(tmp_path, "a", GOOD)
    edit(directory / "result.json", lambda content: content["outcomes"].update(pgd20_2=summary))
    found = read_cell(directory)
    assert found.outcomes.keys() == {"clean"}
    assert len(found.problems) == 1
    assert "robust accuracies of the cell may be too high" in found.problems[0]
    assert "pgd20_2" in found.problems[0]
    assert reason in found.problems[0]


def test_an_outcome_that_cannot_be_and_is_no_attack_leaves_robust_accuracies_alone(tmp_path):
    directory = cell(tmp_path, "a", GOOD)
    edit(directory / "result.json", lambda content: content["outcomes"].update(fog={"role": "shift", "accuracy": 2}))
    found = read_cell(directory)
    assert found.robust[AT_8].accuracy.value == 0.4
    assert "fog" in found.problems[0]


BOTH = {**GOOD, "autoattack_8": 0.3}


def remove_arrays(path, name):
    with np.load(path) as arrays:
        np.savez(path, **{key: array for key, array in arrays.items() if not key.startswith(f"{name}.")})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "correct.npz: is truncated or damaged"),
        (lambda path: path.unlink(), "correct.npz: there is no such file"),
        (lambda path: remove_arrays(path, "autoattack_8"), "correct.npz: lacks autoattack_8"),
    ],
)
def test_without_the_examples_of_an_attack_there_is_no_worst_case_over_several_and_it_is_said(tmp_path, damage, said):
    directory = cell(tmp_path, "a", {**BOTH, "pgd20_2": 0.6})
    damage(directory / "correct.npz")
    found = read_cell(directory)
    assert [bounds.levels for bounds in found.robust] == [2]
    assert found.attacks[AT_8]["AutoAttack"].accuracy.value == 0.3
    (problem,) = found.problems
    assert problem.startswith(said)
    assert "qra test" in problem
    assert "no worst case" in problem


def test_an_accuracy_that_contradicts_its_examples_makes_no_number_better(tmp_path):
    directory = cell(tmp_path, "a", BOTH)
    edit(directory / "result.json", lambda content: content["outcomes"]["autoattack_8"].update(accuracy=0.9))
    found = read_cell(directory)
    assert (dict(found.robust), dict(found.attacks)) == ({}, {})
    assert found.clean.accuracy.value == 0.9
    (problem,) = found.problems
    assert problem.startswith("correct.npz: contradicts result.json about autoattack_8: write both again by qra test")


def test_an_attack_that_the_result_no_longer_has_makes_no_number_better(tmp_path):
    directory = cell(tmp_path, "a", BOTH)
    edit(directory / "result.json", lambda content: content["outcomes"].pop("autoattack_8"))
    found = read_cell(directory)
    assert not found.robust
    assert "autoattack_8 is not in result.json" in found.problems[0]


def test_a_result_of_earlier_versions_that_kept_no_examples_counts_as_before(tmp_path):
    directory = cell(tmp_path, "a", BOTH)
    old = {name: {"accuracy": accuracy, "n": 1000} for name, accuracy in BOTH.items()}
    edit(directory / "result.json", lambda content: content.update(schema=1, outcomes=old))
    (directory / "correct.npz").unlink()
    found = read_cell(directory)
    assert found.problems == ()
    assert found.robust[AT_8].accuracy.value == 0.3


@pytest.mark.parametrize("verdict", ["SUSPECT", "fine", None, 3])
def test_a_verdict_that_is_not_sound_is_suspect(tmp_path, verdict):
    directory = cell(tmp_path, "a", GOOD)
    edit(directory / "result.json", lambda content: content.update(masking={"verdict": verdict}))
    assert read_cell(directory).doubt.state == "suspect"


def test_without_a_verdict_a_cell_is_not_judged(tmp_path):
    directory = cell(tmp_path, "a", GOOD)
    edit(directory / "result.json", lambda content: content.pop("masking"))
    assert read_cell(directory).doubt.state == "not judged"


def broken_npz(path, kind):
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "not there":
        path.unlink()
    elif kind == "of objects":
        np.savez(path, **{"pgd20_8.indices": np.arange(2), "pgd20_8.correct": np.array([{}, {}], object)})
    elif kind == "of another run":
        np.savez(path, **{"pgd20_8.indices": np.arange(1000), "pgd20_8.correct": np.ones(1000, bool)})
    elif kind == "of another type":
        np.savez(path, **{"pgd20_8.indices": np.arange(1000.0), "pgd20_8.correct": np.ones(1000)})
    elif kind == "without indices":
        np.savez(path, **{"pgd20_8.correct": np.ones(1000, bool)})
    elif kind == "with an index twice":
        correct = np.arange(1000) < 400
        np.savez(path, **{"pgd20_8.indices": np.zeros(1000, np.int64), "pgd20_8.correct": correct})


@pytest.mark.parametrize(
    "kind",
    [
        "cut short", "not there", "of objects", "of another run", "of another type", "without indices",
        "with an index twice",
    ],
)  # fmt: skip
def test_examples_that_cannot_be_trusted_are_none(tmp_path, kind):
    directory = cell(tmp_path, "a", GOOD)
    broken_npz(directory / "correct.npz", kind)
    found = read_cell(directory)
    assert "pgd20_8" not in found.per_example
    assert found.problems[0].startswith("correct.npz: ")
    assert [each.accuracy.value for each in found.robust.values()] == ([] if kind == "of another run" else [0.4])


def test_other_directories_of_a_study_are_no_cells(tmp_path):
    cell(tmp_path, "a", GOOD)
    (tmp_path / "report").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert [found.name for found in read_cells(tmp_path)] == ["a"]


def test_a_directory_that_may_not_be_looked_into_is_an_unreadable_cell(tmp_path, monkeypatch):
    cell(tmp_path, "a", GOOD)
    (tmp_path / "closed").mkdir()
    exists = Path.exists

    def refusing(path):
        if path.parent.name == "closed":
            raise PermissionError
        return exists(path)

    monkeypatch.setattr(Path, "exists", refusing)
    assert [found.state for found in read_cells(tmp_path)] == ["done", "unreadable"]


@pytest.mark.parametrize("seed", [0, None])
def test_two_cells_of_one_place_in_the_grid_are_no_two_seeds_and_the_second_says_so(tmp_path, seed):
    for name, robust in (("a", 0.4), ("b", 0.6)):
        cell(tmp_path, name, {"clean": 0.9, "pgd20_8": robust}, seed=seed)
    results = read(tmp_path)
    (pipeline,) = results.pipelines
    assert [each.name for each in pipeline.cells] == ["a"]
    assert pipeline.robust(AT_8).value == 0.4
    assert results.cells[1].state == "repeated"
    assert results.cells[1].reason.startswith("has the same coordinates and seed as a and does not count")
    assert "1 done, 1 repeated" in state_counts(results)


def test_seeds_of_one_pipeline_are_taken_together(tmp_path):
    for seed, robust in enumerate((0.4, 0.5, 0.6)):
        cell(tmp_path, f"s{seed}", {"clean": 0.9, "pgd20_8": robust}, seed=seed)
    (pipeline,) = read(tmp_path).pipelines
    accuracy = pipeline.robust(AT_8)
    assert accuracy.value == pytest.approx(0.5)
    assert accuracy.seeds == (0.4, 0.5, 0.6)
    assert accuracy.n == 1000
    assert pipeline.robust(ThreatModel("linf", 4 / 255)) is None


def test_one_suspect_seed_makes_a_pipeline_suspect(tmp_path):
    for seed, masking in enumerate(("sound", "suspect")):
        cell(tmp_path, f"s{seed}", GOOD, seed=seed, masking=masking)
    (pipeline,) = read(tmp_path).pipelines
    assert pipeline.state == "suspect"


def test_robust_accuracy_is_the_worst_case_over_the_attacks_of_a_budget(tmp_path):
    cell(tmp_path, "a", {"pgd20_8": 0.4, "autoattack_8": 0.3, "pgd20_2": 0.5, "pgd20_2_hard": 0.45})
    cell(tmp_path, "b", {"pgd20_8": 0.4, "pgd20_2": 0.5, "pgd20_4_hard": 0.9}, quantizer="pact")
    results = read(tmp_path)
    assert results.levels == (2, 8)
    assert results.headline == AT_8
    assert results.headline_title == "worst case over attacks, eps 8/255"
    robust = {p.cells[0].name: [p.robust(bounds).value for bounds in results.bounds] for p in results.pipelines}
    assert robust == {"a": [0.45, 0.3], "b": [0.5, 0.4]}


def test_the_worst_case_is_taken_example_by_example(tmp_path):
    directory = cell(tmp_path, "a", GOOD)
    first = np.arange(100) % 2 == 0
    second = np.arange(50, 150) % 3 == 0  # they share 50 examples
    arrays = {
        "pgd20_8.indices": np.arange(100), "pgd20_8.correct": first,
        "autoattack_8.indices": np.arange(50, 150), "autoattack_8.correct": second,
    }  # fmt: skip
    np.savez(directory / "correct.npz", **arrays)
    about = {"role": "robust", "n": 100, "eps": 8 / 255, "norm": "linf"}
    found = {
        "pgd20_8": {"title": "PGD-20", "accuracy": first.mean(), **about},
        "autoattack_8": {"title": "AutoAttack", "accuracy": second.mean(), **about},
    }
    edit(directory / "result.json", lambda content: content.update(outcomes=found))
    worst = read_cell(directory).robust[AT_8]
    assert (worst.role, worst.accuracy.n, worst.accuracy.value) == ("worst", 50, 8 / 50)  # those of 54, 60 .. 96


def test_an_outcome_in_l2_is_a_robust_accuracy(tmp_path):
    directory = cell(tmp_path, "a", {"clean": 0.9})
    found = {"role": "robust", "title": "AutoAttack", "accuracy": 0.3, "n": 1000, "eps": 0.5, "norm": "l2"}
    edit(directory / "result.json", lambda content: content["outcomes"].update(anything=found))
    results = read(tmp_path)
    assert results.headline_title == "AutoAttack, L2 eps 0.5"
    assert results.pipelines[0].robust(results.headline).value == 0.3


def test_parts_of_autoattack_are_no_robust_accuracy(tmp_path):
    cell(tmp_path, "a", GOOD)
    directory = cell(tmp_path, "b", GOOD, quantizer="pact")
    part = {"role": "part", "accuracy": 0.1, "n": 1000, "eps": 8 / 255}
    edit(directory / "result.json", lambda content: content["outcomes"].update({"autoattack_8.apgd-ce": part}))
    results = read(tmp_path)
    assert [pipeline.robust(AT_8).value for pipeline in results.pipelines] == [0.4, 0.4]


def test_a_float_network_that_was_only_tested_counts_as_its_start(tmp_path):
    cell(tmp_path, "start", GOOD, training="none", init="robust")
    cell(tmp_path, "quantized", GOOD, training="adversarial", init="robust", quantizer="pact", bits=(4, 4))
    results = read(tmp_path)
    pipelines = by_name(results)
    assert results.reference(pipelines["quantized"]) is pipelines["start"]


def test_any_coordinate_can_be_read(tmp_path):
    directory = cell(tmp_path, "a", GOOD)
    odd = {"axis": [1, 2], "other": {"a": None}, "nan": float("nan"), "seed": 10**400, "fraction": 1e305}
    edit(directory / "cell.json", lambda content: content["coordinates"].update(odd))
    coordinates = read_cell(directory).coordinates
    assert coordinates["axis"] == json.dumps([1, 2])
    assert (coordinates["seed"], coordinates["fraction"]) == (str(10**400), "1e+305")


def test_figures_show_the_share_of_the_data_that_most_trained_cells_have(tmp_path):
    for name, fraction in (("few", 0.1), ("few too", 0.1), ("all", 1.0)):
        cell(tmp_path, name, GOOD, quantizer="pact", bits=(4, len(name)), fraction=fraction)
    untrained = cell(tmp_path, "calibrated", GOOD, training="none", quantizer="pwlq", bits=(4, 4), fraction=0.5)
    edit(untrained / "cell.json", lambda content: content["seconds"].pop("fit"))
    results = read(tmp_path)
    assert {pipeline.cells[0].name for pipeline in results.main} == {"few", "few too", "calibrated"}
    assert results.quantized == results.main
    labels = {pipeline.cells[0].name: results.label(pipeline) for pipeline in results.pipelines}
    assert "10 % of the data" in labels["few"]
    assert "data" not in labels["calibrated"]


def test_a_network_that_was_only_quantized_is_compared_with_what_it_was_made_of(tmp_path):
    original = cell(tmp_path, "original", GOOD, init="random")
    cell(tmp_path, "tuned", GOOD, init="plain")
    quantized = cell(tmp_path, "quantized", GOOD, training="none", init="plain", quantizer="pwlq", bits=(4, 4))
    for directory in (original, quantized):
        edit(directory / "cell.json", lambda content: content["seconds"].pop("fit"))
    results = read(tmp_path)
    pipelines = by_name(results)
    assert results.reference(pipelines["quantized"]) is pipelines["original"]


def test_of_two_attacks_of_a_kind_that_on_most_examples_counts():
    few, many = (Measured(str(n), "PGD-20", "robust", AT_8, Accuracy(0.4, n), gradient="ste") for n in (100, 1000))
    for outcomes in ((few, many), (many, few)):
        cell_of = CellResult("a", Path("a"), outcomes={each.name: each for each in outcomes})
        assert cell_of.attacks[AT_8] == {"PGD-20": many}


def test_a_study_of_many_cells_is_not_gone_through_for_each_of_them(monkeypatch):
    asked, data = [], CellResult.data
    monkeypatch.setattr(CellResult, "data", property(lambda cell: asked.append(cell.name) or data.fget(cell)))
    cells = tuple(CellResult(f"seed-{n}", Path(), coordinates={"seed": n}, state="done") for n in range(50))
    assert len(Results("many", cells).pipelines[0].cells) == 50
    assert len(asked) <= 4 * 50
