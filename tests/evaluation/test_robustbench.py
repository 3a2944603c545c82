import json

import pytest

from qra.evaluation.robustbench import model_info

PGD = {"title": "PGD-20", "gradient": "ste", "attack": {"class_path": "qra.attacks.PGD"}}
STANDARD = {"title": "AutoAttack", "standard": "AutoAttack", "attack": {"mode": "chunked"}}


def outcome(accuracy, n=100, eps=8 / 255, role="robust", **more):
    return {"role": role, "accuracy": accuracy, "n": n, "eps": eps, "norm": "linf", **PGD, **more}


def autoattack(accuracy, **more):
    return outcome(accuracy, **{**STANDARD, **more})


def result(outcomes, **more):
    return {
        "outcomes": {"clean": outcome(0.62954, 10000, 0.0, "clean"), **outcomes},
        "checkpoint": {"path": "x.ckpt", "sha256": "0"},
        "data": {"class": "CIFAR10DataModule", "sha256": "1"},
        "scheme": None,
        "cost": {"size_in_bits": 8631104, "bit_ops": 7},
        **more,
    }


FIELDS = {
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture"),
    *("eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable"),
}


def test_it_has_the_fields_of_the_benchmark_and_fits_json():
    info = model_info(result({"any name": autoattack(0.3)}), "run", "qra.models.resnet20")
    assert info.keys() >= FIELDS
    assert (info["clean_acc"], info["autoattack_acc"], info["eps"]) == ("62.95", "30.00", "8/255")
    assert info["dataset"] == "cifar10"
    assert json.loads(json.dumps(info)) == info


def test_what_was_not_measured_is_null():
    info = model_info(result({"pgd20_8": outcome(0.35)}), "run", None)
    assert info["autoattack_acc"] is None
    assert info["unreliable"] is None
    assert info["qra"]["autoattack_n"] is None
    assert info["qra"]["robust"] == {"accuracy": 0.35, "n": 100, "outcome": "pgd20_8", "attacks": ["pgd20_8"]}
    assert model_info(result({}), "run", None)["qra"]["robust"] is None


@pytest.mark.parametrize("changes", [{"standard": ""}, {"pixels": "bytes"}, {"role": "part"}])
def test_only_a_standard_autoattack_on_float_images_is_one(changes):
    info = model_info(result({"autoattack_8": autoattack(0.31, **changes)}), "run", None)
    assert info["autoattack_acc"] is None


def test_the_robust_accuracy_is_the_worst_case():
    outcomes = {"a": outcome(0.35), "b": outcome(0.31, gradient="ste_soft")}
    worst = outcome(0.3, 90, role="worst", members=["a", "b"])
    info = model_info(result({**outcomes, "w": worst}), "run", None)
    assert info["qra"]["robust"] == {"accuracy": 0.3, "n": 90, "outcome": "w", "attacks": ["a", "b"]}


def test_without_a_worst_case_the_lowest_accuracy_of_the_budget_stands_for_it():
    outcomes = {"a": outcome(0.35), "b": outcome(0.31), "c": outcome(0.2, eps=16 / 255)}
    assert model_info(result(outcomes), "run", None)["qra"]["robust"]["outcome"] == "b"


def test_the_budget_of_the_leaderboard_comes_first():
    other = autoattack(0.4, n=500, eps=4 / 255)
    info = model_info(result({"a": other, "b": autoattack(0.2)}), "run", None)
    assert (info["autoattack_acc"], info["eps"]) == ("20.00", "8/255")
    info = model_info(result({"a": other}), "run", None)
    assert (info["autoattack_acc"], info["eps"]) == ("40.00", "4/255")
    info = model_info(result({"a": autoattack(0.5, eps=0.5, norm="l2")}), "run", None)
    assert (info["autoattack_acc"], info["threat_model"], info["eps"]) == ("50.00", "L2", "0.5")


def test_quantizer_and_verdict_are_told():
    scheme = {"class_path": "qra.quant.QuantScheme", "init_args": {"weight_bit_width": 3, "act_bit_width": 8}}
    masking = {"verdict": "suspect", "reasons": ["because"], "n": 50, "indicators": []}
    info = model_info(result({"pgd20_8": outcome(0.35)}, scheme=scheme, masking=masking), "run", None)
    assert info["unreliable"] is True
    assert info["qra"]["doubt"] == {"state": "suspect", "reasons": ["because"], "n": 50, "detection_limit": None}
    assert (info["qra"]["weight_bit_width"], info["qra"]["act_bit_width"]) == (3, 8)
    assert info["qra"]["gradient_modes"] == ["ste"]
