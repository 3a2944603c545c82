import json

from qra.evaluation.robustbench import model_info

PGD = {"class_path": "qra.attacks.PGD", "init_args": {"norm": "linf"}, "gradient": "ste"}


def outcome(accuracy, n=100, eps=8 / 255, attack=PGD):
    found = {"accuracy": accuracy, "interval95": [0.0, 1.0], "n": n, "eps": eps}
    return {**found, "attack": attack} if attack else found


def autoattack(accuracy, eps=8 / 255, norm="linf"):
    settings = {"class_path": "qra.attacks.AutoAttack", "init_args": {"norm": norm}, "mode": "chunked"}
    return outcome(accuracy, eps=eps, attack=settings)


def result(outcomes, **more):
    return {
        "outcomes": {"clean": outcome(0.62954, 10000, 0.0, None), **outcomes},
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
    info = model_info(result({"autoattack_8": autoattack(0.3)}), "run", "qra.models.resnet20")
    assert info.keys() >= FIELDS
    assert (info["clean_acc"], info["autoattack_acc"], info["eps"]) == ("62.95", "30.00", "8/255")
    assert info["dataset"] == "cifar10"
    assert json.loads(json.dumps(info)) == info


def test_what_was_not_measured_is_null():
    info = model_info(result({"pgd20_8": outcome(0.35)}), "run", None)
    assert info["autoattack_acc"] is None
    assert info["unreliable"] is None
    assert info["qra"]["autoattack_n"] is None
    assert info["qra"]["lowest"] == {"accuracy": 0.35, "outcome": "pgd20_8", "n": 100}
    assert model_info(result({}), "run", None)["qra"]["lowest"] is None


def test_an_autoattack_that_searched_in_another_precision_is_no_autoattack():
    fast = autoattack(0.31)
    fast["attack"]["search_precision"] = "bfloat16"
    info = model_info(result({"autoattack_8_bfloat16": fast}), "run", None)
    assert info["autoattack_acc"] is None
    assert info["qra"]["lowest"]["outcome"] == "autoattack_8_bfloat16"


def test_the_lowest_accuracy_is_over_all_attacks_of_the_budget():
    found = {"pgd20_8": outcome(0.35), "pgd20_32": outcome(0.01, eps=32 / 255), "autoattack_8": autoattack(0.3)}
    assert model_info(result(found), "run", None)["qra"]["lowest"]["outcome"] == "autoattack_8"


def test_the_budget_of_the_leaderboard_comes_first():
    found = {
        "autoattack_4": autoattack(0.5, 4 / 255),
        "autoattack_8": autoattack(0.3),
        "autoattack_8.fab": autoattack(0),
    }
    found["autoattack_8.fab"]["attack"]["attacks"] = ["apgd-ce", "fab"]
    assert model_info(result(found), "run", None)["autoattack_acc"] == "30.00"
    info = model_info(result({"autoattack_l2_0.5": autoattack(0.4, 0.5, "l2")}), "run", None)
    assert (info["eps"], info["threat_model"]) == ("0.5", "L2")


def test_quantizer_and_verdict_are_told():
    scheme = {"class_path": "qra.quant.QuantScheme", "init_args": {"weight_bit_width": 3, "act_bit_width": 8}}
    masking = {"verdict": "suspect", "reasons": ["because"], "n": 50, "indicators": []}
    info = model_info(result({"pgd20_8": outcome(0.35)}, scheme=scheme, masking=masking), "run", None)
    assert info["unreliable"] is True
    assert info["qra"]["masking"] == {"verdict": "suspect", "reasons": ["because"], "n": 50}
    assert (info["qra"]["weight_bit_width"], info["qra"]["act_bit_width"]) == (3, 8)
    assert (info["qra"]["size_in_bits"], info["qra"]["gradient_modes"]) == (8631104, ["ste"])
