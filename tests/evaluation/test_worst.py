"""The worst case per example over everything that was tried."""

import pytest
import torch

from qra.evaluation.measured import ThreatModel
from qra.evaluation.outcome import Outcome
from qra.evaluation.worst import by_threat_model, robust_accuracies, worst_cases

LINF = 8 / 255


def attack(name, correct, indices=None, eps=LINF, **fields):
    correct = torch.tensor(correct, dtype=torch.bool)
    indices = torch.arange(len(correct)) if indices is None else torch.tensor(indices)
    settings = {"class_path": "qra.attacks.PGD", "init_args": {}}
    return Outcome(name, name, settings, indices, correct, eps, **{"gradient": "ste", **fields})


def worst(*outcomes):
    examples = {each.name: (each.indices, each.correct) for each in outcomes}
    return worst_cases([each.measured for each in outcomes], examples)


def test_an_example_is_correct_where_it_is_under_all_attacks():
    (found,) = worst(attack("a", [1, 1, 0, 1]), attack("b", [1, 0, 1, 1], standard="AutoAttack"))
    assert found.correct.tolist() == [True, False, False, True]
    assert (found.role, found.eps, list(found.members)) == ("worst", LINF, ["a", "b"])


def test_it_is_of_the_examples_that_all_attacks_share():
    (found,) = worst(attack("a", [1, 1, 0, 1], [1, 3, 5, 7]), attack("b", [1, 0, 1], [3, 5, 7]))
    assert found.indices.tolist() == [3, 5, 7]
    assert found.correct.tolist() == [True, False, True]


@pytest.mark.parametrize("kept", [True, False])
def test_an_attack_on_survivors_takes_examples_away_and_leaves_none_out(kept):
    rest = ([0, 0, 1], [0, 2, 3]) if kept else ([0, 1], [2, 3])  # the others as wrong, or left out
    (found,) = worst(attack("a", [0, 1, 1, 1]), attack("b", *rest, survivors_of=["a"]))
    assert found.correct.tolist() == [False, True, False, True]


def test_an_attack_on_another_choice_of_examples_is_left_out():
    (found,) = worst(attack("a", [1] * 20), attack("b", [0] * 20), attack("c", [0] * 10, list(range(16, 26))))
    assert (list(found.members), found.n) == (["a", "b"], 20)


@pytest.mark.parametrize("other", [{"eps": 4 / 255}, {"eps": 7.9 / 255}, {"norm": "l2"}, {"pixels": "bytes"}])
def test_other_bounds_are_another_case(other):
    assert worst(attack("a", [1, 1]), attack("b", [0, 0], **other)) == []


@pytest.mark.parametrize("other", [{"gradient": "hard"}, {"source": {"sha256": "0"}}, {"survivors_of": ["x"]}])
def test_what_does_not_stand_alone_is_no_robust_accuracy_but_counts_beside_one(other):
    weak = attack("b", [0, 1], **other)
    assert by_threat_model([weak.measured]) == {}
    (found,) = worst(attack("a", [1, 1]), weak)
    assert found.correct.tolist() == [False, True]


@pytest.mark.parametrize("role", ["part", "shift", "fault", "deployed", "clean"])
def test_what_is_no_attack_on_this_network_does_not_count(role):
    assert worst(attack("a", [1, 1]), attack("b", [0, 0], role=role)) == []


def test_a_search_in_another_precision_counts():
    (found,) = worst(attack("a", [1, 1]), attack("b", [0, 1], search_precision="bfloat16"))
    assert found.accuracy == 0.5


def test_the_robust_accuracy_is_the_worst_case_or_the_only_attack():
    outcomes = [attack("a", [1, 1]), attack("b", [0, 1]), attack("c", [1, 0, 1, 1], eps=1 / 255)]
    known = [each.measured for each in (*outcomes, *worst(*outcomes))]
    found = {bounds.key: each.name for bounds, each in robust_accuracies(known).items()}
    assert found == {"1": "c", "8": "worst_8"}
    without_examples = [each.measured for each in outcomes]
    assert {each.name for each in robust_accuracies(without_examples).values()} == {"c", "b"}
    assert ThreatModel("l2", 0.5, "bytes").key == "l2_0.5_bytes"


def test_the_attack_that_can_be_believed_stays_where_examples_are_of_another_choice():
    alone = attack("a", [0] * 10)
    true_gradients = attack("b", [1] * 30, list(range(10, 40)), gradient="hard")
    (found,) = worst(true_gradients, alone)
    assert (list(found.members), found.accuracy) == (["a"], 0)
