"""Outcomes of one network and one set of data gather in a directory; nothing is lost."""

import json

import numpy as np
import pytest
import torch

from qra import models
from qra.evaluation import store
from qra.evaluation.identity import network_id
from qra.evaluation.outcome import Outcome, read_result

ABOUT = {"network": "n", "data": {"sha256": "d"}, "checkpoint": {"sha256": "c"}}


def attack(name, correct, eps=8 / 255, seed=0, **fields):
    correct = torch.tensor(correct, dtype=torch.bool)
    settings = {"class_path": "qra.attacks.PGD", "init_args": {"eps": eps, "seed": seed}}
    return Outcome(name, name, settings, torch.arange(len(correct)), correct, eps, **{"gradient": "ste", **fields})


def clean(correct):
    return Outcome("clean", "clean", {}, torch.arange(len(correct)), torch.tensor(correct, dtype=torch.bool))


def gathered_by(directory, *outcomes, about=ABOUT, command="test", **more):
    gathered, said = store.gather(directory, {**about, **more}, outcomes, {"command": command})
    store.write(directory, gathered)
    result = read_result(directory / "result.json")
    return result, store.read_examples(directory, result), said


def accuracies(result):
    return {name: summary["accuracy"] for name, summary in result["outcomes"].items()}


def test_three_tests_with_different_attacks_gather_and_the_worst_case_is_over_all(tmp_path):
    gathered_by(tmp_path, clean([1, 1, 1, 0]), attack("pgd", [1, 1, 1, 0]), command="first")
    gathered_by(
        tmp_path, clean([1, 1, 1, 0]), attack("autoattack", [1, 1, 0, 0], standard="AutoAttack"), command="second"
    )
    result, examples, said = gathered_by(tmp_path, attack("square", [0, 1, 1, 0], gradient=""), command="third")
    assert accuracies(result) == {"clean": 0.75, "pgd": 0.75, "autoattack": 0.5, "square": 0.5, "worst_8": 0.25}
    assert examples["worst_8"][1].tolist() == [False, True, False, False]
    assert result["outcomes"]["worst_8"]["members"] == ["pgd", "autoattack", "square"]
    commands = [result["tests"][summary["test"]]["command"] for summary in list(result["outcomes"].values())[:4]]
    assert commands == ["second", "first", "second", "third"]  # clean images were tested twice
    assert said == ""


def test_the_same_outcome_is_replaced_and_its_test_forgotten(tmp_path):
    gathered_by(tmp_path, attack("pgd", [1, 1]), command="first")
    result, examples, _ = gathered_by(tmp_path, attack("pgd", [1, 0]), command="second")
    assert accuracies(result) == {"pgd": 0.5}
    assert examples["pgd"][1].tolist() == [True, False]
    assert [test["command"] for test in result["tests"]] == ["second"]
    assert result["outcomes"]["pgd"]["test"] == 0


@pytest.mark.parametrize("other", [{"seed": 1}, {"pixels": "bytes"}, {"gradient": "hard"}, {"correct": [1, 1, 0]}])
def test_another_outcome_of_the_same_name_stays_beside_it(tmp_path, other):
    gathered_by(tmp_path, attack("pgd", [1, 1]), attack("square", [1, 0], survivors_of=["pgd"], gradient=""))
    result, examples, _ = gathered_by(tmp_path, attack("pgd", **{"correct": [0, 0], **other}))
    assert {"pgd", "pgd-2", "square"} <= set(result["outcomes"])
    assert examples["pgd-2"][1].tolist() == [True, True]
    assert result["outcomes"]["square"]["survivors_of"] == ["pgd-2"]


def test_an_outcome_that_was_renamed_is_replaced_by_its_like_of_another_name(tmp_path):
    gathered_by(tmp_path, attack("pgd", [1, 1], seed=0))
    result, _, _ = gathered_by(tmp_path, attack("pgd", [1, 0], seed=1), attack("again", [0, 0], seed=0))
    assert {name: each for name, each in accuracies(result).items() if name != "worst_8"} == {"pgd": 0.5, "again": 0.0}


def test_a_source_of_transferred_images_is_known_by_its_hash_wherever_it_lies(tmp_path):
    for path, sha256 in (("a", "1"), ("b", "1"), ("b", "2")):
        source = {"path": path, "sha256": sha256}
        result, _, _ = gathered_by(tmp_path, attack("pgd", [1, 1], gradient="", source=source))
    sources = {name: summary["source"] for name, summary in result["outcomes"].items()}
    assert sources == {"pgd-2": {"path": "b", "sha256": "1"}, "pgd": {"path": "b", "sha256": "2"}}


