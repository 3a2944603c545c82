import json

import numpy as np
import pytest
import torch

from qra.evaluation.measured import Accuracy
from qra.evaluation.outcome import Outcome, agrees, correct_arrays, read_correct
from qra.evaluation.runs import _labelled
from qra.evaluation.statistics import wilson_interval
from qra.writing import write_arrays


def outcome(correct, name="pgd20_8", eps=8 / 255):
    correct = torch.tensor(correct)
    return Outcome(name, "PGD-20", {"class_path": "qra.attacks.PGD"}, torch.arange(len(correct)) * 3, correct, eps)


def write_correct(path, outcomes):
    write_arrays(path, correct_arrays({name: (each.indices, each.correct) for name, each in outcomes.items()}))


def test_summary_gives_accuracy_interval_and_n():
    summary = outcome([True, False, True, True]).summary()
    assert summary["accuracy"] == 0.75
    assert summary["n"] == 4
    assert summary["interval95"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert json.loads(json.dumps(summary)) == summary


def test_the_interval_of_an_accuracy_is_that_of_its_count():
    assert Accuracy(0.29, 100).interval == wilson_interval(29, 100)  # 0.29 * 100 is a little below 29


@pytest.mark.parametrize("correct", [torch.ones(3), torch.ones(4, dtype=torch.bool)])
def test_what_does_not_say_of_each_example_whether_it_is_correct_is_refused(correct):
    with pytest.raises(ValueError, match=r"own: correct is torch.\w+ \(\d,\) for 3 indices: give a bool for each"):
        Outcome("own", "own", {}, torch.arange(3), correct)


def test_outcomes_read_back_as_written(tmp_path):
    outcomes = {"a": outcome([True, False], "a"), "b": outcome([False] * 5, "b")}
    write_correct(tmp_path / "correct.npz", outcomes)
    found = read_correct(tmp_path / "correct.npz")
    assert found.keys() == outcomes.keys()
    for name, (indices, correct) in found.items():
        assert torch.equal(indices, outcomes[name].indices)
        assert torch.equal(correct, outcomes[name].correct)
    assert [path.name for path in tmp_path.iterdir()] == ["correct.npz"]


def test_outcomes_are_stored_without_pickle(tmp_path):
    write_correct(tmp_path / "correct.npz", {"a": outcome([True])})
    with np.load(tmp_path / "correct.npz", allow_pickle=False) as arrays:
        assert {str(array.dtype) for array in arrays.values()} == {"int64", "bool"}


def test_the_kind_of_an_attack_says_how_it_searches():
    def kind(**fields):
        made = Outcome("pgd", "PGD-20", {"class_path": "PGD"}, torch.arange(1), torch.tensor([True]), **fields)
        return made.measured.kind

    assert [kind(gradient=gradient) for gradient in ("", "ste", "ste_soft", "hard")] == [
        "PGD-20", "PGD-20", "PGD-20, ste_soft", "PGD-20, hard"
    ]  # fmt: skip
    assert kind(source={"path": "a.ckpt", "sha256": "a"}) == "PGD-20, transferred"
    assert kind(source={"name": "unrounded"}, search_precision="bfloat16") == "PGD-20, unrounded, searched in bfloat16"


def test_of_outcomes_with_one_label_that_on_most_examples_has_it_alone():
    few, many = (outcome([True] * n, name=f"pgd_{n}").measured for n in (3, 5))
    assert {label: each.name for label, each in _labelled([few, many]).items()} == {
        "PGD-20, eps 8/255": "pgd_5",
        "PGD-20, eps 8/255 (2)": "pgd_3",
    }


def test_examples_agree_with_an_accuracy_on_as_many_alone():
    assert agrees(torch.ones(4, dtype=torch.bool), 1.0, 4)
    assert not agrees(torch.ones(4, dtype=torch.bool), 1.0, 5)