def test_networks_share_an_id_only_if_they_compute_the_same():
    network, other, wider = models.resnet20(), models.resnet20(), models.resnet20(num_classes=11)

    def identify(network, checkpoint="c", scheme=None, calibration=None, changed=False):
        return network_id(network, checkpoint, scheme, calibration, changed)

    ids = [
        identify(network), identify(wider), identify(network, "d"), identify(network, scheme={"weight_bit_width": 4}),
        identify(network, calibration={"images": 8}), identify(network, calibration={"images": 9}),
        identify(network, changed=True), identify(other, changed=True), identify(network, None), identify(other, None),
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert identify(other) == ids[0]  # its weights are those of the checkpoint


@pytest.mark.parametrize("other", [{"network": "m"}, {"data": {"sha256": "e"}}])
def test_another_network_or_other_data_moves_the_old_results_aside_and_says_so(tmp_path, other):
    gathered_by(tmp_path, attack("pgd", [1, 1]), masking={"verdict": "sound"})
    result, _, said = gathered_by(tmp_path, attack("square", [1, 0]), **other)
    assert accuracies(result) == {"square": 0.5}
    assert "masking" not in result
    assert said == f"{tmp_path}/result.json is for another network or other data: moved to {tmp_path}/earlier/1"
    moved = read_result(tmp_path / "earlier" / "1" / "result.json")
    assert accuracies(moved) == {"pgd": 1}
    assert store.read_examples(tmp_path / "earlier" / "1", moved).keys() == {"pgd"}


@pytest.mark.parametrize("name", ["result.json", "correct.npz"])
def test_a_damaged_file_is_moved_aside_and_said(tmp_path, name):
    gathered_by(tmp_path, attack("pgd", [1, 1]))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    result, _, said = gathered_by(tmp_path, attack("square", [1, 0], gradient=""))
    assert accuracies(result) == {"square": 0.5}
    assert "is truncated" in said
    assert (tmp_path / "earlier" / "1" / name).stat().st_size == 100


def test_what_callbacks_found_before_stays(tmp_path):
    gathered_by(tmp_path, attack("pgd", [1, 1]), masking={"verdict": "sound"}, partial={"images": 1})
    result, _, _ = gathered_by(tmp_path, attack("square", [1, 0], gradient=""))
    assert result["masking"] == {"verdict": "sound"}
    assert "partial" not in result  # which is of one test


def killed(*_):
    raise KeyboardInterrupt


def killed_after(function):
    def run(*arguments):
        function(*arguments)
        raise KeyboardInterrupt

    return run


@pytest.mark.parametrize(
    ("end", "left"), [(killed, {"pgd"}), (killed_after(store.write_json), {"pgd", "square", "worst_8"})]
)
def test_a_kill_between_the_two_files_loses_nothing(tmp_path, monkeypatch, end, left):
    gathered_by(tmp_path, attack("pgd", [1, 1]))
    with monkeypatch.context() as patched:
        patched.setattr(store, "write_json", end)
        with pytest.raises(KeyboardInterrupt):
            gathered_by(tmp_path, attack("square", [1, 0], gradient=""))
    result = read_result(tmp_path / "result.json")
    assert set(store.read_examples(tmp_path, result)) == set(result["outcomes"]) == left
    again, _, _ = gathered_by(tmp_path, attack("square", [1, 0], gradient=""))
    assert set(again["outcomes"]) == {"pgd", "square", "worst_8"}


@pytest.mark.parametrize(
    ("before", "now"), [(None, None), ({"bits": 4}, {"bits": 4, "overrides": {}, "allow_float": []})], ids=str
)
def test_a_result_of_schema_1_is_gone_on_with(before, now, tmp_path):
    old = {
        "schema": 1, "data": {"sha256": "d"}, "checkpoint": {"sha256": "c"}, "scheme": before,
        "command": ["qra", "test"],
        "outcomes": {
            "clean": {"accuracy": 1.0, "n": 2, "eps": 0.0},
            "pgd20_8": {"accuracy": 0.5, "n": 2, "eps": 8 / 255, "accuracy_as_bytes": 1.0,
                        "attack": {"class_path": "qra.attacks.PGD", "init_args": {"norm": "linf"}, "threat": "ste"}},
            "autoattack_l2_0.5": {"accuracy": 0.5, "n": 2, "eps": 0.5, "attack": {"init_args": {"norm": "l2"}}},
        },
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(old))
    correct = {"clean": [True, True], "pgd20_8": [True, False], "autoattack_l2_0.5": [True, False]}
    arrays = {f"{name}.{key}": value for name, found in correct.items()
              for key, value in (("indices", np.arange(2)), ("correct", np.array(found)))}  # fmt: skip
    np.savez(tmp_path / "correct.npz", **arrays)
    result, _, said = gathered_by(tmp_path, attack("square", [0, 1], gradient=""), scheme=now)
    assert said == ""
    assert accuracies(result)["worst_8"] == 0
    found = result["outcomes"]
    assert (found["pgd20_8"]["accuracy_rounded_afterwards"], found["pgd20_8"]["gradient"]) == (1.0, "ste")
    assert (found["autoattack_l2_0.5"]["standard"], found["autoattack_l2_0.5"]["norm"]) == ("AutoAttack", "l2")
    assert result["tests"][found["clean"]["test"]]["command"] == ["qra", "test"]
